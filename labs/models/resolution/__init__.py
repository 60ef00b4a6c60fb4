"""Dynamic resolution: how a picture of any size becomes tiles, features and positions. Chapter 1."""

from labs.models.resolution.families import FAMILIES, Cut, Family, family
from labs.models.resolution.internvl import internvl_tiles, internvl_tokens, tile_grid
from labs.models.resolution.llava_next import (
    llava_next_tokens,
    pack_image_features,
    select_best_resolution,
    unpad_image,
)
from labs.models.resolution.mrope import grid_positions, mrope_position_ids
from labs.models.resolution.qwen2_vl import patchify, qwen2_vl_tokens, smart_resize
from labs.models.resolution.tiles import cut_tiles, fit, pad_to_canvas

__all__ = [
    "FAMILIES",
    "Cut",
    "Family",
    "cut_tiles",
    "family",
    "fit",
    "grid_positions",
    "internvl_tiles",
    "internvl_tokens",
    "llava_next_tokens",
    "mrope_position_ids",
    "pack_image_features",
    "pad_to_canvas",
    "patchify",
    "qwen2_vl_tokens",
    "select_best_resolution",
    "smart_resize",
    "tile_grid",
    "unpad_image",
]
