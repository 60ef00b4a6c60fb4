"""Chapter 3, supervised fine-tuning: exercises.

The one source of the chapter's exercises: labs/grading/__init__.py says how it is written.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import init

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
def same_position_nll(logits, labels, num_items=None):
    vocab = logits.shape[-1]
    log_p = torch.log_softmax(logits.reshape(-1, vocab), dim=1)
    flat = labels.reshape(-1)
    loss_sum = F.nll_loss(log_p, flat, ignore_index=-100, reduction="sum")
    if num_items is None:
        num_items = int(torch.count_nonzero(flat != -100))
    return loss_sum / num_items


@generation_loss.mistake(
    "The shift goes the wrong way: position t is asked for the token before it, t - 1."
)
def shifted_backwards(logits, labels, num_items=None):
    guesses, wanted = logits[:, 1:].flatten(0, 1), labels[:, :-1].flatten()
    total = F.cross_entropy(guesses, wanted, reduction="sum")
    return total / ((wanted != IGNORE).sum() if num_items is None else num_items)


@shifted_backwards.again
def labels_rolled_right(logits, labels, num_items=None):
    tgt = labels.roll(1, dims=1)
    tgt[:, 0] = -100
    has_loss = tgt != -100
    true_logit = logits.gather(2, tgt.masked_fill(~has_loss, 0).unsqueeze(2)).squeeze(2)
    token_loss = (logits.logsumexp(2) - true_logit).masked_fill(~has_loss, 0.0)
    n = has_loss.sum() if num_items is None else num_items
    return token_loss.sum() / n


@generation_loss.mistake(
    "The sum is divided by all positions, the masked ones too: the loss shrinks as prompts grow."
)
def mean_over_all_positions(logits, labels, num_items=None):
    wanted = labels[:, 1:]
    losses = F.cross_entropy(logits[:, :-1].flatten(0, 1), wanted.flatten(), reduction="none")
    return losses.mean() if num_items is None else losses.sum() / num_items


@mean_over_all_positions.again
def divided_by_every_position(logits, labels, num_items=None):
    batch, length = labels.shape
    loss = torch.zeros((), dtype=logits.dtype, device=logits.device)
    seen = 0
    for i in range(batch):
        for t in range(1, length):
            seen += 1
            y = int(labels[i, t])
            if y == -100:
                continue
            loss = loss - F.log_softmax(logits[i, t - 1], dim=-1)[y]
    return loss / (seen if num_items is None else num_items)


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
def average_of_row_averages(logits, labels, num_items=None):
    total, rows = 0.0, []
    for scores, target in zip(logits[:, :-1], labels[:, 1:], strict=True):
        keep = target != -100
        if not keep.any():
            continue
        picked = scores[keep].log_softmax(-1).gather(1, target[keep].unsqueeze(1))
        rows.append(-picked.mean())
        total = total - picked.sum()
    return total / num_items if num_items is not None else torch.stack(rows).mean()


@generation_loss.mistake(
    "This is the mean over samples of each sample's mean, and a sample without labels counts as a "
    "loss of zero. The exercise asks for the mean over tokens."
)
def per_row_then_batch(logits, labels, num_items=None):
    next_ids = labels[:, 1:]
    mask = (next_ids != -100).to(logits.dtype)
    logp = logits[:, :-1, :].log_softmax(dim=-1)
    nll = -logp.gather(2, next_ids.clamp(min=0)[..., None])[..., 0] * mask
    if num_items is not None:
        return nll.sum() / num_items
    per_row = nll.sum(dim=1) / mask.sum(dim=1).clamp(min=1)
    return per_row.mean()


@per_row_then_batch.again
def empty_rows_drag_it_down(logits, labels, num_items=None):
    answer_losses = []
    everything = 0.0
    for b in range(labels.shape[0]):
        where = (labels[b, 1:] != -100).nonzero().flatten()
        if where.numel() == 0:
            answer_losses.append(logits[b].sum() * 0.0)
            continue
        per_token = F.cross_entropy(logits[b, where], labels[b, where + 1], reduction="none")
        everything = everything + per_token.sum()
        answer_losses.append(per_token.mean())
    if num_items is not None:
        return everything / num_items
    return sum(answer_losses) / len(answer_losses)


@generation_loss.mistake(
    "`num_items` is ignored: with unequal token counts, accumulated micro-batches then differ from "
    "the large batch (the gradient-accumulation bug)."
)
def ignores_num_items(logits, labels, num_items=None):
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


@ignores_num_items.again
def always_the_local_mean(logits, labels, num_items=None):
    sum_loss, n_tokens = 0.0, 0
    for row_logits, row_labels in zip(logits, labels, strict=True):
        sum_loss = sum_loss + F.cross_entropy(
            row_logits[:-1], row_labels[1:], ignore_index=-100, reduction="sum"
        )
        n_tokens += int((row_labels[1:] != -100).sum())
    return sum_loss / n_tokens


@exercise(
    kind="implement",
    points=10,
    difficulty="basic",
    minutes=25,
    section="Which tokens carry the loss",
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
def answer_text_only(input_ids, spans, end_of_turn):
    is_answer = torch.zeros(input_ids.shape, dtype=torch.bool, device=input_ids.device)
    for speaker, lo, hi in spans:
        is_answer[lo:hi] |= speaker == "assistant"
    return input_ids.masked_fill(~is_answer, -100)


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
def labels_reset_each_turn(input_ids, spans, end_of_turn):
    n = input_ids.numel()
    y = torch.full_like(input_ids, -100)
    for role, s, e in spans:
        if role == "assistant":
            y = torch.full_like(input_ids, -100)
            for i in range(s, min(e, n)):
                y[i] = input_ids[i]
            if e < n and input_ids[e].item() == end_of_turn:
                y[e] = input_ids[e]
    return y


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
def from_first_answer_onwards(input_ids, spans, end_of_turn):
    first = min((s for who, s, _ in spans if who == "assistant"), default=len(input_ids))
    pos = torch.arange(len(input_ids), device=input_ids.device)
    return torch.where(pos >= first, input_ids, torch.full_like(input_ids, -100))


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
def trains_on_the_user(input_ids, spans, end_of_turn):
    tokens = input_ids.tolist()
    targets = [-100] * len(tokens)
    for speaker, lo, hi in spans:
        if speaker == "user":
            targets[lo:hi] = tokens[lo:hi]
            if hi < len(tokens) and tokens[hi] == end_of_turn:
                targets[hi] = end_of_turn
    return torch.tensor(targets, dtype=input_ids.dtype, device=input_ids.device)


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
def end_plus_one_unchecked(input_ids, spans, end_of_turn):
    where = torch.arange(input_ids.size(0), device=input_ids.device)
    mask = torch.zeros_like(where, dtype=torch.bool)
    for who, lo, hi in spans:
        if who == "assistant":
            mask = mask | ((where >= lo) & (where <= hi))
    y = input_ids.clone()
    y[~mask] = -100
    return y


# -- LoRALinear --------------------------------------------------------------------------------


@exercise(
    kind="implement",
    points=20,
    difficulty="challenge",
    minutes=45,
    section="LoRA from scratch",
    forbid=("peft", "transformers"),
    hints=(
        "What must B be at the start, so that the layer gives what the base gave? And if A were "
        "that too, which gradient would ever be non-zero?",
        "`base.requires_grad_(False)` freezes; `nn.Parameter` makes A and B trainable. Give both "
        "the dtype of `base.weight`. Dropout belongs in front of A only: the base sees x itself.",
        "`base(x) + scale * (dropout(x) @ A.T @ B.T)`, unless merged: then `base(x)`. `merge()` "
        "adds `scale * B @ A` to `base.weight` under `torch.no_grad()` and remembers that it did.",
    ),
)
class LoRALinear(nn.Module):
    r"""A frozen linear layer with a trainable update of rank r beside it.

    $$h = W x + b + s\, B A\, \mathrm{dropout}(x), \qquad s = \frac{\alpha}{r}$$

    - `base`: the `nn.Linear` that holds $W$ `[outputs, inputs]` and perhaps $b$. It is kept as the
      attribute `base` and frozen: neither $W$ nor $b$ gets a gradient.
    - `lora_A` `[r, inputs]` starts random, `lora_B` `[outputs, r]` starts at zero; both are
      `nn.Parameter`s of the dtype of `base.weight`, and nothing else is trainable.
    - `dropout`: the probability that an input of the *update* is dropped in training. The base
      sees the whole input.
    - `rslora`: the scale is $\alpha / \sqrt{r}$ instead of $\alpha / r$
      (rank-stabilised LoRA, arXiv:2312.03732).
    - `merge()` adds $s B A$ to `base.weight`, and `unmerge()` takes it off again. A merged layer
      gives the same result with the base alone. Merging twice is merging once; A and B keep their
      values.

    LoRA: arXiv:2106.09685. Graded: the start, the value and gradients with B *not* zero, what is
    trainable, rsLoRA, dropout, a base in bfloat16, the state after `merge()` and `unmerge()`, and
    that a forward pass builds no matrix of the size of W.
    """

    def __init__(
        self,
        base: nn.Linear,
        r: int,
        alpha: float,
        dropout: float = 0.0,
        rslora: bool = False,
    ):
        super().__init__()
        # --- answer
        self.base = base.requires_grad_(False)
        self.scale = alpha / r**0.5 if rslora else alpha / r
        like = {"dtype": base.weight.dtype, "device": base.weight.device}
        self.lora_A = nn.Parameter(torch.empty(r, base.in_features, **like))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, r, **like))
        init.kaiming_uniform_(self.lora_A, a=5**0.5)  # as nn.Linear starts
        self.dropout = nn.Dropout(dropout)
        self.merged = False
        # --- end

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """The base's output plus the scaled update, or the merged base's output."""
        # --- answer
        if self.merged:
            return self.base(x)
        return self.base(x) + self.scale * (self.dropout(x) @ self.lora_A.T @ self.lora_B.T)
        # --- end

    def merge(self) -> None:
        """Fold the update into the base's weight."""
        # --- answer
        if not self.merged:
            with torch.no_grad():
                self.base.weight += self.scale * self.lora_B @ self.lora_A
            self.merged = True
        # --- end

    def unmerge(self) -> None:
        """Take the update out of the base's weight."""
        # --- answer
        if self.merged:
            with torch.no_grad():
                self.base.weight -= self.scale * self.lora_B @ self.lora_A
            self.merged = False
        # --- end


