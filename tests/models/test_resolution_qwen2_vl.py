"""Qwen2-VL's smart_resize, token count and patches against Transformers' own."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from transformers.models.qwen2_vl import image_processing_pil_qwen2_vl as theirs

from labs.errors import InputError
from labs.models.resolution import patchify, qwen2_vl_tokens, smart_resize
from labs.models.resolution.qwen2_vl import MAX_PIXELS, MIN_PIXELS

SIDES = st.integers(1, 4096)


@example(height=1, width=1, factor=28, limits=(MIN_PIXELS, MAX_PIXELS))
@example(height=4096, width=4096, factor=28, limits=(MIN_PIXELS, MAX_PIXELS))
@example(height=1, width=4096, factor=28, limits=(MIN_PIXELS, MAX_PIXELS))
@example(height=4096, width=1, factor=28, limits=(MIN_PIXELS, MAX_PIXELS))
@example(height=20, width=4000, factor=28, limits=(MIN_PIXELS, MAX_PIXELS))  # 200 is allowed
@example(height=4001, width=20, factor=28, limits=(MIN_PIXELS, MAX_PIXELS))
@example(height=14, width=42, factor=28, limits=(0, MAX_PIXELS))  # halves, to the even number
@settings(max_examples=400)
@given(
    height=SIDES,
    width=SIDES,
    factor=st.sampled_from([28, 28, 32, 14, 5]),
    limits=st.one_of(
        st.just((MIN_PIXELS, MAX_PIXELS)),
        st.tuples(st.integers(1, 10**5), st.integers(10**5, 10**7)),
    ),
)
def test_the_size_is_theirs(height, width, factor, limits):
    try:
        want = theirs.smart_resize(height, width, factor, *limits)
    except ValueError:
        with pytest.raises(InputError, match=f"{width} x {height} .* 200 times"):
            smart_resize(height, width, factor, *limits)
        return
    got = smart_resize(height, width, factor, *limits)
    assert got == want
    assert got[0] % factor == got[1] % factor == 0


@settings(max_examples=200)
@given(SIDES, SIDES)
def test_the_token_count_is_the_processors(height, width):
    assume(max(height, width) <= 200 * min(height, width))
    processor = theirs.Qwen2VLImageProcessorPil(min_pixels=MIN_PIXELS, max_pixels=MAX_PIXELS)
    patches = processor.get_number_of_image_patches(height, width, {})
    assert qwen2_vl_tokens((height, width)) == patches // processor.merge_size**2


@settings(max_examples=200)
@given(st.integers(14, 4096), st.integers(14, 4096))
def test_what_it_promises(height, width):
    """Within the limits; neither side off by more than rounding; a second pass changes nothing."""
    assume(max(height, width) <= 200 * min(height, width))
    new_height, new_width = smart_resize(height, width)
    assert MIN_PIXELS <= new_height * new_width <= MAX_PIXELS
    assert smart_resize(new_height, new_width) == (new_height, new_width)
    if MIN_PIXELS <= 28**2 * round(height / 28) * round(width / 28) <= MAX_PIXELS:
        assert abs(new_height - height) <= 14 and abs(new_width - width) <= 14


def test_the_chapters_numbers():
    assert smart_resize(1080, 1920) == (1092, 1932)
    assert qwen2_vl_tokens((1080, 1920)) == 69 * 39 == 2691
    assert qwen2_vl_tokens((224, 224)) == 64  # and two markers: the 66 of the paper


def test_a_thin_picture_counts_as_too_small():
    """A side that rounds to nothing sends it to the lower limit, whatever the other side."""
    assert smart_resize(13, 2000) == (28, 700)
    assert smart_resize(14, 2000) == (28, 672)  # 14 / 28 is a half, and zero is even
    assert smart_resize(15, 2000) == (28, 1988)


@settings(max_examples=40)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 2**31))
def test_patches_are_the_processors_pixels(rows, columns, seed):
    shape = (3, rows * 28, columns * 28)
    picture = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    processor = theirs.Qwen2VLImageProcessorPil(
        min_pixels=784, max_pixels=MAX_PIXELS, do_rescale=False, do_normalize=False
    )
    out = processor(picture, input_data_format="channels_first", return_tensors="pt")
    got = patchify(torch.from_numpy(picture))
    assert out["image_grid_thw"].tolist() == [[1, rows * 2, columns * 2]]
    torch.testing.assert_close(got, out["pixel_values"], check_dtype=False)
    # Four rows in a row are the 28 x 28 pixels of one token.
    assert got[:4].sum() == 2 * torch.from_numpy(picture[:, :28, :28].astype(int)).sum()
    assert len(got) == 4 * math.prod((rows, columns))


def test_bad_sizes_are_named():
    with pytest.raises(InputError, match="5 x 0 pixels"):
        smart_resize(0, 5)
    with pytest.raises(InputError, match="30 x 28 cannot be cut into tokens of 28"):
        patchify(torch.zeros(3, 28, 30))
