"""InternVL (1.5 and later): the grid of tiles of nearest shape, and a thumbnail.

Agrees with get_optimal_tiled_canvas of transformers/models/got_ocr2, which InternVL uses and which
follows dynamic_preprocess of InternVL's own code. Chen et al. 2024, arXiv:2404.16821. Chapter 1.
"""

import functools
import math

from labs.errors import InputError
from labs.models.resolution.tiles import Size, check_size

EDGE = 448


@functools.cache
def candidate_grids(min_tiles: int, max_tiles: int) -> tuple[Size, ...]:
    """All (rows, columns) of min_tiles to max_tiles tiles: few tiles first, then few columns."""
    counts = range(1, max_tiles + 1)
    grids = [(r, c) for c in counts for r in counts if min_tiles <= r * c <= max_tiles]
    if not grids:
        raise InputError(
            f"No grid has {min_tiles} to {max_tiles} tiles.",
            "Let min_tiles be at most max_tiles, and max_tiles at least 1.",
        )
    return tuple(sorted(grids, key=math.prod))


def tile_grid(size: Size, edge: int = EDGE, min_tiles: int = 1, max_tiles: int = 12) -> Size:
    """(rows, columns) of tiles whose shape is nearest to the picture's, by |width/height - columns/rows|.

    Of equally near grids the one with more tiles, as long as the picture has more than half its
    pixels: a small picture is not blown up for the sake of tiles. The picture is then stretched over
    the grid. size: (height, width); edge: of a tile, in pixels.
    """
    check_size(*size)
    height, width = size
    best, nearest = (1, 1), math.inf
    for rows, columns in candidate_grids(min_tiles, max_tiles):
        distance = abs(width / height - columns / rows)
        fills_it = height * width > 0.5 * edge * edge * rows * columns
        if distance < nearest or (distance == nearest and fills_it):
            best, nearest = (rows, columns), distance
    return best


def internvl_tiles(size: Size, **limits: int) -> int:
    """Pictures for the vision tower: the grid's, and a thumbnail where there is more than one."""
    tiles = math.prod(tile_grid(size, **limits))
    return tiles + 1 if tiles > 1 else tiles


def internvl_tokens(
    size: Size, edge: int = EDGE, patch: int = 14, shuffle: int = 2, **limits: int
) -> int:
    """Visual tokens of one picture: tiles · (edge / patch / shuffle)², 256 a tile as released.

    shuffle: the pixel shuffle before the projector makes one token of shuffle x shuffle patches.
    """
    return internvl_tiles(size, edge=edge, **limits) * (edge // patch // shuffle) ** 2
