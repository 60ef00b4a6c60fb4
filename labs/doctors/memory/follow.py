"""Follow the life of every storage that PyTorch allocates, on real tensors or on fake ones.

A dispatch mode sees every operator below autograd. A storage it has not seen before among an
operator's outputs is an allocation; a weak reference tells when the last tensor on it is gone.
Views and in-place operators have no storage of their own, so they add nothing.

What it cannot see: scratch memory that an operator takes and gives back inside itself. On CPU that
is invisible to dispatch; on CUDA it is in `cuda_table.py`. Memory taken outside of PyTorch's
operators (NCCL, CUDA's own context, another library) is not seen either.

The category of a storage follows from who made it:

    weights      parameters of an attached model, or of an optimizer that steps
    buffers      its buffers
    gradients    what `.grad` of a parameter holds
    optimizer    what an optimizer keeps in its state
    inputs       a batch that was attached, and storages that were there before the follower
    logits       [..., vocabulary] tensors of forward or backward, their float copies and gradients
    workspace    what kernels take for themselves, where a caller knows it
    kv_cache     keys and values of past tokens, where a caller marked them
    activations  made in a forward pass (or its recomputation) and still there when it has ended
    temporary    everything else: what is gone by the end of its pass, gradients of activations

Whether a forward pass's tensor was saved is known when it dies, so categories are looked up late.
The public reference for the method is PyTorch's torch/distributed/_tools/mem_tracker.py.

Runs with nothing but torch, 2.1 or later.
"""

from __future__ import annotations

import sys
import threading
import weakref
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass

CATEGORIES = (
    "weights",
    "gradients",
    "optimizer",
    "activations",
    "logits",
    "kv_cache",
    "inputs",
    "temporary",
    "workspace",
    "buffers",
)
_LAST = (1 << 63) - 1  # AccumulateGrad's nodes carry a sequence number above all others


@dataclass
class Event:
    """One allocation or one free, in bytes; `storage_id` pairs the two."""

    kind: str  # "alloc" | "free"
    bytes: int
    storage_id: int
    category: str
    module: str
    phase: str
    op: str
    place: str = "device"  # or "host", for what is offloaded


@dataclass
class Block:
    """A storage that is or was alive."""

    id: int
    bytes: int
    module: str
    phase: str
    op: str
    place: str
    section: int  # which forward or backward section it was made in
    forward: bool  # made by a forward pass or a recomputation of one
    shape: tuple[int, ...]
    dtype: str
    category: str | None = None  # once it is certain
    dead: bool = False
    stack: list[tuple[str, int, str]] = field(default_factory=list)


