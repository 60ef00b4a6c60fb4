"""The loss of a language model: how surprised is it by each next token of the answer."""

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from labs.losses.precision import upcast

IGNORE = -100  # the label of a token that carries no loss: prompt, image, padding


def shift(labels: Int[Tensor, "batch tokens"]) -> Int[Tensor, "batch tokens"]:
    """`labels` moved one place left, so that position t holds what position t has to predict.

    The last position predicts nothing. Moving the labels rather than cutting the logits spares a
    copy of [B, T, V].
    """
    return F.pad(labels[:, 1:], (0, 1), value=IGNORE)


def _token_losses(
    logits: Float[Tensor, "batch tokens vocab"], labels: Int[Tensor, "batch tokens"]
) -> tuple[Float[Tensor, "batch tokens"], Int[Tensor, "batch tokens"]]:
    """-log p of each next token, zero where there is no label; and the shifted labels."""
    if labels.shape != logits.shape[:2]:
        raise ValueError(f"labels {tuple(labels.shape)} do not fit logits {tuple(logits.shape)}.")
    targets = shift(labels).long()
    flat = upcast(logits).flatten(0, 1)
    losses = F.cross_entropy(flat, targets.flatten(), ignore_index=IGNORE, reduction="none")
    return losses.view_as(targets), targets


def per_item(total: Float[Tensor, ""], items: int | float | Tensor) -> Float[Tensor, ""]:
    """`total / items`; with no items at all the total is 0, and so is the result (never 0/0)."""
    return total / (items + (items == 0))


def generation_loss(
    logits: Float[Tensor, "batch tokens vocab"],
    labels: Int[Tensor, "batch tokens"],
    num_items: int | float | Tensor | None = None,
) -> Float[Tensor, ""]:
    """Next-token cross-entropy, averaged over the tokens that carry a label.

        L = -1/n · sum_{b,t : labels[b,t+1] != -100} log softmax(logits[b,t])[labels[b,t+1]]

    `logits` [B, T, V], `labels` [B, T] not shifted (that happens here), -100 = no loss. n is the
    number of labels that count, or `num_items` where given.

    *Accumulation.* Give every micro-batch `num_items`, the number of labelled tokens of the whole
    batch (all micro-batches, all ranks), and *add* the losses: value and gradient are those of the
    large batch. The mean of the micro-batches' means is not, as soon as they differ in tokens.
    Labels in the first column are never predicted: leave them out of the count (`labels[:, 1:]`).
    Where ranks average their gradients, as DDP does, give the count divided by the number of ranks.

    *No label at all.* The loss is exactly 0, with zero gradients, and never NaN: a micro-batch, or
    a rank, may have nothing to add to a batch that has. Nothing is raised, because a rank that
    stops alone hangs the others; whoever counts the labels of the whole batch refuses a zero there.

    Returns a scalar in nats a token, in float32 or wider. Raises ValueError where labels and logits
    do not fit.

    Radford et al. 2018 (GPT); Liu et al. 2023 (LLaVA), arXiv:2304.08485, equation 3 for the masked
    form. Derived in chapter 3.
    """
    losses, targets = _token_losses(logits, labels)
    return per_item(losses.sum(), (targets != IGNORE).sum() if num_items is None else num_items)


def sequence_logprobs(
    logits: Float[Tensor, "batch tokens vocab"],
    labels: Int[Tensor, "batch tokens"],
    average: bool = False,
) -> Float[Tensor, " batch"]:
    """Log-probability of each sequence's labelled tokens given what stands before them.

        log p(y | x)_b = sum_{t : labels[b,t+1] != -100} log softmax(logits[b,t])[labels[b,t+1]]

    `logits` [B, T, V], `labels` [B, T] not shifted, -100 = prompt, image or padding. With
    `average`, divided by the number of labels of the row (SimPO, ORPO). A row without any label
    gives 0. Returns [B], in nats (a token, with `average`).

    Rafailov et al. 2023 (DPO), arXiv:2305.18290, appendix B. Derived in chapter 6.
    """
    losses, targets = _token_losses(logits, labels)
    total = -losses.sum(dim=-1)
    return total / (targets != IGNORE).sum(dim=-1).clamp(min=1) if average else total
