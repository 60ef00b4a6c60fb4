"""Modes under which a model of any size runs without memory: its floats are fake, its integers real.

Models branch on integers: on grids of patches, on whether a mask has padding, on where the image
tokens are. So what is computed from real tensors alone stays real; what meets a fake one is fake.
`as_cuda` makes operators behave, as far as memory goes, as `cuda_table` says they do on a GPU.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    FakeTensor,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from labs.doctors.memory.cuda import cuda_table
from labs.doctors.memory.follow.follower import Follower
from labs.doctors.memory.follow.storages import tensors_of

LARGEST_REAL = 1 << 26  # elements: above this, integers and masks are faked as well
_FACTORIES = {"arange", "zeros", "ones", "full", "empty", "tensor", "scalar_tensor", "eye"}


@contextmanager
def fake_tensors() -> Iterator[FakeTensorMode]:
    """Floats made inside are fake CPU tensors; integers and booleans stay real where they can."""
    # Without fallbacks: an operator whose shapes are unknown would run on real zeros of full size.
    fake = FakeTensorMode(allow_non_fake_inputs=True, allow_fallback_kernels=False)
    with fake, RealIntegers(), _convertible():
        yield fake


@contextmanager
def _convertible() -> Iterator[None]:
    """Let `module.to(dtype)` swap fake parameters.

    It refuses those that anything refers to weakly, which the fake mode's own tables do now and then.
    """
    references = torch.utils.weakref
    torch.utils.weakref = SimpleNamespace(getweakrefs=lambda tensor: [])
    try:
        yield
    finally:
        torch.utils.weakref = references


class RealIntegers(TorchDispatchMode):
    """Run what has no fake argument for real; give masks of real values to indexing operators."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = list(tensors_of((args, kwargs)))
        fakes = [tensor for tensor in given if isinstance(tensor, FakeTensor)]
        if not fakes and (_stays_small(given) if given else _makes_integers(func, args, kwargs)):
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        if fakes and func in _INDEXING:
            args = (args[0], _without_masks(args[1]), *args[2:])
        return func(*args, **kwargs)


_INDEXING = {
    torch.ops.aten.index.Tensor,
    torch.ops.aten.index_put.default,
    torch.ops.aten.index_put_.default,
}


def _without_masks(indices: list) -> list:
    """Boolean masks of known values as the positions they select: a fake tensor cannot count."""
    known: list[Tensor | None] = []
    for index in indices:
        mask = isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)
        if mask and not isinstance(index, FakeTensor):
            with unset_fake_temporarily():
                known.extend(index.nonzero().unbind(1))
        else:
            known.append(index)
    return known


def _stays_small(tensors: list[Tensor]) -> bool:
    shapes = [tensor.shape for tensor in tensors]
    try:
        largest = math.prod(torch.broadcast_shapes(*shapes))
    except RuntimeError:
        largest = max(math.prod(shape) for shape in shapes)
    return largest <= LARGEST_REAL


def _makes_integers(func, args: tuple, kwargs: dict) -> bool:
    """Whether a factory makes integers or booleans, by its dtype or by the numbers it is given."""
    name = func.__name__.split(".")[0]
    dtype = kwargs.get("dtype")
    if name not in _FACTORIES:
        return False
    if dtype is None:
        if name == "arange":
            return all(isinstance(value, int) for value in args)
        return name == "full" and isinstance(args[1], (bool, int))
    if dtype.is_floating_point or dtype.is_complex:
        return False
    size = args[0] if args and isinstance(args[0], (list, tuple)) else ()
    return math.prod(size) <= LARGEST_REAL


@contextmanager
def as_cuda(follower: Follower, autocast: bool) -> Iterator[None]:
    """Attention kernels, fused forms, autocast and workspaces as on a GPU; see `cuda_table`."""
    follower.workspace = Workspace()
    with ExitStack() as stack:
        stack.enter_context(_cuda_forms())
        if autocast:
            stack.enter_context(_cuda_autocast())
        yield


class Workspace:
    """What the operators of a step take besides their outputs; the follower asks after each."""

    def __init__(self, capability: int = 8):
        self.cublas = cuda_table.CUBLAS_WORKSPACE.get(
            capability, cuda_table.CUBLAS_WORKSPACE["default"]
        )
        self.threads: set[str] = set()

    def __call__(self, func, args: tuple, phase: str) -> tuple[int, bool]:
        """(bytes, whether they stay) for the operator that has just run."""
        name = func.__name__.split(".")[0]
        if name in cuda_table.MATRIX_PRODUCTS:
            thread = "backward" if phase == "backward" else "main"
            if thread not in self.threads:
                self.threads.add(thread)
                return self.cublas, True
        elif "attention_backward" in name:
            query, key = args[1], args[2]
            half = query.element_size() == 2
            size = cuda_table.attention_workspace(name, tuple(query.shape), tuple(key.shape), half)
            return size, False
        return 0, False


@contextmanager
def _cuda_forms() -> Iterator[None]:
    """Functions whose form depends on the device, replaced by the form that CUDA takes.

    Replaced, not intercepted by a torch-function mode: such a mode is off while backward runs, and so
    in every recomputation of a checkpointed layer.
    """
    originals = {name: getattr(F, name) for name in _FORMS}
    for name, form in _FORMS.items():
        setattr(F, name, functools.partial(_choose, form, originals[name]))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(F, name, original)


