"""Qwen2-VL and its successors: the picture at about its own size, 28 pixels a token.

Agrees with transformers/models/qwen2_vl/image_processing_qwen2_vl.py on every size tried. Wang et
al. 2024, arXiv:2409.12191. Chapter 1.
"""

import math

from jaxtyping import Shaped
from torch import Tensor

from labs.errors import InputError
from labs.models.resolution.tiles import Size, check_size

FACTOR = 28  # a patch of 14 pixels, 2 x 2 patches merged into a token
# What the released checkpoints' files say; the function in Transformers defaults to 1280 tokens.
MIN_PIXELS, MAX_PIXELS = 4 * FACTOR**2, 16384 * FACTOR**2


def smart_resize(
    height: int,
    width: int,
    factor: int = FACTOR,
    min_pixels: int = MIN_PIXELS,
    max_pixels: int = MAX_PIXELS,
) -> Size:
    """(height, width) in multiples of `factor`, of about the same shape, within the pixel limits.

    Both sides are rounded to the nearest multiple. Too large: both are divided by
    beta = sqrt(height · width / max_pixels) and rounded down instead, too small the other way about.
    Rounding can bring a side of up to half a `factor` to nothing; the picture then counts as too
    small, whatever its other side (Qwen's own qwen-vl-utils keeps one `factor` there). Raises InputError where one side is more than 200 times the other.
    """
    check_size(height, width)
    if max(height, width) / min(height, width) > 200:
        raise InputError(
            f"A picture of {width} x {height} has one side more than 200 times the other, which Qwen2-VL refuses.",
            "Crop it, or leave it out.",
        )
    rows, columns = round(height / factor), round(width / factor)  # halves go to the even number
    if rows * columns * factor**2 > max_pixels:
        beta = math.sqrt(height * width / max_pixels)
        rows = max(1, math.floor(height / beta / factor))
        columns = max(1, math.floor(width / beta / factor))
    elif rows * columns * factor**2 < min_pixels:
        beta = math.sqrt(min_pixels / (height * width))
        rows = math.ceil(height * beta / factor)
        columns = math.ceil(width * beta / factor)
    return rows * factor, columns * factor


def qwen2_vl_tokens(size: Size, factor: int = FACTOR, **limits: int) -> int:
    """Visual tokens of one picture: (height / factor) · (width / factor) after `smart_resize`."""
    height, width = smart_resize(*size, factor, **limits)
    return (height // factor) * (width // factor)


def patchify(
    image: Shaped[Tensor, "channels height width"], patch: int = 14, merge: int = 2, frames: int = 2
) -> Shaped[Tensor, "patches values"]:
    """A resized picture as rows of pixels: `merge`² rows in a row are the patches of one token.

    A row holds channels x frames x patch x patch values; a still picture is repeated over the
    `frames` (2) that the tower's first layer spans. Chapter 1.
    """
    channels, height, width = image.shape
    unit = patch * merge
    if height % unit or width % unit:
        raise InputError(
            f"A picture of {width} x {height} cannot be cut into tokens of {unit} pixels.",
            "Resize it to `smart_resize(height, width)` first.",
        )
    grid = image.view(channels, height // unit, merge, patch, width // unit, merge, patch)
    # token row, token column, row in the token, column in the token, channel, pixel row, pixel column
    grid = grid.permute(1, 4, 2, 5, 0, 3, 6)[:, :, :, :, :, None]
    grid = grid.expand(-1, -1, -1, -1, -1, frames, -1, -1)
    return grid.reshape(-1, channels * frames * patch * patch)