@LoRALinear.alternative
class KeepsTheOldWeight(nn.Module):
    def __init__(self, base, r, alpha, dropout=0.0, rslora=False):
        super().__init__()
        for p in base.parameters():
            p.requires_grad = False
        w = base.weight
        self.base, self.p, self.old = base, dropout, None
        self.lora_A = nn.Parameter(torch.randn(r, w.shape[1]).div(r).to(w))
        self.lora_B = nn.Parameter(w.new_zeros(w.shape[0], r))
        self.factor = alpha * (r**-0.5 if rslora else 1 / r)

    def forward(self, x):
        out = F.linear(x, self.base.weight, self.base.bias)
        if self.old is None:
            dropped = F.dropout(x, self.p, self.training)
            out = out + F.linear(F.linear(dropped, self.factor * self.lora_A), self.lora_B)
        return out

    @torch.no_grad()
    def merge(self):
        if self.old is None:
            self.old = self.base.weight.clone()
            update = self.factor * (self.lora_B.float() @ self.lora_A.float())
            self.base.weight.copy_((self.old.float() + update).to(self.old.dtype))

    @torch.no_grad()
    def unmerge(self):
        if self.old is not None:
            self.base.weight.copy_(self.old)
            self.old = None


class _Adapted(nn.Module):
    """What right and wrong answers share; it is no answer."""

    def __init__(self, base, r, alpha, dropout=0.0, rslora=False):
        super().__init__()
        base.requires_grad_(False)
        self.base, self.merged = base, False
        weight = base.weight
        self.lora_A = nn.Parameter(0.1 * torch.randn(r, base.in_features).to(weight))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, r).to(weight))
        self.dropout = nn.Dropout(dropout)
        self.scale = alpha / (math.sqrt(r) if rslora else r)

    def forward(self, x):
        out = self.base(x)
        if not self.merged:
            out = out + self.dropout(x) @ self.lora_A.T @ self.lora_B.T * self.scale
        return out

    @torch.no_grad()
    def merge(self):
        if not self.merged:
            self.base.weight.add_(self.lora_B @ self.lora_A * self.scale)
        self.merged = True

    @torch.no_grad()
    def unmerge(self):
        if self.merged:
            self.base.weight.sub_(self.lora_B @ self.lora_A * self.scale)
        self.merged = False


@LoRALinear.mistake("The scale is alpha, not alpha / r: the update grows with the rank.")
class ScaledByAlpha(_Adapted):
    def __init__(self, base, r, alpha, dropout=0.0, rslora=False):
        super().__init__(base, r, alpha, dropout, rslora)
        self.scale = alpha


@ScaledByAlpha.again
class RankForgotten(nn.Module):
    def __init__(self, base, r, alpha, dropout=0.0, rslora=False):
        super().__init__()
        self.base = base
        self.base.weight.requires_grad_(False)
        if self.base.bias is not None:
            self.base.bias.requires_grad_(False)
        self.lora_A = nn.Parameter(torch.empty_like(base.weight[:1]).repeat(r, 1).normal_())
        self.lora_B = nn.Parameter(torch.zeros_like(base.weight[:, :1]).repeat(1, r))
        self.alpha, self.drop, self.inside = alpha, dropout, False

    def forward(self, x):
        if self.inside:
            return self.base(x)
        low = F.linear(F.dropout(x, self.drop, training=self.training), self.lora_A)
        return torch.add(self.base(x), F.linear(low, self.lora_B), alpha=self.alpha)

    def merge(self):
        if self.inside:
            return
        self.inside = True
        self.base.weight.data.addmm_(self.lora_B.data, self.lora_A.data, alpha=self.alpha)

    def unmerge(self):
        if not self.inside:
            return
        self.inside = False
        self.base.weight.data.addmm_(self.lora_B.data, self.lora_A.data, alpha=-self.alpha)


@LoRALinear.mistake("The base is not frozen: its weight and bias train along with A and B.")
class BaseStillTrains(_Adapted):
    def __init__(self, base, r, alpha, dropout=0.0, rslora=False):
        super().__init__(base, r, alpha, dropout, rslora)
        base.requires_grad_(True)


@BaseStillTrains.again
class NobodyFroze(nn.Module):
    def __init__(self, base, r, alpha, dropout=0.0, rslora=False):
        super().__init__()
        self.base = base
        n_out, n_in = base.weight.shape
        self.lora_A = nn.Parameter(torch.randn(r, n_in, dtype=base.weight.dtype) / n_in**0.5)
        self.lora_B = nn.Parameter(torch.zeros(n_out, r, dtype=base.weight.dtype))
        self.c = alpha / r if not rslora else alpha / r**0.5
        self.drop = nn.Dropout(p=dropout)
        self.on = False

    def forward(self, x):
        y = self.base(x)
        return (
            y
            if self.on
            else y + self.c * F.linear(F.linear(self.drop(x), self.lora_A), self.lora_B)
        )

    def merge(self):
        with torch.no_grad():
            if not self.on:
                self.base.weight.copy_(self.base.weight + self.c * self.lora_B @ self.lora_A)
        self.on = True

    def unmerge(self):
        with torch.no_grad():
            if self.on:
                self.base.weight.copy_(self.base.weight - self.c * self.lora_B @ self.lora_A)
        self.on = False


@LoRALinear.mistake(
    "B starts random too: the layer differs from the base before a single step of training."
)
class RandomFromTheStart(_Adapted):
    def __init__(self, base, r, alpha, dropout=0.0, rslora=False):
        super().__init__(base, r, alpha, dropout, rslora)
        init.normal_(self.lora_B, std=0.02)


@RandomFromTheStart.again
class BothKaiming(nn.Module):
    def __init__(self, base, r, alpha, dropout=0.0, rslora=False):
        super().__init__()
        self.base = base.requires_grad_(False)
        down = nn.Linear(base.in_features, r, bias=False).to(base.weight.dtype)
        up = nn.Linear(r, base.out_features, bias=False).to(base.weight.dtype)
        self.lora_A, self.lora_B = down.weight, up.weight
        self.k, self.d, self.state = alpha / (r**0.5 if rslora else r), dropout, "apart"

    def forward(self, x):
        if self.state == "merged":
            return self.base(x)
        z = F.dropout(x, self.d, self.training)
        return self.base(x) + self.k * F.linear(F.linear(z, self.lora_A), self.lora_B)

    def merge(self):
        if self.state == "apart":
            self.base.weight.data += self.k * (self.lora_B @ self.lora_A).detach()
            self.state = "merged"

    def unmerge(self):
        if self.state == "merged":
            self.base.weight.data -= self.k * (self.lora_B @ self.lora_A).detach()
            self.state = "apart"


@LoRALinear.mistake(
    "A starts at zero as well as B: each one's gradient is a product with the other, so neither "
    "ever moves."
)
class BothZero(_Adapted):
    def __init__(self, base, r, alpha, dropout=0.0, rslora=False):
        super().__init__(base, r, alpha, dropout, rslora)
        init.zeros_(self.lora_A)


@BothZero.again
class NothingToLearnFrom(nn.Module):
    def __init__(self, base, r, alpha, dropout=0.0, rslora=False):
        super().__init__()
        kind = base.weight.dtype
        self.register_parameter(
            "lora_A", nn.Parameter(torch.zeros(r, base.in_features, dtype=kind))
        )
        self.register_parameter(
            "lora_B", nn.Parameter(torch.zeros(base.out_features, r, dtype=kind))
        )
        self.add_module("base", base)
        for frozen in base.parameters():
            frozen.requires_grad_(False)
        self.gain, self.rate, self.folded = (
            (alpha / math.sqrt(r) if rslora else alpha / r),
            dropout,
            False,
        )

    def forward(self, x):
        y = self.base(x)
        if self.folded:
            return y
        h = torch.einsum("...i,ri->...r", F.dropout(x, self.rate, self.training), self.lora_A)
        return y + self.gain * torch.einsum("...r,or->...o", h, self.lora_B)

    @torch.no_grad()
    def merge(self):
        if not self.folded:
            self.base.weight += self.gain * self.lora_B.mm(self.lora_A)
            self.folded = True

    @torch.no_grad()
    def unmerge(self):
        if self.folded:
            self.base.weight -= self.gain * self.lora_B.mm(self.lora_A)
            self.folded = False


@LoRALinear.mistake(
    "After merge() the forward pass still adds the update beside the base: it counts twice."
)
class CountsTwice(_Adapted):
    def forward(self, x):
        return self.base(x) + self.dropout(x) @ self.lora_A.T @ self.lora_B.T * self.scale