class Follower(TorchDispatchMode):
    """Follow storages while the mode is active.

        with Follower(model=model) as follower:
            model(**batch).loss.backward()
            optimizer.step()
        follower.peak_bytes, follower.live(), follower.events

    `model` names modules and tells weights, buffers and gradients apart; `vocabulary` is the width
    of logits (read from the model where it is not given). `on_alloc(bytes, follower)` is called
    before a device allocation counts and may raise: a byte budget. `history` bounds the number of
    events kept (None = all). `stacks` records the Python frames of each allocation.
    `devices`: count only storages on these device types (None = all).
    """

    def __init__(
        self,
        model: nn.Module | None = None,
        vocabulary: int | None = None,
        on_alloc: Callable[[int, Follower], None] | None = None,
        history: int | None = None,
        stacks: bool = False,
        devices: Iterable[str] | None = None,
    ):
        super().__init__()
        self.vocabulary = vocabulary
        self.on_alloc = on_alloc
        self.stacks = stacks
        self.devices = None if devices is None else frozenset(devices)
        self.workspace: Callable[..., tuple[int, bool]] | None = None  # (func, args, phase)
        self.step_phase = "optimizer_step"
        self.live_bytes = 0
        self.peak_bytes = 0
        self.host_bytes = 0
        self.host_peak_bytes = 0
        self.blocks: dict[int, Block] = {}  # the live ones, by address of their storage
        self._log: deque[tuple[str, Block, int, str, str]] = deque(maxlen=history)
        self._references: dict[int, weakref.ref] = {}
        self._count = 0
        self._phases: list[str] = []
        self._hosted = 0
        self._section = 0
        self._was_backward = False
        self._names: dict[int, str] = {}
        self._stack: list[tuple[str, int]] = []  # (module, graph task it runs in or -1)
        self._boundaries: list[int] = []  # sequence numbers at which the running module changed
        self._owners: list[str] = []
        self._hooks: list[Any] = []
        self._parameter_hooks: list[Any] = []
        self._lock = threading.RLock()
        if model is not None:
            self.attach(model)

    # -- what is known from outside ----------------------------------------------------------

    def attach(self, model: nn.Module, prefix: str = "") -> None:
        """Learn the names of a model's modules, its weights and buffers; again after it changed."""
        for name, module in model.named_modules(prefix=prefix):
            self._names[id(module)] = name
        self._keep = [*getattr(self, "_keep", []), model]  # so that the ids stay its own
        for name, parameter in model.named_parameters(prefix=prefix):
            self.mark(parameter, "weights", name.rpartition(".")[0])
            if parameter.requires_grad and parameter.is_leaf:
                hook = parameter.register_post_accumulate_grad_hook(self._accumulated)
                self._parameter_hooks.append(hook)
        for name, buffer in model.named_buffers(prefix=prefix):
            self.mark(buffer, "buffers", name.rpartition(".")[0])
        if self.vocabulary is None:
            self.vocabulary = _vocabulary(model)

    def mark(self, tensors: Any, category: str, module: str | None = None) -> None:
        """Say what some tensors are; storages not seen yet are followed from now on."""
        for tensor in _tensors(tensors):
            for storage in _storages(tensor):
                block = self.blocks.get(storage._cdata) or self._adopt(storage, tensor)
                if block is not None:
                    block.category = category
                    if module is not None:
                        block.module = module

    def scratch(self, size: int, op: str, stays: bool = False) -> None:
        """Count memory that a kernel takes for itself, and gives back unless it `stays`."""
        if size > 0:
            block = self._new_block(size, op, (), "")
            block.category = "workspace"
            self._allocated(block)
            if stays:
                self.blocks[-block.id] = block  # no storage has a negative address
            else:
                self._freed(block)

    def move(self, tensors: Any, place: str) -> None:
        """Say that tensors lie on the "host" or the "device" from now on: offloading in place."""
        for tensor in _tensors(tensors):
            for storage in _storages(tensor):
                block = self.blocks.get(storage._cdata)
                if block is not None and block.place != place:
                    with self._lock:
                        self._count_bytes(block, -block.bytes)
                        self._log.append(("free", block, block.bytes, self.phase, block.place))
                    block.place = place
                    self._allocated(block)

    def hold(self, size: int, category: str, module: str, op: str) -> Callable[[], None]:
        """Count memory that is no tensor of this process until the returned function is called."""
        block = self._new_block(size, op, (), "")
        block.category, block.module = category, module
        self._allocated(block)
        self.blocks[-block.id] = block

        def release() -> None:
            if self.blocks.pop(-block.id, None) is not None:
                self._freed(block)

        return release

    @contextmanager
    def in_phase(self, name: str) -> Iterator[None]:
        """Name what runs inside; otherwise it is forward, backward or optimizer_step by itself."""
        self._phases.append(name)
        try:
            yield
        finally:
            self._phases.remove(name)

    @contextmanager
    def on_host(self) -> Iterator[None]:
        """What is allocated inside stands for host memory: what offloading moves away."""
        self._hosted += 1
        try:
            yield
        finally:
            self._hosted -= 1

    # -- what it has seen ----------------------------------------------------------------------

    @property
    def phase(self) -> str:
        if self._phases:
            return self._phases[-1]
        return "forward" if _graph_task() == -1 else "backward"

    @property
    def module(self) -> str:
        """The module that runs now; in backward the one whose forward made the running node."""
        task = _graph_task()
        if self._stack and (task == -1 or self._stack[-1][1] == task):
            return self._stack[-1][0]
        if task == -1:
            return ""
        node = _current_node()
        number = _LAST if node is None else node._sequence_nr()
        place = bisect_right(self._boundaries, number)
        return self._owners[place - 1] if place > 0 and number < _LAST else ""

    @property
    def events(self) -> list[Event]:
        """All allocations and frees so far, each with the category that is known by now."""
        return [
            Event(
                kind,
                size,
                block.id,
                self.category(block),
                block.module,
                phase,
                block.op,
                place,
            )
            for kind, block, size, phase, place in self._log
        ]

    def category(self, block: Block) -> str:
        """What a storage is, as far as is known by now."""
        if block.category is not None:
            return block.category
        saved = block.forward and block.section != self._section_now()
        return "activations" if saved else "temporary"

    def live(self, place: str = "device") -> dict[str, int]:
        """Bytes now alive by category."""
        total = dict.fromkeys(CATEGORIES, 0)
        for block in list(self.blocks.values()):
            if block.place == place:
                total[self.category(block)] += block.bytes
        return total

    # -- the mode itself -----------------------------------------------------------------------

    def __enter__(self) -> Follower:
        self._hooks = [
            nn.modules.module.register_module_forward_pre_hook(self._module_starts),
            nn.modules.module.register_module_forward_hook(self._module_ends, always_call=True),
            register_optimizer_step_pre_hook(self._step_starts),
            register_optimizer_step_post_hook(self._step_ends),
        ]
        return super().__enter__()

    def __exit__(self, *exception) -> None:
        for hook in (*self._hooks, *self._parameter_hooks):
            hook.remove()
        self._hooks, self._parameter_hooks = [], []
        self._stack.clear()
        super().__exit__(*exception)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        for tensor in _tensors((args, kwargs)):
            for storage in _storages(tensor):
                if storage._cdata not in self.blocks:
                    self._adopt(storage, tensor)
        result = func(*args, **(kwargs or {}))
        name = None
        for tensor in _tensors(result):
            for storage in _storages(tensor):
                block = self.blocks.get(storage._cdata)
                if block is None:
                    name = name or func.__name__
                    self._follow(storage, tensor, name)
                elif block.bytes != storage.nbytes():
                    self._resized(block, storage.nbytes())
        if self.workspace is not None:
            size, stays = self.workspace(func, args, self.phase)
            self.scratch(size, func.__name__, stays)
        return result

    # -- allocations and frees -----------------------------------------------------------------

    def _follow(self, storage, tensor: Tensor, op: str) -> Block | None:
        size = storage.nbytes()
        if not size or not self._counts(storage, tensor):
            return None
        block = self._new_block(size, op, tuple(tensor.shape), str(tensor.dtype))
        if isinstance(tensor, nn.Parameter):
            block.category = "weights"
        elif self._is_logits(tensor, block.phase):
            block.category = "logits"
        self._allocated(block)
        self._watch(storage, block)
        return block

    def _adopt(self, storage, tensor: Tensor) -> Block | None:
        """A storage that was there before: an input, unless somebody says what it is."""
        size = storage.nbytes()
        if not size or not self._counts(storage, tensor):
            return None
        block = self._new_block(size, "before", tuple(tensor.shape), str(tensor.dtype))
        block.category = "weights" if isinstance(tensor, nn.Parameter) else "inputs"
        self._allocated(block, asks=False)
        self._watch(storage, block)
        return block

    def _counts(self, storage, tensor: Tensor) -> bool:
        return self.devices is None or tensor.device.type in self.devices

    def _new_block(self, size: int, op: str, shape: tuple[int, ...], dtype: str) -> Block:
        section = self._section_now()
        self._count += 1
        phase = self.phase
        return Block(
            id=self._count,
            bytes=size,
            module=self.module,
            phase=phase,
            op=op,
            place="host" if self._hosted else "device",
            section=section,
            forward=not self._was_backward and phase != self.step_phase,
            shape=shape,
            dtype=dtype,
            stack=_frames() if self.stacks else [],
        )

    def _section_now(self) -> int:
        """Forward and backward passes are counted, so that one knows what outlived its own."""
        task = _graph_task()
        recomputes = bool(self._stack) and self._stack[-1][1] == task
        backward = task != -1 and not recomputes
        if backward != self._was_backward:
            self._was_backward = backward
            self._section += 1
        return self._section

    def _allocated(self, block: Block, asks: bool = True) -> None:
        if block.place == "device" and asks and self.on_alloc is not None:
            self.on_alloc(block.bytes, self)
        with self._lock:
            self._count_bytes(block, block.bytes)
            self._log.append(("alloc", block, block.bytes, self.phase, block.place))

    def _watch(self, storage, block: Block) -> None:
        address = storage._cdata
        self.blocks[address] = block
        self._references[address] = weakref.ref(storage, lambda _: self._gone(address))

    def _gone(self, address: int) -> None:
        self._references.pop(address, None)
        block = self.blocks.pop(address, None)
        if block is not None:
            self._freed(block)

    def _freed(self, block: Block) -> None:
        block.category = self.category(block)
        block.dead = True
        with self._lock:
            self._count_bytes(block, -block.bytes)
            self._log.append(("free", block, block.bytes, self.phase, block.place))

    def _resized(self, block: Block, size: int) -> None:
        with self._lock:
            self._count_bytes(block, -block.bytes)
            self._log.append(("free", block, block.bytes, self.phase, block.place))
        grows, block.bytes = size > block.bytes, size
        self._allocated(block, asks=grows)

    def _count_bytes(self, block: Block, size: int) -> None:
        if block.place == "host":
            self.host_bytes += size
            self.host_peak_bytes = max(self.host_peak_bytes, self.host_bytes)
        else:
            self.live_bytes += size
            self.peak_bytes = max(self.peak_bytes, self.live_bytes)

    def _is_logits(self, tensor: Tensor, phase: str) -> bool:
        return (
            self.vocabulary is not None
            and phase != self.step_phase
            and tensor.dim() > 1
            and tensor.shape[-1] == self.vocabulary
            and tensor.is_floating_point()
        )

    # -- hooks ---------------------------------------------------------------------------------

    def _module_starts(self, module: nn.Module, _) -> None:
        name = self._names.get(id(module))
        if name is not None:
            self._stack.append((name, _graph_task()))
            self._module_changed()

    def _module_ends(self, module: nn.Module, *_) -> None:
        name = self._names.get(id(module))
        if name is None:
            return
        # An exception may have left deeper modules on the stack.
        while self._stack:
            if self._stack.pop()[0] == name:
                break
        self._module_changed()

    def _module_changed(self) -> None:
        if not torch.is_grad_enabled():
            return
        number = _sequence_number()
        owner = self._stack[-1][0] if self._stack else ""
        if self._boundaries and self._boundaries[-1] >= number:
            self._owners[-1] = owner
        else:
            self._boundaries.append(number)
            self._owners.append(owner)

    def _accumulated(self, parameter: Tensor) -> None:
        if parameter.grad is not None:
            self.mark(parameter.grad, "gradients", self._owner_of(parameter))

    def _owner_of(self, parameter: Tensor) -> str | None:
        for storage in _storages(parameter):
            block = self.blocks.get(storage._cdata)
            if block is not None:
                return block.module
        return None

    def _step_starts(self, optimizer, *_) -> None:
        self._boundaries.clear()  # no graph outlives a step: old numbers are not asked for again
        self._owners.clear()
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                owner = self._owner_of(parameter)
                self.mark(parameter, "weights", owner)
                if parameter.grad is not None:
                    self.mark(parameter.grad, "gradients", owner)
        self._phases.append(self.step_phase)
        self._before_step = self._count

    def _step_ends(self, optimizer, *_) -> None:
        if self.step_phase in self._phases:
            self._phases.remove(self.step_phase)
        first = getattr(self, "_before_step", 0)
        if any(block.id > first for block in list(self.blocks.values())):
            for parameter, state in list(optimizer.state.items()):
                owner = self._owner_of(parameter) if isinstance(parameter, Tensor) else None
                self.mark(state, "optimizer", owner)


