"""Head and loss in one, so that the logits of a whole batch never exist.

At V = 150,000 the logits of 8,192 tokens are 4.9 GB in float32, and the plain loss makes three
tensors of that size. Here a chunk of tokens is taken from hidden state to gradient before the next
one is looked at: logits → softmax → (softmax - one-hot), which *is* the gradient of the logits.
The forward pass therefore leaves with the gradients of `hidden` and `weight` in hand, and the
backward pass only scales them. Three matrix products in all, where recomputing takes four.

After Liger (Hsu et al. 2024, arXiv:2410.10989) and Cut Your Losses (Wijmans et al. 2024,
arXiv:2411.09009). Three differences: positions without a label are dropped first (in instruction
data they are most of them); gradients are summed in float32; and they are kept *unscaled* until
the backward pass, so that in float16 neither 1/n underflows nor a loss scale comes too late.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from labs.losses.generation import IGNORE, per_item, shift

# Logits held at a time, in bytes, where `chunk_size` is not given. On a CPU about the last-level
# cache (measured: 128 to 256 tokens at V = 32,000); a GPU wants larger products to stay busy.
CPU_CHUNK_BYTES = 24 * 2**20
GPU_CHUNK_BYTES = 256 * 2**20


def linear_generation_loss(
    hidden: Float[Tensor, "batch tokens features"],
    weight: Float[Tensor, "vocab features"],
    labels: Int[Tensor, "batch tokens"],
    chunk_size: int | None = None,
    num_items: int | float | Tensor | None = None,
    bias: Float[Tensor, " vocab"] | None = None,
) -> Float[Tensor, ""]:
    """`generation_loss(hidden @ weight.T + bias, labels, num_items)`, never holding [B, T, V].

    Same value and same gradients. `hidden` [B, T, D] is what enters the output head, `weight`
    [V, D] and `bias` [V] are the head; `labels` [B, T] are not shifted, -100 = no loss. `num_items`
    and a batch without labels: as in `generation_loss`. `chunk_size` is the number of tokens whose
    logits exist at a time; by default as many as fit 24 MB on a CPU, 256 MB elsewhere.

    Memory beyond the inputs: chunk · V logits, and the gradients of `weight` and `hidden` in
    float32, each only where it is needed (no [V, D] for a frozen head). Tied weights need nothing
    special: autograd adds the embedding's gradient. Under autocast the products run in autocast's
    type, as the plain head's do; the log-sum-exp is always float32 (float64 for float64 inputs).
    A second backward through a retained graph recomputes.

    Returns a scalar in nats a token. Raises ValueError for shapes that do not fit, or a chunk size
    below one.

    Chapter 9 measures it; chapter 3 derives the gradient.
    """
    if labels.shape != hidden.shape[:2]:
        raise ValueError(f"labels {tuple(labels.shape)} do not fit hidden {tuple(hidden.shape)}.")
    if weight.shape[1] != hidden.shape[2]:
        raise ValueError(f"weight {tuple(weight.shape)} does not fit hidden {tuple(hidden.shape)}.")
    if chunk_size is None:
        budget = CPU_CHUNK_BYTES if hidden.device.type == "cpu" else GPU_CHUNK_BYTES
        chunk_size = max(1, budget // (4 * weight.shape[0]))
    if chunk_size < 1:
        raise ValueError(f"chunk_size is a number of tokens, 1 or more, not {chunk_size}.")
    if not torch.is_grad_enabled():  # inside the Function one cannot tell
        hidden, weight = hidden.detach(), weight.detach()
        bias = None if bias is None else bias.detach()

    targets = shift(labels).flatten().long()
    rows = (targets != IGNORE).nonzero().squeeze(1)
    total = _LinearCrossEntropy.apply(
        hidden.flatten(0, 1), weight, bias, rows, targets[rows], chunk_size
    )
    return per_item(total, len(rows) if num_items is None else num_items)


class _LinearCrossEntropy(torch.autograd.Function):
    """Sum over `rows` of the cross-entropy of `hidden[rows] @ weight.T + bias` at `targets`."""

    @staticmethod
    def forward(ctx, hidden, weight, bias, rows, targets, chunk_size):
        device = hidden.device.type
        low = hidden.dtype != torch.float64 and torch.is_autocast_enabled(device)
        ctx.product_type = torch.get_autocast_dtype(device) if low else hidden.dtype
        ctx.chunk_size = chunk_size
        ctx.save_for_backward(hidden, weight, bias, rows, targets)
        loss, ctx.gradients = _sweep(ctx, hidden, weight, bias, rows, targets)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output):
        hidden, weight, bias, rows, targets = ctx.saved_tensors
        # Scaled in place, a copy of [V, D] saved; so the buffers are good once.
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            _, gradients = _sweep(ctx, hidden, weight, bias, rows, targets)
        scaled = [
            None if gradient is None else gradient.mul_(grad_output).to(of.dtype)
            for gradient, of in zip(gradients, (hidden, weight, bias), strict=True)
        ]
        return *scaled, None, None, None


def _sweep(ctx, hidden, weight, bias, rows, targets):
    """The loss summed over `rows`, and its gradients for hidden, weight and bias (or None)."""
    wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    like = {"device": hidden.device, "dtype": wide}
    of_hidden, of_weight, of_bias = (
        torch.zeros(x.shape, **like) if needed else None
        for x, needed in zip((hidden, weight, bias), ctx.needs_input_grad[:3], strict=True)
    )
    loss = torch.zeros((), **like)

    with torch.no_grad(), torch.autocast(hidden.device.type, enabled=False):
        head = weight.to(ctx.product_type)
        offset = None if bias is None else bias.to(ctx.product_type)
        size = min(ctx.chunk_size, len(rows))
        buffer = torch.empty(size, len(weight), device=hidden.device, dtype=ctx.product_type)
        for start in range(0, len(rows), ctx.chunk_size):
            chunk = rows[start : start + ctx.chunk_size]
            states = hidden[chunk].to(ctx.product_type)
            target = targets[start : start + ctx.chunk_size, None]
            logits = buffer[: len(states)]
            if offset is None:
                torch.mm(states, head.T, out=logits)
            else:  # added before the rounding to half precision, as a linear layer does
                torch.addmm(offset, states, head.T, out=logits)

            top = logits.amax(dim=-1).to(wide)
            right = logits.gather(1, target).squeeze(1).to(wide)
            probabilities = _softmax(logits, wide)
            # The largest probability is exp(top - logsumexp), so the log-sum-exp costs no sweep.
            loss += (top - probabilities.amax(dim=-1).log() - right).sum()

            of_logits = probabilities.scatter_add_(1, target, -torch.ones_like(right)[:, None])
            if of_bias is not None:
                of_bias += of_logits.sum(dim=0)
            narrow = of_logits.to(ctx.product_type)
            if of_hidden is not None:
                of_hidden[chunk] = (narrow @ head).to(wide)
            if of_weight is not None:
                _add_product(of_weight, of_logits, narrow, states)
    return loss, (of_hidden, of_weight, of_bias)


def _softmax(logits, wide):
    # In place on a CPU: the second buffer costs more there than the arithmetic (78 against 20 µs
    # a token at V = 32,768), and the row kernel reads each row before it writes it.
    in_place = logits.device.type == "cpu" and logits.dtype == wide
    return torch.softmax(logits, dim=-1, dtype=wide, out=logits if in_place else None)


def _add_product(total, of_logits, narrow, states):
    """total += of_logits.T @ states, with no chunk's product rounded to half precision."""
    if total.device.type == "cuda" and narrow.dtype in (torch.float16, torch.bfloat16):
        torch.addmm(total, narrow.T, states, out_dtype=total.dtype, out=total)
    else:
        torch.addmm(total, of_logits.T, states.to(total.dtype), out=total)
