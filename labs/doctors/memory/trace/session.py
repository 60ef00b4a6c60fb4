"""Everything that a step of a plan needs, and the forward pass that every objective shares."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from labs.doctors.memory.follow import offload
from labs.doctors.memory.follow.follower import Follower
from labs.doctors.memory.plan import Plan
from labs.doctors.memory.setup.build import Built, build
from labs.doctors.memory.setup.nf4 import NF4Linear


@dataclass
class Session:
    """Everything a step needs."""

    plan: Plan
    built: Built
    follower: Follower
    make_inputs: Callable[[Plan], dict[str, Tensor]]
    optimizer: torch.optim.Optimizer | None = None

    def autocast(self) -> torch.autocast:
        dtype = getattr(torch, self.plan.compute_dtype)
        if not self.plan.uses_autocast:
            dtype = torch.bfloat16  # torch wants a half type even of an autocast that is off
        return torch.autocast("cpu", dtype=dtype, enabled=self.plan.uses_autocast)

    def inputs(self, **changes) -> dict[str, Tensor]:
        """The batch of the plan, or of one changed in some fields."""
        inputs = self.make_inputs(self.plan.replace(**changes) if changes else self.plan)
        self.follower.mark(inputs, "inputs")
        return inputs


def load(plan: Plan, config: Any, follower: Follower, prefix: str = "") -> Built:
    """Build a model of the plan and follow it; `prefix` tells several apart.

    `from_pretrained` quantises one tensor after the other as it reads them, so that a model for QLoRA
    is never there in 16 bits; here it is built first and quantised then. So what building it takes is
    not counted but the largest weight, which has to be there whole when it is quantised.
    """
    if plan.method != "qlora":
        built = build(plan, config)
    else:
        with follower.paused():
            built = build(plan, config)
    follower.attach(built.base, prefix)
    if plan.method == "qlora":
        follower.scratch(largest_packed(built.base, plan.weight_dtype), "quantise")
    return built


def largest_packed(model: nn.Module, dtype: str) -> int:
    """Bytes that the largest of a model's 4-bit weights had in `dtype`."""
    sizes = [m.in_features * m.out_features for m in model.modules() if isinstance(m, NF4Linear)]
    return max(sizes, default=0) * getattr(torch, dtype).itemsize


@contextmanager
def forward(session: Session) -> Iterator[None]:
    """Autocast and activation offloading, as the plan says."""
    with session.autocast(), ExitStack() as stack:
        if session.plan.offload == "activations":
            stack.enter_context(offload.activations_on_host(session.follower))
        yield
