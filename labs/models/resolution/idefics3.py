"""Idefics3 and SmolVLM: enlarged to a fixed longest side, stretched to whole tiles, and an overview.

Agrees with transformers/models/idefics3/image_processing_idefics3.py on every size tried. Laurençon
et al. 2024, arXiv:2408.12637. Chapter 1.
"""

import math

from labs.models.resolution.tiles import Size, check_size

LARGEST = 4096  # no side is ever made longer


def longest_side(size: Size, longest: int) -> Size:
    """(height, width) with the longer side at `longest` (also enlarging), the shorter one even."""
    height, width = size
    ratio = width / height
    short = int(longest / ratio) if width >= height else int(longest * ratio)
    short = max(short + short % 2, 1)
    if longest > LARGEST:
        ratio = longest / short if width >= height else short / longest
        short = max(int(LARGEST / ratio if width >= height else LARGEST * ratio), 1)
        longest = LARGEST
    return (short, longest) if width >= height else (longest, short)


def split_grid(size: Size, edge: int, longest: int) -> Size:
    """(rows, columns) of tiles of `edge` pixels; (0, 0) for a picture that the overview alone shows.

    Because every picture is first brought to `longest`, a small one costs as much as a large one.
    """
    check_size(*size)
    height, width = longest_side(size, longest)
    ratio = width / height
    if width >= height:
        columns = math.ceil(width / edge)
        rows = math.ceil(int(columns * edge / ratio) / edge)
    else:
        rows = math.ceil(height / edge)
        columns = math.ceil(int(rows * edge * ratio) / edge)
    return (rows, columns) if max(rows, columns) > 1 else (0, 0)
