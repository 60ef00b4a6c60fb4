"""One training step of a plan, run: the same code on fake tensors and on real ones.

`run_plan` builds the model, lets the optimizer make its state, and then does the step of the
objective as the usual libraries do it: Transformers' Trainer for SFT and evaluation, TRL's DPO,
GRPO and PPO trainers for the others (their order of forward passes decides the peak).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from labs.doctors.memory import offload
from labs.doctors.memory.build import Built, build, trainable
from labs.doctors.memory.follow import Follower
from labs.doctors.memory.optimizers import gradients_of_zero, make_optimizer
from labs.doctors.memory.plan import Plan

EVALUATED_BATCHES = 2


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


def run_plan(
    plan: Plan,
    config: Any,
    follower: Follower,
    make_inputs: Callable[[Plan], dict[str, Tensor]],
    steps: int = 1,
) -> Session:
    """Load, make the optimizer's state, and do `steps` steps; the follower must be active."""
    with follower.in_phase("load"):
        session = Session(plan, _load(plan, config, follower), follower, make_inputs)
    if plan.objective in ("generate", "evaluate", "save"):
        _WITHOUT_STEP[plan.objective](session)
        return session
    with ExitStack() as stack:
        session.optimizer = _optimizer(session, stack)
        step = _STEPS[plan.objective](session)
        for _ in range(steps):
            _step(session, step, stack)
    return session


def _load(plan: Plan, config: Any, follower: Follower, prefix: str = "") -> Built:
    built = build(plan, config)
    follower.attach(built.base, prefix)
    return built


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


@contextmanager
def _forward(session: Session) -> Iterator[None]:
    with session.autocast(), ExitStack() as stack:
        if session.plan.offload == "activations":
            stack.enter_context(offload.activations_on_host(session.follower))
        yield


# -- supervised fine-tuning --------------------------------------------------------------------


def _sft(session: Session) -> Callable[[], None]:
    inputs = session.inputs()

    def micro_step() -> None:
        with _forward(session):
            loss = language_loss(session, inputs)
        loss.backward()

    return micro_step


def language_loss(session: Session, inputs: dict[str, Tensor]) -> Tensor:
    """The mean loss over labelled tokens, through the model's own loss or in chunks."""
    built, plan = session.built, session.plan
    if "labels" not in inputs:  # CLIP's contrastive loss
        return built.model(**inputs, return_loss=True).loss
    if plan.loss == "plain":
        return built.model(**inputs).loss
    inputs = dict(inputs)
    labels = inputs.pop("labels")
    hidden = built.base.model(**inputs).last_hidden_state
    targets = F.pad(labels, (0, 1), value=-100)[:, 1:].reshape(-1)
    hidden = hidden.reshape(-1, hidden.shape[-1])
    head = built.base.get_output_embeddings()

    def chunk_loss(states: Tensor, answers: Tensor) -> Tensor:
        return F.cross_entropy(head(states).float(), answers, reduction="sum")

    total = hidden.new_zeros((), dtype=torch.float32)
    for at in range(0, len(hidden), plan.loss_chunk):
        part = slice(at, at + plan.loss_chunk)
        total = total + checkpoint(chunk_loss, hidden[part], targets[part], use_reentrant=False)
    return total / (targets != -100).sum()


# -- preferences and reinforcement learning ----------------------------------------------------


def _dpo(session: Session) -> Callable[[], None]:
    """Chosen and rejected in one batch of 2B rows; the reference after the policy, as in TRL."""
    inputs = session.inputs(batch=2 * session.plan.batch)
    labels = inputs.pop("labels")
    reference = _Reference(session) if not session.plan.precomputed_reference else None

    def micro_step() -> None:
        with _forward(session):
            policy = log_probabilities(session, session.built, inputs, labels).sum(1)
            with torch.no_grad():
                base = torch.zeros_like(policy)
                if reference is not None:
                    base = reference.log_probabilities(inputs, labels).sum(1)
            chosen, rejected = (policy - base).chunk(2)
            loss = -F.logsigmoid(0.1 * (chosen - rejected)).mean()
        loss.backward()

    return micro_step


def _grpo(session: Session) -> Callable[[], None]:
    """Rollouts of all micro-steps at once, then the update; `batch` counts completions, as in TRL."""
    plan = session.plan
    reference = _Reference(session) if plan.reference and not plan.precomputed_reference else None
    _roll_out(session, plan.batch * plan.grad_accumulation)
    inputs = session.inputs()
    labels = inputs.pop("labels")

    def micro_step() -> None:
        kept = plan.max_new_tokens
        with _forward(session):
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


