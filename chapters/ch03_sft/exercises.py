"""Chapter 3, supervised fine-tuning: exercises.

Written from solutions/ch03_sft.py; don't edit this file. `labs start ch03` copies it to
work/ch03_sft/exercises.py: write your answers there, then `labs grade ch03`.
"""

# ruff: noqa: F401  (imports that the answers need)

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

IGNORE = -100  # a label that carries no loss


def generation_loss(
    logits: Float[Tensor, "batch tokens vocab"],
    labels: Int[Tensor, "batch tokens"],
    num_items: int | None = None,
) -> Float[Tensor, ""]:
    r"""The loss of supervised fine-tuning: mean negative log-probability of the labelled tokens.

    $$L = -\frac{1}{N} \sum_{b} \sum_{t:\ y_{b,t+1} \neq -100} \log p(y_{b,t+1} \mid x_{b,\leq t})$$

    - `logits`: `[batch, tokens, vocab]`; the logits at position t predict the token at t + 1.
    - `labels`: `[batch, tokens]`, aligned with the *input* tokens: nobody has shifted them yet.
      A label of -100 carries no loss.
    - $N$ is the number of labels that carry loss after the shift, over the whole batch (a mean over
      tokens, not over samples); or `num_items` where it is given, which makes the losses of several
      accumulated micro-batches add up to that of the large batch.

    Returns a scalar tensor of the logits' dtype. Graded: the value, with padding on either side, a
    row that carries no label and `num_items`; the gradient; that the ids under masked positions do
    not matter; that accumulated micro-batches give the large batch.
    """
    raise NotImplementedError("generation_loss: not started")


def label_mask(
    input_ids: Int[Tensor, " tokens"],
    spans: list[tuple[str, int, int]],
    end_of_turn: int,
) -> Int[Tensor, " tokens"]:
    r"""The labels of a conversation of several turns: only what the assistant says carries loss.

    - `input_ids`: `[tokens]`, the whole conversation as the chat template wrote it.
    - `spans`: one `(role, start, end)` a turn, in order; role is "system", "user" or "assistant",
      and `input_ids[start:end]` is the text of the turn, without the template's header and without
      the end-of-turn token that follows it at index `end`.
    - `end_of_turn`: the id of the token that closes every turn. A conversation that was cut at the
      maximal length lacks the last one: the ids end there (and the last span may reach beyond
      them), or padding follows.

    Returns labels `[tokens]`: the id where the token belongs to an assistant's text *or is the
    end-of-turn token right after it*, and -100 everywhere else: without that token the model never
    learns to stop. Not shifted: the loss does that. The input must not be changed. Graded: several
    turns, a system turn, an assistant that speaks first, an empty answer, a cut conversation, ids
    in a user's text that equal the end-of-turn token.
    """
    raise NotImplementedError("label_mask: not started")
