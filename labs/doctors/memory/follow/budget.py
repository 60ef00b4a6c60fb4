"""A byte budget: out-of-memory failures on a machine that has no GPU.

    with byte_budget("2 GiB"):
        train()          # raises torch.OutOfMemoryError where 2 GiB of tensors would be passed

The live storages that dispatch sees on the CPU are followed exactly (`follower.py`), and a storage
that would pass the limit raises PyTorch's own exception, worded as PyTorch words it, with itself
not counted; what is freed afterwards may be used again, so that a program may catch it and retry.

What differs from a GPU, and is said in the exception's note: scratch memory that operators take
and give back inside themselves is not seen; there is no cache, so nothing is reserved and unused
(`cuda/allocator.py` models that); no CUDA context; batches made by the program count like everything
else, because on a CPU nothing tells host from device. Programs under `torch.compile` are not
followed: switch it off.

Imports nothing but torch and the follower, so that the `run` hook can load it into any process.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..bytesize import format_size, parse_size
from .follower import Follower

OutOfMemoryError = getattr(torch, "OutOfMemoryError", None) or torch.cuda.OutOfMemoryError

NOTE = (
    "Raised by a byte budget on the CPU, not by a GPU: it counts the live tensors that PyTorch's "
    "dispatcher sees; scratch memory inside operators is not counted."
)

# Called with (budget, bytes asked for) before the exception, as CUDA's out-of-memory observers are.
OBSERVERS: list[Callable[[byte_budget, int], Any]] = []


def oom_message(
    tried: int,
    total: int,
    allocated: int,
    unallocated: int = 0,
    other: int = 0,
    device_name: str = "CUDA",
    index: int = 0,
) -> str:
    """The sentence of torch.OutOfMemoryError as PyTorch's CUDA allocator writes it since 2.10.

    All sizes in bytes; `other` is what this process holds outside of PyTorch (context, NCCL).
    Source of the layout: c10/cuda/CUDACachingAllocator.cpp.
    """
    used = allocated + unallocated + other
    return (
        f"{device_name} out of memory. Tried to allocate {format_size(tried)}. GPU {index} has a "
        f"total capacity of {format_size(total)} of which {format_size(max(total - used, 0))} is "
        f"free. Including non-PyTorch memory, this process has {format_size(used)} memory in use. "
        f"Of the allocated memory {format_size(allocated)} is allocated by PyTorch, and "
        f"{format_size(unallocated)} is reserved by PyTorch but unallocated. If reserved but "
        "unallocated memory is large try setting PYTORCH_ALLOC_CONF=expandable_segments:True to "
        "avoid fragmentation.  See documentation for Memory Management  "
        "(https://docs.pytorch.org/docs/stable/notes/cuda.html"
        "#optimizing-memory-usage-with-pytorch-cuda-alloc-conf)"
    )


class BudgetFollower(Follower):
    """Learns a model's names when it is called for the first time: any script can be followed."""

    budget: byte_budget

    def _module_starts(self, module: nn.Module, inputs: Any) -> None:
        if self.modules.outside and module not in self.modules:
            self.attach(module)
        super()._module_starts(module, inputs)


class byte_budget:  # lower case: used like a function
    """Raise torch.OutOfMemoryError where live CPU tensors would pass `limit`.

        with byte_budget("64 MiB", model, optimizer) as budget:
            step()
        budget.peak_bytes, budget.live_bytes, budget.live()   # by category

    limit: "2 GiB", bytes, or None to follow without a limit. `existing`: modules (their
    parameters, gradients and buffers) and optimizers (their state) that count from the start;
    other tensors that were there before count from their first use. `device_name`: what the
    message says is out of memory. `stacks`: keep the Python stack of each storage
    (`budget.follower.blocks`).

    The exception carries the budget as `error.budget`; `budget.failed` holds the bytes that were
    asked for and refused, `budget.held` what was alive then, by category.
    """

    def __init__(
        self,
        limit: int | float | str | None,
        *existing: nn.Module | torch.optim.Optimizer,
        device_name: str = "CUDA",
        stacks: bool = False,
        history: int | None = 100_000,
    ):
        self.limit = None if limit is None else parse_size(limit)
        self.device_name = device_name
        self.index = int(os.environ.get("LOCAL_RANK") or 0)
        self.failed: int | None = None
        self.failures = 0
        self.held: dict[str, int] = {}
        self.follower = BudgetFollower(
            on_alloc=self._asked, history=history, stacks=stacks, devices=("cpu",)
        )
        self.follower.budget = self
        self.existing = existing

    @property
    def live_bytes(self) -> int:
        """Bytes of all storages alive now."""
        return self.follower.live_bytes

    @property
    def peak_bytes(self) -> int:
        """The most that was alive at once."""
        return self.follower.peak_bytes

    def live(self) -> dict[str, int]:
        """Bytes alive now by category: weights, gradients, optimizer, activations, logits, …"""
        return self.follower.live()

    def __enter__(self) -> byte_budget:
        self.follower.__enter__()
        for thing in self.existing:
            if isinstance(thing, nn.Module):
                self.follower.attach(thing)
                gradients = [p.grad for p in thing.parameters() if p.grad is not None]
                self.follower.mark(gradients, "gradients")
            else:
                self.follower.mark(list(thing.state.values()), "optimizer")
        return self

    def __exit__(self, *exception: Any) -> None:
        self.follower.__exit__(*exception)

    def _asked(self, size: int, follower: Follower) -> None:
        if self.limit is None or follower.live_bytes + size <= self.limit:
            return
        self.failed, self.failures = size, self.failures + 1
        self.held = {name: held for name, held in self.live().items() if held}
        for observer in OBSERVERS:
            observer(self, size)
        error = OutOfMemoryError(
            oom_message(
                size,
                self.limit,
                follower.live_bytes,
                device_name=self.device_name,
                index=self.index,
            )
        )
        error.budget = self
        if hasattr(error, "add_note"):
            error.add_note(NOTE)
        try:
            raise error
        finally:
            # A frame that names its own exception is a cycle, and would hold all the frames above
            # it, with their tensors, until the garbage collector comes by.
            del error
