"""What a batch is scored by: the language loss, and log-probabilities, plain or in chunks."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from labs.doctors.memory.setup.build import Built
from labs.doctors.memory.trace.session import Session


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
