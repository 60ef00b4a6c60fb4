"""Log-probabilities of given tokens, and how sure the model was: what policy gradients are made of.

The plain way is two lines on logits. The other takes hidden states and the output head and never
holds the logits of a batch, 4.9 GB in float32 at V = 150,000 and 8,192 tokens. The gradient of each
log-probability arrives from outside, so unlike a cross-entropy's it is not known in the forward
pass. Two things spare the second look all the same:

* With a frozen head (LoRA) only the hidden states need a gradient, d log p / d hidden. It is a row
  for each token, and the incoming gradient only scales that row: made in the forward pass at once.
* Where all tokens fit one chunk, its softmax is kept for the backward pass.

Otherwise the backward pass makes each chunk again: four matrix products in place of three.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from labs.losses.generation import IGNORE
from labs.losses.linear_generation import CPU_CHUNK_BYTES, GPU_CHUNK_BYTES, _add_product
from labs.losses.precision import upcast


def token_logprobs(
    logits: Float[Tensor, "batch tokens vocab"],
    ids: Int[Tensor, "batch tokens"],
    temperature: int | float = 1.0,
) -> Float[Tensor, "batch tokens"]:
    """Log-probability of each given token.

        log p_t = log softmax(logits_t / temperature)[ids_t]

    `logits` [B, T, V] are aligned with `ids` [B, T]: those at t predict the token at t (the model's
    output cut one place earlier). `temperature` is the one the tokens were sampled at; without it
    these are not the probabilities that they were drawn with. An id of -100 (padding) gives 0.

    Returns [B, T] in nats, in float32 or wider. Raises ValueError for shapes that do not fit, or a
    temperature that is not above zero. Chapter 5.
    """
    if ids.shape != logits.shape[:2]:
        raise ValueError(f"ids {tuple(ids.shape)} do not fit logits {tuple(logits.shape)}.")
    flat = _tempered(upcast(logits), temperature).flatten(0, 1)
    targets = ids.flatten().long()
    return -F.cross_entropy(flat, targets, ignore_index=IGNORE, reduction="none").view_as(ids)


def entropy(
    logits: Float[Tensor, "*any vocab"], temperature: int | float = 1.0
) -> Float[Tensor, "*any"]:
    """Entropy of softmax(logits / temperature), H = -sum_v p_v log p_v.

    Logits of -inf (tokens ruled out) add nothing, to the value or to the gradient. Differentiable:
    an entropy bonus is its mean. Returns nats, 0 to log V, in float32 or wider. Raises ValueError
    for a temperature that is not above zero. Chapter 5.
    """
    logprobs = _tempered(upcast(logits), temperature).log_softmax(dim=-1)
    # 0 · log 0 is 0 here, and what is filled sends no gradient into a log of zero.
    finite = logprobs.masked_fill(logprobs == float("-inf"), 0)
    return -(logprobs.exp() * finite).sum(dim=-1)


def linear_token_logprobs(
    hidden: Float[Tensor, "batch tokens features"],
    weight: Float[Tensor, "vocab features"],
    ids: Int[Tensor, "batch tokens"],
    bias: Float[Tensor, " vocab"] | None = None,
    temperature: int | float = 1.0,
    chunk_size: int | None = None,
) -> tuple[Float[Tensor, "batch tokens"], Float[Tensor, "batch tokens"]]:
    """`token_logprobs` and `entropy` of `hidden @ weight.T + bias`, never holding [B, T, V].

    Same values and same gradients. `hidden` [B, T, D] is what enters the output head, aligned with
    `ids` [B, T] as in `token_logprobs`; `weight` [V, D] and `bias` [V] are the head. Positions with
    an id of -100 give 0 and cost nothing: fill the padding with it. `chunk_size` is the number of
    tokens whose logits exist at a time; by default as many as fit 12 MB on a CPU, 128 MB elsewhere
    (there are two buffers).

    Memory beyond the inputs: two buffers of chunk · V, and the gradients of `weight` and `hidden`
    in float32 where they are needed. Under autocast the products run in autocast's type, as the
    plain head's do; the softmax is always float32 (float64 for float64 inputs).

    Returns (log-probabilities, entropies), both [B, T] in nats; the entropies are detached, for
    the log (a bonus needs `entropy`). Raises ValueError for shapes that do not fit, a chunk size
    below one, or a temperature that is not above zero. Chapter 5.
    """
    if ids.shape != hidden.shape[:2]:
        raise ValueError(f"ids {tuple(ids.shape)} do not fit hidden {tuple(hidden.shape)}.")
    if weight.shape[1] != hidden.shape[2]:
        raise ValueError(f"weight {tuple(weight.shape)} does not fit hidden {tuple(hidden.shape)}.")
    _check(temperature)
    if chunk_size is None:
        budget = CPU_CHUNK_BYTES if hidden.device.type == "cpu" else GPU_CHUNK_BYTES
        chunk_size = max(1, budget // 2 // (4 * weight.shape[0]))
    if chunk_size < 1:
        raise ValueError(f"chunk_size is a number of tokens, 1 or more, not {chunk_size}.")
    if not torch.is_grad_enabled():  # inside the Function one cannot tell
        hidden, weight = hidden.detach(), weight.detach()
        bias = None if bias is None else bias.detach()

    targets = ids.flatten().long()
    rows = (targets != IGNORE).nonzero().squeeze(1)
    found = _LinearLogprobs.apply(
        hidden.flatten(0, 1), weight, bias, rows, targets[rows], temperature, chunk_size
    )
    logprobs, entropies = (
        x.new_zeros(targets.shape).index_copy(0, rows, x).view_as(ids) for x in found
    )
    return logprobs, entropies


def _check(temperature: int | float) -> None:
    if not temperature > 0:
        raise ValueError(f"temperature is above zero, not {temperature}.")


def _tempered(logits: Tensor, temperature: int | float) -> Tensor:
    _check(temperature)
    return logits if temperature == 1 else logits / temperature


class _LinearLogprobs(torch.autograd.Function):
    """(log p, entropy) of `targets` at `rows` of `hidden`, both [rows]."""

    @staticmethod
    def forward(ctx, hidden, weight, bias, rows, targets, temperature, chunk_size):
        device = hidden.device.type
        low = hidden.dtype != torch.float64 and torch.is_autocast_enabled(device)
        ctx.product_type = torch.get_autocast_dtype(device) if low else hidden.dtype
        ctx.wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        ctx.temperature, ctx.chunk_size = temperature, chunk_size
        ctx.save_for_backward(hidden, weight, bias, rows, targets)

        of_hidden, *of_head = ctx.needs_input_grad[:3]
        whole = any(of_head) and len(rows) <= chunk_size
        ctx.residuals = ctx.slopes = None
        if of_hidden and not any(of_head):
            ctx.slopes = hidden.new_empty(len(rows), hidden.shape[1], dtype=ctx.wide)
        logprobs, entropies = hidden.new_empty(2, len(rows), dtype=ctx.wide)
        size = min(chunk_size, len(rows)), len(weight)
        buffer = hidden.new_empty(size, dtype=ctx.wide)

        with torch.autocast(device, enabled=False):
            for part, _, head, logits in _chunks(ctx, hidden, weight, bias, rows):
                target = targets[part, None]
                # Less the largest, so that neither sum below is a difference of large numbers.
                logits.sub_(logits.amax(dim=-1, keepdim=True))
                right = logits.gather(1, target).squeeze(1)
                probabilities = torch.softmax(logits, dim=-1, out=buffer[: len(logits)])
                # The largest is exp(0 - log total), so the log-sum-exp costs no sweep of its own.
                log_total = -probabilities.amax(dim=-1).log()
                logprobs[part] = right - log_total
                entropies[part] = log_total - logits.mul_(probabilities).sum(dim=-1)
                if ctx.slopes is not None:
                    residuals = _less_one(probabilities, target).to(ctx.product_type)
                    ctx.slopes[part] = (residuals @ head).to(ctx.wide)
                elif whole:
                    ctx.residuals = _less_one(probabilities, target)
        ctx.mark_non_differentiable(entropies)
        return logprobs, entropies

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_logprobs, _):
        # d log p / d logits = (one-hot - softmax) / temperature: the scale below times "residuals",
        # applied to the [n, D] side of each product and never to [n, V].
        hidden, weight, bias, rows, _ = ctx.saved_tensors
        scale = (grad_logprobs.to(ctx.wide) / -ctx.temperature)[:, None]
        of_hidden, of_weight, of_bias = (
            x.new_zeros(x.shape, dtype=ctx.wide) if needed else None
            for x, needed in zip((hidden, weight, bias), ctx.needs_input_grad[:3], strict=True)
        )
        if ctx.slopes is not None:
            of_hidden[rows] = ctx.slopes * scale
            return of_hidden.to(hidden.dtype), *[None] * 6

        with torch.autocast(hidden.device.type, enabled=False):
            for part, states, head, residuals in _residual_chunks(ctx):
                narrow = residuals.to(ctx.product_type)
                if of_hidden is not None:
                    of_hidden[rows[part]] = (narrow @ head).to(ctx.wide) * scale[part]
                if of_weight is not None:
                    scaled = states.to(ctx.wide) * scale[part]
                    scaled = scaled.to(narrow.dtype) if scaled.is_cuda else scaled
                    _add_product(of_weight, residuals, narrow, scaled)
                if of_bias is not None:
                    of_bias += residuals.T @ scale[part, 0]
        gradients = [
            None if gradient is None else gradient.to(x.dtype)
            for gradient, x in zip(
                (of_hidden, of_weight, of_bias), (hidden, weight, bias), strict=True
            )
        ]
        return *gradients, *[None] * 4


def _less_one(probabilities: Tensor, target: Tensor) -> Tensor:
    """softmax - one-hot, in place."""
    return probabilities.scatter_add_(1, target, -torch.ones_like(probabilities[:, :1]))


def _residual_chunks(ctx):
    """(range of rows, states, head, softmax - one-hot) of each chunk: kept, or made again."""
    hidden, weight, bias, rows, targets = ctx.saved_tensors
    if ctx.residuals is not None:
        states, head = hidden[rows].to(ctx.product_type), weight.to(ctx.product_type)
        yield slice(0, len(rows)), states, head, ctx.residuals
        return
    for part, states, head, logits in _chunks(ctx, hidden, weight, bias, rows):
        # In place on a CPU: a second buffer costs more there than the arithmetic.
        probabilities = torch.softmax(logits, -1, out=logits if logits.is_cpu else None)
        yield part, states, head, _less_one(probabilities, targets[part, None])


def _chunks(ctx, hidden, weight, bias, rows):
    """(range of rows, states, head, logits / temperature) of each chunk, in one buffer."""
    head = weight.to(ctx.product_type)
    offset = None if bias is None else bias.to(ctx.product_type)
    size = min(ctx.chunk_size, len(rows)), len(weight)
    buffer = hidden.new_empty(size, dtype=ctx.product_type)
    for start in range(0, len(rows), ctx.chunk_size):
        part = slice(start, min(start + ctx.chunk_size, len(rows)))
        states = hidden[rows[part]].to(ctx.product_type)
        logits = buffer[: len(states)]
        if offset is None:
            torch.mm(states, head.T, out=logits)
        else:  # added before the rounding to half precision, as a linear layer does
            torch.addmm(offset, states, head.T, out=logits)
        logits = logits.to(ctx.wide)
        yield part, states, head, logits if ctx.temperature == 1 else logits.div_(ctx.temperature)
