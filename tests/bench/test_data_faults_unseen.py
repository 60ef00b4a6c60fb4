"""Each unseen variant does what its kind says, told by json, Pillow, the tokenizer and the file system."""

import copy
import json
import os
import random

import numpy as np
import pytest
from PIL import Image

from labs.bench.data_faults_unseen import VARIANTS, _colours
from labs.bench.data_plant import Plant, records_of
from labs.models.places import ZOO
from labs.shapes import mentions
from labs.shapes.vocabulary import RGB

KINDS = (
    "bad_json missing_image truncated_image absurd_image missing_placeholder surplus_placeholder "
    "role_order empty_answer special_token_in_text answer_cut_off duplicate_sample leaked_sample "
    "low_clip_score near_duplicate_image"
).split()
PICTURES = ("missing_image", "truncated_image", "absurd_image", "near_duplicate_image")
TOKENS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with records in both languages, of one turn and of several."""
    folder = tmp_path_factory.mktemp("unseen")
    records = records_of(folder, 9, "train", 0)
    assert {len(r["conversations"]) == 2 for r in records} == {True, False}
    assert {words(r).isascii() for r in records} == {True, False}
    return folder, records


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(ZOO / "tiny-sft")


def words(record):
    return "".join(turn["value"] for turn in record["conversations"])


def said(record, role):
    return [turn["value"] for turn in record["conversations"] if turn["from"] == role]


def roles(record):
    return [turn["from"] for turn in record["conversations"]]


def pixels(folder, record, size=None):
    with Image.open(folder / record["image"]) as image:
        image = image.convert("RGB")
        return np.asarray(image.resize(size) if size else image, np.int16)


def of(*kinds):
    ways = [way for kind in kinds for way in VARIANTS[kind]]
    return pytest.mark.parametrize("variant", ways, ids=[way.__name__ for way in ways])


def planted(world, variant):
    """(plant, what its record was) for every record but the first."""
    folder, records = world
    for index in range(1, len(records)):
        record, other = copy.deepcopy(records[index]), copy.deepcopy(records[index - 1])
        spot = Plant(record, folder, random.Random(index), other)
        variant(spot)
        assert other == records[index - 1], "the other record is not to be changed"
        yield spot, records[index]


def test_there_are_two_variants_of_each_kind_with_a_sentence_each():
    ways = [way for group in VARIANTS.values() for way in group]
    assert list(VARIANTS) == KINDS and all(len(group) == 2 for group in VARIANTS.values())
    assert len({way.__name__ for way in ways}) == 28
    for way in ways:
        assert way.__doc__.endswith(".") and "\n" not in way.__doc__, way.__name__


@of(*KINDS)
def test_same_generator_same_fault_and_no_file_changed(variant, world, tmp_path):
    folder, records = world
    results = []
    for run in ("a", "b"):
        place = tmp_path / run
        (place / "images").mkdir(parents=True)
        for record in records[:2]:
            (place / record["image"]).write_bytes((folder / record["image"]).read_bytes())
        spot = Plant(copy.deepcopy(records[1]), place, random.Random(3), records[0])
        variant(spot)
        files = {p.relative_to(place): p.read_bytes() for p in place.rglob("*") if p.is_file()}
        results.append((spot.record, spot.line, spot.other_split, files))
        for record in records[:2]:
            assert (place / record["image"]).read_bytes() == (folder / record["image"]).read_bytes()
    assert results[0] == results[1]


@of(*(kind for kind in KINDS if kind != "bad_json"))
def test_the_record_is_still_a_whole_llava_record(variant, world):
    for spot, before in planted(world, variant):
        assert spot.line is None
        assert spot.record["id"] == before["id"]
        assert set(spot.record) == {"id", "image", "conversations"}
        assert set(roles(spot.record)) == {"human", "gpt"}
        assert roles(spot.record)[-1] == "gpt"


@of(*(kind for kind in KINDS if not kind.endswith("_placeholder") and kind != "bad_json"))
def test_one_placeholder_in_a_question_where_placeholders_are_not_the_fault(variant, world):
    for spot, _ in planted(world, variant):
        assert "".join(said(spot.record, "human")).count("<image>") == 1
        assert "<image>" not in "".join(said(spot.record, "gpt"))


@of(*(kind for kind in KINDS if kind not in (*PICTURES, "bad_json")))
def test_the_picture_is_whole_where_the_picture_is_not_the_fault(variant, world):
    for spot, _ in planted(world, variant):
        assert pixels(spot.folder, spot.record).shape == (48, 48, 3)


@of("missing_image", "truncated_image", "absurd_image")
def test_the_words_stay_where_the_picture_is_the_fault(variant, world):
    for spot, before in planted(world, variant):
        assert spot.record["conversations"] == before["conversations"]
        assert spot.record["image"] != before["image"]


@of("bad_json")
def test_bad_json(variant, world):
    for spot, before in planted(world, variant):
        assert spot.record == before and len(spot.line.splitlines()) == 1
        with pytest.raises(json.JSONDecodeError):
            json.loads(spot.line)


@of("missing_image")
def test_missing_image(variant, world):
    for spot, _ in planted(world, variant):
        name = spot.record["image"].removeprefix("images/")
        assert name not in os.listdir(spot.folder / "images")


@of("truncated_image")
def test_truncated_image(variant, world):
    for spot, _ in planted(world, variant):
        with Image.open(spot.folder / spot.record["image"]) as image:
            assert image.size == (48, 48)  # the header is whole: it is an image
            with pytest.raises(OSError):
                image.load()


@of("absurd_image")
def test_absurd_image(variant, world):
    for spot, _ in planted(world, variant):
        with Image.open(spot.folder / spot.record["image"]) as image:
            image.load()
            assert min(image.size) < 8 or max(image.size) > 20 * min(image.size)
            assert image.mode == "RGB"


@of("missing_placeholder")
def test_missing_placeholder(variant, world):
    for spot, _ in planted(world, variant):
        assert "<image>" not in words(spot.record)
        assert roles(spot.record)[:2] == ["human", "gpt"]


@of("surplus_placeholder")
def test_surplus_placeholder(variant, world):
    for spot, before in planted(world, variant):
        assert "".join(said(spot.record, "human")).count("<image>") > 1
        assert spot.record["image"] == before["image"]


@of("role_order")
def test_role_order(variant, world):
    for spot, _ in planted(world, variant):
        order = roles(spot.record)
        assert order != ["human", "gpt"] * (len(order) // 2)
        assert all(turn["value"].strip() for turn in spot.record["conversations"])


@of("empty_answer")
def test_empty_answer(variant, world):
    for spot, _ in planted(world, variant):
        blank = [a for a in said(spot.record, "gpt") if not a.replace("\u2800", "").strip()]
        assert len(blank) == 1
        assert roles(spot.record) == ["human", "gpt"] * (len(roles(spot.record)) // 2)


@of("special_token_in_text")
def test_special_token_in_text(variant, world, tokenizer):
    special = {tokenizer.convert_tokens_to_ids(token) for token in TOKENS}
    assert len(special) == 3
    for spot, before in planted(world, variant):
        assert special & set(tokenizer(words(spot.record))["input_ids"])
        assert not special & set(tokenizer(words(before))["input_ids"])


@of("answer_cut_off")
def test_answer_cut_off(variant, world, tokenizer):
    for spot, before in planted(world, variant):
        first = spot.record["conversations"][0]["value"]
        # The question alone fills the limit, whatever the template and the picture add.
        assert len(tokenizer(first)["input_ids"]) > spot.max_length
        assert first.startswith("<image>\n"), "the picture itself is not cut off"
        assert first.endswith(before["conversations"][0]["value"].removeprefix("<image>\n"))
        assert spot.record["conversations"][1:] == before["conversations"][1:]


@of("duplicate_sample")
def test_duplicate_sample(variant, world):
    for spot, _ in planted(world, variant):
        assert (spot.folder / spot.record["image"]).samefile(spot.folder / spot.other["image"])

        def bare(record):
            return [t["value"].replace("<image>", "").strip() for t in record["conversations"]]

        assert bare(spot.record) == bare(spot.other)
        assert roles(spot.record) == roles(spot.other)
        assert spot.record["id"] != spot.other["id"]


@of("leaked_sample")
def test_leaked_sample(variant, world):
    for spot, before in planted(world, variant):
        assert spot.record == before
        (leaked,) = spot.other_split
        assert leaked["conversations"] == before["conversations"] and leaked["id"] != before["id"]
        assert (pixels(spot.folder, leaked) == pixels(spot.folder, before)).all()


@of("low_clip_score")
def test_low_clip_score(variant, world):
    for spot, _ in planted(world, variant):
        answer = spot.record["conversations"][1]["value"]
        named = {m.colour for m in mentions(answer)}
        shown = _colours(Image.open(spot.folder / spot.record["image"]))
        assert named and named <= set(RGB) and not named & shown
        assert len(mentions(answer)) >= 2 and len(spot.record["conversations"]) == 2


def test_the_colours_of_a_picture_are_those_of_its_scene():
    from labs.shapes import render, sample_scene

    rng = random.Random(0)
    for _ in range(30):
        scene = sample_scene(rng)
        assert _colours(render(scene)) == {o.colour for o in scene.objects}


@of("near_duplicate_image")
def test_near_duplicate_image(variant, world):
    folder, records = world
    for spot, _ in planted(world, variant):
        size = (24, 24)  # at half the size grain and edges blur
        changed, original = (pixels(folder, r, size) for r in (spot.record, spot.other))
        rest = [pixels(folder, r, size) for r in records if r["id"] != spot.other["id"]]
        apart = np.abs(changed - original).mean()
        assert 0 < apart < 12
        assert apart < min(np.abs(changed - image).mean() for image in rest)
        assert spot.record["image"] != spot.other["image"]
        assert spot.record["conversations"] != spot.other["conversations"]
        assert spot.record["conversations"][1]["value"] in said(spot.other, "gpt")