def _choose(form, original, *args, **kwargs):
    if args and isinstance(args[0], FakeTensor):
        return form(original, *args, **kwargs)
    return original(*args, **kwargs)


def _attention(
    func,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    if torch.is_autocast_enabled("cpu"):
        low = torch.get_autocast_dtype("cpu")
        query, key, value = (tensor.to(low) for tensor in (query, key, value))
        if attn_mask is not None and attn_mask.is_floating_point():
            attn_mask = attn_mask.to(low)
    grouped = enable_gqa and query.dim() == 4 and query.shape[1] != key.shape[1]
    kernel = cuda_table.sdpa_kernel(
        tuple(query.shape),
        tuple(key.shape),
        tuple(value.shape),
        str(query.dtype).removeprefix("torch."),
        attn_mask is not None,
        attn_mask is not None and attn_mask.requires_grad,
        is_causal,
        grouped,
    )
    if kernel == "flash":
        size = query.shape[-1]
        if size % 8:
            scale = size**-0.5 if scale is None else scale
            pad = (0, 8 - size % 8)
            query, key, value = (F.pad(x, pad) for x in (query, key, value))
        out = torch.ops.aten._scaled_dot_product_flash_attention(
            query, key, value, dropout_p, is_causal, scale=scale
        )[0]
        return out[..., :size] if size % 8 else out
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        zeros = torch.zeros_like(attn_mask, dtype=query.dtype)
        attn_mask = zeros.masked_fill_(attn_mask.logical_not(), -math.inf)
    if kernel == "efficient":
        saves = torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value))
        if attn_mask is not None:
            attn_mask = _aligned_mask(attn_mask, query, key)
        return torch.ops.aten._scaled_dot_product_efficient_attention(
            query, key, value, attn_mask, saves, dropout_p, is_causal, scale=scale
        )[0]
    return torch.ops.aten._scaled_dot_product_attention_math(
        query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
    )[0]


def _aligned_mask(mask: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """[B, H, Tq, Tk] without copies but one: rows are padded to multiples of 16 elements."""
    tokens = mask.shape[-1]
    if tokens % 16:
        mask = F.pad(mask, (0, 16 - tokens % 16))[..., :tokens]
    return mask.expand(query.shape[0], query.shape[1], query.shape[2], key.shape[2])


def _softmax(func, input: Tensor, dim=None, _stacklevel=3, dtype=None) -> Tensor:
    """CUDA reads half precision and writes float32 in one pass; CPU converts first."""
    if dtype == torch.float32 and input.element_size() == 2 and dim is not None:
        return torch.ops.aten._softmax(input, dim, True)
    return func(input, dim, dtype=dtype)


def _dropout(func, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False):
    """CUDA keeps a boolean mask; CPU one of the input's dtype."""
    if training and not inplace and 0 < p < 1:
        return torch.native_dropout(input, p, True)[0]
    return func(input, p, training, inplace)


_FORMS = {
    "scaled_dot_product_attention": _attention,
    "softmax": _softmax,
    "dropout": _dropout,
}


@contextmanager
def _cuda_autocast() -> Iterator[None]:
    """CPU autocast with CUDA's lists: kernels for the operators that CUDA runs in float32.

    PEFT and others ask whether CUDA's autocast is on: it is where the CPU's is.
    """
    library = torch.library.Library("aten", "IMPL")
    key = torch._C.DispatchKey.AutocastCPU
    for names, sets_dtype in (
        (cuda_table.AUTOCAST_FLOAT32, False),
        (cuda_table.AUTOCAST_SETS_DTYPE, True),
    ):
        for name in names:
            packet, _, overload = name.partition(".")
            op = getattr(getattr(torch.ops.aten, packet), overload or "default")
            if not torch._C._dispatch_has_kernel_for_dispatch_key(op.name(), "AutocastCPU"):
                library.impl(
                    op.name().removeprefix("aten::"), _in_float32(op, sets_dtype), key.name
                )
    enabled, which = torch.is_autocast_enabled, torch.get_autocast_dtype
    torch.is_autocast_enabled = lambda device_type="cuda": enabled(_stands_for(device_type))
    torch.get_autocast_dtype = lambda device_type: which(_stands_for(device_type))
    try:
        yield
    finally:
        torch.is_autocast_enabled, torch.get_autocast_dtype = enabled, which
        library._destroy()


def _stands_for(device_type: str) -> str:
    """In a trace the CPU plays the GPU's part."""
    return "cpu" if device_type == "cuda" else device_type


def _in_float32(op, sets_dtype: bool):
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)
    half = (torch.bfloat16, torch.float16)

    def kernel(*args, **kwargs):
        with torch._C._ExcludeDispatchKeyGuard(keys):
            first = args[0] if args else None
            if not sets_dtype:
                args, kwargs = tree_map_only(
                    Tensor, lambda t: t.float() if t.dtype in half else t, (args, kwargs)
                )
            elif isinstance(first, Tensor) and first.dtype in half and kwargs.get("dtype") is None:
                if op is torch.ops.aten.softmax.int:
                    return torch.ops.aten._softmax(first, args[1], True)
                if not any(isinstance(value, torch.dtype) for value in args):
                    kwargs = {**kwargs, "dtype": torch.float32}
            return op(*args, **kwargs)

    return kernel
