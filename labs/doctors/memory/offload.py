"""What offloading moves to host memory, and when it comes back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from labs.doctors.memory.follow import Follower, _storages

SMALLEST = 1024  # bytes; smaller saved tensors stay, as in TRL's activation offloading


@contextmanager
def activations_on_host(follower: Follower) -> Iterator[None]:
    """Saved tensors wait on the host between forward and backward; weights stay where they are."""

    def leave(tensor: Tensor) -> Any:
        blocks = [follower.blocks.get(storage._cdata) for storage in _storages(tensor)]
        stays = any(
            block and block.category in ("weights", "buffers", "inputs") for block in blocks
        )
        if stays or tensor.numel() * tensor.element_size() < SMALLEST:
            return tensor, False
        with follower.on_host():
            return torch.empty_like(tensor).copy_(tensor), True

    def come_back(saved: tuple[Tensor, bool]) -> Tensor:
        tensor, moved = saved
        return torch.empty_like(tensor).copy_(tensor) if moved else tensor

    with torch.autograd.graph.saved_tensors_hooks(leave, come_back):
        yield


@contextmanager
def optimizer_on_host(follower: Follower, optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """DeepSpeed's optimizer offload: float32 weights, gradients and state on the host, and the step.

    A gradient leaves the device as soon as it is whole.
    """
    groups = [list(group["params"]) for group in optimizer.param_groups]
    parameters = [parameter for group in groups for parameter in group]
    with follower.on_host():
        masters = {p: nn.Parameter(torch.empty_like(p, dtype=torch.float32)) for p in parameters}
    for group, own in zip(optimizer.param_groups, groups, strict=True):
        group["params"] = [masters[p] for p in own]
    step = optimizer.step

    def step_on_host(*args, **kwargs):
        with follower.on_host():
            for parameter, master in masters.items():
                if parameter.grad is not None:
                    master.grad = parameter.grad.float()
                    parameter.grad = None
            result = step(*args, **kwargs)
            follower.mark(list(masters.values()), "optimizer")
        return result

    optimizer.step = step_on_host
    hooks = [
        p.register_post_accumulate_grad_hook(lambda p: follower.move(p.grad, "host"))
        for p in parameters
    ]
    try:
        yield
    finally:
        optimizer.step = step
        for group, own in zip(optimizer.param_groups, groups, strict=True):
            group["params"] = own
        for hook in hooks:
            hook.remove()


@contextmanager
def parameters_on_host(follower: Follower, model: nn.Module) -> Iterator[None]:
    """DeepSpeed's parameter offload: a module's weights are on the device while it computes."""
    follower.move(list(model.parameters()), "host")
    held: dict[int, Any] = {}

    def fetch(module: nn.Module, *_) -> None:
        if id(module) not in held:
            size = sum(p.numel() * p.element_size() for p in module.parameters(recurse=False))
            held[id(module)] = follower.hold(size, "weights", names[id(module)], "fetch")

    def let_go(module: nn.Module, *_) -> None:
        release = held.pop(id(module), None)
        if release is not None:
            release()

    names, hooks = {}, []
    for name, module in model.named_modules():
        if any(True for _ in module.parameters(recurse=False)):
            names[id(module)] = name
            hooks += [
                module.register_forward_pre_hook(fetch),
                module.register_forward_hook(let_go),
                module.register_full_backward_pre_hook(fetch),
                module.register_full_backward_hook(let_go),
            ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for release in held.values():
            release()
