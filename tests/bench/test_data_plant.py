"""Each planted fault is what its name says, and nothing else: told without any detector.

The checks here use the strict reader, Pillow, the tokenizer and the file system.
"""

import copy
import json
import os
import random
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from labs.bench.data_faults_blind import VARIANTS
from labs.bench.data_plant import Plant, records_of
from labs.doctors.data.kinds import KINDS
from labs.errors import InputError
from labs.formats import IMAGE, load_image, parse_conversation

ALL = [(kind, variant) for kind, ways in VARIANTS.items() for variant in ways]
NAMES = [f"{kind}-{variant.__name__}" for kind, variant in ALL]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A data folder and its records: both languages, one turn and several."""
    folder = tmp_path_factory.mktemp("world")
    records = records_of(folder, 12, "train", 5)
    lengths = {len(record["conversations"]) > 2 for record in records}
    chinese = {
        any(ord(c) > 0x4E00 for t in r["conversations"] for c in t["value"]) for r in records
    }
    assert lengths == chinese == {True, False}
    return folder, records


def planted(world, variant, seed=0):
    """Plant once in each record but the first; what was there before must be there after."""
    folder, records = world
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for index in range(1, len(records)):
        other = copy.deepcopy(records[index - 1])
        spot = Plant(
            copy.deepcopy(records[index]), folder, random.Random(seed * 100 + index), other
        )
        variant(spot)
        assert other == records[index - 1], "the other record was changed"
        yield spot, records[index], records[index - 1]
    assert all(path.read_bytes() == data for path, data in before.items()), "a file was changed"
    for path in folder.rglob("*"):
        if path.is_file() and path not in before:
            path.unlink()


def of(kind):
    ways = VARIANTS[kind]
    return pytest.mark.parametrize("variant", ways, ids=[way.__name__ for way in ways])


def pictures(record):
    value = record.get("image", record.get("images"))
    return value if isinstance(value, list) else [value] if value else []


def placeholders(record):
    return sum((turn["value"] or "").count(IMAGE) for turn in record["conversations"])


def roles(record):
    return [turn["from"] for turn in record["conversations"]]


def test_the_kinds_are_the_doctor_s_and_the_variants_are_told_apart():
    assert set(VARIANTS) <= set(KINDS)
    assert all(2 <= len(ways) <= 4 for ways in VARIANTS.values())
    names = [variant.__name__ for _, variant in ALL]
    assert len(set(names)) == len(names)
    assert all(variant.__doc__ and variant.__doc__.strip().endswith(".") for _, variant in ALL)


@pytest.mark.parametrize(("kind", "variant"), ALL, ids=NAMES)
def test_the_same_seed_plants_the_same(world, kind, variant):
    def told():
        return [
            (spot.line, json.dumps(spot.record), json.dumps(spot.other_split))
            for spot, _, _ in planted(world, variant, seed=3)
        ]

    assert told() == told()


@pytest.mark.parametrize(("kind", "variant"), ALL, ids=NAMES)
def test_every_line_is_one_line_and_its_id_stays(world, kind, variant):
    for spot, original, _ in planted(world, variant):
        line = spot.line if spot.line is not None else json.dumps(spot.record, ensure_ascii=False)
        assert len(line.splitlines()) == 1
        assert spot.record["id"] == original["id"]
        assert (kind == "bad_json") == (spot.line is not None)


WHOLE = {
    "missing_image", "truncated_image", "absurd_image", "special_token_in_text", "answer_cut_off",
    "duplicate_sample", "leaked_sample", "low_clip_score", "near_duplicate_image",
}  # fmt: skip


@pytest.mark.parametrize(("kind", "variant"), ALL, ids=NAMES)
def test_the_strict_reader_takes_what_is_wrong_elsewhere_and_refuses_the_rest(world, kind, variant):
    if kind == "bad_json":
        return  # below
    for spot, _, _ in planted(world, variant):
        if kind in WHOLE or variant.__name__ in ("stopped_at_once", "invisible_characters"):
            parse_conversation(spot.record)
        else:
            with pytest.raises(InputError):
                parse_conversation(spot.record)


@of("bad_json")
def test_bad_json(world, variant):
    for seed in range(3):
        for spot, _, _ in planted(world, variant, seed):
            with pytest.raises(json.JSONDecodeError):
                json.loads(spot.line)


@of("missing_image")
def test_missing_image(world, variant):
    for spot, original, _ in planted(world, variant):
        assert not os.path.lexists(spot.folder / spot.record["image"])
        assert spot.record["conversations"] == original["conversations"]


@of("truncated_image")
def test_truncated_image(world, variant):
    for seed in range(3):
        for spot, original, _ in planted(world, variant, seed):
            path = spot.folder / spot.record["image"]
            assert path.stat().st_size > 0 and spot.record["image"] != original["image"]
            with Image.open(path) as image:  # its header is whole ...
                assert image.width >= 48
                with pytest.raises((OSError, SyntaxError)):  # ... and its pixels are not
                    image.load()
            with pytest.raises(InputError, match="truncated or damaged"):
                load_image(path)


@of("absurd_image")
def test_absurd_image(world, variant):
    for spot, _, _ in planted(world, variant):
        width, height = load_image(spot.folder / spot.record["image"]).size
        assert min(width, height) < 8 or max(width, height) / min(width, height) > 20
        assert width * height < 10**6


@of("missing_placeholder")
def test_missing_placeholder(world, variant):
    for spot, _, _ in planted(world, variant):
        assert placeholders(spot.record) < len(pictures(spot.record))
        assert all((spot.folder / image).is_file() for image in pictures(spot.record))


@of("surplus_placeholder")
def test_surplus_placeholder(world, variant):
    for spot, _, _ in planted(world, variant):
        assert placeholders(spot.record) > len(pictures(spot.record))
        assert roles(spot.record) == ["human", "gpt"] * (len(roles(spot.record)) // 2)


@of("role_order")
def test_role_order(world, variant):
    for spot, original, _ in planted(world, variant):
        order = roles(spot.record)
        assert order != ["human", "gpt"] * (len(order) // 2)
        assert placeholders(spot.record) == placeholders(original) == 1
        assert order[-1] == "gpt" and all(turn["value"] for turn in spot.record["conversations"])


def seen(text):
    """The characters that show anything: no space, no control or format character."""
    return [c for c in text or "" if unicodedata.category(c)[0] not in "ZC"]


@of("empty_answer")
def test_empty_answer(world, variant):
    for seed in range(3):
        for spot, _, _ in planted(world, variant, seed):
            empty = [t for t in spot.record["conversations"] if not seen(t["value"])]
            assert [turn["from"] for turn in empty] == ["gpt"]


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    import labs

    return AutoTokenizer.from_pretrained(Path(labs.__file__).parent / "zoo/weights/tiny-sft")


@of("special_token_in_text")
def test_special_token_in_text(world, variant, tokenizer):
    """One of the tiny model's own tokens, or the end token of LLaMA, which is none of its own."""
    special = {*tokenizer.all_special_tokens, "<|im_start|>", "</s>"} - {IMAGE}
    for seed in range(3):
        for spot, original, _ in planted(world, variant, seed):
            text = "".join(turn["value"] for turn in spot.record["conversations"])
            assert any(token in text for token in special)
            before = "".join(turn["value"] for turn in original["conversations"])
            assert not any(token in before for token in special)
            assert placeholders(spot.record) == 1