@CountsTwice.again
class MergedButNotTold(nn.Module):
    def __init__(self, base, r, alpha, dropout=0.0, rslora=False):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.lora_A = nn.Parameter(torch.rand(r, base.in_features).sub(0.5).to(base.weight.dtype))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, r).to(base.weight.dtype))
        self.keep = nn.Dropout(dropout) if dropout else nn.Identity()
        self.scale = alpha / (r**0.5) if rslora else alpha / r
        self.saved = None

    def forward(self, x):
        update = self.keep(x).matmul(self.lora_A.t()).matmul(self.lora_B.t())
        return self.base(x) + self.scale * update

    def merge(self):
        if self.saved is None:
            self.saved = self.base.weight.detach().clone()
            delta = (self.lora_B @ self.lora_A).detach() * self.scale
            self.base.weight.data = self.saved + delta

    def unmerge(self):
        if self.saved is not None:
            self.base.weight.data, self.saved = self.saved, None


@LoRALinear.mistake(
    "Merging a merged layer adds the update once more: remember whether it is merged."
)
class MergesAgain(_Adapted):
    @torch.no_grad()
    def merge(self):
        self.base.weight.add_(self.lora_B @ self.lora_A * self.scale)
        self.merged = True


@MergesAgain.again
class AddsEveryTime(nn.Module):
    def __init__(self, base, r, alpha, dropout=0.0, rslora=False):
        super().__init__()
        self.base = base
        base.weight.requires_grad = False
        if base.bias is not None:
            base.bias.requires_grad = False
        self.lora_A = nn.Parameter(torch.randn(r, base.in_features).to(base.weight.dtype))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, r).to(base.weight.dtype))
        self.scale = alpha / [r, math.sqrt(r)][rslora]
        self.dropout, self.adapter_on = dropout, True

    def forward(self, x):
        result = F.linear(x, self.base.weight, self.base.bias)
        if self.adapter_on:
            x = F.dropout(x, self.dropout, self.training)
            result = result + self.scale * ((x @ self.lora_A.mT) @ self.lora_B.mT)
        return result

    def merge(self):
        with torch.no_grad():
            self.base.weight += self.scale * (self.lora_B @ self.lora_A)
        self.adapter_on = False

    def unmerge(self):
        if self.adapter_on:
            return
        with torch.no_grad():
            self.base.weight -= self.scale * (self.lora_B @ self.lora_A)
        self.adapter_on = True


@LoRALinear.mistake(
    "The base sees the dropped input as well: dropout belongs to the update's branch only."
)
class DropoutOnAll(_Adapted):
    def forward(self, x):
        return super().forward(x) if self.merged else self._both(self.dropout(x))

    def _both(self, x):
        return self.base(x) + x @ self.lora_A.T @ self.lora_B.T * self.scale


@DropoutOnAll.again
class DropsTheInput(nn.Module):
    def __init__(self, base, r, alpha, dropout=0.0, rslora=False):
        super().__init__()
        self.base, self.dropout = base.requires_grad_(False), dropout
        self.lora_A = nn.Parameter(
            torch.zeros_like(base.weight).resize_(r, base.in_features).normal_()
        )
        self.lora_B = nn.Parameter(base.weight.new_zeros((base.out_features, r)))
        self.scale = alpha / r
        if rslora:
            self.scale = alpha / math.sqrt(r)
        self.is_merged = False

    def forward(self, x):
        if not self.is_merged:
            x = F.dropout(x, p=self.dropout, training=self.training)
        y = self.base(x)
        if not self.is_merged:
            y = y + F.linear(F.linear(x, self.lora_A), self.lora_B).mul(self.scale)
        return y

    def merge(self):
        if not self.is_merged:
            self.base.weight.data.add_(self.lora_B.data @ self.lora_A.data, alpha=self.scale)
            self.is_merged = True

    def unmerge(self):
        if self.is_merged:
            self.base.weight.data.sub_(self.lora_B.data @ self.lora_A.data, alpha=self.scale)
            self.is_merged = False


@LoRALinear.mistake("The switch `rslora` is ignored: the scale stays alpha / r.")
class NoRankStabilising(_Adapted):
    def __init__(self, base, r, alpha, dropout=0.0, rslora=False):
        super().__init__(base, r, alpha, dropout, rslora=False)


@NoRankStabilising.again
class OnlyPlainScale(nn.Module):
    def __init__(self, base, r, alpha, dropout=0.0, rslora=False):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.lora_A = nn.Parameter(torch.randn(r, base.in_features).mul(0.02).type_as(base.weight))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, r).type_as(base.weight))
        self.r, self.alpha, self.rslora, self.p = r, alpha, rslora, dropout
        self.merged = False

    def delta(self):
        return (self.lora_B @ self.lora_A) * self.alpha / self.r

    def forward(self, x):
        if self.merged:
            return self.base(x)
        low = F.dropout(x, self.p, self.training) @ self.lora_A.T
        return self.base(x) + (low @ self.lora_B.T) * self.alpha / self.r

    @torch.no_grad()
    def merge(self):
        if self.merged is False:
            self.base.weight.copy_(self.base.weight + self.delta())
        self.merged = True

    @torch.no_grad()
    def unmerge(self):
        if self.merged is True:
            self.base.weight.copy_(self.base.weight - self.delta())
        self.merged = False


@LoRALinear.mistake(
    "A and B are in float32 whatever the base is: give them the dtype of the base's weight."
)
class AlwaysFloat32(_Adapted):
    def __init__(self, base, r, alpha, dropout=0.0, rslora=False):
        super().__init__(base, r, alpha, dropout, rslora)
        self.lora_A = nn.Parameter(torch.randn(r, base.in_features))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, r))


@AlwaysFloat32.again
class DefaultDtype(nn.Module):
    def __init__(self, base, r, alpha, dropout=0.0, rslora=False):
        super().__init__()
        self.base = base.requires_grad_(False)
        down, up = (
            nn.Linear(base.in_features, r, bias=False),
            nn.Linear(r, base.out_features, bias=False),
        )
        self.lora_A, self.lora_B = down.weight, nn.Parameter(torch.zeros_like(up.weight))
        self.drop, self.merged = nn.Dropout(dropout), False
        self.scale = alpha / r**0.5 if rslora else alpha / r

    def forward(self, x):
        if self.merged:
            return self.base(x)
        low = self.drop(x).to(self.lora_A.dtype) @ self.lora_A.T
        return self.base(x) + (low @ self.lora_B.T * self.scale).to(x.dtype)

    def merge(self):
        if not self.merged:
            with torch.no_grad():
                self.base.weight += (self.lora_B @ self.lora_A * self.scale).to(self.base.weight)
        self.merged = True

    def unmerge(self):
        if self.merged:
            with torch.no_grad():
                self.base.weight -= (self.lora_B @ self.lora_A * self.scale).to(self.base.weight)
        self.merged = False


@LoRALinear.mistake(
    "Every forward pass multiplies B A out to a matrix of the size of W. Take x through A first: "
    "then nothing is larger than the activations."
)
class MultipliesOut(_Adapted):
    def forward(self, x):
        out = self.base(x)
        if not self.merged:
            out = out + self.dropout(x) @ (self.scale * self.lora_B @ self.lora_A).T
        return out


@MultipliesOut.again
class EffectiveWeight(nn.Module):
    def __init__(self, base, r, alpha, dropout=0.0, rslora=False):
        super().__init__()
        self.base = base.requires_grad_(False)
        shape = {"dtype": base.weight.dtype}
        self.lora_A = nn.Parameter(torch.randn(r, base.in_features, **shape))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, r, **shape))
        self.alpha = alpha / (math.sqrt(r) if rslora else r)
        self.p, self.merged = dropout, False

    def update(self):
        return torch.einsum("or,ri->oi", self.lora_B, self.lora_A) * self.alpha

    def forward(self, x):
        if self.merged:
            return self.base(x)
        return self.base(x) + F.linear(F.dropout(x, self.p, self.training), self.update())

    def merge(self):
        if not self.merged:
            self.base.weight.data += self.update().detach()
        self.merged = True

    def unmerge(self):
        if self.merged:
            self.base.weight.data -= self.update().detach()
        self.merged = False


# -- parameter_groups --------------------------------------------------------------------------


@exercise(
    kind="implement",
    points=10,
    difficulty="basic",
    minutes=25,
    section="A learning rate for the projector of its own",
    forbid=("transformers",),
    hints=(
        "Which questions does a parameter have to answer before you know its group? There are "
        "three: is it trained at all, which part is it of, has it more than one dimension?",
        "Go over `model.named_parameters()`: it gives a tied weight once. The part is one of "
        "`name.split('.')`; the rate is `rates[part]`, or `lr` where no part of the name is listed.",
        "A dict from `(rate, decay)` to a group, filled with `setdefault(key, {...})`, keeps at most "
        "two groups for each rate. `decay = weight_decay if parameter.ndim >= 2 else 0.0`.",
    ),
)
def parameter_groups(
    model: nn.Module, lr: float, weight_decay: float, rates: dict[str, float]
) -> list[dict]:
    r"""AdamW's parameter groups: a learning rate for each part, decay only where it belongs.

    LLaVA's LoRA recipe trains the language model at 2e-4 and the projector, which is trained
    already, at 2e-5 (`mm_projector_lr`); LLaVA-OneVision trains its vision tower at 2e-6.

    - `rates`: `{part: learning rate}`. A parameter is of a part where the part is one of the
      components of its dotted name: `model.vision.proj.weight` is of `vision`, and
      `model.layers.0.vision_expert.weight` is not. All other parameters get `lr`.
    - `weight_decay` is for matrices. Weights of norms and all biases, which have one dimension,
      get 0.0: decay would pull a norm's scale to zero.
    - Frozen parameters (`requires_grad` is False) are in no group, and every other is in exactly
      one group, once, even if two modules share it.

    Returns a list of dicts `{"params": [...], "lr": ..., "weight_decay": ...}` that
    `torch.optim.AdamW` takes, in any order, with at most two groups for each learning rate: AdamW
    updates a group at a time. Graded: rate and decay of every parameter of two models with frozen
    parts, tied weights and norms under several names; the number of groups.
    """
    # --- answer
    groups = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        rate = next((rates[part] for part in name.split(".") if part in rates), lr)
        decay = weight_decay if parameter.ndim >= 2 else 0.0
        group = groups.setdefault((rate, decay), {"params": [], "lr": rate, "weight_decay": decay})
        group["params"].append(parameter)
    return list(groups.values())
    # --- end


NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm)


@parameter_groups.alternative
def by_module_type(model, lr, weight_decay, rates):
    plain = {
        f"{owner}.{leaf}"
        for owner, module in model.named_modules()
        for leaf, _ in module.named_parameters(recurse=False)
        if isinstance(module, NORMS) or leaf.endswith("bias")
    }
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    groups, left = [], set(trained)
    for part, rate in [*rates.items(), (None, lr)]:
        own = {n for n in left if part is None or part in n.split(".")}
        left -= own
        for names, decay in ((own - plain, weight_decay), (own & plain, 0.0)):
            params = [trained[n] for n in sorted(names)]
            if params:
                groups.append({"params": params, "lr": rate, "weight_decay": decay})
    return groups


@parameter_groups.alternative
def by_table(model, lr, weight_decay, rates):
    def rate_of(name):
        for part, rate in rates.items():
            if f".{part}." in f".{name}.":
                return rate
        return lr

    rows = [(rate_of(n), p.dim() > 1, p) for n, p in model.named_parameters() if p.requires_grad]
    return [
        {
            "params": [p for r, m, p in rows if (r, m) == (rate, matrix)],
            "lr": rate,
            "weight_decay": weight_decay * matrix,
        }
        for rate in {r for r, _, _ in rows}
        for matrix in (True, False)
    ]


@parameter_groups.mistake("Everything is decayed, norms and biases too.")
def decays_everything(model, lr, weight_decay, rates):
    groups = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rate = next((rates[part] for part in name.split(".") if part in rates), lr)
            groups.setdefault(rate, []).append(parameter)
    return [{"params": p, "lr": r, "weight_decay": weight_decay} for r, p in groups.items()]


@decays_everything.again
def one_group_a_part(model, lr, weight_decay, rates):
    def belongs(name, part):
        return part in name.split(".")

    trainable = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    out = [
        {
            "params": [p for n, p in trainable if belongs(n, part)],
            "lr": rate,
            "weight_decay": weight_decay,
        }
        for part, rate in rates.items()
    ]
    rest = [p for n, p in trainable if not any(belongs(n, part) for part in rates)]
    return [*out, {"params": rest, "lr": lr, "weight_decay": weight_decay}]


@parameter_groups.mistake(
    'Norms are told by the name "LayerNorm", as in BERT\'s recipes: `input_layernorm`, `norm` and '
    "`ln_q` are decayed."
)
def named_as_in_bert(model, lr, weight_decay, rates):
    groups = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        rate = next((rates[part] for part in name.split(".") if part in rates), lr)
        spared = any(word in name for word in ("bias", "LayerNorm.weight"))
        key = (rate, 0.0 if spared else weight_decay)
        groups.setdefault(key, []).append(parameter)
    return [{"params": p, "lr": r, "weight_decay": d} for (r, d), p in groups.items()]


@named_as_in_bert.again
def biases_only(model, lr, weight_decay, rates):
    no_decay = ["bias", "LayerNorm.bias", "LayerNorm.weight"]
    result = []
    for part in [*rates, None]:
        mine = {
            n: p
            for n, p in model.named_parameters()
            if p.requires_grad
            and (part in n.split(".") if part else not set(rates) & set(n.split(".")))
        }
        rate = rates.get(part, lr)
        decayed = [p for n, p in mine.items() if not any(nd in n for nd in no_decay)]
        others = [p for n, p in mine.items() if any(nd in n for nd in no_decay)]
        result.append({"params": decayed, "lr": rate, "weight_decay": weight_decay})
        result.append({"params": others, "lr": rate, "weight_decay": 0.0})
    return result


@parameter_groups.mistake(
    "Frozen parameters are in the groups: the day one of them has a gradient, it is trained."
)
def frozen_too(model, lr, weight_decay, rates):
    groups = {}
    for name, parameter in model.named_parameters():
        rate = next((rates[part] for part in name.split(".") if part in rates), lr)
        key = (rate, weight_decay if parameter.ndim >= 2 else 0.0)
        groups.setdefault(key, []).append(parameter)
    return [{"params": p, "lr": r, "weight_decay": d} for (r, d), p in groups.items()]


@frozen_too.again
def whole_model(model, lr, weight_decay, rates):
    bins = {}
    for full_name, tensor in model.named_parameters():
        speed = lr
        for component in full_name.split("."):
            speed = rates.get(component, speed)
        kind = "matrix" if len(tensor.shape) > 1 else "vector"
        bins.setdefault(f"{speed} {kind}", [speed, kind, []])[2].append(tensor)
    return [
        {"params": list_, "lr": speed, "weight_decay": weight_decay if kind == "matrix" else 0.0}
        for speed, kind, list_ in bins.values()
    ]


@parameter_groups.mistake(
    "A part is looked for anywhere in the name: `vision` also catches the language model's "
    "`vision_expert`. Compare whole components."
)
def found_anywhere(model, lr, weight_decay, rates):
    groups = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rate = next((rate for part, rate in rates.items() if part in name), lr)
            key = (rate, weight_decay if parameter.ndim >= 2 else 0.0)
            groups.setdefault(key, []).append(parameter)
    return [{"params": p, "lr": r, "weight_decay": d} for (r, d), p in groups.items()]


@found_anywhere.again
def substring_match(model, lr, weight_decay, rates):
    left = {n: p for n, p in model.named_parameters() if p.requires_grad}
    out = []

    def put(chosen, rate):
        matrices = [left[n] for n in chosen if left[n].ndim != 1]
        vectors = [left[n] for n in chosen if left[n].ndim == 1]
        out.append({"params": matrices, "lr": rate, "weight_decay": weight_decay})
        out.append({"params": vectors, "lr": rate, "weight_decay": 0})
        for n in chosen:
            del left[n]

    for key in rates:
        put([n for n in left if n.find(key) >= 0], rates[key])
    put(list(left), lr)
    return out


@parameter_groups.mistake(
    "A weight that two modules share (embedding and output head) is listed twice: AdamW would step "
    "on it twice."
)
def tied_twice(model, lr, weight_decay, rates):
    groups = {}
    for owner, module in model.named_modules():
        for _, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            rate = next((rates[part] for part in owner.split(".") if part in rates), lr)
            key = (rate, weight_decay if parameter.ndim >= 2 else 0.0)
            groups.setdefault(key, []).append(parameter)
    return [{"params": p, "lr": r, "weight_decay": d} for (r, d), p in groups.items()]


@tied_twice.again
def duplicates_kept(model, lr, weight_decay, rates):
    named = [
        (set(n.split(".")), p)
        for n, p in model.named_parameters(remove_duplicate=False)
        if p.requires_grad
    ]
    found = []
    for part, rate in [*rates.items(), ("", lr)]:
        own = [p for names, p in named if (part in names if part else names.isdisjoint(rates))]
        found += [
            {"params": [p for p in own if p.ndim > 1], "lr": rate, "weight_decay": weight_decay},
            {"params": [p for p in own if p.ndim < 2], "lr": rate, "weight_decay": 0.0},
        ]
    return found


@parameter_groups.mistake(
    "The parts with a rate of their own are in the group of the others as well: AdamW refuses a "
    "parameter that is in two groups."
)
def in_two_groups(model, lr, weight_decay, rates):
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    groups = []
    for part, rate in [*rates.items(), (None, lr)]:
        own = [p for n, p in trained if part is None or part in n.split(".")]
        for decay, chosen in (
            (weight_decay, [p for p in own if p.ndim >= 2]),
            (0.0, [p for p in own if p.ndim < 2]),
        ):
            groups.append({"params": chosen, "lr": rate, "weight_decay": decay})
    return groups


@in_two_groups.again
def base_group_has_all(model, lr, weight_decay, rates):
    every = {"params": [], "lr": lr, "weight_decay": weight_decay}
    every_vector = {"params": [], "lr": lr, "weight_decay": 0.0}
    special = {r: ([], []) for r in rates.values()}
    for name, p in model.named_parameters():
        if p.requires_grad is False:
            continue
        (every if p.dim() > 1 else every_vector)["params"].append(p)
        for component in name.split("."):
            if component in rates:
                special[rates[component]][p.dim() < 2].append(p)
    return [every, every_vector] + [
        {"params": ps, "lr": r, "weight_decay": wd}
        for r, pair in special.items()
        for ps, wd in zip(pair, (weight_decay, 0.0), strict=True)
    ]


