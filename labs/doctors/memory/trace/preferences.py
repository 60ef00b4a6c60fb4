"""Steps that compare models: DPO, GRPO and PPO, in the order of forward passes of TRL's trainers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labs.doctors.memory.setup.build import Built, trainable
from labs.doctors.memory.setup.optimizers import gradients_of_zero
from labs.doctors.memory.trace.generating import roll_out
from labs.doctors.memory.trace.losses import log_probabilities
from labs.doctors.memory.trace.session import Session, forward, load


def dpo(session: Session) -> Callable[[], None]:
    """Chosen and rejected in one batch of 2B rows; the reference after the policy, as in TRL."""
    inputs = session.inputs(batch=2 * session.plan.batch)
    labels = inputs.pop("labels")
    reference = Reference(session) if not session.plan.precomputed_reference else None

    def micro_step() -> None:
        with forward(session):
            policy = log_probabilities(session, session.built, inputs, labels).sum(1)
            with torch.no_grad():
                base = torch.zeros_like(policy)
                if reference is not None:
                    base = reference.log_probabilities(inputs, labels).sum(1)
            chosen, rejected = (policy - base).chunk(2)
            loss = -F.logsigmoid(0.1 * (chosen - rejected)).mean()
        loss.backward()

    return micro_step


def grpo(session: Session) -> Callable[[], None]:
    """Rollouts of all micro-steps at once, then the update; `batch` counts completions, as in TRL."""
    plan = session.plan
    reference = Reference(session) if plan.reference and not plan.precomputed_reference else None
    roll_out(session, plan.batch * plan.grad_accumulation)
    inputs = session.inputs()
    labels = inputs.pop("labels")

    def micro_step() -> None:
        kept = plan.max_new_tokens
        with forward(session):
            with torch.no_grad():
                base = reference and reference.log_probabilities(inputs, labels, kept)
            policy = log_probabilities(session, session.built, inputs, labels, kept)
            ratio = torch.exp(policy - policy.detach())
            loss = -torch.min(ratio, ratio.clamp(0.8, 1.2))
            if base is not None:
                loss = loss + 0.04 * (torch.exp(base - policy) - (base - policy) - 1)
            loss = loss.mean()
        loss.backward()

    return micro_step


def ppo(session: Session) -> Callable[[], None]:
    """Policy and value train; reference and reward model only read, as in TRL's PPOTrainer."""
    plan, follower = session.plan, session.follower
    with follower.in_phase("load"):
        value = load(plan, session.built.config, follower, "value")
        reward = load(plan, session.built.config, follower, "reward")
        reward.model.requires_grad_(False)
        heads = [nn.Linear(_width(value), 1, dtype=_dtype(value)) for _ in range(2)]
    session.optimizer.add_param_group({"params": [*trainable(value.model), *heads[0].parameters()]})
    with gradients_of_zero(value.model), gradients_of_zero(heads[0]):
        follower.step_phase = "optimizer_state"
        session.optimizer.step()
        follower.step_phase = "optimizer_step"
    reference = Reference(session)
    logits = roll_out(session, plan.batch * plan.grad_accumulation, keep_logits=True)
    inputs = session.inputs()
    labels = inputs.pop("labels")
    kept = plan.max_new_tokens
    with follower.in_phase("rollout"), torch.no_grad(), session.autocast():
        reference.log_probabilities(inputs, labels, kept)
        heads[1](reward.base.model(**inputs).last_hidden_state)
        heads[0](value.base.model(**inputs).last_hidden_state)
    del logits

    def micro_step() -> None:
        with forward(session):
            policy = log_probabilities(session, session.built, inputs, labels, kept)
            values = heads[0](value.base.model(**inputs).last_hidden_state)
            ratio = torch.exp(policy - policy.detach())
            loss = (
                -torch.min(ratio, ratio.clamp(0.8, 1.2)).mean()
                + 0.1 * values.float().square().mean()
            )
        loss.backward()

    return micro_step


class Reference:
    """The frozen model that a policy is compared with: adapters off, or a second copy."""

    def __init__(self, session: Session):
        self.session = session
        self.built = session.built
        if not session.built.adapters:
            with session.follower.in_phase("load"):
                self.built = load(session.plan, session.built.config, session.follower, "reference")
                self.built.model.requires_grad_(False).eval()

    def log_probabilities(self, inputs, labels, kept: int | None = None) -> Tensor:
        with ExitStack() as stack:
            if self.built.adapters:
                stack.enter_context(self.built.model.disable_adapter())
            return log_probabilities(self.session, self.built, inputs, labels, kept)


def _width(built: Built) -> int:
    return built.config.get_text_config().hidden_size


def _dtype(built: Built) -> torch.dtype:
    return next(built.base.parameters()).dtype
