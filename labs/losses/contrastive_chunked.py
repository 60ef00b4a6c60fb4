"""InfoNCE without the [B, B] matrix: square blocks of it, one at a time, made twice.

At B = 32,768, CLIP's batch, the similarities are 4 GB in float32, and the plain loss holds several
tensors of that size. Here the forward pass visits each block once and keeps only two numbers for
each pair: the log-sum-exp of its row and of its column, both running, since one block tells
something about each. The backward pass makes each block again; with both log-sum-exps known, the
softmaxes, and so the gradient of the block, are exact at once:

    dL/ds_ij = [exp(s_ij - row_i) + exp(s_ij - column_j) - 2 · (i = j)] / 2B

Four matrix products where the plain loss takes three, for memory that grows with B and not with B².

Over several processes each has the rows of its own images only. A row needs all texts, which are
gathered; a column runs through all processes, so its log-sum-exp is finished by two reductions of B
numbers. The work is shared out, too: no process computes what another one does.

After Chen et al. 2023 (DisCo-CLIP), arXiv:2304.08480, for the sharing out, and Cheng et al. 2024
(Inf-CL), arXiv:2410.17243, for the running log-sum-exp.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from labs.losses.contrastive_gather import gather_features, ranks_of
from labs.losses.precision import upcast

CHUNK = 1024  # a block of 4 MB in float32: about a last-level cache


def chunked_info_nce(
    image_features: Float[Tensor, "batch features"],
    text_features: Float[Tensor, "batch features"],
    temperature: int | float | Float[Tensor, ""] = 0.07,
    chunk_size: int = CHUNK,
) -> Float[Tensor, ""]:
    """`info_nce(image_features, text_features, temperature)`, never holding [B, B].

    Same value and same gradients, that of a learned `temperature` included. Inputs [B, D] are
    normalised here; row i of both is one pair. At most a few blocks of `chunk_size` · `chunk_size`
    similarities exist at a time, beside the features and their gradients. float16 and bfloat16
    inputs are computed in float32. Gradients of gradients are not to be had.

    Returns a scalar in nats. Raises ValueError for a chunk size below one.

    Derived in chapter 1; measured by `labs bench infonce`.
    """
    return blocked_info_nce(image_features, text_features, temperature, chunk_size, None)


def blocked_info_nce(
    image_features: Tensor,
    text_features: Tensor,
    temperature: int | float | Tensor,
    chunk_size: int,
    group: dist.ProcessGroup | None,
) -> Tensor:
    """The same over the processes of `group` (None: of this one alone), each with its own rows."""
    if chunk_size < 1:
        raise ValueError(f"chunk_size is a number of pairs, 1 or more, not {chunk_size}.")
    images = F.normalize(upcast(image_features), dim=-1)
    texts = F.normalize(upcast(text_features), dim=-1)
    rank, _ = ranks_of(group)
    first = rank * len(texts)
    texts = gather_features(texts, group) if group is not None else texts
    scale = torch.as_tensor(1 / temperature, dtype=images.dtype, device=images.device)
    return _BlockedInfoNCE.apply(images, texts, scale, first, chunk_size, group)


class _BlockedInfoNCE(torch.autograd.Function):
    """Of unit rows `images` [b, D] and `texts` [N, D]: row i belongs to text `first` + i.

    The value is the loss of all N pairs, on every rank. The gradients are those of the sum of what
    the ranks make of it, as with every collective of `torch.distributed.nn`.
    """

    @staticmethod
    def forward(ctx, images, texts, scale, first, chunk_size, group):
        own = slice(first, first + len(images))
        with torch.autocast(images.device.type, enabled=False):
            rows, columns = _logsumexps(images, texts, scale, chunk_size)
            if group is not None:
                columns = _logsumexp_over_ranks(columns, group)
            right = (images * texts[own]).sum(-1) * scale
        # Differences first: row and positive are alike large, and sums of B of them would round.
        loss = ((rows - right) + (columns[own] - right)).sum() / (2 * len(texts))
        if group is not None:
            dist.all_reduce(loss, group=group)
        ctx.save_for_backward(images, texts, scale, rows, columns)
        ctx.first, ctx.chunk_size, ctx.group = first, chunk_size, group
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output):
        images, texts, scale, rows, columns = ctx.saved_tensors
        if ctx.group is not None:
            grad_output = grad_output.clone()
            dist.all_reduce(grad_output, group=ctx.group)
        of_images, of_texts = torch.zeros_like(images), torch.zeros_like(texts)
        with torch.autocast(images.device.type, enabled=False):
            for i, j, block in _blocks(images, texts, scale, ctx.chunk_size):
                gradient = (block - rows[i, None]).exp_()
                gradient += block.sub_(columns[j]).exp_()
                # The positives are one diagonal of the whole; of most blocks it is the empty one.
                gradient.diagonal(ctx.first + i.start - j.start).sub_(2)
                of_images[i].addmm_(gradient, texts[j])
                of_texts[j].addmm_(gradient.T, images[i])
        share = grad_output / (2 * len(texts))
        # sum_ij G_ij · cos_ij, without another look at the blocks
        of_scale = (images * of_images).sum() * share if ctx.needs_input_grad[2] else None
        share = share * scale
        return of_images.mul_(share), of_texts.mul_(share), of_scale, None, None, None


def _blocks(images: Tensor, texts: Tensor, scale: Tensor, size: int):
    """Row range, column range and scaled similarities of every block, in one buffer."""
    buffer = images.new_empty(min(size, len(images)), min(size, len(texts)))
    for start in range(0, len(images), size):
        i = slice(start, min(start + size, len(images)))
        scaled = images[i] * scale
        for begin in range(0, len(texts), size):
            j = slice(begin, min(begin + size, len(texts)))
            shape = len(scaled), j.stop - j.start
            block = buffer.view(-1)[: shape[0] * shape[1]].view(shape)
            yield i, j, torch.mm(scaled, texts[j].T, out=block)


def _logsumexps(images: Tensor, texts: Tensor, scale: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The log-sum-exp of each row and of each column, running over the blocks."""
    rows = images.new_full((len(images),), float("-inf"))
    columns = texts.new_full((len(texts),), float("-inf"))
    for i, j, block in _blocks(images, texts, scale, size):
        rows[i] = torch.logaddexp(rows[i], block.logsumexp(1))
        columns[j] = torch.logaddexp(columns[j], block.logsumexp(0))
    return rows, columns


def _logsumexp_over_ranks(part: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Joins the log-sum-exps that each rank has over its own rows."""
    top = part.clone()
    dist.all_reduce(top, dist.ReduceOp.MAX, group=group)
    total = (part - top).exp_()
    dist.all_reduce(total, group=group)
    return top + total.log()
