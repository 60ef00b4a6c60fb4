"""One training step of a plan, run: the same code on fake tensors and on real ones.

`run_plan` builds the model, lets the optimizer make its state, and then does the step of the
objective as the usual libraries do it: Transformers' Trainer for SFT and evaluation, TRL's DPO,
GRPO and PPO trainers for the others (their order of forward passes decides the peak).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from labs.doctors.memory.follow import offload
from labs.doctors.memory.follow.follower import Follower
from labs.doctors.memory.plan import Plan
from labs.doctors.memory.setup.build import trainable
from labs.doctors.memory.setup.optimizers import gradients_of_zero, make_optimizer
from labs.doctors.memory.trace.generating import evaluate, generate, save
from labs.doctors.memory.trace.losses import language_loss
from labs.doctors.memory.trace.preferences import dpo, grpo, ppo
from labs.doctors.memory.trace.session import Session, forward, load


def run_plan(
    plan: Plan,
    config: Any,
    follower: Follower,
    make_inputs: Callable[[Plan], dict[str, Tensor]],
    steps: int = 1,
) -> Session:
    """Load, make the optimizer's state, and do `steps` steps; the follower must be active."""
    with follower.in_phase("load"):
        session = Session(plan, load(plan, config, follower), follower, make_inputs)
    if plan.objective in ("generate", "evaluate", "save"):
        _WITHOUT_STEP[plan.objective](session)
        return session
    with ExitStack() as stack:
        session.optimizer = _optimizer(session, stack)
        step = _STEPS[plan.objective](session)
        for _ in range(steps):
            _step(session, step, stack)
    return session


def _optimizer(session: Session, stack: ExitStack) -> torch.optim.Optimizer:
    plan, follower, model = session.plan, session.follower, session.built.model
    optimizer = make_optimizer(plan, model, follower)
    if plan.offload == "optimizer":
        stack.enter_context(offload.optimizer_on_host(follower, optimizer))
    elif plan.offload == "params":
        stack.enter_context(offload.parameters_on_host(follower, session.built.base))
    follower.step_phase = "optimizer_state"
    with gradients_of_zero(model):
        optimizer.step()
    follower.step_phase = "optimizer_step"
    return optimizer


def _step(session: Session, micro_step: Callable[[], None], stack: ExitStack) -> None:
    """Micro-steps that accumulate, clipping, the optimizer, gradients gone."""
    for _ in range(min(session.plan.grad_accumulation, 2)):  # from the second on nothing changes
        micro_step()
    parameters = trainable(session.built.model)
    with session.follower.in_phase("optimizer_step"):
        if session.plan.offload != "optimizer":
            nn.utils.clip_grad_norm_(parameters, 1.0)
        session.optimizer.step()
        session.optimizer.zero_grad(set_to_none=True)


def sft(session: Session) -> Callable[[], None]:
    """Supervised fine-tuning: one loss, one backward pass."""
    inputs = session.inputs()

    def micro_step() -> None:
        with forward(session):
            loss = language_loss(session, inputs)
        loss.backward()

    return micro_step


_STEPS = {"sft": sft, "dpo": dpo, "grpo": grpo, "ppo": ppo}
_WITHOUT_STEP = {"generate": generate, "evaluate": evaluate, "save": save}