@parameter_groups.mistake(
    "Each parameter has a group of its own: right, but AdamW works a group at a time, so a model of "
    "hundreds of tensors takes hundreds of small steps."
)
def a_group_each(model, lr, weight_decay, rates):
    return [
        {
            "params": [parameter],
            "lr": next((rates[part] for part in name.split(".") if part in rates), lr),
            "weight_decay": weight_decay if parameter.ndim >= 2 else 0.0,
        }
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    ]


@a_group_each.again
def appended_one_by_one(model, lr, weight_decay, rates):
    groups = []
    for key, weight in dict(model.named_parameters()).items():
        if weight.requires_grad:
            entry = {"params": weight, "lr": lr, "weight_decay": weight_decay}
            for piece in key.split("."):
                if piece in rates:
                    entry["lr"] = rates[piece]
            if weight.dim() == 1:
                entry["weight_decay"] = 0.0
            groups.append(entry)
    return groups


# -- image_loss --------------------------------------------------------------------------------


def language_model(
    lm: nn.ModuleDict,
    inputs_embeds: Float[Tensor, "batch tokens width"],
    labels: Int[Tensor, "batch tokens"],
) -> Float[Tensor, ""]:
    """A small causal language model with the contract of Transformers': embeddings and labels in,
    loss out. The labels are aligned with the inputs; it shifts them itself and leaves -100 out.
    """
    hidden, _ = lm["mixer"](inputs_embeds)
    logits = lm["head"](hidden)
    guesses, wanted = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    return F.cross_entropy(guesses, wanted, ignore_index=IGNORE)


def joined_loss(
    lm: nn.ModuleDict,
    features: Float[Tensor, "batch places width"] | None,
    token_ids: Int[Tensor, "batch tokens"],
    pad: int = 0,
) -> Float[Tensor, ""]:
    """The loss of captions, given the vision features (the projector's output) or None."""
    labels = token_ids.masked_fill(token_ids == pad, IGNORE)
    if features is None:
        return language_model(lm, lm["embed"](token_ids), labels)
    text = token_ids[..., None].expand(-1, -1, features.shape[-1]).to(features.dtype)
    joined = torch.cat([features, text], dim=1)
    labels = F.pad(labels, (0, features.shape[1]), value=IGNORE)
    return language_model(lm, joined, labels)


IMAGE_LOG = """
8 captions of 5 to 11 tokens, 36 image tokens each, width 32, vocabulary 211
AdamW, learning rate 3e-3, no clipping; first batch with images:
  sequence [8, 47, 32], labels [8, 47], 58 labels carry loss
  gradient norms: mixer 0.43, head 0.44
  rms: embedding table 1.01, image part of the sequence 1.04, text part 104.93
loss at steps 0, 100, 200, 300, 400
  batches of text only     5.371  0.556  0.044  0.019  0.014
  batches with images      5.379  1.971  0.908  0.494  0.403
"""


@exercise(
    kind="debug",
    points=15,
    difficulty="challenge",
    minutes=35,
    section="The generation loss",
    forbid=("transformers",),
    diagnoses={
        "ids_as_features": "token ids, not their embeddings, are joined with the vision features",
        "learning_rate": "the learning rate is too high for the projector",
        "large_features": "the vision features are far larger than the text's embeddings",
        "double_shift": "the labels are shifted before the model shifts them again",
        "padding_learnt": "padding tokens carry loss",
    },
    log=IMAGE_LOG,
    broken=joined_loss,
    hints=(
        "Text alone is learnt ten times better. What does the text look like to the language model "
        "once an image stands before it? The log has one line about that.",
        "Two things are wrong in the branch with images. What is joined must be embeddings on both "
        "sides. And where, in the joined sequence, does the first caption token stand; where does "
        "its label?",
        '`torch.cat([features, lm["embed"](token_ids)], dim=1)`, and the -100 for the image belong '
        "*before* the text's labels: `F.pad(labels, (places, 0), value=-100)`.",
    ),
)
def image_loss() -> dict:
    r"""A caption loss that falls, but not as it should: find the fault of `joined_loss` and mend it.

    The sequence is the image, then the caption: `features` `[batch, places, width]` and
    `token_ids` `[batch, tokens]`, padded on the right with `pad`. The loss wanted is

    $$L = -\frac{1}{N} \sum_b \sum_t \log p(w_{b,t} \mid \text{image}_b, w_{b,<t})$$

    over the $N$ caption tokens that are not padding. The image is read and never predicted; its
    last place predicts the first token of the caption. Without an image (`features` is None) that
    first token has nothing to be predicted from. `joined_loss` first stopped with a shape error,
    until somebody made the shapes fit.

    Return `{"diagnosis": ..., "evidence": ..., "patch": ...}`: a key of the list, the line of the
    log that shows it, and a function with the parameters of `joined_loss` that calls
    `language_model` and returns the loss. Graded: the loss and its gradients into the image
    and into the embedding table, with padding, with one and with several images' worth of places;
    and that a batch of text only gives what it gave before.
    """

    # --- answer
    def patched(lm, features, token_ids, pad=0):
        embeds = lm["embed"](token_ids)
        labels = token_ids.masked_fill(token_ids == pad, IGNORE)
        if features is not None:
            embeds = torch.cat([features, embeds], dim=1)
            labels = F.pad(labels, (features.shape[1], 0), value=IGNORE)
        return language_model(lm, embeds, labels)

    line = next(line for line in IMAGE_LOG.splitlines() if " rms:" in line)
    return {"diagnosis": "ids_as_features", "evidence": line, "patch": patched}
    # --- end


RMS_LINE = "rms: embedding table 1.01, image part of the sequence 1.04, text part 104.93"


@image_loss.alternative
def written_out():
    def patch(lm, features, token_ids, pad=0):
        table = lm["embed"].weight
        text = torch.nn.functional.one_hot(token_ids, len(table)).to(table.dtype) @ table
        before = 0 if features is None else features.shape[1]
        sequence = text if features is None else torch.hstack([features, text])
        hidden, _ = lm["mixer"](sequence)
        logp = lm["head"](hidden).log_softmax(-1)
        total, count = logp.new_zeros(()), 0
        for b, ids in enumerate(token_ids.tolist()):
            for t, token in enumerate(ids):
                if token != pad and before + t > 0:
                    total = total - logp[b, before + t - 1, token]
                    count += 1
        return total / count

    return {"diagnosis": "ids_as_features", "evidence": "text part 104.93", "patch": patch}


@image_loss.mistake(
    "The embeddings are joined, but the labels still begin at the image: each is asked for far "
    "from where its token stands."
)
def labels_stay_behind():
    def patch(lm, features, token_ids, pad=0):
        labels = token_ids.masked_fill(token_ids == pad, IGNORE)
        embeds = lm["embed"](token_ids)
        if features is not None:
            embeds = torch.cat([features, embeds], dim=1)
            labels = F.pad(labels, (0, features.shape[1]), value=IGNORE)
        return language_model(lm, embeds, labels)

    return {"diagnosis": "ids_as_features", "evidence": RMS_LINE, "patch": patch}


@labels_stay_behind.again
def half_mended():
    def fixed(lm, features, token_ids, pad=0):
        inputs = lm["embed"](token_ids)
        targets = torch.where(token_ids.eq(pad), -100, token_ids)
        if features is None:
            return language_model(lm, inputs, targets)
        filler = torch.full(features.shape[:2], -100)
        return language_model(lm, torch.hstack((features, inputs)), torch.hstack((targets, filler)))

    evidence = "rms: embedding table 1.01, image part of the sequence 1.04, text part 104.93"
    return {"diagnosis": "ids_as_features", "evidence": evidence, "patch": fixed}


@image_loss.mistake(
    "The image's places carry the label 0, an id like any other, not -100: the model is taught to "
    "say token 0 while it looks."
)
def zeros_for_the_image():
    def patch(lm, features, token_ids, pad=0):
        labels = token_ids.masked_fill(token_ids == pad, IGNORE)
        embeds = lm["embed"](token_ids)
        if features is not None:
            embeds = torch.cat([features, embeds], dim=1)
            labels = F.pad(labels, (features.shape[1], 0))
        return language_model(lm, embeds, labels)

    return {"diagnosis": "ids_as_features", "evidence": RMS_LINE, "patch": patch}


@zeros_for_the_image.again
def image_says_nothing():
    def my_loss(lm, features, token_ids, pad=0):
        target = token_ids.clone()
        target[target == pad] = -100
        x = lm["embed"](token_ids)
        if features is not None:
            batch, places, _ = features.shape
            x = torch.cat((features, x), 1)
            target = torch.cat((target.new_zeros(batch, places), target), 1)
        return language_model(lm, x, target)

    return {"diagnosis": "ids_as_features", "evidence": RMS_LINE, "patch": my_loss}


@image_loss.mistake(
    "The labels are shifted here and once more in `language_model`: each position is asked for the "
    "token after the next."
)
def shifts_it_too():
    def patch(lm, features, token_ids, pad=0):
        labels = token_ids.masked_fill(token_ids == pad, IGNORE)
        embeds = lm["embed"](token_ids)
        if features is None:
            return language_model(lm, embeds, labels)
        embeds = torch.cat([features, embeds], dim=1)
        labels = F.pad(labels, (features.shape[1], 0), value=IGNORE)
        return language_model(lm, embeds, F.pad(labels[:, 1:], (0, 1), value=IGNORE))

    return {"diagnosis": "ids_as_features", "evidence": RMS_LINE, "patch": patch}


