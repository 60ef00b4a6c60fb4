"""Chapter 3, supervised fine-tuning: exercises.

Written from solutions/ch03_sft.py; don't edit this file. `labs start ch03` copies it to
work/ch03_sft/exercises.py: write your answers there, then `labs grade ch03`.
"""

# ruff: noqa: F401  (imports that the answers need)

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import init

IGNORE = -100  # a label that carries no loss


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
        raise NotImplementedError("LoRALinear: not started")

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """The base's output plus the scaled update, or the merged base's output."""
        raise NotImplementedError("LoRALinear: not started")

    def merge(self) -> None:
        """Fold the update into the base's weight."""
        raise NotImplementedError("LoRALinear: not started")

    def unmerge(self) -> None:
        """Take the update out of the base's weight."""
        raise NotImplementedError("LoRALinear: not started")


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
    raise NotImplementedError("parameter_groups: not started")


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

    The log:

    ```text
    8 captions of 5 to 11 tokens, 36 image tokens each, width 32, vocabulary 211
    AdamW, learning rate 3e-3, no clipping; first batch with images:
      sequence [8, 47, 32], labels [8, 47], 58 labels carry loss
      gradient norms: mixer 0.43, head 0.44
      rms: embedding table 1.01, image part of the sequence 1.04, text part 104.93
    loss at steps 0, 100, 200, 300, 400
      batches of text only     5.371  0.556  0.044  0.019  0.014
      batches with images      5.379  1.971  0.908  0.494  0.403
    ```

    The diagnosis is one of:

    - `"ids_as_features"`: token ids, not their embeddings, are joined with the vision features
    - `"learning_rate"`: the learning rate is too high for the projector
    - `"large_features"`: the vision features are far larger than the text's embeddings
    - `"double_shift"`: the labels are shifted before the model shifts them again
    - `"padding_learnt"`: padding tokens carry loss
    """

    raise NotImplementedError("image_loss: not started")


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

    The log:

    ```text
    step  labels in its 4 micro-batches  loss: accumulated, large batch  gradient: relative difference
       1  16 16 16 16                    1.9184  1.9184                  1.5e-07
       2   7  7  7  7                    4.7259  4.7259                  1.0e-07
       3   2 31  3 20                    3.1806  1.8821                  1.7
       4  12 12 12 12                    1.8320  1.8320                  1.2e-07
    ```

    The diagnosis is one of:

    - `"mean_of_means"`: each micro-batch's mean weighs the same, however few tokens are in it
    - `"no_zero_grad"`: gradients of the step before are still there
    - `"not_divided"`: the micro-batches' losses are added and not divided by their number
    - `"rounding"`: adding up gradients loses digits
    - `"dropout"`: the two runs draw other dropout masks
    """

    raise NotImplementedError("accumulation: not started")


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
    raise NotImplementedError("adapter_size: not started")
