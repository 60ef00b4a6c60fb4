"""InfoNCE over processes: every rank's pairs have the pairs of all ranks for negatives.

The factor. Every rank holds the loss of all W · B pairs, so the gradient that reaches a rank's
features is that of the *sum* over ranks of equal losses: W times what one process with all pairs
would get. DistributedDataParallel then averages the parameters' gradients over W ranks, and the two
cancel: after DDP the gradients are those of one process, with nothing to multiply by hand.
"""

import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from labs.losses.contrastive import info_nce
from labs.losses.contrastive_chunked import blocked_info_nce
from labs.losses.contrastive_gather import default_group, gather_features


def gathered_info_nce(
    image_features: Float[Tensor, "batch features"],
    text_features: Float[Tensor, "batch features"],
    temperature: int | float | Float[Tensor, ""] = 0.07,
    chunk_size: int | None = None,
    group: dist.ProcessGroup | None = None,
) -> Float[Tensor, ""]:
    """`info_nce` of the joined batch of all ranks, the same value on every rank.

        L = info_nce(rows of all ranks), [B, D] on each of W ranks

    Gradients of the features are W times those of one process with the joined batch, and after the
    averaging of DistributedDataParallel the parameters' are equal to them (see above). With
    `chunk_size` no rank holds more than blocks of the similarities, each rank makes only the rows of
    its own images, and only the texts are gathered. In one process it is `info_nce` or
    `chunked_info_nce`. Raises ValueError as `gather_features` does.

    Radford et al. 2021 (CLIP), arXiv:2103.00020. Chapter 1.
    """
    group = group or default_group()
    if chunk_size is not None:
        return blocked_info_nce(image_features, text_features, temperature, chunk_size, group)
    images, texts = gather_features(image_features, group), gather_features(text_features, group)
    return info_nce(images, texts, temperature)
