"""Every family as released: held to the memory doctor's own arithmetic and to Transformers' processors."""

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from transformers import AutoConfig
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

from labs.doctors.memory.setup.visual import family_of
from labs.errors import InputError
from labs.models.resolution import FAMILIES, family

SIDES = st.integers(1, 4096)
CLIP = {"model_type": "clip_vision_model", "image_size": 336, "patch_size": 14}
QWEN = {"min_pixels": 3136, "max_pixels": 12845056}
SPLIT = {
    "idefics3": {"size": {"longest_edge": 1456}, "max_image_size": {"longest_edge": 364}},
    "smolvlm": {"size": {"longest_edge": 1536}, "max_image_size": {"longest_edge": 384}},
}
# name -> (model type, what its configuration sets, what its image processor sets)
RELEASED = {
    "llava-1.5": ("llava", {"vision_config": CLIP}, {}),
    "llava-next": ("llava_next", {"vision_config": CLIP}, {}),
    "qwen2-vl": ("qwen2_vl", {}, QWEN),
    "qwen2.5-vl": ("qwen2_5_vl", {}, QWEN),
    "qwen3-vl": ("qwen3_vl", {}, {"min_pixels": 65536, "max_pixels": 16777216}),
    "internvl3": ("internvl", {}, {"max_patches": 12}),
    "idefics3": (
        "idefics3",
        {"vision_config": {"image_size": 364, "patch_size": 14}, "scale_factor": 2},
        SPLIT["idefics3"],
    ),
    "smolvlm": (
        "smolvlm",
        {"vision_config": {"image_size": 384, "patch_size": 14}, "scale_factor": 3},
        SPLIT["smolvlm"],
    ),
    "paligemma": (
        "paligemma",
        {"vision_config": {"model_type": "siglip_vision_model", "image_size": 224, "patch_size": 14}},
        {},
    ),
}  # fmt: skip


def extremes(test):
    for size in [(1, 1), (1, 4096), (4096, 1), (4096, 4096), (20, 4000), (364, 364), (365, 364)]:
        test = example(height=size[0], width=size[1])(test)
    return test


@pytest.fixture(scope="module")
def doctors():
    """name -> the doctor's family of a configuration as released."""
    return {
        name: family_of(AutoConfig.for_model(kind, **config), processor)
        for name, (kind, config, processor) in RELEASED.items()
    }


def test_every_family_is_held_to_the_doctors():
    assert {id(family(name)) for name in RELEASED} == {id(one) for one in FAMILIES.values()}


@pytest.mark.parametrize("name", RELEASED)
@extremes
@settings(max_examples=100)
@given(height=SIDES, width=SIDES)
def test_the_doctor_counts_the_same(doctors, name, height, width):
    try:
        want = doctors[name].image(width, height)
    except InputError:
        with pytest.raises(InputError, match="200 times"):
            family(name).cut((height, width))
        return
    got = family(name).cut((height, width))
    assert got.tokens == want.tokens
    assert got.tiles[0] * got.tiles[1] + got.overview == want.tiles
    if name != "paligemma":  # the doctor adds the line break that ends PaliGemma's prompt
        assert got.markers == want.around


@pytest.mark.parametrize("name", FAMILIES)
@extremes
@settings(max_examples=100)
@given(height=SIDES, width=SIDES)
def test_the_parts_of_a_cut_agree(name, height, width):
    assume(max(height, width) <= 200 * min(height, width))
    cut = family(name).cut((height, width))
    assert all(0 < seen <= of for seen, of in zip(cut.picture, cut.canvas, strict=True))
    assert all(of % tiles == 0 for of, tiles in zip(cut.canvas, cut.tiles, strict=True))
    cells = cut.cells[0] * cut.cells[1]
    if name == "llava-next":
        assert cut.tokens == 576 + cells + cut.cells[0]  # an overview, and a newline a row
    else:
        tiles = cut.tiles[0] * cut.tiles[1]
        assert cut.tokens == cells + (cells // tiles if cut.overview else 0)


@pytest.mark.parametrize("name", SPLIT)
@extremes
@settings(max_examples=200)
@given(height=SIDES, width=SIDES)
def test_the_rows_and_columns_of_idefics3_are_the_processors(name, height, width):
    processor = Idefics3ImageProcessorPil(**SPLIT[name])
    tiles, rows, columns = processor.get_number_of_image_patches(height, width)
    cut = family(name).cut((height, width))
    assert cut.tiles == (rows or 1, columns or 1)
    assert tiles == cut.tiles[0] * cut.tiles[1] + cut.overview


def test_llava_15_always_costs_the_same():
    assert {family("llava-1.5").cut(size).tokens for size in [(1, 1), (9, 999), (336, 336)]} == {
        576
    }


def test_names_are_forgiving_and_a_wrong_one_names_the_nearest():
    assert family("Qwen2.5_VL") is family("qwen2-vl")
    with pytest.raises(InputError, match="no family 'qwen2-lv'") as error:
        family("qwen2-lv")
    assert "qwen2-vl?" in str(error.value.args) + str(vars(error.value))


@pytest.mark.parametrize("name", FAMILIES)
def test_no_family_takes_a_picture_without_pixels(name):
    with pytest.raises(InputError, match="3 x 0 pixels"):
        family(name).cut((0, 3))
