"""LLaVA-NeXT (1.6): the best of a few canvases, padding, and features without the padding.

Agrees with transformers/models/llava_next and image_processing_utils.py on every size from 1 x 1 to
4096 x 4096 tried; they follow llava/mm_utils.py and llava/model/llava_arch.py of LLaVA. Chapter 1.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from labs.errors import InputError
from labs.models.resolution.tiles import Size, check_size

# What the released checkpoints' config.json lists, (height, width): no strip of four tiles, although
# the announcement has 336 x 1344.
CANVASES: tuple[Size, ...] = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))


def select_best_resolution(size: Size, canvases: tuple[Size, ...] = CANVASES) -> Size:
    """The canvas that keeps most of the picture's pixels; of equals, the one with least padding.

    kept(canvas) = min(pixels of the picture scaled to fit, pixels of the picture): enlarging adds
    none. Of canvases that are equal in both, the first. size, canvases: (height, width).
    """
    check_size(*size)
    height, width = size

    def kept(canvas: Size) -> int:
        scale = min(canvas[1] / width, canvas[0] / height)
        return min(int(width * scale) * int(height * scale), width * height)

    def wasted(canvas: Size) -> int:
        return canvas[0] * canvas[1] - kept(canvas)

    return max(canvases, key=lambda canvas: (kept(canvas), -wasted(canvas)))


def padding_of(size: Size, rows: int, columns: int) -> tuple[int, int]:
    """Of a map of rows x columns features, the (rows, columns) at either edge that saw only padding.

    They are counted from the picture's shape, not from the pixels that were padded: the count is
    rounded down, so that an odd feature of padding stays. A sliver of a picture can lose all its rows
    or columns, and is then seen in the overview alone. size: (height, width).
    """
    height, width = size
    if width / height > columns / rows:  # wider than the canvas: bars above and below
        used = int(round(height * (columns / width), 7))
        return (rows - used) // 2, 0
    used = int(round(width * (rows / height), 7))
    return 0, (columns - used) // 2


def unpadded(size: Size, rows: int, columns: int) -> tuple[int, int]:
    """(rows, columns) of the map that are left when the padding at both edges is cut off."""
    top, left = padding_of(size, rows, columns)
    return rows - 2 * top, columns - 2 * left


def llava_next_tokens(
    size: Size, canvases: tuple[Size, ...] = CANVASES, edge: int = 336, patch: int = 14
) -> int:
    """Visual tokens of one picture: side² + rows · (columns + 1),  side = edge / patch.

    The overview (the whole picture in one tile), and of the canvas what is not padding, with one
    newline a row. size: (height, width); edge: of a tile, in pixels; patch: of the vision tower.
    """
    side = edge // patch
    height, width = select_best_resolution(size, canvases)
    rows, columns = unpadded(size, height // edge * side, width // edge * side)
    return side * side + rows * (columns + 1)


def unpad_image(
    features: Float[Tensor, "dim rows columns"], size: Size
) -> Float[Tensor, "dim kept_rows kept_columns"]:
    """The map without the features of padding. size: the picture's own (height, width)."""
    _, rows, columns = features.shape
    top, left = padding_of(size, rows, columns)
    return features[:, top : rows - top, left : columns - left]


def pack_image_features(
    features: Float[Tensor, "tiles patches dim"],
    size: Size,
    newline: Float[Tensor, " dim"] | None = None,
    canvases: tuple[Size, ...] = CANVASES,
    edge: int = 336,
) -> Float[Tensor, "tokens dim"]:
    """One picture's rows for the sequence: the overview, then the canvas line by line.

    features: the overview's tile first, then the canvas's, row by row; size: the picture's own
    (height, width); newline: learned, put at the end of each line. A picture that came as the
    overview alone gets one newline in all. Raises InputError when the tiles are not those of `size`.
    """
    if len(features) == 1:
        return features[0] if newline is None else torch.cat([features[0], newline[None]])
    height, width = select_best_resolution(size, canvases)
    down, across = height // edge, width // edge
    overview, tiles = features[0], features[1:]
    if len(tiles) != down * across:
        raise InputError(
            f"A picture of {size[1]} x {size[0]} is cut into {down} x {across} tiles, and features "
            f"of {len(tiles)} came.",
            "Give the size before any resizing as (height, width), and the overview first.",
        )
    side, dim = math.isqrt(features.shape[1]), features.shape[2]
    grid = tiles.view(down, across, side, side, dim)
    # Tiles lie side by side again: [dim, all rows of patches, all columns of patches].
    lines = grid.permute(4, 0, 2, 1, 3).reshape(dim, down * side, across * side)
    lines = unpad_image(lines, size)
    if newline is not None:
        ends = newline[:, None, None].expand(dim, lines.shape[1], 1).to(lines)
        lines = torch.cat([lines, ends], dim=2)
    return torch.cat([overview, lines.flatten(1).T])
