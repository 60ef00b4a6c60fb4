"""What the tiling families share: checking a size, fitting a picture into a canvas, cutting the canvas.

Sizes are (height, width) in pixels, as tensors have them; PIL says (width, height). Chapter 1.

The token counts of labs.doctors.memory follow the same originals. They are written a second time
there because a doctor stands alone (one file for a cluster, without torch, driven by whatever a
checkpoint's files say) and may not import models; here the reader meets plain functions of a size,
next to what they do to pixels and features. tests/models/test_resolution_families.py holds the two
equal on sizes at random.
"""

import math

from jaxtyping import Shaped
from torch import Tensor
from torch.nn import functional as F

from labs.errors import InputError

Size = tuple[int, int]  # (height, width)


def check_size(height: int, width: int) -> None:
    """Raise InputError for a picture without pixels."""
    if height < 1 or width < 1:
        raise InputError(
            f"A picture of {width} x {height} pixels has no pixels.",
            "Give a width and a height of at least 1.",
        )


def fit(size: Size, canvas: Size) -> Size:
    """The largest (height, width) of the picture's shape inside `canvas`; broken pixels count up.

    Follows get_patch_output_size of transformers/image_processing_utils.py.
    """
    (height, width), (canvas_height, canvas_width) = size, canvas
    across, down = canvas_width / width, canvas_height / height
    if across < down:
        return min(math.ceil(height * across), canvas_height), canvas_width
    return canvas_height, min(math.ceil(width * down), canvas_width)


def pad_to_canvas(
    image: Shaped[Tensor, "channels height width"], canvas: Size, value: float = 0
) -> Shaped[Tensor, "channels canvas_height canvas_width"]:
    """The picture in the middle of a canvas; an odd pixel of padding goes below and to the right."""
    height, width = image.shape[-2:]
    below, beside = canvas[0] - height, canvas[1] - width
    if below < 0 or beside < 0:
        raise InputError(
            f"A picture of {width} x {height} does not fit a canvas of {canvas[1]} x {canvas[0]}.",
            "Resize it to `fit(size, canvas)` first.",
        )
    top, left = below // 2, beside // 2
    return F.pad(image, (left, beside - left, top, below - top), value=value)


def cut_tiles(
    canvas: Shaped[Tensor, "channels height width"], edge: int
) -> Shaped[Tensor, "tiles channels edge edge"]:
    """Square tiles of `edge` pixels, row by row from the top left."""
    channels, height, width = canvas.shape
    if height % edge or width % edge:
        raise InputError(
            f"A canvas of {width} x {height} cannot be cut into tiles of {edge} pixels.",
            f"Give a width and a height that are multiples of {edge}.",
        )
    grid = canvas.view(channels, height // edge, edge, width // edge, edge)
    return grid.permute(1, 3, 0, 2, 4).reshape(-1, channels, edge, edge)
