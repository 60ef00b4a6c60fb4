"""From the size of a picture to what it costs: visual tokens, tiles, patches, per model family.

Each family's arithmetic follows its own Transformers image processor and processor (the file is named
in each class) and is held to them on random sizes by tests/doctors/predict/test_visual.py. Sizes are
(width, height) in pixels, as PIL says them. Nothing here needs torch or reads a pixel.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

from labs.errors import InputError


@dataclasses.dataclass(frozen=True)
class Visual:
    """One picture or clip as the model sees it.

    tokens: rows of visual features in the sequence; around: marker tokens that the processor puts
    beside them; tiles: pictures that go through the vision tower, each `tile` (height, width); grid:
    (time, height, width) in patches, for families without tiles; size: (height, width) as given.
    """

    tokens: int
    around: int = 0
    tiles: int = 1
    tile: tuple[int, int] = (0, 0)
    grid: tuple[int, int, int] | None = None
    size: tuple[int, int] = (0, 0)


class Family:
    """What a family does to pictures. Subclasses set `kinds` (model types) and say `image`.

    `settings` are the image processor's, with the user's overrides; `assumed` lists the numbers that
    neither had, so that a report can say which default stood in.
    """

    kinds: tuple[str, ...] = ()
    has_video = False

    def __init__(self, config: Any, settings: dict | None = None, video: dict | None = None):
        self.config = config
        self.settings = settings or {}
        self.video_settings = video or {}
        self.assumed: list[str] = []

    def setting(self, name: str, default: Any) -> Any:
        value = self.settings.get(name)
        if value is None:
            value = default
            self.assumed.append(f"{name} = {default}")
        return value

    def image(self, width: int, height: int) -> Visual:
        raise NotImplementedError

    def video(self, width: int, height: int, frames: int) -> Visual:
        raise InputError(
            f"{self.config.model_type} takes no videos.", "Give its frames as images instead."
        )


class PlainText(Family):
    """A language model without pictures."""

    def image(self, width, height):
        raise InputError(
            f"{self.config.model_type} is a language model and takes no pictures.",
            "Leave the images out, or give a vision-language model.",
        )


def _side(value: Any) -> int:
    """An image_size of a configuration: a number, or [height, width] of a square."""
    return int(value[0] if isinstance(value, (list, tuple)) else value)


def _edge(value: Any, fallback: int) -> int:
    """The edge of a processor's size: {"height": …}, {"shortest_edge": …} or a number."""
    if isinstance(value, dict):
        value = value.get("height") or value.get("shortest_edge") or fallback
    return int(value or fallback)


class FixedTile(Family):
    """LLaVA-1.5, VipLLaVA: every picture becomes one square. models/llava/processing_llava.py"""

    kinds = ("llava", "vipllava")

    def __init__(self, config, settings=None, video=None):
        super().__init__(config, settings, video)
        vision = config.vision_config
        if vision.model_type not in ("clip_vision_model", "siglip_vision_model"):
            raise InputError(
                f"A {vision.model_type} vision tower in a {config.model_type} model is not known here.",
                "predict knows CLIP and SigLIP towers for LLaVA; ask for this one.",
            )
        self.edge = _edge(
            self.settings.get("crop_size") or self.settings.get("size"), vision.image_size
        )
        self.side = self.edge // vision.patch_size
        # "full" keeps what comes before the patches: CLIP's class token, nothing with SigLIP.
        class_token = vision.model_type == "clip_vision_model"
        full = getattr(config, "vision_feature_select_strategy", "default") == "full"
        self.base = self.side**2 + (int(class_token) if full else int(class_token) - 1)

    def image(self, width, height):
        return Visual(self.base, tile=(self.edge, self.edge), size=(height, width))


class AnyRes(FixedTile):
    """LLaVA-NeXT: a grid of tiles, un-padded, a newline a row. models/llava_next/processing_llava_next.py"""

    kinds = ("llava_next",)

    def __init__(self, config, settings=None, video=None):
        super().__init__(config, settings, video)
        self.grids = self.settings.get("image_grid_pinpoints") or config.image_grid_pinpoints

    def image(self, width, height):
        best = best_resolution((height, width), self.grids)
        rows, columns = best[0] // self.edge, best[1] // self.edge
        features, newlines = self._unpadded(height, width, self.side * rows, self.side * columns)
        return Visual(
            features + newlines + self.base,
            tiles=1 + rows * columns,
            tile=(self.edge, self.edge),
            size=(height, width),
        )

    @staticmethod
    def _unpadded(height: int, width: int, rows: int, columns: int) -> tuple[int, int]:
        """Features left when the rows or columns that hold only padding are cut; and the newlines."""
        if width / height > columns / rows:
            kept = int(round(height * (columns / width), 7))
            rows -= (rows - kept) // 2 * 2
        else:
            kept = int(round(width * (rows / height), 7))
            columns -= (columns - kept) // 2 * 2
        return rows * columns, rows


