"""The arithmetic of visual tokens against Transformers' own processors and models, on random sizes."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import (
    LlavaNextImageProcessorPil,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from labs.doctors.memory.setup.visual import family_of
from labs.errors import InputError

SIDES = st.integers(min_value=8, max_value=300)
EXAMPLES = settings(max_examples=30)


def picture(width: int, height: int) -> Image.Image:
    # No black: Idefics3 and SmolVLM take an all-zero tile for padding.
    return Image.fromarray(np.full((height, width, 3), 200, dtype=np.uint8))


def processed(processor, width: int, height: int) -> dict:
    return processor(picture(width, height), return_tensors="pt")


def features(model, **inputs) -> int:
    """Rows of image features that the model itself makes of these pixels."""
    with torch.no_grad():
        found = model.get_image_features(**inputs).pooler_output
    return sum(part.reshape(-1, part.shape[-1]).shape[0] for part in found)


@EXAMPLES
@given(SIDES, SIDES)
def test_llava(tiny, width, height):
    config, model = tiny("llava")
    processor = LlavaImageProcessorPil(
        size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}
    )
    pixels = processed(processor, width, height)["pixel_values"]
    visual = family_of(config).image(width, height)
    assert (1, 3, *visual.tile) == tuple(pixels.shape)
    assert visual.tokens == features(model, pixel_values=pixels)


@EXAMPLES
@given(SIDES, SIDES)
def test_llava_next(tiny, width, height):
    config, model = tiny("llava_next")
    processor = LlavaNextImageProcessorPil(
        size={"shortest_edge": 28},
        crop_size={"height": 28, "width": 28},
        image_grid_pinpoints=config.image_grid_pinpoints,
    )
    got = processed(processor, width, height)
    visual = family_of(config).image(width, height)
    assert (1, visual.tiles, 3, *visual.tile) == tuple(got["pixel_values"].shape)
    assert got["image_sizes"].tolist() == [list(visual.size)]
    assert visual.tokens == features(
        model, pixel_values=got["pixel_values"], image_sizes=got["image_sizes"]
    )


@pytest.mark.parametrize("kind", ["qwen2_vl", "qwen2_5_vl"])
@EXAMPLES
@given(
    SIDES, SIDES, st.integers(min_value=4, max_value=20), st.integers(min_value=21, max_value=100)
)
def test_qwen(tiny, kind, width, height, least, most):
    config, model = tiny(kind)
    limits = {"min_pixels": least * 28 * 28, "max_pixels": most * 28 * 28}
    got = processed(Qwen2VLImageProcessorPil(**limits), width, height)
    visual = family_of(config, limits).image(width, height)
    assert [list(visual.grid)] == got["image_grid_thw"].tolist()
    assert got["pixel_values"].shape[0] == math.prod(visual.grid)
    assert visual.tokens == features(
        model, pixel_values=got["pixel_values"], image_grid_thw=got["image_grid_thw"]
    )


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_qwen_resizes_any_size_as_transformers_does(tiny, width, height):
    family = family_of(tiny("qwen2_vl")[0], {"min_pixels": 3136, "max_pixels": 12845056})
    processor = Qwen2VLImageProcessorPil(min_pixels=3136, max_pixels=12845056)
    try:
        want = processor.get_number_of_image_patches(height, width, {})
    except ValueError:
        with pytest.raises(InputError, match="200 times"):
            family.image(width, height)
    else:
        assert math.prod(family.image(width, height).grid) == want


@pytest.mark.parametrize(
    ("kind", "maker"),
    [("idefics3", Idefics3ImageProcessorPil), ("smolvlm", SmolVLMImageProcessorPil)],
)
@pytest.mark.parametrize("split", [True, False])
@EXAMPLES
@given(SIDES, SIDES)
def test_idefics3_and_smolvlm(tiny, kind, maker, split, width, height):
    config, model = tiny(kind)
    given_settings = {
        "size": {"longest_edge": 112},
        "max_image_size": {"longest_edge": 28},
        "do_image_splitting": split,
    }
    processor = maker(**given_settings)
    got = processor(picture(width, height), return_tensors="pt", return_row_col_info=True)
    visual = family_of(config, given_settings).image(width, height)
    rows, columns = got["rows"][0][0], got["cols"][0][0]
    assert (1, visual.tiles, 3, *visual.tile) == tuple(got["pixel_values"].shape)
    assert visual.tokens == features(
        model,
        pixel_values=got["pixel_values"],
        pixel_attention_mask=got["pixel_attention_mask"],
    )
    # The text that the processor writes around the tiles: one token a tag, one a line break.
    from transformers.models.smolvlm.processing_smolvlm import get_image_prompt_string

    text = get_image_prompt_string(
        rows, columns, 1, fake_token_around_image="F", image_token="I", global_image_token="G"
    )
    for row in range(rows):
        for column in range(columns):
            text = text.replace(f"<row_{row + 1}_col_{column + 1}>", "T")
    assert visual.around == len(text) - text.count("I")


@EXAMPLES
@given(SIDES, SIDES)
def test_paligemma(tiny, width, height):
    config, model = tiny("paligemma")
    processor = SiglipImageProcessorPil(size={"height": 28, "width": 28})
    pixels = processed(processor, width, height)["pixel_values"]
    visual = family_of(config).image(width, height)
    assert (1, 3, *visual.tile) == tuple(pixels.shape)
    assert visual.tokens == features(model, pixel_values=pixels)


@EXAMPLES
@given(SIDES, SIDES, st.integers(min_value=1, max_value=12))
def test_internvl(tiny, width, height, most):
    config, model = tiny("internvl")
    processor = GotOcr2ImageProcessorPil(
        size={"height": 28, "width": 28}, crop_to_patches=True, max_patches=most
    )
    pixels = processed(processor, width, height)["pixel_values"]
    visual = family_of(config, {"max_patches": most}).image(width, height)
    assert (visual.tiles, 3, *visual.tile) == tuple(pixels.shape)
    assert visual.tokens == features(model, pixel_values=pixels)


@pytest.mark.parametrize("ratio", [(1, 1), (1, 2), (3, 1), (2, 3)])
def test_internvl_where_several_grids_are_equally_near(tiny, ratio):
    family = family_of(tiny("internvl")[0])
    processor = GotOcr2ImageProcessorPil(size={"height": 28, "width": 28}, crop_to_patches=True)
    for scale in range(1, 100):
        width, height = ratio[0] * scale, ratio[1] * scale
        want = processor.get_number_of_image_patches(height, width)
        assert family.image(width, height).tiles == want, (width, height)


def test_published_numbers_of_llava_next():
    """The table of token counts of LLaVA-NeXT that chapter 1 derives from the original code."""
    from transformers import LlavaNextConfig

    config = LlavaNextConfig(
        vision_config={"model_type": "clip_vision_model", "image_size": 336, "patch_size": 14}
    )
    family = family_of(config)
    tokens = {size: family.image(*size).tokens for size in [(672, 672), (1008, 336), (640, 480)]}
    assert tokens == {(672, 672): 2928, (1008, 336): 2328, (640, 480): 2340}


def test_a_language_model_takes_no_pictures(tiny):
    with pytest.raises(InputError, match="llama is a language model"):
        family_of(tiny("llama")[0]).image(10, 10)


def test_an_unknown_way_with_pictures_is_said():
    from transformers import AutoConfig

    with pytest.raises(InputError, match="How florence2 turns pictures"):
        family_of(AutoConfig.for_model("florence2"))
