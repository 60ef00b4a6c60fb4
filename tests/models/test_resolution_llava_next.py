"""LLaVA-NeXT's canvases, padding and packing against Transformers' own, on any size to 4096 x 4096."""

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from transformers import LlavaNextConfig, LlavaNextModel, LlavaNextProcessor
from transformers import image_processing_utils as theirs
from transformers.models.llava_next import modeling_llava_next as their_model
from transformers.models.llava_next.image_processing_pil_llava_next import (
    LlavaNextImageProcessorPil,
)

from labs.errors import InputError
from labs.models import tiny_tokenizer
from labs.models.resolution import (
    cut_tiles,
    fit,
    llava_next_tokens,
    pack_image_features,
    pad_to_canvas,
    select_best_resolution,
    unpad_image,
)
from labs.models.resolution.llava_next import CANVASES

SIDES = st.integers(1, 4096)
MANY = settings(max_examples=250)
EDGE, PATCH = 28, 7  # a tile of 4 x 4 patches, for what is done to tensors
SMALL = tuple((height // 12, width // 12) for height, width in CANVASES)
GRIDS = st.lists(
    st.tuples(st.integers(1, 4), st.integers(1, 4)).map(lambda g: (g[0] * EDGE, g[1] * EDGE)),
    min_size=1,
    max_size=6,
    unique=True,
).map(tuple)


def extremes(test):
    for size in [(1, 1), (1, 4096), (4096, 1), (4096, 4096), (336, 336), (672, 672), (335, 673)]:
        test = example(height=size[0], width=size[1])(test)
    return test


@pytest.fixture(scope="module")
def processor():
    edge = {"height": 336, "width": 336}
    return LlavaNextProcessor(
        LlavaNextImageProcessorPil(size={"shortest_edge": 336}, crop_size=edge),
        tiny_tokenizer(),
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


@pytest.fixture(scope="module")
def model():
    """Its packing reads the configuration alone, so no weight is needed."""
    config = LlavaNextConfig(
        text_config={"model_type": "llama", "hidden_size": 8, "vocab_size": 8,
                     "num_hidden_layers": 1, "num_attention_heads": 1},
        vision_config={"model_type": "clip_vision_model", "image_size": EDGE, "patch_size": PATCH,
                       "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1},
        image_grid_pinpoints=[list(canvas) for canvas in SMALL],
    )  # fmt: skip
    with torch.device("meta"):
        return LlavaNextModel(config)


@extremes
@MANY
@given(height=SIDES, width=SIDES)
def test_the_canvas_is_theirs(height, width):
    want = theirs.select_best_resolution((height, width), list(CANVASES))
    assert select_best_resolution((height, width)) == want


@MANY
@given(SIDES, SIDES, GRIDS)
def test_the_canvas_is_theirs_from_any_list(height, width, canvases):
    want = theirs.select_best_resolution((height, width), list(canvases))
    assert select_best_resolution((height, width), canvases) == want


@extremes
@MANY
@given(height=SIDES, width=SIDES)
def test_the_token_count_is_the_processors(processor, height, width):
    want = processor._get_num_multimodal_tokens(image_sizes=[(height, width)]).num_image_tokens
    assert [llava_next_tokens((height, width))] == want


@pytest.mark.parametrize(
    ("width", "height", "tokens"),
    [
        (672, 672, 2928),
        (336, 672, 1776),
        (1008, 336, 2328),
        (672, 336, 1752),
        (1000, 500, 1752),
        (640, 480, 2340),
        (336, 336, 1176),
    ],
)
def test_the_chapters_table(width, height, tokens):
    assert llava_next_tokens((height, width)) == tokens


def test_a_sliver_is_seen_in_the_overview_alone():
    """Lying down it keeps no row of the canvas; standing it keeps rows of nothing, and their newlines."""
    assert llava_next_tokens((1, 4096)) == 24 * 24
    assert llava_next_tokens((4096, 1)) == 24 * 24 + 24
    assert llava_next_tokens((4000, 10)) == 24 * 24 + 72


@extremes
@MANY
@given(height=SIDES, width=SIDES)
def test_fit_is_theirs_and_touches_two_opposite_edges(height, width):
    canvas = select_best_resolution((height, width))
    got = fit((height, width), canvas)
    pixels = np.lib.stride_tricks.as_strided(np.zeros(1), (3, height, width), (0, 0, 0))
    assert got == theirs.get_patch_output_size(pixels, canvas, "channels_first")
    assert got[0] == canvas[0] or got[1] == canvas[1]


@settings(max_examples=40)
@given(st.integers(4, 120), st.integers(4, 120), st.integers(0, 2**31))
def test_padding_and_tiles_are_the_processors_pixels(height, width, seed):
    picture = np.random.default_rng(seed).integers(0, 256, (3, height, width), dtype=np.uint8)
    processor = LlavaNextImageProcessorPil(
        size={"shortest_edge": EDGE},
        crop_size={"height": EDGE, "width": EDGE},
        image_grid_pinpoints=[list(canvas) for canvas in SMALL],
        do_rescale=False,
        do_normalize=False,
    )
    out = processor(picture, input_data_format="channels_first", return_tensors="pt")
    canvas = select_best_resolution((height, width), SMALL)
    # The filter that resizes is Pillow's; size, place and cut are ours.
    resized = processor._resize_for_patching(picture, canvas, resample=processor.resample)
    assert resized.shape[1:] == fit((height, width), canvas)
    tiles = cut_tiles(pad_to_canvas(torch.from_numpy(resized), canvas), EDGE)
    torch.testing.assert_close(tiles, out["pixel_values"][0, 1:], check_dtype=False)


@MANY
@given(st.integers(1, 60), st.integers(1, 60), SIDES, SIDES)
def test_unpad_image_is_theirs(rows, columns, height, width):
    features = torch.arange(2.0 * rows * columns).view(2, rows, columns)
    want = their_model.unpad_image(features, (height, width))
    assert torch.equal(unpad_image(features, (height, width)), want)


@pytest.mark.parametrize("with_newline", [True, False])
@extremes
@settings(max_examples=100)
@given(height=SIDES, width=SIDES)
def test_packing_is_the_models(model, with_newline, height, width):
    generator = torch.Generator().manual_seed(height * 4096 + width)
    canvas = select_best_resolution((height, width), SMALL)
    tiles = 1 + canvas[0] * canvas[1] // EDGE**2
    features = torch.randn(tiles, (EDGE // PATCH) ** 2, 5, generator=generator)
    newline = torch.randn(5, generator=generator) if with_newline else None
    sizes = torch.tensor([[height, width]])
    want, lengths = model.pack_image_features([features], sizes, "default", newline)
    got = pack_image_features(features, (height, width), newline, SMALL, EDGE)
    assert torch.equal(got, want[0])
    if with_newline:
        assert lengths.tolist() == [llava_next_tokens((height, width), SMALL, EDGE, PATCH)]


@pytest.mark.parametrize("newline", [None, torch.full((5,), 7.0)])
def test_a_picture_of_the_overview_alone_ends_in_one_newline(model, newline):
    features = torch.randn(1, 16, 5)
    want, _ = model.pack_image_features([features], torch.tensor([[9, 9]]), "default", newline)
    assert torch.equal(pack_image_features(features, (9, 9), newline, SMALL, EDGE), want[0])


@settings(max_examples=50)
@given(st.integers(1, 9), st.integers(1, 9), st.data())
def test_padding_lies_evenly_and_can_be_taken_off_again(height, width, data):
    canvas = data.draw(st.tuples(st.integers(height, 20), st.integers(width, 20)))
    image = torch.rand(3, height, width) + 1
    padded = pad_to_canvas(image, canvas)
    assert padded.shape[1:] == canvas
    filled = (padded[0] > 0).nonzero()
    top, left = filled.amin(0).tolist()
    assert torch.equal(padded[:, top : top + height, left : left + width], image)
    assert (padded > 0).sum() == image.numel()
    for before, after in ((top, canvas[0] - height - top), (left, canvas[1] - width - left)):
        assert after - before in (0, 1)


def test_tiles_laid_side_by_side_are_the_canvas():
    canvas = torch.rand(3, 2 * EDGE, 3 * EDGE)
    tiles = cut_tiles(canvas, EDGE)
    lines = [torch.cat(list(tiles[row * 3 : row * 3 + 3]), dim=2) for row in range(2)]
    assert torch.equal(torch.cat(lines, dim=1), canvas)


@given(SIDES, SIDES, st.integers(2, 7))
def test_features_of_another_cut_are_named(height, width, tiles):
    down, across = (side // EDGE for side in select_best_resolution((height, width), SMALL))
    assume(tiles != 1 + down * across)
    with pytest.raises(InputError, match=rf"{down} x {across} tiles, and features of {tiles - 1}"):
        pack_image_features(torch.zeros(tiles, 16, 5), (height, width), None, SMALL, EDGE)


def test_bad_sizes_are_named():
    with pytest.raises(InputError, match="0 x 5 pixels"):
        select_best_resolution((5, 0))
    with pytest.raises(InputError, match="30 x 28 cannot be cut into tiles of 28"):
        cut_tiles(torch.zeros(3, 28, 30), 28)
    with pytest.raises(InputError, match="5 x 9 does not fit a canvas of 8 x 8"):
        pad_to_canvas(torch.zeros(3, 9, 5), (8, 8))
