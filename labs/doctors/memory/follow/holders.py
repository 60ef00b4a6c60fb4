"""Who holds memory in this process: parameters, gradients, buffers, optimizer state, other tensors.

Found through the garbage collector, so that a program that knows nothing of the doctor can be
asked. Tensors that only autograd's C++ graph holds (saved for backward) have no Python object; they
are the difference between what the allocator says and what is found here. Imports only torch.
"""

from __future__ import annotations

import gc
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

MOST = 12  # entries in a list


def roots(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """The modules that no other one contains: the models."""
    modules = list(modules)
    inside = {id(child) for module in modules for child in module.children()}
    return [module for module in modules if id(module) not in inside]


def found() -> tuple[list[nn.Module], list[torch.optim.Optimizer], list[Tensor]]:
    """All models, optimizers and tensors that Python's garbage collector knows."""
    modules, optimizers, tensors = [], [], []
    for thing in gc.get_objects():
        kind = type(thing)  # not isinstance: proxies answer __class__ by importing things
        if issubclass(kind, Tensor):
            tensors.append(thing)
        elif issubclass(kind, nn.Module):
            modules.append(thing)
        elif issubclass(kind, torch.optim.Optimizer):
            optimizers.append(thing)
    return roots(modules), optimizers, tensors


def place(name: str) -> str:
    """A module path without layer numbers: "model.layers.7.mlp.up" -> "model.layers.*.mlp.up"."""
    return re.sub(r"(?<=\.)\d+(?=\.|$)|^\d+(?=\.|$)", "*", name)


class Census:
    """Counts every storage once, under the first thing that claims it."""

    def __init__(self, device: torch.device | str | None = None):
        self.device = None if device is None else torch.device(device)
        self.seen: set[int] = set()
        self.categories: Counter[str] = Counter()
        self.modules: dict[str, Counter[str]] = defaultdict(Counter)

    def add(self, tensor: Any, category: str, module: str = "") -> int:
        """Count a tensor's storage; 0 if it was counted, lies elsewhere, or has no memory."""
        if not isinstance(tensor, Tensor) or not self._here(tensor):
            return 0
        try:
            storage = tensor.untyped_storage()
            address, size = storage.data_ptr(), storage.nbytes()
        except (NotImplementedError, RuntimeError):  # sparse, fake, functorch
            return 0
        if not address or address in self.seen:
            return 0
        self.seen.add(address)
        self.categories[category] += size
        if module:
            self.modules[place(module)][category] += size
        return size

    def _here(self, tensor: Tensor) -> bool:
        if self.device is None:
            return tensor.device.type != "meta"
        same = tensor.device.type == self.device.type
        return same and (self.device.index is None or tensor.device.index == self.device.index)


def take(
    device: torch.device | str | None = None,
    models: Iterable[nn.Module] | None = None,
    optimizers: Iterable[torch.optim.Optimizer] | None = None,
) -> dict[str, Any]:
    """What holds memory on `device` (None = everywhere), in bytes.

    Returns {"categories": {name: bytes}, "modules": {place: {category: bytes}}, "tensors":
    [{"what", "count", "bytes"}], "graphs": n}. `tensors` are those that nothing above explains,
    grouped by dtype and shape; `graphs` counts one-element tensors that still hold a graph, such
    as losses that were collected without `.detach()`.
    """
    all_models, all_optimizers, tensors = found()
    models = all_models if models is None else list(models)
    optimizers = all_optimizers if optimizers is None else list(optimizers)
    census = Census(device)
    for model in models:
        for name, parameter in model.named_parameters():
            owner = f"{type(model).__name__}.{name.rpartition('.')[0]}".rstrip(".")
            census.add(parameter, "weights", owner)
            census.add(parameter.grad, "gradients", owner)
        for name, buffer in model.named_buffers():
            census.add(buffer, "buffers", f"{type(model).__name__}.{name}")
    for optimizer in optimizers:
        for state in list(optimizer.state.values()):
            for value in state.values() if isinstance(state, dict) else ():
                census.add(value, "optimizer", type(optimizer).__name__)
        for group in optimizer.param_groups:
            for parameter in group["params"]:  # master copies: DeepSpeed's, Apex's
                census.add(parameter, "optimizer", type(optimizer).__name__)
                census.add(getattr(parameter, "grad", None), "gradients")
    others: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    graphs = 0
    for tensor in tensors:
        try:
            graphs += tensor.numel() == 1 and tensor.grad_fn is not None
            what = f"{str(tensor.dtype)[6:]}{list(tensor.shape)}"
        except (RuntimeError, NotImplementedError):
            continue
        size = census.add(tensor, "other tensors")
        if size:
            others[what][0] += 1
            others[what][1] += size
    largest = sorted(others.items(), key=lambda item: -item[1][1])[:MOST]
    modules = sorted(census.modules.items(), key=lambda item: -sum(item[1].values()))[:MOST]
    return {
        "categories": dict(census.categories),
        "modules": {name: dict(parts) for name, parts in modules},
        "tensors": [{"what": w, "count": n, "bytes": b} for w, (n, b) in largest],
        "graphs": int(graphs),
    }