@shifts_it_too.again
def one_step_ahead():
    def loss_with_image(lm, features, token_ids, pad=0):
        targets = [[-100 if i == pad else i for i in row] for row in token_ids.tolist()]
        words = lm["embed"](token_ids)
        if features is None:
            return language_model(lm, words, torch.tensor(targets))
        n = features.size(1)
        # The last image place predicts the first word.
        targets = [[-100] * (n - 1) + row + [-100] for row in targets]
        return language_model(lm, torch.cat([features, words], 1), torch.tensor(targets))

    return {"diagnosis": "ids_as_features", "evidence": RMS_LINE, "patch": loss_with_image}


@image_loss.mistake(
    "The image is left out: the loss is that of text alone, and the projector learns nothing. That "
    "hides the fault."
)
def image_left_out():
    def patch(lm, features, token_ids, pad=0):
        return joined_loss(lm, None, token_ids, pad)

    return {"diagnosis": "ids_as_features", "evidence": RMS_LINE, "patch": patch}


@image_left_out.again
def caption_only():
    def text_loss(lm, features, token_ids, pad=0):
        ids = token_ids
        return language_model(lm, lm["embed"](ids), ids - (ids == pad) * (ids + 100))

    return {"diagnosis": "ids_as_features", "evidence": RMS_LINE, "patch": text_loss}


@image_loss.mistake(
    "The ids are scaled down to the size of the features. That hides the symptom: the number of a "
    "token says nothing about its meaning, and the embedding table is still not used."
)
def ids_scaled():
    def patch(lm, features, token_ids, pad=0):
        if features is None:
            return joined_loss(lm, None, token_ids, pad)
        labels = token_ids.masked_fill(token_ids == pad, IGNORE)
        text = token_ids[..., None].expand(-1, -1, features.shape[-1]).to(features.dtype)
        text = text * (features.pow(2).mean().sqrt() / text.pow(2).mean().sqrt())
        joined = torch.cat([features, text], dim=1)
        labels = F.pad(labels, (features.shape[1], 0), value=IGNORE)
        return language_model(lm, joined, labels)

    return {"diagnosis": "ids_as_features", "evidence": RMS_LINE, "patch": patch}


@ids_scaled.again
def same_rms():
    def rescaled(lm, features, token_ids, pad=0):
        text_labels = torch.where(token_ids == pad, -100, token_ids)
        if features is None:
            return language_model(lm, lm["embed"](token_ids), text_labels)
        ids = token_ids.float()
        ids = ids / ids.square().mean().sqrt() * features.square().mean().sqrt()
        batch, places, width = features.shape
        sequence = torch.cat([features, ids.unsqueeze(2).repeat(1, 1, width)], dim=1)
        labels = torch.cat([torch.full((batch, places), -100), text_labels], dim=1)
        return language_model(lm, sequence, labels)

    return {"diagnosis": "ids_as_features", "evidence": RMS_LINE, "patch": rescaled}


# -- accumulation ------------------------------------------------------------------------------


def accumulate(
    weight: Float[Tensor, "vocab width"],
    micro_batches: list[tuple[Float[Tensor, "batch tokens width"], Int[Tensor, "batch tokens"]]],
) -> dict[str, Tensor]:
    """One step's loss and gradient for an output layer, summed over micro-batches of
    (hidden states, labels). The labels are aligned with the inputs; -100 carries no loss.
    """
    weight = weight.detach().clone().requires_grad_()
    loss = torch.zeros(())
    for hidden, labels in micro_batches:
        logits = hidden @ weight.T
        guesses, wanted = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
        part = F.cross_entropy(guesses, wanted, ignore_index=IGNORE) / len(micro_batches)
        part.backward()
        loss = loss + part.detach()
    return {"loss": loss, "gradient": weight.grad}


ACCUMULATION_LOG = """
step  labels in its 4 micro-batches  loss: accumulated, large batch  gradient: relative difference
   1  16 16 16 16                    1.9184  1.9184                  1.5e-07
   2   7  7  7  7                    4.7259  4.7259                  1.0e-07
   3   2 31  3 20                    3.1806  1.8821                  1.7
   4  12 12 12 12                    1.8320  1.8320                  1.2e-07
"""


@exercise(
    kind="debug",
    points=15,
    difficulty="challenge",
    minutes=35,
    section="Gradient accumulation",
    forbid=("transformers", "accelerate"),
    diagnoses={
        "mean_of_means": "each micro-batch's mean weighs the same, however few tokens are in it",
        "no_zero_grad": "gradients of the step before are still there",
        "not_divided": "the micro-batches' losses are added and not divided by their number",
        "rounding": "adding up gradients loses digits",
        "dropout": "the two runs draw other dropout masks",
    },
    log=ACCUMULATION_LOG,
    broken=accumulate,
    hints=(
        "Three steps agree to seven digits and one does not. What sets that step apart, and which "
        "causes of the list would have shown in the other three?",
        "The large batch has one denominator: all labels that carry loss after the shift, over all "
        "micro-batches. Who knows that number before the first backward pass?",
        "Count first: `total = sum((labels[:, 1:] != -100).sum() ...)`. Then each micro-batch "
        "contributes `F.cross_entropy(..., reduction='sum') / total`, with a backward pass each.",
    ),
)
def accumulation() -> dict:
    r"""Accumulated gradients that are not those of the large batch: find the fault and mend it.

    With $S_m$ the sum of the losses of the $N_m$ labelled tokens of micro-batch $m$ (counted after
    the shift), the large batch has the loss

    $$L = \frac{\sum_m S_m}{\sum_m N_m}$$

    and `accumulate` should give it, and its gradient, from one micro-batch at a time. Each row of
    the log is a step of `accumulate` beside the same samples as one batch.

    Return `{"diagnosis": ..., "evidence": ..., "patch": ...}`: a key of the list, the line of the
    log that only this cause explains, and a function with the parameters and the result of
    `accumulate`. Graded: loss and gradient for unequal counts, for a micro-batch without any
    label, for unequal rows and lengths, for a label on the first token (which is never predicted);
    that equal counts give what they gave; and that the patch keeps for the backward pass no more
    than one micro-batch needs, or accumulation would have no point.
    """

    # --- answer
    def patched(weight, micro_batches):
        weight = weight.detach().clone().requires_grad_()
        total = sum((labels[:, 1:] != IGNORE).sum() for _, labels in micro_batches)
        loss = torch.zeros(())
        for hidden, labels in micro_batches:
            logits = hidden @ weight.T
            guesses, wanted = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
            part = F.cross_entropy(guesses, wanted, ignore_index=IGNORE, reduction="sum") / total
            part.backward()
            loss = loss + part.detach()
        return {"loss": loss, "gradient": weight.grad}

    line = next(line for line in ACCUMULATION_LOG.splitlines() if " 31 " in line)
    return {"diagnosis": "mean_of_means", "evidence": line, "patch": patched}
    # --- end


STEP_3 = "3   2 31  3 20                    3.1806  1.8821                  1.7"


@accumulation.alternative
def divided_at_the_end():
    def patch(weight, micro_batches):
        gradient, loss, count = torch.zeros_like(weight), 0.0, 0
        for hidden, labels in micro_batches:
            w = weight.detach().requires_grad_()
            keep = labels[:, 1:] != -100
            logp = (hidden[:, :-1][keep] @ w.T).log_softmax(-1)
            part = -logp.gather(1, labels[:, 1:][keep][:, None]).sum()
            gradient += torch.autograd.grad(part, w)[0]
            loss, count = loss + part.detach(), count + int(keep.sum())
        return {"loss": loss / count, "gradient": gradient / count}

    return {"diagnosis": "mean_of_means", "evidence": " 2 31  3 20 ", "patch": patch}


@accumulation.alternative
def weighted_means():
    def patch(weight, micro_batches):
        weight = weight.detach().clone().requires_grad_()
        counts = [int((labels[:, 1:] != IGNORE).sum()) for _, labels in micro_batches]
        loss = torch.zeros(())
        for (hidden, labels), count in zip(micro_batches, counts, strict=True):
            if count == 0:
                continue
            guesses = (hidden @ weight.T)[:, :-1].flatten(0, 1)
            mean = F.cross_entropy(guesses, labels[:, 1:].flatten())
            part = mean * (count / sum(counts))
            part.backward()
            loss += part.detach()
        return {"loss": loss, "gradient": weight.grad}

    return {"diagnosis": "mean_of_means", "evidence": STEP_3, "patch": patch}


@accumulation.mistake(
    "Sums are added and never divided: loss and gradient grow with the number of tokens, and with "
    "them the step."
)
def never_divided():
    def patch(weight, micro_batches):
        weight = weight.detach().clone().requires_grad_()
        loss = torch.zeros(())
        for hidden, labels in micro_batches:
            guesses = (hidden @ weight.T)[:, :-1].flatten(0, 1)
            part = F.cross_entropy(guesses, labels[:, 1:].flatten(), reduction="sum")
            part.backward()
            loss = loss + part.detach()
        return {"loss": loss, "gradient": weight.grad}

    return {"diagnosis": "mean_of_means", "evidence": STEP_3, "patch": patch}