def best_resolution(size: tuple[int, int], grids: list) -> tuple[int, int]:
    """The (height, width) of `grids` that keeps most of the picture, then wastes least."""

    def score(grid) -> tuple[int, int]:
        scale = min(grid[1] / size[1], grid[0] / size[0])
        kept = min(int(size[1] * scale) * int(size[0] * scale), size[0] * size[1])
        return kept, kept - grid[0] * grid[1]

    best = max(grids, key=score)  # the first of equals, as in Transformers
    return int(best[0]), int(best[1])


class SmartResize(Family):
    """Qwen2-VL, Qwen2.5-VL, Qwen3-VL: native resolution. models/qwen2_vl/image_processing_qwen2_vl.py"""

    kinds = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
    has_video = True
    # What the released checkpoints' files say, which is far more than the class's own default.
    LIMITS = (4 * 28 * 28, 16384 * 28 * 28)
    # qwen-vl-utils, per frame.
    VIDEO_LIMITS = (128 * 28 * 28, 768 * 28 * 28)

    def __init__(self, config, settings=None, video=None):
        super().__init__(config, settings, video)
        vision = config.vision_config
        self.patch, self.merge = vision.patch_size, vision.spatial_merge_size
        self.frames = vision.temporal_patch_size
        self.factor = self.patch * self.merge
        self.limits = self._limits(self.settings, self.LIMITS, "")
        self.video_limits = self._limits(self.video_settings, self.VIDEO_LIMITS, "video ")

    def _limits(self, settings: dict, default: tuple[int, int], what: str) -> tuple[int, int]:
        size = settings.get("size") or {}
        least = settings.get("min_pixels") or size.get("shortest_edge")
        most = settings.get("max_pixels") or size.get("longest_edge")
        scale = (self.factor / 28) ** 2  # the defaults are numbers of tokens
        if least is None:
            least = int(default[0] * scale)
            self.assumed.append(f"{what}min_pixels = {least}")
        if most is None:
            most = int(default[1] * scale)
            self.assumed.append(f"{what}max_pixels = {most}")
        return least, most

    def _grid(self, width, height, frames, limits) -> tuple[int, int, int]:
        rows, columns = smart_resize(height, width, self.factor, *limits)
        return math.ceil(frames / self.frames), rows // self.patch, columns // self.patch

    def _visual(self, grid, size) -> Visual:
        # <|vision_start|> and <|vision_end|>
        tokens = math.prod(grid) // self.merge**2
        return Visual(tokens, around=2, tiles=grid[0], grid=grid, size=size)

    def image(self, width, height):
        return self._visual((1, *self._grid(width, height, 1, self.limits)[1:]), (height, width))

    def video(self, width, height, frames):
        if self.config.model_type == "qwen3_vl":
            raise InputError(
                "Videos of qwen3_vl carry a timestamp a frame, which predict does not know yet.",
                "Give its frames as images instead.",
            )
        return self._visual(self._grid(width, height, frames, self.video_limits), (height, width))


