"""Masks: what is under a zero takes no part, whatever stands there, NaN included."""

from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from labs.losses.precision import upcast


def under_mask(
    values: Float[Tensor, "batch tokens"], mask: Shaped[Tensor, "batch tokens"]
) -> tuple[Float[Tensor, "batch tokens"], Bool[Tensor, "batch tokens"]]:
    """`values` in float32 or wider with zeros where the mask is zero; and the mask as booleans.

    Filled rather than multiplied: 0 · NaN is NaN, and so is 0 · inf. The gradient of what is filled
    is an exact zero, too.
    """
    real = mask != 0
    return upcast(values).masked_fill(~real, 0), real


def masked_mean(
    values: Float[Tensor, "batch tokens"], mask: Shaped[Tensor, "batch tokens"]
) -> Float[Tensor, ""]:
    """Mean over the batch's real tokens; exactly 0 where there is none."""
    values, real = under_mask(values, mask)
    return values.sum() / real.sum().clamp(min=1)