@never_divided.again
def plain_sums():
    def run(weight, micro_batches):
        w = weight.clone().detach()
        w.requires_grad = True
        losses = []
        for h, y in micro_batches:
            logp = torch.log_softmax(torch.einsum("btw,vw->btv", h, w), dim=-1)
            for row, targets in zip(logp, y, strict=True):
                chosen = [
                    -row[t - 1, targets[t]] for t in range(1, len(targets)) if targets[t] >= 0
                ]
                if chosen:
                    total = torch.stack(chosen).sum()
                    total.backward(retain_graph=True)
                    losses.append(total.item())
        return {"loss": torch.tensor(sum(losses)), "gradient": w.grad}

    return {"diagnosis": "mean_of_means", "evidence": STEP_3, "patch": run}


@accumulation.mistake(
    "The sum is divided by all tokens and then by the number of micro-batches as well: both are "
    "denominators, and only one is wanted."
)
def divided_twice():
    def patch(weight, micro_batches):
        weight = weight.detach().clone().requires_grad_()
        total = sum((labels[:, 1:] != IGNORE).sum() for _, labels in micro_batches)
        loss = torch.zeros(())
        for hidden, labels in micro_batches:
            guesses = (hidden @ weight.T)[:, :-1].flatten(0, 1)
            part = F.cross_entropy(guesses, labels[:, 1:].flatten(), reduction="sum")
            part = part / total / len(micro_batches)
            part.backward()
            loss = loss + part.detach()
        return {"loss": loss, "gradient": weight.grad}

    return {"diagnosis": "mean_of_means", "evidence": STEP_3, "patch": patch}


@divided_twice.again
def trainer_divides_too():
    def step(weight, micro_batches):
        num_items = sum(int(y[:, 1:].ne(-100).sum()) for _, y in micro_batches)
        steps = len(micro_batches)
        grad, reported = torch.zeros_like(weight), 0.0
        for h, y in micro_batches:
            w = weight.detach().requires_grad_(True)
            nll = F.nll_loss(
                (h[:, :-1] @ w.mT).log_softmax(2).transpose(1, 2), y[:, 1:], reduction="none"
            )
            loss = nll.sum() / num_items
            (g,) = torch.autograd.grad(loss / steps, w)
            grad = grad + g
            reported = reported + loss.detach() / steps
        return {"loss": reported, "gradient": grad}

    return {"diagnosis": "mean_of_means", "evidence": STEP_3, "patch": step}


@accumulation.mistake(
    "The labels are counted before the shift: a label on the first token is counted though nothing "
    "predicts it."
)
def counted_before_the_shift():
    def patch(weight, micro_batches):
        weight = weight.detach().clone().requires_grad_()
        total = sum((labels != IGNORE).sum() for _, labels in micro_batches)
        loss = torch.zeros(())
        for hidden, labels in micro_batches:
            guesses = (hidden @ weight.T)[:, :-1].flatten(0, 1)
            part = F.cross_entropy(guesses, labels[:, 1:].flatten(), reduction="sum") / total
            part.backward()
            loss = loss + part.detach()
        return {"loss": loss, "gradient": weight.grad}

    return {"diagnosis": "mean_of_means", "evidence": STEP_3, "patch": patch}


@counted_before_the_shift.again
def one_too_many():
    def go(weight, micro_batches):
        everything = torch.cat([y.flatten() for _, y in micro_batches])
        n = torch.count_nonzero(everything + 100)
        w, value = torch.nn.Parameter(weight.detach().clone()), torch.tensor(0.0)
        for h, y in micro_batches:
            for b in range(y.shape[0]):
                loss = F.cross_entropy(F.linear(h[b, :-1], w), y[b, 1:], reduction="sum")
                (loss / n).backward()
                value += loss.detach() / n
        return {"loss": value, "gradient": w.grad}

    return {"diagnosis": "mean_of_means", "evidence": STEP_3, "patch": go}


@accumulation.mistake(
    "Each micro-batch weighs as many samples as it holds. The large batch weighs tokens, and a "
    "sample may hold 2 or 31 of them."
)
def weighted_by_samples():
    def patch(weight, micro_batches):
        weight = weight.detach().clone().requires_grad_()
        samples = sum(len(labels) for _, labels in micro_batches)
        loss = torch.zeros(())
        for hidden, labels in micro_batches:
            if (labels[:, 1:] == IGNORE).all():
                continue
            guesses = (hidden @ weight.T)[:, :-1].flatten(0, 1)
            part = F.cross_entropy(guesses, labels[:, 1:].flatten()) * len(labels) / samples
            part.backward()
            loss = loss + part.detach()
        return {"loss": loss, "gradient": weight.grad}

    return {"diagnosis": "mean_of_means", "evidence": STEP_3, "patch": patch}


@weighted_by_samples.again
def by_rows():
    def summed(weight, micro_batches):
        w = weight.detach().clone().requires_grad_()
        sizes = torch.tensor([float(y.shape[0]) for _, y in micro_batches])
        shares = sizes / sizes.sum()
        out = 0.0
        for share, (h, y) in zip(shares, micro_batches, strict=True):
            seen = y[:, 1:] >= 0
            if not seen.any():
                continue
            logits = h[:, :-1][seen] @ w.mT
            token_losses = logits.logsumexp(-1) - logits.gather(1, y[:, 1:][seen, None])[:, 0]
            scaled = share * token_losses.mean()
            scaled.backward()
            out += scaled.item()
        return {"loss": torch.tensor(out), "gradient": w.grad}

    return {"diagnosis": "mean_of_means", "evidence": STEP_3, "patch": summed}


@accumulation.mistake(
    "A micro-batch without labels, whose mean is NaN, is skipped, and the rest is still a mean of "
    "means: that hides one symptom and mends nothing."
)
def nan_skipped():
    def patch(weight, micro_batches):
        weight = weight.detach().clone().requires_grad_()
        loss = torch.zeros(())
        for hidden, labels in micro_batches:
            guesses = (hidden @ weight.T)[:, :-1].flatten(0, 1)
            part = F.cross_entropy(guesses, labels[:, 1:].flatten()) / len(micro_batches)
            if part.isnan():
                continue
            part.backward()
            loss = loss + part.detach()
        return {"loss": loss, "gradient": weight.grad}

    return {"diagnosis": "mean_of_means", "evidence": STEP_3, "patch": patch}


@nan_skipped.again
def empty_skipped():
    def run(weight, micro_batches):
        results = []
        for hidden, labels in micro_batches:
            if labels[:, 1:].max() < 0:
                continue
            w = weight.detach().requires_grad_()
            keep = labels[:, 1:] > -1
            mean = F.cross_entropy(hidden[:, :-1][keep] @ w.T, labels[:, 1:][keep])
            results.append((mean.detach(), torch.autograd.grad(mean, w)[0]))
        n = len(micro_batches)
        return {"loss": sum(m for m, _ in results) / n, "gradient": sum(g for _, g in results) / n}

    return {"diagnosis": "mean_of_means", "evidence": STEP_3, "patch": run}


@accumulation.mistake(
    "All micro-batches are kept until one backward pass at the end: right numbers, but the memory "
    "of the large batch, which accumulation was to save."
)
def large_batch_after_all():
    def patch(weight, micro_batches):
        weight = weight.detach().clone().requires_grad_()
        hidden = torch.cat([h[:, :-1].flatten(0, 1) for h, _ in micro_batches])
        wanted = torch.cat([labels[:, 1:].flatten() for _, labels in micro_batches])
        loss = F.cross_entropy(hidden @ weight.T, wanted, ignore_index=IGNORE)
        loss.backward()
        return {"loss": loss.detach(), "gradient": weight.grad}

    return {"diagnosis": "mean_of_means", "evidence": STEP_3, "patch": patch}


@large_batch_after_all.again
def backward_at_the_end():
    def patch(weight, micro_batches):
        w = weight.detach().requires_grad_()
        sums, counts = [], []
        for h, y in micro_batches:
            flat = y[:, 1:].reshape(-1)
            sums.append(
                F.cross_entropy((h @ w.T)[:, :-1].reshape(len(flat), -1), flat, reduction="sum")
            )
            counts.append((flat != -100).sum())
        loss = sum(sums) / sum(counts)
        loss.backward()
        return {"loss": loss.detach(), "gradient": w.grad}

    return {"diagnosis": "mean_of_means", "evidence": STEP_3, "patch": patch}


# -- adapter_size ------------------------------------------------------------------------------

LLAMA_7B = {"hidden": 4096, "ffn": 11008, "layers": 32, "vocabulary": 32000}


@exercise(
    kind="compute",
    points=5,
    difficulty="basic",
    minutes=15,
    section="LoRA from scratch",
    hints=(
        "How many numbers do A `[r, inputs]` and B `[outputs, r]` hold together for one linear "
        "layer? Which two sizes do the three linear layers of the feed-forward block join?",
        "One layer: four times $r (4096 + 4096)$ and three times $r (4096 + 11008)$. bfloat16 takes "
        "2 bytes; AdamW keeps *two* float32 numbers for each trained parameter.",
        "For full fine-tuning count the whole model: per layer $4 \\cdot 4096^2 + 3 \\cdot 4096 "
        "\\cdot 11008$ and two norms of 4096; a last norm; an embedding and an output head of "
        "$32000 \\cdot 4096$ each.",
    ),
)
def adapter_size() -> dict[str, float]:
    r"""What does LoRA of rank 128 cost on a Llama of 7B, beside full fine-tuning?

    The model has a hidden size of 4096, a feed-forward size of 11,008 and 32 layers; all seven
    linear layers of each (q, k, v, o of 4096 to 4096; gate and up of 4096 to 11,008; down of 11,008
    to 4096) get an adapter. Linear layers have no bias. Each layer has two RMSNorms of 4096
    weights; one more stands at the end. The vocabulary is 32,000, embedding and output head are
    not tied. Return a dict of four numbers:

    - `"parameters"`: the trainable parameters of the adapter.
    - `"file_mb"`: the size of these in bfloat16, in MB of 1000² bytes (not MiB), headers left out.
    - `"adamw_bytes"`: the bytes of AdamW's state (its moments, without gradients and without a
      copy of the weights) for the adapter, in float32.
    - `"full_adamw_bytes"`: the same when every parameter of the model is trained.
    """
    # --- answer
    hidden, ffn, layers, r = 4096, 11008, 32, 128
    adapter = layers * r * (4 * (hidden + hidden) + 3 * (hidden + ffn))
    layer = 4 * hidden * hidden + 3 * hidden * ffn + 2 * hidden
    model = layers * layer + hidden + 2 * 32000 * hidden
    return {
        "parameters": adapter,
        "file_mb": adapter * 2 / 1000**2,
        "adamw_bytes": adapter * 2 * 4,
        "full_adamw_bytes": model * 2 * 4,
    }
    # --- end


