"""InternVL's grids, thumbnail and token count against Transformers' own."""

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from transformers import InternVLConfig, InternVLModel
from transformers.models.got_ocr2 import image_processing_pil_got_ocr2 as theirs

from labs.errors import InputError
from labs.models.resolution import cut_tiles, internvl_tiles, internvl_tokens, tile_grid
from labs.models.resolution.internvl import candidate_grids

SIDES = st.integers(1, 4096)


@example(height=1, width=1, least=1, most=12)
@example(height=1, width=4096, least=1, most=12)
@example(height=4096, width=1, least=1, most=12)
@example(height=4096, width=4096, least=1, most=12)
@example(height=448, width=448, least=1, most=12)
@settings(max_examples=400)
@given(height=SIDES, width=SIDES, least=st.integers(1, 4), most=st.integers(4, 24))
def test_the_grid_is_theirs(height, width, least, most):
    columns, rows = theirs.get_optimal_tiled_canvas((height, width), (448, 448), least, most)
    assert tile_grid((height, width), 448, least, most) == (rows, columns)


# (height, width) as 1 : 1, 1 : 2 and so on, which several grids meet exactly; 4 : 5 and 4 : 7 lie midway
# between the two nearest of up to six tiles.
@pytest.mark.parametrize(
    ("shape", "most"),
    [((1, 1), 12), ((1, 2), 12), ((2, 1), 12), ((3, 1), 12), ((4, 5), 6), ((4, 7), 6)],
)
def test_among_equally_near_grids_too(shape, most):
    seen = set()
    for scale in range(1, 4096 // max(shape) + 1, 3):
        size = shape[0] * scale, shape[1] * scale
        columns, rows = theirs.get_optimal_tiled_canvas(size, (448, 448), 1, most)
        seen.add((rows, columns))
        assert tile_grid(size, max_tiles=most) == (rows, columns), size
    assert len(seen) > 1, "the picture's size never decided"


@settings(max_examples=200)
@given(SIDES, SIDES, st.integers(1, 12))
def test_tiles_and_tokens_are_the_processors(height, width, most):
    processor = theirs.GotOcr2ImageProcessorPil(
        size={"height": 448, "width": 448}, crop_to_patches=True, max_patches=most
    )
    tiles = processor.get_number_of_image_patches(height, width)
    assert internvl_tiles((height, width), max_tiles=most) == tiles
    assert internvl_tokens((height, width), max_tiles=most) == 256 * tiles


@pytest.mark.parametrize(("edge", "patch"), [(448, 14), (56, 7), (224, 14)])
def test_tokens_a_tile_are_what_the_models_pixel_shuffle_leaves(edge, patch):
    with torch.device("meta"):
        model = InternVLModel(InternVLConfig(
            vision_config={"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1},
            text_config={"model_type": "qwen2", "hidden_size": 8, "vocab_size": 8,
                         "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1},
        ))  # fmt: skip
        side = edge // patch
        shuffled = model.pixel_shuffle(torch.zeros(1, side, side, 8), scale_factor=0.5)
    assert internvl_tokens((edge, edge), edge, patch) == shuffled.shape[1] * shuffled.shape[2]


def test_the_chapters_numbers():
    assert internvl_tokens((896, 1344)) == (6 + 1) * 256 == 1792
    assert internvl_tokens((1344, 1792)) == (12 + 1) * 256 == 3328
    assert internvl_tokens((1344, 1792), max_tiles=6) == 1792 // 7 * internvl_tiles(
        (1344, 1792), max_tiles=6
    )
    assert internvl_tokens((448, 448)) == 256  # one tile has no thumbnail


@settings(max_examples=40)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 2**31))
def test_tiles_are_the_processors_pixels(rows, columns, seed):
    picture = np.random.default_rng(seed).integers(
        0, 256, (3, rows * 28, columns * 28), dtype=np.uint8
    )
    assume(tile_grid(picture.shape[1:], edge=28) == (rows, columns))  # resizing changes nothing
    processor = theirs.GotOcr2ImageProcessorPil(
        size={"height": 28, "width": 28}, crop_to_patches=True, do_rescale=False, do_normalize=False
    )
    out = processor(picture, input_data_format="channels_first", return_tensors="pt")
    tiles = cut_tiles(torch.from_numpy(picture), 28)
    assert len(out["pixel_values"]) == internvl_tiles(picture.shape[1:], edge=28)
    torch.testing.assert_close(tiles, out["pixel_values"][: rows * columns], check_dtype=False)


def test_candidates_are_all_grids_once_and_the_small_ones_first():
    grids = candidate_grids(2, 12)
    assert len(set(grids)) == len(grids)
    assert set(grids) == {(r, c) for r in range(1, 13) for c in range(1, 13) if 2 <= r * c <= 12}
    assert [r * c for r, c in grids] == sorted(r * c for r, c in grids)


def test_bad_limits_and_sizes_are_named():
    with pytest.raises(InputError, match="No grid has 5 to 4 tiles"):
        tile_grid((10, 10), min_tiles=5, max_tiles=4)
    with pytest.raises(InputError, match="0 x 7 pixels"):
        tile_grid((7, 0))
