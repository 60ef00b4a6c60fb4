"""What offloading moves to host memory, and when it comes back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from labs.doctors.memory.follow.follower import Follower
from labs.doctors.memory.follow.storages import storages_of

SMALLEST = 1024  # bytes; smaller saved tensors stay, as in TRL's activation offloading


@contextmanager
def activations_on_host(follower: Follower) -> Iterator[None]:
    """Saved tensors wait on the host between forward and backward; weights stay where they are."""

    def leave(tensor: Tensor) -> Any:
        blocks = [follower.blocks.get(storage._cdata) for storage in storages_of(tensor)]
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
    """DeepSpeed's optimizer offload: float32 weights, gradients, state and the step on the host.

    A gradient leaves the device as soon as it is whole; after a step the new weights come back,
    rounded to the model's dtype. "Host" is the follower's second account: values and updates are
    real, and the optimizer goes on without offload, with its state, when the context ends.
    Source of the method: deepspeed/runtime/zero/stage_1_and_2.py (cpu_offload). Chapter 9.
    """
    groups = [list(group["params"]) for group in optimizer.param_groups]
    parameters = [parameter for group in groups for parameter in group]
    with follower.on_host():
        masters = {p: nn.Parameter(_float32(p.detach())) for p in parameters}
    follower.mark(list(masters.values()), "optimizer")
    for group, own in zip(optimizer.param_groups, groups, strict=True):
        group["params"] = [masters[p] for p in own]
    for parameter, master in masters.items():
        if parameter in optimizer.state:
            optimizer.state[master] = optimizer.state.pop(parameter)
            follower.move(optimizer.state[master], "host")
    step = optimizer.step

    def step_on_host(*args, **kwargs):
        with follower.on_host():
            for parameter, master in masters.items():
                if parameter.grad is not None:
                    master.grad = parameter.grad.to(master.dtype)
                    parameter.grad = None
            result = step(*args, **kwargs)
            follower.mark(list(masters.values()), "optimizer")
        with torch.no_grad():
            for parameter, master in masters.items():
                parameter.copy_(master)
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
        # A group that was added inside stays as it is: its weights and state are on the device.
        for group, own in zip(optimizer.param_groups, groups, strict=False):
            group["params"] = own
        for parameter, master in masters.items():
            if master in optimizer.state:
                optimizer.state[parameter] = optimizer.state.pop(master)
        for hook in hooks:
            hook.remove()


def _float32(tensor: Tensor) -> Tensor:
    """A copy in float32, or in more where the tensor has more."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32), copy=True)


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