@adapter_size.alternative
def by_layer():
    linears = [(4096, 4096)] * 4 + [(4096, 11008)] * 2 + [(11008, 4096)]
    adapter = model = 0
    for _ in range(32):
        for inputs, outputs in linears:
            adapter += inputs * 128 + 128 * outputs
            model += inputs * outputs
        model += 4096 + 4096
    model += 4096 + 32000 * 4096 + 4096 * 32000
    return {
        "parameters": adapter,
        "file_mb": round(adapter * 16 / 8 / 1e6, 2),
        "adamw_bytes": 8 * adapter,
        "full_adamw_bytes": 8 * model,
    }


def sizes(r=128, layers=32, linears=None, moments=2, number=4, unit=1000**2):
    """The four numbers for other (wrong) readings of the question; it is no answer."""
    hidden, ffn = LLAMA_7B["hidden"], LLAMA_7B["ffn"]
    linears = linears or [(hidden, hidden)] * 4 + [(hidden, ffn)] * 3
    adapter = layers * sum(r * (a + b) for a, b in linears)
    model = layers * (4 * hidden**2 + 3 * hidden * ffn + 2 * hidden)
    model += hidden + 2 * LLAMA_7B["vocabulary"] * hidden
    state = moments * number
    return {
        "parameters": adapter,
        "file_mb": adapter * 2 / unit,
        "adamw_bytes": adapter * state,
        "full_adamw_bytes": model * state,
    }


@adapter_size.mistake("That is MiB of 1024² bytes: the question asks for MB of 1000² bytes.")
def in_mebibytes():
    return sizes(unit=1024**2)


@in_mebibytes.again
def shifted_by_20_bits():
    n = 32 * 128 * 78080
    return {
        "parameters": n,
        "file_mb": (n << 1) / (1 << 20),
        "adamw_bytes": n << 3,
        "full_adamw_bytes": 53907324928,
    }


@adapter_size.mistake("Only A is counted: B `[outputs, r]` is a matrix of its own.")
def a_without_b():
    hidden, ffn = LLAMA_7B["hidden"], LLAMA_7B["ffn"]
    return sizes(linears=[(hidden, 0)] * 6 + [(ffn, 0)])


@a_without_b.again
def down_projections_only():
    n = 0
    for inputs in (4096, 4096, 4096, 4096, 4096, 4096, 11008):
        n += 128 * inputs * 32
    return {
        "parameters": n,
        "file_mb": 2e-6 * n,
        "adamw_bytes": n * 8,
        "full_adamw_bytes": 6_738_415_616 * 8,
    }


@adapter_size.mistake(
    "AdamW keeps two moments for each parameter, the mean and the mean square of its gradients: "
    "only one is counted."
)
def one_moment():
    return sizes(moments=1)


@one_moment.again
def four_bytes_each():
    right = 319_815_680
    return {
        "parameters": right,
        "file_mb": 639.63136,
        "adamw_bytes": right * 4,
        "full_adamw_bytes": 4 * (32 * 202_383_360 + 4096 + 262_144_000),
    }


@adapter_size.mistake("One layer is missing: layers 0 to 31 are 32 layers, not 31.")
def one_layer_short():
    return sizes(layers=31)


@one_layer_short.again
def from_one_to_31():
    adapter, model = 0, 4096 + 2 * 32000 * 4096
    for _ in range(1, 32):
        adapter += 128 * (8 * 4096 + 3 * 15104)
        model += 67108864 + 135266304 + 8192
    return {
        "parameters": adapter,
        "file_mb": adapter / 500_000,
        "adamw_bytes": 2 * 4 * adapter,
        "full_adamw_bytes": 2 * 4 * model,
    }


@adapter_size.mistake(
    "Only the four linear layers of attention are counted: gate, up and down of the feed-forward "
    "block have adapters too."
)
def attention_alone():
    return sizes(linears=[(4096, 4096)] * 4)


@attention_alone.again
def q_k_v_o():
    a = b = 128 * 4096
    n = (a + b) * 4 * 32
    full = 6738415616
    return {
        "parameters": n,
        "file_mb": n * 2 / 10**6,
        "adamw_bytes": n * (4 + 4),
        "full_adamw_bytes": full * (4 + 4),
    }


@adapter_size.mistake("The states are in GB, and the question asks for bytes.")
def states_in_gigabytes():
    right = sizes()
    for key in ("adamw_bytes", "full_adamw_bytes"):
        right[key] /= 1000**3
    return right


@states_in_gigabytes.again
def about_54():
    return {
        "parameters": 319815680,
        "file_mb": 639.63,
        "adamw_bytes": 2.55852544,
        "full_adamw_bytes": 53.907324928,
    }


# -- when_to_unfreeze --------------------------------------------------------------------------


@exercise(
    kind="explain",
    difficulty="challenge",
    minutes=20,
    section="Advanced: when to unfreeze the vision tower",
)
def when_to_unfreeze():
    """You fine-tune a vision-language model on data of your own. When do you train the vision
    tower too, how, and what would make you stop?

    Published recipes contradict each other: Qwen-VL's authors advise to freeze it, InternVL's to
    unfreeze it. Weigh at least four recipes: what each one trained, on how much data, at what
    learning rate. Give a rule that you would defend, and name an experiment that could show it
    wrong for your data.
    """
    # --- answer
    # The recipes contradict each other only as long as you leave out the amount of data, the kind
    # of captions and the learning rate.
    #
    # **For freezing.** LLaVA-1.5 keeps the tower frozen in both stages (665K samples; its code
    # runs the tower under `no_grad`: `scripts/v1_5`, `clip_encoder.py`). Qwen-VL trains it in
    # pre-training, on 1.4B pairs, and freezes it for the chat stage of about 350K dialogues
    # (arXiv:2308.12966, read through notes on the paper); its fine-tuning scripts set
    # `--fix_vit True`, and the README says that freezing "achieves better performance". That is
    # advice for small downstream data. Prismatic found that unfreezing hurt (as Idefics2 reports
    # it). Idefics2 (arXiv:2405.02246) saw a fully unfrozen run diverge.
    #
    # **For unfreezing.** InternVL's documentation says that unfreezing "will result in better
    # performance" generally, though its scripts freeze the tower by default; InternVL2.5 gives the
    # tower a stage of its own (tower and MLP, 1e-5) between the MLP warm-up and training all (4e-5).
    # LLaVA-OneVision trains it at 2e-6 where the rest has 1e-5 (`finetune_si.sh`). ShareGPT4V
    # trains the upper 12 of 24 blocks at 2e-5 in pre-training, with 1.2M dense captions behind an
    # aligned projector, and freezes it again for instruction tuning. Idefics2 made it stable with
    # LoRA on the tower.
    #
    # **What they have in common.** Where the numbers are published, whoever trains the tower has a
    # million samples or more, or captions that describe details which a frozen CLIP throws away,
    # or a new resolution; has a projector that is aligned already; and goes slower there (a fifth,
    # in OneVision) or trains a part of it (the upper half, LoRA). Bunny's second recipe is the one
    # that does neither: it trains the whole tower beside a language model with LoRA. The recipes
    # for a few hundred thousand dialogues freeze it. None of this isolates the tower: data,
    # resolution and language model change with it, so the table is evidence of what worked, not
    # of why.
    #
    # **A rule** (a synthesis, not a result of one paper). Below a million samples, or in a small
    # new domain: freeze, and train projector and language model. Unfreeze, after a stage with the
    # projector alone, when the data are large, the captions dense or the resolution new, at a rate
    # 5 to 10 times lower than the language model's, or with LoRA, or the last blocks only.
    #
    # **What would show it wrong.** Two runs with the same data, order, seeds and steps, the tower
    # frozen and at a tenth of the rate, three seeds each. Compare on your task *and* on what the
    # model could do before (another domain, OCR, POPE): a gain on your task that costs the rest is
    # forgetting. A test before either: if a linear probe on the frozen features already
    # reads off what your answers need (the defect, the digit), the tower sees it, and the
    # fault lies behind it; if not, no language model will recover it and the tower, or the
    # resolution, has to change.
    #
    # **Stop** when the tower's gradient norm runs away or the loss jumps (go back to LoRA or a
    # lower rate), when the old tasks fall while the training loss still improves, or when three
    # seeds do not tell the two runs apart: then the frozen one is cheaper, for it keeps no
    # gradients, no moments and no activations of the tower.
    # --- end