@of("answer_cut_off")
def test_answer_cut_off(world, variant, tokenizer):
    """The texts alone, without template and image, fill the limit before the last answer begins."""
    for spot, original, _ in planted(world, variant):
        *before, answer = spot.record["conversations"]
        length = sum(
            len(tokenizer(turn["value"], add_special_tokens=False).input_ids) for turn in before
        )
        assert length > spot.max_length == 512
        assert answer["from"] == "gpt" and seen(answer["value"])
        assert spot.record["image"] == original["image"] and placeholders(spot.record) == 1


def content(record, folder):
    """What a sample says and shows, in whichever dialect and under whichever names."""
    conversation = parse_conversation(record)
    shown = [(folder / image).read_bytes() for image in conversation.images]
    return conversation.turns, shown


@of("duplicate_sample")
def test_duplicate_sample(world, variant):
    for spot, original, other in planted(world, variant):
        assert content(spot.record, spot.folder) == content(other, spot.folder)
        assert content(spot.record, spot.folder) != content(original, spot.folder)


@of("leaked_sample")
def test_leaked_sample(world, variant):
    for spot, original, _ in planted(world, variant):
        assert spot.record == original
        (leaked,) = spot.other_split
        assert content(leaked, spot.folder) == content(original, spot.folder)
        assert leaked["id"] != original["id"]


@of("low_clip_score")
def test_low_clip_score(world, variant):
    captions = []
    for spot, original, _ in planted(world, variant):
        assert spot.record["image"] == original["image"] and roles(spot.record) == ["human", "gpt"]
        captions.append(spot.record["conversations"][1]["value"])
        assert captions[-1] not in [turn["value"] for turn in original["conversations"]]
        chinese = [
            any(ord(c) > 0x4E00 for turn in record["conversations"] for c in turn["value"])
            for record in (spot.record, original)
        ]
        assert chinese[0] == chinese[1]
    assert len(set(captions)) > len(captions) // 2


@of("near_duplicate_image")
def test_near_duplicate_image(world, variant):
    """Nearer to the other's picture than any two pictures of the world are to each other."""
    folder, records = world

    def small(path):
        image = load_image(folder / path).resize((24, 24), Image.Resampling.BOX)
        return np.asarray(image, dtype=float)

    plain = [small(record["image"]) for record in records]
    apart = min(np.abs(a - b).mean() for i, a in enumerate(plain) for b in plain[:i])
    for seed in range(3):
        for spot, _, other in planted(world, variant, seed):
            copied, first = spot.folder / spot.record["image"], spot.folder / other["image"]
            assert copied.read_bytes() != first.read_bytes()
            difference = np.abs(small(spot.record["image"]) - small(other["image"])).mean()
            assert 0 < difference < apart, (difference, apart)
            assert parse_conversation(spot.record).turns != parse_conversation(other).turns
            answers = {turn["value"] for turn in other["conversations"]}
            assert spot.record["conversations"][1]["value"] in answers