def smart_resize(
    height: int, width: int, factor: int, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
    """(height, width) as multiples of `factor`, within the pixel limits, of about the same shape."""
    if max(height, width) / min(height, width) > 200:
        raise InputError(
            f"A picture of {width} x {height} is more than 200 times longer than wide, which Qwen's processor refuses.",
            "Crop it or leave it out.",
        )
    rows, columns = round(height / factor) * factor, round(width / factor) * factor
    if rows * columns > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        rows = max(factor, math.floor(height / shrink / factor) * factor)
        columns = max(factor, math.floor(width / shrink / factor) * factor)
    elif rows * columns < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        rows = math.ceil(height * grow / factor) * factor
        columns = math.ceil(width * grow / factor) * factor
    return rows, columns


class SplitTiles(Family):
    """Idefics3, SmolVLM: tiles and a global view. models/idefics3/image_processing_idefics3.py"""

    kinds = ("idefics3", "smolvlm")
    LARGEST = 4096  # no side is ever made longer
    # Words of a clip: an introduction of about 25 tokens, and "Frame from 00:00:" with its colon.
    VIDEO_WORDS, FRAME_WORDS = 25, 9

    def __init__(self, config, settings=None, video=None):
        super().__init__(config, settings, video)
        vision = config.vision_config
        self.has_video = config.model_type == "smolvlm"
        self.edge = _longest(self.setting("max_image_size", _side(vision.image_size)))
        self.longest = _longest(self.setting("size", 4 * self.edge))
        self.split = self.setting("do_image_splitting", True)
        self.per_tile = (self.edge // vision.patch_size) ** 2 // config.scale_factor**2

    def image(self, width, height):
        rows, columns = self._tiles(width, height) if self.split else (0, 0)
        tiles = rows * columns + 1
        # Split: a tag pair a tile, a line break a row, one more before the global view, which has a
        # tag pair and a closing mark. Whole: the global view alone.
        around = 2 * rows * columns + rows + 4 if rows else 3
        return Visual(
            tiles * self.per_tile, around, tiles, (self.edge, self.edge), size=(height, width)
        )

    def video(self, width, height, frames):
        if not self.has_video:
            return super().video(width, height, frames)
        around = self.VIDEO_WORDS + frames * (self.FRAME_WORDS + 3)
        edge = _longest(self.video_settings.get("max_image_size") or self.edge)
        return Visual(frames * self.per_tile, around, frames, (edge, edge), size=(height, width))

    def _tiles(self, width: int, height: int) -> tuple[int, int]:
        """Rows and columns of tiles; (0, 0) for a picture that stays whole."""
        height, width = self._resized(height, width, self.longest)
        ratio = width / height
        if width >= height:
            width = math.ceil(width / self.edge) * self.edge
            height = math.ceil(int(width / ratio) / self.edge) * self.edge
        else:
            height = math.ceil(height / self.edge) * self.edge
            width = math.ceil(int(height * ratio) / self.edge) * self.edge
        if height <= self.edge and width <= self.edge:
            return 0, 0
        return height // self.edge, width // self.edge

    def _resized(self, height: int, width: int, longest: int) -> tuple[int, int]:
        ratio = width / height
        if width >= height:
            width, height = longest, int(longest / ratio)
            height += height % 2
        else:
            height, width = longest, int(longest * ratio)
            width += width % 2
        height, width = max(height, 1), max(width, 1)
        ratio = width / height
        if width >= height and width > self.LARGEST:
            width, height = self.LARGEST, int(self.LARGEST / ratio)
        elif height > width and height > self.LARGEST:
            height, width = self.LARGEST, int(self.LARGEST * ratio)
        return max(height, 1), max(width, 1)


def _longest(value: Any) -> int:
    return int(value["longest_edge"] if isinstance(value, dict) else value)


class Prefix(Family):
    """PaliGemma: one square, its patches before the text. models/paligemma/processing_paligemma.py"""

    kinds = ("paligemma",)

    def __init__(self, config, settings=None, video=None):
        super().__init__(config, settings, video)
        vision = config.vision_config
        self.edge = _edge(self.settings.get("size"), vision.image_size)
        self.tokens = (self.edge // vision.patch_size) ** 2

    def image(self, width, height):
        # The newline that ends the prompt; <bos> counts as text.
        return Visual(self.tokens, 1, tile=(self.edge, self.edge), size=(height, width))


class RatioTiles(Family):
    """InternVL: the grid of nearest shape, and a thumbnail. models/got_ocr2/image_processing_got_ocr2.py"""

    kinds = ("internvl",)
    has_video = True
    FRAME_WORDS = 4  # "Frame1: " and a line break

    def __init__(self, config, settings=None, video=None):
        super().__init__(config, settings, video)
        vision = config.vision_config
        self.edge = _edge(self.settings.get("size"), _side(vision.image_size))
        # InternVLProcessor asks for patches whatever the image processor's file says.
        self.least = self.setting("min_patches", 1)
        self.most = self.setting("max_patches", 12)
        side = self.edge // _side(vision.patch_size) * config.downsample_ratio
        self.per_tile = int(side**2)

    def image(self, width, height):
        tiles = 1
        if self.most > 1:
            columns, rows = self._grid(width, height)
            tiles = columns * rows + (columns * rows > 1)
        return self._visual(tiles, 2, (height, width))

    def video(self, width, height, frames):
        return self._visual(frames, frames * (2 + self.FRAME_WORDS), (height, width))

    def _visual(self, tiles, around, size):
        return Visual(tiles * self.per_tile, around, tiles, (self.edge, self.edge), size=size)

    def _grid(self, width: int, height: int) -> tuple[int, int]:
        """(columns, rows) of the nearest shape; of equals the larger, while it is not twice the picture."""
        most = range(1, self.most + 1)
        grids = [(c, r) for c in most for r in most if self.least <= c * r <= self.most]
        best, nearest = (1, 1), math.inf
        for columns, rows in sorted(grids, key=lambda grid: grid[0] * grid[1]):
            distance = abs(width / height - columns / rows)
            larger = width * height > 0.5 * self.edge**2 * columns * rows
            if distance < nearest or (distance == nearest and larger):
                best, nearest = (columns, rows), distance
        return best


FAMILIES: tuple[type[Family], ...] = (
    FixedTile, AnyRes, SmartResize, SplitTiles, Prefix, RatioTiles,
)  # fmt: skip


def family_of(config: Any, settings: dict | None = None, video: dict | None = None) -> Family:
    """The family of a configuration. Raises InputError for a kind of pictures that is not known."""
    for family in FAMILIES:
        if config.model_type in family.kinds:
            return family(config, settings, video)
    if getattr(config, "vision_config", None) is not None:
        known = ", ".join(kind for family in FAMILIES for kind in family.kinds)
        raise InputError(
            f"How {config.model_type} turns pictures into tokens is not known here.",
            f"predict knows {known}, and language models without pictures.",
        )
    if getattr(config, "is_encoder_decoder", False):
        raise InputError(
            f"{config.model_type} is an encoder-decoder.", "predict knows decoder-only models."
        )
    return PlainText(config, settings, video)


def cached(measure: Callable[[int, int], Visual]) -> Callable[[int, int], Visual]:
    """`measure` remembering its answers: data sets repeat sizes many times."""
    return functools.lru_cache(maxsize=65536)(measure)
