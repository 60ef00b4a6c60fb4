"""Fewer, wider tokens: r x r neighbouring patches become one, and nothing is lost."""

import math

from jaxtyping import Float
from torch import Tensor, nn

from labs.errors import InputError
from labs.models.connectors.base import Connector


def pixel_shuffle(
    features: Float[Tensor, "batch patches channels"], ratio: int
) -> Float[Tensor, "batch fewer wider"]:
    """Space to depth: each ratio x ratio block of a square grid becomes one token.

        y[b, (i, j), (di, dj, c)] = x[b, (i·r + di, j·r + dj), c]

    [B, P, C] -> [B, P/r², C·r²]; rows of the grid one after the other. A pure reordering, so
    `pixel_unshuffle` undoes it. Despite its name it is the opposite of `torch.nn.PixelShuffle`,
    and its channels are ordered (di, dj, c), not (c, di, dj) as `torch.nn.PixelUnshuffle`'s.

    Raises InputError where the patches are no square, or its side no multiple of the ratio.

    Chen et al. 2024 (InternVL 1.5), arXiv:2404.16821, section 3.1. The order is that of InternVL's
    `ps_version` v2 and of Idefics3 and SmolVLM; v1 left rows and columns of the small grid swapped.
    Chapter 1.
    """
    batch, patches, channels = features.shape
    side = _grid_side(patches, ratio)
    blocks = features.reshape(batch, side // ratio, ratio, side // ratio, ratio, channels)
    # batch, row, row in block, column, column in block, channel
    return blocks.permute(0, 1, 3, 2, 4, 5).reshape(batch, patches // ratio**2, channels * ratio**2)


def pixel_unshuffle(
    features: Float[Tensor, "batch fewer wider"], ratio: int
) -> Float[Tensor, "batch patches channels"]:
    """The inverse of `pixel_shuffle`: depth to space, [B, N, C·r²] -> [B, N·r², C]."""
    batch, tokens, width = features.shape
    side = math.isqrt(tokens)
    blocks = features.reshape(batch, side, side, ratio, ratio, width // ratio**2)
    return blocks.permute(0, 1, 3, 2, 4, 5).reshape(batch, tokens * ratio**2, width // ratio**2)


class PixelShuffleConnector(Connector):
    """Pixel shuffle, then LayerNorm and an MLP (InternVL's projector).

        y = W2 gelu(W1 LN(pixel_shuffle(x, r)) + b1) + b2,   Q = P / r²
        parameters: 2·r²Dv + r²Dv·D + D² + 2D

    `features` [B, P, Dv] of a square grid -> [B, P/r², D].

    Chen et al. 2024 (InternVL 1.5), arXiv:2404.16821, section 3.1. Chapter 1.
    """

    def __init__(self, vision_hidden_size: int, hidden_size: int, num_patches: int, ratio: int = 2):
        _grid_side(num_patches, ratio)
        super().__init__(vision_hidden_size, hidden_size, num_patches, num_patches // ratio**2)
        self.ratio = ratio
        wide = vision_hidden_size * ratio**2
        self.layer_norm = nn.LayerNorm(wide)
        self.linear_1 = nn.Linear(wide, hidden_size)
        self.act = nn.GELU()
        self.linear_2 = nn.Linear(hidden_size, hidden_size)

    def forward(
        self, features: Float[Tensor, "batch patches vision"]
    ) -> Float[Tensor, "batch visual hidden"]:
        tokens = self.layer_norm(pixel_shuffle(features, self.ratio))
        return self.linear_2(self.act(self.linear_1(tokens)))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, ratio={self.ratio}"


def _grid_side(patches: int, ratio: int) -> int:
    side = math.isqrt(patches)
    if side * side != patches:
        raise InputError(
            f"{patches} patches are no square grid.",
            "Give the patches of a square picture, without a CLS token.",
        )
    if side % ratio:
        raise InputError(
            f"A grid of {side} x {side} patches cannot be cut into blocks of {ratio} x {ratio}.",
            f"Choose a ratio that divides {side}.",
        )
    return side
