"""Features of all processes, with gradients: what a contrastive loss over several devices needs.

A feature is a positive once and a negative many times, most of them on other ranks, and what it
does there counts. torch.distributed's own `all_gather` gives no gradient to what it gathers: of
the gradients of B features on each of W ranks it would leave the part that comes from the own loss.
"""

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable


def gather_features(
    features: Float[Tensor, "batch features"], group: dist.ProcessGroup | None = None
) -> Float[Tensor, "all_batch features"]:
    """The rows of all ranks of `group`, in the order of ranks, with gradients to each of them.

    [B, D] on each of W ranks becomes [W · B, D] on every rank. The backward pass adds up what all
    ranks want of this rank's rows. `group` None is the default group, or this process alone where
    none was started (then the features come back as they are).

    Raises ValueError on every rank if they hold batches of different sizes; told on a CPU only,
    since on a GPU the question would stall every step.

    Chapter 1.
    """
    group = group or default_group()
    return features if group is None else _Gather.apply(features, group)


def default_group() -> dist.ProcessGroup | None:
    """The group of all processes; None where there is only this one."""
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return None
    return dist.group.WORLD


def ranks_of(group: dist.ProcessGroup | None) -> tuple[int, int]:
    """This process's rank in the group, and how many there are."""
    return (0, 1) if group is None else (dist.get_rank(group), dist.get_world_size(group))


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, features, group):
        ctx.group, ctx.rows = group, len(features)
        features = features.contiguous()
        if features.device.type == "cpu":
            _check_equal(len(features), group)
        parts = [torch.empty_like(features) for _ in range(ranks_of(group)[1])]
        dist.all_gather(parts, features, group=group)
        return torch.cat(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output):
        rank, ranks = ranks_of(ctx.group)
        grad_output = grad_output.contiguous()
        if dist.get_backend(ctx.group) == "nccl":
            own = grad_output.new_empty(ctx.rows, *grad_output.shape[1:])
            dist.reduce_scatter_tensor(own, grad_output, group=ctx.group)
            return own, None
        total = grad_output.clone()  # Gloo has no reduce-scatter
        dist.all_reduce(total, group=ctx.group)
        return total.view(ranks, ctx.rows, *total.shape[1:])[rank], None


def _check_equal(rows: int, group: dist.ProcessGroup) -> None:
    counts = [torch.zeros((), dtype=torch.int64) for _ in range(ranks_of(group)[1])]
    dist.all_gather(counts, torch.tensor(rows), group=group)
    if len(set(found := [int(count) for count in counts])) > 1:
        raise ValueError(f"The ranks hold batches of different sizes: {found}.")
