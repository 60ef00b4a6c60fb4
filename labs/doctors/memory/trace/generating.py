"""Objectives that take no step: generation, rollouts, evaluation, saving a checkpoint."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labs.doctors.memory.setup.build import trainable
from labs.doctors.memory.trace.session import Session

EVALUATED_BATCHES = 2


def roll_out(session: Session, rows: int, keep_logits: bool = False) -> Tensor | None:
    """Completions for reinforcement learning; the logits of the new tokens where they are kept."""
    if session.plan.rollout == "vllm":
        return None  # another engine's share of the GPU, which `predict` sets aside
    with session.follower.in_phase("rollout"):
        return _generate_rows(session, rows, keep_logits)


def generate(session: Session) -> None:
    """Answers to one batch."""
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
def evaluate(session: Session) -> None:
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


def save(session: Session) -> None:
    """A checkpoint goes through host memory as one block of bytes."""
    built = session.built
    saved = trainable(built.model) if built.adapters else list(built.base.parameters())
    with session.follower.in_phase("save"), session.follower.on_host():
        copies = [torch.empty_like(tensor) for tensor in saved]
        del copies


def _language_model(base: nn.Module) -> nn.Module:
    inner = base.model
    return getattr(inner, "language_model", None) or getattr(inner, "text_model", None) or inner