def _ppo(session: Session) -> Callable[[], None]:
    """Policy and value train; reference and reward model only read, as in TRL's PPOTrainer."""
    plan, follower = session.plan, session.follower
    with follower.in_phase("load"):
        value = _load(plan, session.built.config, follower, "value")
        reward = _load(plan, session.built.config, follower, "reward")
        reward.model.requires_grad_(False)
        heads = [nn.Linear(_width(value), 1, dtype=_dtype(value)) for _ in range(2)]
    session.optimizer.add_param_group({"params": [*trainable(value.model), *heads[0].parameters()]})
    with gradients_of_zero(value.model), gradients_of_zero(heads[0]):
        follower.step_phase = "optimizer_state"
        session.optimizer.step()
        follower.step_phase = "optimizer_step"
    reference = _Reference(session)
    logits = _roll_out(session, plan.batch * plan.grad_accumulation, keep_logits=True)
    inputs = session.inputs()
    labels = inputs.pop("labels")
    kept = plan.max_new_tokens
    with follower.in_phase("rollout"), torch.no_grad(), session.autocast():
        reference.log_probabilities(inputs, labels, kept)
        heads[1](reward.base.model(**inputs).last_hidden_state)
        heads[0](value.base.model(**inputs).last_hidden_state)
    del logits

    def micro_step() -> None:
        with _forward(session):
            policy = log_probabilities(session, session.built, inputs, labels, kept)
            values = heads[0](value.base.model(**inputs).last_hidden_state)
            ratio = torch.exp(policy - policy.detach())
            loss = (
                -torch.min(ratio, ratio.clamp(0.8, 1.2)).mean()
                + 0.1 * values.float().square().mean()
            )
        loss.backward()

    return micro_step


class _Reference:
    """The frozen model that a policy is compared with: adapters off, or a second copy."""

    def __init__(self, session: Session):
        self.session = session
        self.built = session.built
        if not session.built.adapters:
            with session.follower.in_phase("load"):
                self.built = _load(
                    session.plan, session.built.config, session.follower, "reference"
                )
                self.built.model.requires_grad_(False).eval()

    def log_probabilities(self, inputs, labels, kept: int | None = None) -> Tensor:
        with ExitStack() as stack:
            if self.built.adapters:
                stack.enter_context(self.built.model.disable_adapter())
            return log_probabilities(self.session, self.built, inputs, labels, kept)


def log_probabilities(
    session: Session, built: Built, inputs: dict, labels: Tensor, kept: int | None = None
) -> Tensor:
    """[B, T-1] log-probability of every next token; of the last `kept` only, where it is given.

    Row by row in half precision and by logsumexp in float32, as TRL's selective_log_softmax.
    """
    if session.plan.loss == "chunked":
        return _chunked_log_probabilities(session, built, inputs, labels, kept)
    only = {"logits_to_keep": kept + 1} if kept is not None else {}
    logits = built.model(**inputs, **only).logits[:, :-1]
    targets = inputs["input_ids"][:, -logits.shape[1] :].unsqueeze(-1)
    if logits.dtype == torch.float32:
        chosen = logits.gather(-1, targets).squeeze(-1)
        return chosen - torch.stack([row.logsumexp(-1) for row in logits])
    rows = [
        row.log_softmax(-1).gather(-1, t).squeeze(-1)
        for row, t in zip(logits, targets, strict=True)
    ]
    return torch.stack(rows)


def _chunked_log_probabilities(session, built, inputs, labels, kept) -> Tensor:
    hidden = built.base.model(**inputs).last_hidden_state[:, :-1]
    if kept is not None:
        hidden = hidden[:, -kept:]
    targets = inputs["input_ids"][:, -hidden.shape[1] :]
    shape = targets.shape
    hidden, targets = hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1, 1)
    head = built.base.get_output_embeddings()

    def chunk(states: Tensor, chosen: Tensor) -> Tensor:
        return head(states).float().log_softmax(-1).gather(-1, chosen).squeeze(-1)

    size = session.plan.loss_chunk
    parts = [
        checkpoint(chunk, hidden[at : at + size], targets[at : at + size], use_reentrant=False)
        for at in range(0, len(hidden), size)
    ]
    return torch.cat(parts).view(shape)


