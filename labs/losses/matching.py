"""Image-text matching: does this text belong to this image, asked of a fused encoder."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from labs.losses.precision import upcast


def itm_loss(logits: Float[Tensor, "items 2"], labels: Int[Tensor, " items"]) -> Float[Tensor, ""]:
    """Cross-entropy of the two-way head on the fused encoder's first token.

        L = -1/N · sum_n log softmax(logits_n)[label_n]

    `logits` [N, 2], `labels` [N] with 1 = the pair belongs together, 0 = it does not. Returns a
    scalar in nats: ln 2 for a head that cannot tell.

    Li et al. 2021 (ALBEF), arXiv:2107.07651, equation 4; Li et al. 2022 (BLIP), arXiv:2201.12086.
    Derived in chapter 1.
    """
    return F.cross_entropy(upcast(logits), labels.long())


@torch.no_grad()
def hard_negatives(
    similarity: Float[Tensor, "batch batch"], generator: torch.Generator | None = None
) -> Int[Tensor, " batch"]:
    """For each row one wrong column, drawn in proportion to how much it looks right.

        P(j | i) = exp(similarity_ij) / sum_{k != i} exp(similarity_ik),   P(i | i) = 0

    `similarity` [B, B] is scaled as the contrastive loss scales it (cosine over temperature), with
    the positives on its diagonal, which are never drawn. Transpose it for negatives of the columns.
    `generator` makes the draw repeatable. Returns indices [B].

    Raises ValueError for a batch of one: it has no negative.

    Li et al. 2021 (ALBEF), arXiv:2107.07651, section 3.2. Derived in chapter 1.
    """
    if len(similarity) < 2:
        raise ValueError("A batch of one pair has no negative: use two pairs or more.")
    # Masked before the softmax: masked after it, a confident positive leaves a row of zeros.
    masked = upcast(similarity).clone().fill_diagonal_(float("-inf"))
    return torch.multinomial(masked.softmax(dim=-1), 1, generator=generator).squeeze(1)
