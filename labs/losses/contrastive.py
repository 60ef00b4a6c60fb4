"""Contrastive losses: matched image-text pairs against all the other pairs of the batch."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from labs.losses.precision import upcast


def _cosines(
    image_features: Float[Tensor, "batch features"], text_features: Float[Tensor, "batch features"]
) -> Float[Tensor, "batch batch"]:
    images, texts = upcast(image_features), upcast(text_features)
    # Autocast would run this product in half precision, and 1/temperature magnifies the rounding.
    with torch.autocast(images.device.type, enabled=False):
        return F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).T


def info_nce(
    image_features: Float[Tensor, "batch features"],
    text_features: Float[Tensor, "batch features"],
    temperature: int | float | Float[Tensor, ""] = 0.07,
) -> Float[Tensor, ""]:
    """Symmetric InfoNCE, the loss of CLIP.

    With s_ij = cos(image_i, text_j) / temperature:

        L = -1/2B · sum_i [ log softmax_j(s_ij)_i + log softmax_j(s_ji)_i ]

    Row i of both inputs is the same pair; all other rows are its negatives. The inputs [B, D] are
    normalised here, so their lengths do not matter. `temperature` divides; it may be a tensor that
    is learned. Returns a scalar in nats: ln B where every pair looks alike. float16 and bfloat16
    inputs are computed in float32.

    van den Oord et al. 2018, arXiv:1807.03748; Radford et al. 2021, arXiv:2103.00020, figure 3.
    Derived in chapter 1.
    """
    logits = _cosines(image_features, text_features) / temperature
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def siglip_loss(
    image_features: Float[Tensor, "batch features"],
    text_features: Float[Tensor, "batch features"],
    temperature: int | float | Float[Tensor, ""],
    bias: int | float | Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """Sigmoid loss: each of the B·B pairs is a yes-or-no question of its own.

        L = -1/B · sum_i sum_j log sigmoid(z_ij · (temperature · cos(image_i, text_j) + bias))

    with z_ij = 1 where i = j and -1 elsewhere. A sum over pairs, divided by B and not by B·B.

    As in the paper, and unlike in `info_nce`, the temperature *multiplies*: it is the paper's
    t = exp(t'), 10 at the start of training, with the bias at -10, so that the B·B - B negatives do
    not swamp the first steps. Inputs [B, D] are normalised here. Returns a scalar in nats.

    Zhai et al. 2023, arXiv:2303.15343, algorithm 1. Derived in chapter 1.
    """
    logits = _cosines(image_features, text_features) * temperature + bias
    sign = 2 * torch.eye(len(logits), dtype=logits.dtype, device=logits.device) - 1
    return -F.logsigmoid(sign * logits).sum() / len(logits)