# -- generation, evaluation, saving ------------------------------------------------------------


def _roll_out(session: Session, rows: int, keep_logits: bool = False) -> Tensor | None:
    if session.plan.rollout == "vllm":
        return None  # another engine's share of the GPU, which `predict` sets aside
    with session.follower.in_phase("rollout"):
        return _generate_rows(session, rows, keep_logits)


def _generate(session: Session) -> None:
    with session.follower.in_phase("generate"):
        _generate_rows(session, session.plan.batch)


@torch.no_grad()
def _generate_rows(session: Session, rows: int, keep_logits: bool = False) -> Tensor | None:
    """Read the prompt into a cache, then make the last of the new tokens, where the cache is full.

    The tokens between differ only in the cache's length, so it is lengthened at once.
    """
    from transformers import DynamicCache

    plan, follower, model = session.plan, session.follower, session.built.model
    training = model.training
    model.eval()
    prompt = max(plan.sequence_length - plan.max_new_tokens, 1)
    inputs = session.inputs(batch=rows, sequence_length=prompt)
    inputs.pop("labels", None)
    cache = DynamicCache(config=session.built.config)
    with session.autocast():
        out = model(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
        kept = None
        if keep_logits:
            kept = out.logits.new_empty(rows, plan.max_new_tokens, out.logits.shape[-1])
            follower.mark(kept, "logits")
        following = {k: inputs[k][:, -1:] for k in ("input_ids",)}
        following["attention_mask"] = F.pad(
            inputs["attention_mask"], (0, plan.max_new_tokens), value=1
        )
        del inputs, out
        for layer in cache.layers:
            follower.mark([layer.keys, layer.values], "kv_cache")
            shape = (*layer.keys.shape[:2], plan.max_new_tokens - 1, layer.keys.shape[-1])
            if plan.max_new_tokens > 1:
                layer.update(layer.keys.new_empty(shape), layer.values.new_empty(shape))
                follower.mark([layer.keys, layer.values], "kv_cache")
        length = prompt + plan.max_new_tokens - 1
        following["position_ids"] = torch.full((rows, 1), length)
        language = _language_model(session.built.base)
        states = language(**following, past_key_values=cache, use_cache=True).last_hidden_state
        session.built.base.get_output_embeddings()(states)
    model.train(training)
    return kept


@torch.no_grad()
def _evaluate(session: Session) -> None:
    """Batches of evaluation; with `eval_keeps_logits` all logits are gathered before the end.

    The Trainer concatenates them on the device, in float32, unless eval_accumulation_steps moves
    them away: old and new stand side by side while it does.
    """
    plan, follower, model = session.plan, session.follower, session.built.model
    model.eval()
    inputs = session.inputs(batch=min(plan.eval_batch, plan.eval_samples))
    batches = -(-plan.eval_samples // plan.eval_batch)
    held = min(batches, plan.eval_accumulation or batches)
    with follower.in_phase("evaluate"):
        for _ in range(min(batches, EVALUATED_BATCHES)):
            with session.autocast():
                out = model(**inputs)
            if not plan.eval_keeps_logits:
                del out
                continue
            new = out.logits.float()
            del out
            before = new.new_empty((held - 1) * new.shape[0], *new.shape[1:])
            follower.mark([new, before], "logits")
            both = torch.cat([before, new])
            follower.mark(both, "logits")
            del before, new, both


def _save(session: Session) -> None:
    """A checkpoint goes through host memory as one block of bytes."""
    built = session.built
    saved = trainable(built.model) if built.adapters else list(built.base.parameters())
    with session.follower.in_phase("save"), session.follower.on_host():
        copies = [torch.empty_like(tensor) for tensor in saved]
        del copies


def _language_model(base: nn.Module) -> nn.Module:
    inner = base.model
    return getattr(inner, "language_model", None) or getattr(inner, "text_model", None) or inner


def _width(built: Built) -> int:
    return built.config.get_text_config().hidden_size


def _dtype(built: Built) -> torch.dtype:
    return next(built.base.parameters()).dtype


_STEPS = {"sft": _sft, "dpo": _dpo, "grpo": _grpo, "ppo": _ppo}
_WITHOUT_STEP = {"generate": _generate, "evaluate": _evaluate, "save": _save}
