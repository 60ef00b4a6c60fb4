"""Counts what a call costs: operations, bytes, waits for a number. Never seconds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.utils._python_dispatch import TorchDispatchMode

SYNCHRONISING = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero")


@dataclass(frozen=True)
class Cost:
    """Tensor operations; bytes of the largest new tensor and of all; waits a GPU would suffer."""

    operations: int
    largest: int
    bytes: int
    synchronisations: int


class Meter(TorchDispatchMode):
    """A context in which every PyTorch operation is counted."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.largest = self.bytes = self.synchronisations = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.operations += 1
        self.synchronisations += func.__name__.split(".")[0] in SYNCHRONISING
        storages = {
            a.untyped_storage().data_ptr()
            for a in torch.utils._pytree.tree_leaves((args, kwargs))
            if isinstance(a, torch.Tensor)
        }
        for leaf in torch.utils._pytree.tree_leaves(result):
            # A view shares its input's storage and costs nothing.
            if isinstance(leaf, torch.Tensor) and leaf.untyped_storage().data_ptr() not in storages:
                size = leaf.untyped_storage().nbytes()
                self.largest, self.bytes = max(self.largest, size), self.bytes + size
        return result

    def cost(self) -> Cost:
        return Cost(self.operations, self.largest, self.bytes, self.synchronisations)