def _vocabulary(model: nn.Module) -> int | None:
    config = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    size = getattr(text, "vocab_size", None)
    return size if isinstance(size, int) else None


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)


def _storages(tensor: Tensor) -> list:
    if is_traceable_wrapper_subclass(tensor):  # DTensor and its like: what is inside
        names, _ = tensor.__tensor_flatten__()
        return [s for name in names for s in _storages(getattr(tensor, name))]
    if tensor.layout is not torch.strided:
        parts = (tensor._indices(), tensor._values()) if tensor.is_sparse else ()
        return [s for part in parts for s in _storages(part)]
    try:
        return [tensor.untyped_storage()]
    except (NotImplementedError, RuntimeError):  # functorch's wrappers have none
        return []


def _frames(most: int = 24) -> list[tuple[str, int, str]]:
    """The Python frames that asked, innermost first, without this file and PyTorch's machinery."""
    frames, frame = [], sys._getframe(2)
    while frame is not None and len(frames) < most:
        code = frame.f_code
        if not code.co_filename.endswith(_MACHINERY):
            frames.append((code.co_filename, frame.f_lineno, code.co_name))
        frame = frame.f_back
    return frames


_MACHINERY = (
    "labs/doctors/memory/follow.py",
    "torch/utils/_python_dispatch.py",
    "torch/_dynamo/eval_frame.py",
    "torch/_compile.py",
    "torch/_ops.py",
)


def _unknown(*_):
    return None


# Not in every version of PyTorch; without them backward's memory belongs to no module.
_current_node = getattr(torch._C, "_current_autograd_node", _unknown)
_graph_task = getattr(torch._C, "_current_graph_task_id", lambda: -1)
_sequence_number = getattr(torch._C._autograd, "_get_sequence_nr", lambda: 0)
