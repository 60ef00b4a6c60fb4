"""What a picture becomes in each family as released: canvas, tiles, tokens. Chapter 1.

The numbers are those of the released checkpoints' own configuration files, named beside them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial

from labs.errors import InputError
from labs.models.resolution import idefics3, internvl, llava_next, qwen2_vl
from labs.models.resolution.tiles import Size, check_size, fit


@dataclass(frozen=True)
class Cut:
    """One picture as a family sees it. Sizes are (height, width) in pixels.

    canvas: what is cut; picture: the picture's size on it (smaller where it is padded, the picture in
    the middle); tiles: (rows, columns) of the cut; overview: whether the whole picture comes once
    more as a tile of its own; cells: (rows, columns) of tokens on the canvas, those of padding left
    out; tokens: visual features in the sequence, newlines included; markers: special tokens that
    the processor writes around them.
    """

    canvas: Size
    picture: Size
    tiles: Size
    overview: bool
    cells: Size
    tokens: int
    markers: int = 0


@dataclass(frozen=True)
class Family:
    """title: as a table prints it; cut: from (height, width) of a picture."""

    title: str
    cut: Callable[[Size], Cut]


def _square(size: Size, edge: int, patch: int, pad: bool) -> Cut:
    """One tile for everything: padded to a square, or stretched into it."""
    check_size(*size)
    canvas, side = (edge, edge), edge // patch
    picture = fit(size, canvas) if pad else canvas
    return Cut(canvas, picture, (1, 1), False, (side, side), side * side)


def _llava_next(size: Size, edge: int = 336, patch: int = 14) -> Cut:
    canvas = llava_next.select_best_resolution(size)
    tiles = canvas[0] // edge, canvas[1] // edge
    cells = llava_next.unpadded(size, canvas[0] // patch, canvas[1] // patch)
    tokens = llava_next.llava_next_tokens(size, edge=edge, patch=patch)
    return Cut(canvas, fit(size, canvas), tiles, True, cells, tokens)


def _qwen(size: Size, factor: int, min_pixels: int, max_pixels: int) -> Cut:
    canvas = qwen2_vl.smart_resize(*size, factor, min_pixels, max_pixels)
    cells = canvas[0] // factor, canvas[1] // factor
    return Cut(canvas, canvas, (1, 1), False, cells, cells[0] * cells[1], markers=2)


def _internvl(size: Size, edge: int = internvl.EDGE, patch: int = 14, shuffle: int = 2) -> Cut:
    rows, columns = internvl.tile_grid(size, edge)
    canvas, side = (rows * edge, columns * edge), edge // patch // shuffle
    tokens = internvl.internvl_tokens(size, edge, patch, shuffle)
    cells = rows * side, columns * side
    return Cut(canvas, canvas, (rows, columns), rows * columns > 1, cells, tokens, markers=2)


def _idefics3(size: Size, edge: int, longest: int, per_tile: int) -> Cut:
    rows, columns = idefics3.split_grid(size, edge, longest)
    side = round(per_tile**0.5)
    if not rows:  # the overview is all there is
        return Cut((edge, edge), (edge, edge), (1, 1), False, (side, side), per_tile, markers=3)
    canvas = rows * edge, columns * edge
    # A pair of tags a tile, a line break a row and one after the last, and the overview's three.
    markers = 2 * rows * columns + rows + 4
    tokens = (rows * columns + 1) * per_tile
    return Cut(
        canvas, canvas, (rows, columns), True, (rows * side, columns * side), tokens, markers
    )


FAMILIES: dict[str, Family] = {
    # openai/clip-vit-large-patch14-336. The authors' scripts pad to a square; the Transformers
    # checkpoint crops the longer side's ends instead. The cost is the same.
    "llava-1.5": Family("LLaVA-1.5", partial(_square, edge=336, patch=14, pad=True)),
    # llava-hf/llava-v1.6-vicuna-7b-hf
    "llava-next": Family("LLaVA-NeXT", _llava_next),
    # Qwen/Qwen2-VL-7B-Instruct and Qwen/Qwen2.5-VL-7B-Instruct: 3136 to 12845056 pixels
    "qwen2-vl": Family(
        "Qwen2-VL, Qwen2.5-VL",
        partial(
            _qwen,
            factor=qwen2_vl.FACTOR,
            min_pixels=qwen2_vl.MIN_PIXELS,
            max_pixels=qwen2_vl.MAX_PIXELS,
        ),
    ),
    # Qwen/Qwen3-VL-8B-Instruct: patches of 16, 65536 to 16777216 pixels
    "qwen3-vl": Family("Qwen3-VL", partial(_qwen, factor=32, min_pixels=2**16, max_pixels=2**24)),
    # OpenGVLab/InternVL2-8B, InternVL3-8B-hf: up to 12 tiles
    "internvl": Family("InternVL2, InternVL3", _internvl),
    # HuggingFaceM4/Idefics3-8B-Llama3: tiles of 364, patches of 14, 2 x 2 merged
    "idefics3": Family("Idefics3", partial(_idefics3, edge=364, longest=1456, per_tile=169)),
    # HuggingFaceTB/SmolVLM-Instruct: tiles of 384, patches of 14, 3 x 3 merged
    "smolvlm": Family("SmolVLM", partial(_idefics3, edge=384, longest=1536, per_tile=81)),
    # google/paligemma-3b-pt-224
    "paligemma": Family("PaliGemma 224", partial(_square, edge=224, patch=14, pad=False)),
}
SAME_AS = {
    "llava-1.6": "llava-next",
    "qwen2.5-vl": "qwen2-vl",
    "internvl2": "internvl",
    "internvl2.5": "internvl",
    "internvl3": "internvl",
}


def family(name: str) -> Family:
    """A family by its name, in any case, with `_` for `-` too. Raises InputError naming the nearest."""
    wanted = name.lower().replace("_", "-")
    wanted = SAME_AS.get(wanted, wanted)
    if wanted in FAMILIES:
        return FAMILIES[wanted]
    near = get_close_matches(wanted, [*FAMILIES, *SAME_AS], n=1)
    hint = f"Did you mean {near[0]}? " if near else ""
    raise InputError(f"There is no family {name!r}.", f"{hint}Known: {', '.join(FAMILIES)}.")
