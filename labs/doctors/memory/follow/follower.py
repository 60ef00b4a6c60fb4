"""Follow the life of every storage that PyTorch allocates, on real tensors or on fake ones.

A dispatch mode sees every operator below autograd. A storage it has not seen before among an
operator's outputs is an allocation; a weak reference tells when the last tensor on it is gone.
Views and in-place operators have no storage of their own, so they add nothing.

What it cannot see: scratch memory that an operator takes and gives back inside itself. On CPU that
is invisible to dispatch; on CUDA it is in `cuda/cuda_table.py`. Memory taken outside of PyTorch's
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

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.utils._python_dispatch import TorchDispatchMode

from .ledger import Block, Ledger
from .modules import Modules, graph_task
from .storages import asking_frames, storages_of, tensors_of, vocabulary_of


class Follower(Ledger, TorchDispatchMode):
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
        Ledger.__init__(self, on_alloc, history)
        TorchDispatchMode.__init__(self)
        self.vocabulary = vocabulary
        self.stacks = stacks
        self.devices = None if devices is None else frozenset(devices)
        self.workspace: Callable[..., tuple[int, bool]] | None = None  # (func, args, phase)
        self.step_phase = "optimizer_step"
        self.modules = Modules()
        self._references: dict[int, weakref.ref] = {}
        self._made = 0  # blocks so far
        self._made_before_step = 0
        self._phases: list[str] = []
        self._hosted = 0
        self._paused = 0
        self._section = 0
        self._was_backward = False
        self._hooks: list[Any] = []
        self._parameter_hooks: list[Any] = []
        if model is not None:
            self.attach(model)

    # -- what is known from outside ----------------------------------------------------------

    def attach(self, model: nn.Module, prefix: str = "") -> None:
        """Learn the names of a model's modules, its weights and buffers; again after it changed."""
        self.modules.learn(model, prefix)
        for name, parameter in model.named_parameters(prefix=prefix):
            self.mark(parameter, "weights", name.rpartition(".")[0])
            if parameter.requires_grad and parameter.is_leaf:
                hook = parameter.register_post_accumulate_grad_hook(self._accumulated)
                self._parameter_hooks.append(hook)
        for name, buffer in model.named_buffers(prefix=prefix):
            self.mark(buffer, "buffers", name.rpartition(".")[0])
        if self.vocabulary is None:
            self.vocabulary = vocabulary_of(model)

    def mark(self, tensors: Any, category: str, module: str | None = None) -> None:
        """Say what some tensors are; storages not seen yet are followed from now on."""
        for tensor in tensors_of(tensors):
            for storage in storages_of(tensor):
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
            self.allocated(block)
            if stays:
                self.blocks[-block.id] = block  # no storage has a negative address
            else:
                self.freed(block)

    def move(self, tensors: Any, place: str) -> None:
        """Say that tensors lie on the "host" or the "device" from now on: offloading in place."""
        for tensor in tensors_of(tensors):
            for storage in storages_of(tensor):
                block = self.blocks.get(storage._cdata)
                if block is not None and block.place != place:
                    self.moved(block, place)

    def hold(self, size: int, category: str, module: str, op: str) -> Callable[[], None]:
        """Count memory that is no tensor of this process until the returned function is called."""
        block = self._new_block(size, op, (), "")
        block.category, block.module = category, module
        self.allocated(block)
        self.blocks[-block.id] = block

        def release() -> None:
            if self.blocks.pop(-block.id, None) is not None:
                self.freed(block)

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

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What is allocated inside is not counted; `attach` or `mark` what is to count later on."""
        self._paused += 1
        try:
            yield
        finally:
            self._paused -= 1

    # -- what it has seen ----------------------------------------------------------------------

    @property
    def phase(self) -> str:
        if self._phases:
            return self._phases[-1]
        return "forward" if graph_task() == -1 else "backward"

    @property
    def module(self) -> str:
        """The module that runs now; in backward the one whose forward made the running node."""
        return self.modules.running

    def category(self, block: Block) -> str:
        """What a storage is, as far as is known by now."""
        if block.category is not None:
            return block.category
        saved = block.forward and block.section != self._section_now()
        return "activations" if saved else "temporary"

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
        self.modules.forget_stack()
        super().__exit__(*exception)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if self._paused:
            return func(*args, **(kwargs or {}))
        for tensor in tensors_of((args, kwargs)):
            for storage in storages_of(tensor):
                if storage._cdata not in self.blocks:
                    self._adopt(storage, tensor)
        result = func(*args, **(kwargs or {}))
        name = None
        for tensor in tensors_of(result):
            for storage in storages_of(tensor):
                block = self.blocks.get(storage._cdata)
                if block is None:
                    name = name or func.__name__
                    self._follow(storage, tensor, name)
                elif block.bytes != storage.nbytes():
                    self.resized(block, storage.nbytes())
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
        self.allocated(block)
        self._watch(storage, block)
        return block

    def _adopt(self, storage, tensor: Tensor) -> Block | None:
        """A storage that was there before: an input, unless somebody says what it is."""
        size = storage.nbytes()
        if not size or not self._counts(storage, tensor):
            return None
        block = self._new_block(size, "before", tuple(tensor.shape), str(tensor.dtype))
        block.category = "weights" if isinstance(tensor, nn.Parameter) else "inputs"
        self.allocated(block, asks=False)
        self._watch(storage, block)
        return block

    def _counts(self, storage, tensor: Tensor) -> bool:
        return self.devices is None or tensor.device.type in self.devices

    def _new_block(self, size: int, op: str, shape: tuple[int, ...], dtype: str) -> Block:
        section = self._section_now()
        self._made += 1
        phase = self.phase
        return Block(
            id=self._made,
            bytes=size,
            module=self.module,
            phase=phase,
            op=op,
            place="host" if self._hosted else "device",
            section=section,
            forward=not self._was_backward and phase != self.step_phase,
            shape=shape,
            dtype=dtype,
            stack=asking_frames(__file__) if self.stacks else [],
        )

    def _section_now(self) -> int:
        """Forward and backward passes are counted, so that one knows what outlived its own."""
        backward = self.modules.in_backward
        if backward != self._was_backward:
            self._was_backward = backward
            self._section += 1
        return self._section

    def _watch(self, storage, block: Block) -> None:
        address = storage._cdata
        self.blocks[address] = block
        self._references[address] = weakref.ref(storage, lambda _: self._gone(address))

    def _gone(self, address: int) -> None:
        self._references.pop(address, None)
        block = self.blocks.pop(address, None)
        if block is not None:
            self.freed(block)

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
        self.modules.starts(module)

    def _module_ends(self, module: nn.Module, *_) -> None:
        self.modules.ends(module)

    def _accumulated(self, parameter: Tensor) -> None:
        if parameter.grad is not None:
            self.mark(parameter.grad, "gradients", self._owner_of(parameter))

    def _owner_of(self, parameter: Tensor) -> str | None:
        for storage in storages_of(parameter):
            block = self.blocks.get(storage._cdata)
            if block is not None:
                return block.module
        return None

    def _step_starts(self, optimizer, *_) -> None:
        self.modules.forget_graph()
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                owner = self._owner_of(parameter)
                self.mark(parameter, "weights", owner)
                if parameter.grad is not None:
                    self.mark(parameter.grad, "gradients", owner)
        self._phases.append(self.step_phase)
        self._made_before_step = self._made

    def _step_ends(self, optimizer, *_) -> None:
        if self.step_phase in self._phases:
            self._phases.remove(self.step_phase)
        if any(block.id > self._made_before_step for block in list(self.blocks.values())):
            for parameter, state in list(optimizer.state.items()):
                owner = self._owner_of(parameter) if isinstance(parameter, Tensor) else None
                self.mark(state, "optimizer", owner)
