"""The optimizer of a plan: PyTorch's own, or one that holds the state of bitsandbytes' to the byte.

bitsandbytes' kernels want a GPU; their state is what a step needs here: two 8-bit numbers a weight
and a float32 scale for every 256 of them (Dettmers et al. 2022, arXiv:2110.02861); 32 bits for
tensors below 4,096 elements and for embeddings, as Hugging Face's Trainer asks for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from labs.doctors.memory.plan import Plan

BLOCK = 256
SMALLEST_8BIT = 4096  # elements; bitsandbytes/optim/optimizer.py: min_8bit_size
SMALLEST_PAGED = (
    100_000  # elements; below this even a paged optimizer keeps its state on the device
)
CODES = 256 * 4  # bytes of one table from codes to values


def make_optimizer(plan: Plan, model: nn.Module, follower=None) -> torch.optim.Optimizer:
    """The optimizer of `plan` over the trainable parameters, decayed and not as the Trainer groups."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.dim() > 1], "weight_decay": 0.01},
        {"params": [p for p in trainable if p.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    kernel = {"fused": {"fused": True}, "foreach": {"foreach": True}, "for": {"foreach": False}}
    if plan.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=1e-5, **kernel[plan.optimizer_kernel])
    if plan.optimizer == "sgd":
        # The Trainer names no kernel for SGD, and PyTorch then takes foreach on a GPU.
        return torch.optim.SGD(groups, lr=1e-5, foreach=plan.optimizer_kernel != "for")
    if plan.optimizer == "adafactor":
        from transformers.optimization import Adafactor

        return Adafactor(groups, lr=1e-5, scale_parameter=False, relative_step=False)
    if plan.optimizer == "lion":
        return BitsAndBytesState(groups, states=1, bits=32)
    embeddings = [m.weight for m in model.modules() if isinstance(m, nn.Embedding)]
    paged = plan.optimizer == "paged_adamw_8bit"
    host = follower.on_host if paged and follower is not None else nullcontext
    return BitsAndBytesState(groups, states=2, bits=8, wide=embeddings, paged=host)


class BitsAndBytesState(torch.optim.Optimizer):
    """Allocates at its first step what bitsandbytes' optimizers keep, and updates nothing.

    states: one (Lion) or two (Adam). bits: 8 or 32. wide: parameters that get 32 bits regardless.
    paged: context manager in which large states are made.
    """

    def __init__(
        self,
        params: Iterable[Any],
        states: int,
        bits: int,
        wide: Iterable[Tensor] = (),
        paged=nullcontext,
    ):
        super().__init__(params, {"lr": 1e-5})
        self.states, self.bits, self.paged = states, bits, paged
        self.wide = {id(parameter) for parameter in wide}
        self.codes: list[Tensor] = []

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and not self.state[parameter]:
                    self.state[parameter].update(self._new_state(parameter))

    def _new_state(self, parameter: Tensor) -> dict[str, Tensor]:
        n = parameter.numel()
        narrow = self.bits == 8 and n >= SMALLEST_8BIT and id(parameter) not in self.wide
        dtype = torch.uint8 if narrow else torch.float32
        if narrow and not self.codes:
            self.codes = [parameter.new_zeros(256, dtype=torch.float32) for _ in range(self.states)]
        state = {}
        for number in range(1, self.states + 1):
            with self.paged() if n >= SMALLEST_PAGED else nullcontext():
                # not zeros: integers made so would be real memory under `fakes`
                state[f"state{number}"] = torch.empty_like(parameter, dtype=dtype)
            if narrow:
                scales = math.ceil(n / BLOCK)
                state[f"absmax{number}"] = parameter.new_zeros(scales, dtype=torch.float32)
                state[f"qmap{number}"] = self.codes[number - 1]
        return state


@contextmanager
def gradients_of_zero(model: nn.Module) -> Iterator[None]:
    """Give every trainable parameter a gradient, so that a first step makes the state."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.grad = None
