"""Chapter 3, supervised fine-tuning: exercises.

The one source of the chapter's exercises: labs/grading/__init__.py says how it is written.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from labs.grading import exercise

IGNORE = -100  # a label that carries no loss


@exercise(
    kind="implement",
    points=10,
    difficulty="basic",
    minutes=20,
    section="The generation loss",
    forbid=("transformers", "trl"),
    hints=(
        "The logits at position t are a guess of the token at t + 1. Which logits then have no "
        "label, and which label has no logits?",
        "Drop the last logits and the first label: `logits[:, :-1]` belongs to `labels[:, 1:]`. "
        "Find out which of these labels count before you look a probability up: -100 is not an "
        "index.",
        "`F.cross_entropy(..., ignore_index=-100, reduction='sum')` on the flattened pair gives "
        "the sum. Divide it by the number of labels that counted *after* the shift, or by `num_items`.",
    ),
)
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
    # --- answer
    guesses = logits[:, :-1].flatten(0, 1)
    wanted = labels[:, 1:].flatten()
    total = F.cross_entropy(guesses, wanted, ignore_index=IGNORE, reduction="sum")
    return total / ((wanted != IGNORE).sum() if num_items is None else num_items)
    # --- end


@generation_loss.alternative
def by_log_softmax(logits, labels, num_items=None):
    logprobs = logits.log_softmax(-1)[:, :-1]
    targets = labels[:, 1:]
    counted = targets != IGNORE
    picked = logprobs.gather(-1, targets.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    if num_items is None:
        num_items = counted.sum()
    return -(picked * counted).sum() / num_items


@generation_loss.alternative
def by_loop_over_rows(logits, labels, num_items=None):
    total, count = logits.new_zeros(()), 0
    for row, wanted in zip(logits, labels, strict=True):
        for t in range(len(wanted) - 1):
            if wanted[t + 1] != IGNORE:
                total = total + row[t].logsumexp(0) - row[t, wanted[t + 1]]
                count += 1
    return total / (count if num_items is None else num_items)


@generation_loss.mistake(
    "The labels are not shifted: each position is asked for the token it has just read, "
    "not for the next one."
)
def labels_not_shifted(logits, labels, num_items=None):
    total = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
    return total / ((labels != IGNORE).sum() if num_items is None else num_items)


@labels_not_shifted.again
def unshifted_gather(logits, labels, num_items=None):
    keep = labels.ne(-100)
    nll = (
        torch.logsumexp(logits, dim=2)
        - torch.gather(logits, 2, torch.where(keep, labels, torch.zeros_like(labels))[..., None])[
            ..., 0
        ]
    )
    denominator = num_items or keep.sum().item()
    return nll[keep].sum() / denominator


@generation_loss.mistake(
    "The shift goes the wrong way: position t is asked for the token before it, t - 1."
)
def shifted_backwards(logits, labels, num_items=None):
    guesses, wanted = logits[:, 1:].flatten(0, 1), labels[:, :-1].flatten()
    total = F.cross_entropy(guesses, wanted, reduction="sum")
    return total / ((wanted != IGNORE).sum() if num_items is None else num_items)


@shifted_backwards.again
def looks_at_the_past(logits, labels, num_items=None):
    losses = []
    for b in range(logits.size(0)):
        for t in range(1, logits.size(1)):
            if labels[b, t - 1].item() != -100:
                losses.append(-logits[b, t].log_softmax(0)[labels[b, t - 1]])
    losses = torch.stack(losses)
    return losses.mean() if num_items is None else losses.sum() / num_items


@generation_loss.mistake(
    "The sum is divided by all positions, the masked ones too: the loss shrinks as prompts grow."
)
def mean_over_all_positions(logits, labels, num_items=None):
    wanted = labels[:, 1:]
    losses = F.cross_entropy(logits[:, :-1].flatten(0, 1), wanted.flatten(), reduction="none")
    return losses.mean() if num_items is None else losses.sum() / num_items


@mean_over_all_positions.again
def masked_then_averaged(logits, labels, num_items=None):
    targets = labels[:, 1:].clone()
    weight = (targets != -100).to(logits.dtype)
    targets[targets == -100] = 0
    logp = torch.log_softmax(logits[:, :-1], dim=-1)
    chosen = torch.take_along_dim(logp, targets[:, :, None], dim=2).squeeze(2) * weight
    if num_items is not None:
        return -chosen.sum() / num_items
    return -chosen.sum() / chosen.numel()


@generation_loss.mistake(
    "This is the mean over samples of each sample's mean: a short answer's tokens weigh more than "
    "a long one's. The exercise asks for the mean over tokens."
)
def mean_over_samples(logits, labels, num_items=None):
    wanted = labels[:, 1:]
    losses = F.cross_entropy(logits[:, :-1].transpose(1, 2), wanted, reduction="none")
    if num_items is not None:
        return losses.sum() / num_items
    counts = (wanted != IGNORE).sum(1)
    return (losses.sum(1)[counts > 0] / counts[counts > 0]).mean()


@mean_over_samples.again
def average_of_averages(logits, labels, num_items=None):
    means, everything = [], 0.0
    for scores, answer in zip(logits[:, :-1], labels[:, 1:], strict=True):
        index = (answer >= 0).nonzero().squeeze(1)
        if len(index) == 0:
            continue
        each = -scores[index].log_softmax(1)[torch.arange(len(index)), answer[index]]
        means.append(each.mean())
        everything = everything + each.sum()
    return torch.stack(means).mean() if num_items is None else everything / num_items


@generation_loss.mistake(
    "`num_items` is ignored: with unequal token counts, accumulated micro-batches then differ from "
    "the large batch (the gradient-accumulation bug)."
)
def ignores_num_items(logits, labels, num_items=None):
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


@ignores_num_items.again
def own_count_only(logits, labels, num_items=None):
    y = labels[..., 1:]
    valid = y != -100
    z = logits[..., :-1, :][valid]
    return (z.logsumexp(-1) - z[torch.arange(z.shape[0]), y[valid]]).mean()


@exercise(
    kind="implement",
    points=10,
    difficulty="basic",
    minutes=25,
    section="The label mask",
    hints=(
        "Start from labels that are all -100 and copy in what the model must learn to say. Who "
        "says the end-of-turn token after an assistant's answer?",
        "For each span whose role is 'assistant', copy `input_ids[start:end]` into the labels. The "
        "end of a span is exclusive.",
        "The end-of-turn token stands at index `end`, right after the span: copy it too if it is "
        "there (`end < len(input_ids)` and the id is `end_of_turn`). A sample cut at the maximal "
        "length has none.",
    ),
)
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
    # --- answer
    labels = torch.full_like(input_ids, IGNORE)
    for role, start, end in spans:
        if role != "assistant":
            continue
        labels[start:end] = input_ids[start:end]
        if end < len(input_ids) and input_ids[end] == end_of_turn:
            labels[end] = end_of_turn
    return labels
    # --- end


@label_mask.alternative
def by_where(input_ids, spans, end_of_turn):
    position = torch.arange(len(input_ids))
    learnt = torch.zeros(len(input_ids), dtype=torch.bool)
    for role, start, end in spans:
        if role == "assistant":
            learnt |= (position >= start) & (position < end)
            learnt |= (position == end) & (input_ids == end_of_turn)
    return torch.where(learnt, input_ids, IGNORE)


@label_mask.alternative
def by_list(input_ids, spans, end_of_turn):
    ids = input_ids.tolist()
    labels = [-100] * len(ids)
    for role, start, end in spans:
        for i in range(start, min(end + 1, len(ids))):
            if role == "assistant" and (i < end or ids[i] == end_of_turn):
                labels[i] = ids[i]
    return torch.tensor(labels, dtype=input_ids.dtype)


@label_mask.mistake(
    "The end-of-turn token after the answer carries no label: the model never learns to stop."
)
def without_end_of_turn(input_ids, spans, end_of_turn):
    labels = torch.full_like(input_ids, IGNORE)
    for role, start, end in spans:
        if role == "assistant":
            labels[start:end] = input_ids[start:end]
    return labels


@without_end_of_turn.again
def stops_too_early(input_ids, spans, end_of_turn):
    keep = set()
    for who, a, b in spans:
        if who == "assistant":
            keep.update(range(a, b))
    return torch.tensor(
        [int(token) if i in keep else -100 for i, token in enumerate(input_ids)]
    ).long()


@label_mask.mistake(
    "Only the last answer is labelled: the earlier assistant turns are lost as training signal."
)
def last_answer_only(input_ids, spans, end_of_turn):
    labels = torch.full_like(input_ids, IGNORE)
    answers = [(start, end) for role, start, end in spans if role == "assistant"]
    if answers:
        start, end = answers[-1]
        labels[start:end] = input_ids[start:end]
        if end < len(input_ids) and input_ids[end] == end_of_turn:
            labels[end] = end_of_turn
    return labels


@last_answer_only.again
def final_turn(input_ids, spans, end_of_turn):
    for role, begin, stop in reversed(spans):
        if role == "assistant":
            index = torch.arange(input_ids.shape[0])
            inside = torch.logical_and(index >= begin, index < stop)
            if stop < input_ids.shape[0] and int(input_ids[stop]) == end_of_turn:
                inside[stop] = True
            return input_ids.clone().masked_fill(~inside, -100)
    return torch.zeros_like(input_ids) - 100


@label_mask.mistake(
    "Everything from the first answer on is labelled: the user's later questions carry loss too."
)
def everything_after_the_prompt(input_ids, spans, end_of_turn):
    labels = torch.full_like(input_ids, IGNORE)
    starts = [start for role, start, _ in spans if role == "assistant"]
    if starts:
        labels[starts[0] :] = input_ids[starts[0] :]
    return labels


@everything_after_the_prompt.again
def prompt_masked_only(input_ids, spans, end_of_turn):
    out = input_ids.clone()
    for role, begin, _ in spans:
        if role == "assistant":
            out[:begin] = -100
            return out
    return out.fill_(-100)


@label_mask.mistake(
    "The roles are the wrong way round: the user's words carry loss and the assistant's do not."
)
def user_instead(input_ids, spans, end_of_turn):
    labels = torch.full_like(input_ids, IGNORE)
    for role, start, end in spans:
        if role == "user":
            labels[start : end + 1] = input_ids[start : end + 1]
    return labels


@user_instead.again
def roles_swapped(input_ids, spans, end_of_turn):
    masked = input_ids.clone()
    learnt = torch.zeros_like(masked, dtype=torch.bool)
    for turn in spans:
        if turn[0] == "user":
            for position in range(turn[1], turn[2]):
                learnt[position] = True
            if turn[2] < len(masked):
                learnt[turn[2]] = True
    masked[~learnt] = -100
    return masked


@label_mask.mistake(
    "The token after an answer is labelled whatever it is: look whether it is the end of the turn."
)
def next_token_whatever(input_ids, spans, end_of_turn):
    labels = torch.full_like(input_ids, IGNORE)
    for role, start, end in spans:
        if role == "assistant":
            labels[start : end + 1] = input_ids[start : end + 1]
    return labels


@next_token_whatever.again
def one_more(input_ids, spans, end_of_turn):
    result = [-100 for _ in input_ids]
    for role, first, last in spans:
        if role != "assistant":
            continue
        for i in range(first, last + 1):
            if i < len(result):
                result[i] = input_ids[i].item()
    return torch.as_tensor(result, dtype=torch.long)
