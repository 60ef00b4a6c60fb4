"""Pairs as tokens: what is encoded, what is skipped, and what a batch holds once."""

import dataclasses
import random

import pytest
import torch
from PIL import Image

from labs.data.encode import encode
from labs.data.labels import IGNORE
from labs.data.skips import Skip
from labs.errors import InputError
from labs.formats import Turn
from labs.train.preference.collate import PreferenceCollator, images_of, rows_of
from labs.train.preference.pairs import PreferencePairs, crop, encode_preference
from tests.train.preference.preference_runs import pair, some_pairs


def test_prompt_and_answers_are_what_supervised_training_sees(processor):
    for given in some_pairs(3):
        made = encode_preference(given, processor)
        for side in ("chosen", "rejected"):
            whole = encode(given.to_conversation(side == "chosen"), processor)
            end = int((whole["labels"] != IGNORE).nonzero()[-1]) + 1
            both = torch.cat([made["prompt"], made[side]])
            assert torch.equal(both, whole["input_ids"][:end])
            assert torch.equal(made[side], whole["labels"][:end][whole["labels"][:end] != IGNORE])
            assert torch.equal(made["pixels"]["pixel_values"], whole["pixel_values"])
        said = processor.tokenizer.decode(made["chosen"])
        assert said == given.chosen + "<|im_end|>"


def test_an_earlier_answer_belongs_to_the_prompt(processor):
    given = pair()
    turns = (*given.prompt, Turn("assistant", "maybe"), Turn("user", "Say yes or no."))
    made = encode_preference(dataclasses.replace(given, prompt=turns), processor)
    assert "maybe" in processor.tokenizer.decode(made["prompt"])
    assert processor.tokenizer.decode(made["chosen"]) == given.chosen + "<|im_end|>"


@pytest.mark.parametrize(
    "reason, given, room",
    [
        ("no_difference", pair(chosen="yes", rejected="yes"), None),
        ("truncated", pair(chosen="yes " * 9 + "yes", rejected="yes " * 9 + "no"), 8),
        ("prompt_eaten", pair(), 0),
        ("different_images", pair(rejected_images=["elsewhere.png"]), None),
    ],
)
def test_pairs_that_teach_nothing_are_skipped_by_reason(processor, reason, given, room):
    length = None
    if room is not None:
        length = len(encode_preference(given, processor)["prompt"]) + room
    with pytest.raises(Skip) as caught:
        encode_preference(given, processor, length)
    assert caught.value.reason == reason and given.id in str(caught.value)
    data = PreferencePairs([given, pair(1)], processor, length)
    if length is None:
        assert data[0]["index"] == 1, "the next usable one takes its place"
        assert data.skipped == {reason: 1}


def test_one_token_of_room_is_enough_and_the_end_is_what_is_cut(processor):
    given = pair(chosen="yes it is", rejected="no it is not")
    whole = encode_preference(given, processor)
    cut = encode_preference(given, processor, len(whole["prompt"]) + 1)
    for side in ("chosen", "rejected"):
        assert torch.equal(cut[side], whole[side][:1])
    assert torch.equal(cut["prompt"], whole["prompt"])


def test_the_same_images_named_twice_are_no_reason(processor):
    given = pair()
    named = dataclasses.replace(
        given, meta={"chosen_images": list(given.images), "rejected_images": given.images[0]}
    )
    assert torch.equal(encode_preference(named, processor)["chosen"], encode_preference(given, processor)["chosen"])  # fmt: skip


def test_more_than_5_percent_useless_is_refused_unless_told(processor):
    same = pair(chosen="no", rejected="no")

    def seen(useless, **changes):
        data = PreferencePairs([same] * useless + [pair()] * (100 - useless), processor, keep=True, **changes)  # fmt: skip
        for i in range(100):
            data.usable(i)
        return data

    seen(5).check()
    with pytest.raises(InputError, match=r"6 of 100 pairs cannot be used \(6 with two answers"):
        seen(6).check()
    seen(6, limit=1).check()
    with pytest.raises(InputError, match="None of the 2 pairs"):
        PreferencePairs([same] * 2, processor)[0]
    with pytest.raises(InputError, match="no preference pairs"):
        PreferencePairs([], processor)
    with pytest.raises(IndexError):
        PreferencePairs([same], processor)[1]


def test_a_batch_holds_each_prompt_and_picture_once(processor):
    data = PreferencePairs(some_pairs(), processor)
    items = [data[i] for i in range(5)]
    batch = PreferenceCollator(processor)(items)
    rows = rows_of(batch)
    assert len(batch["images/pixel_values"]) == 5 and len(rows) == 10
    for row in range(10):
        item, side = items[row % 5], ("chosen", "rejected")[row // 5]
        start, end = int(rows.starts[row]), int(rows.lengths[row])
        assert torch.equal(rows.input_ids[row, :start], item["prompt"])
        assert torch.equal(rows.input_ids[row, start:end], item[side])
        assert torch.equal(rows.ids[row][rows.mask[row]], item[side])
        assert int(rows.prompt[row]) == row % 5
    twice = images_of(batch, [3, 3, 0])["pixel_values"]
    for place, number in enumerate((3, 3, 0)):
        assert torch.equal(twice[place], items[number]["pixels"]["pixel_values"][0])


def test_kto_puts_the_answers_of_the_pair_before_behind_each_prompt(processor):
    data = PreferencePairs(some_pairs(3), processor)
    items = [data[i] for i in range(3)]
    others = rows_of(PreferenceCollator(processor, mismatched=True)(items), "others/")
    for row in range(6):
        side = ("chosen", "rejected")[row // 3]
        assert torch.equal(others.ids[row][others.mask[row]], items[row % 3 - 1][side])
        assert torch.equal(others.input_ids[row, : others.starts[row]], items[row % 3]["prompt"])
    with pytest.raises(InputError, match="one pair"):
        PreferenceCollator(processor, mismatched=True)(items[:1])


def test_the_corrupted_image_is_a_small_piece_drawn_by_seed_and_pair(processor):
    given = pair(task="caption")
    one, again = (encode_preference(given, processor, corrupted=True) for _ in range(2))
    other = encode_preference(given, processor, corrupted=True, seed=1)
    assert torch.equal(one["corrupted"]["pixel_values"], again["corrupted"]["pixel_values"])
    assert not torch.equal(one["corrupted"]["pixel_values"], other["corrupted"]["pixel_values"])
    assert not torch.equal(one["corrupted"]["pixel_values"], one["pixels"]["pixel_values"])
    named = dataclasses.replace(given, meta={"corrupted_images": list(given.images)})
    same = encode_preference(named, processor, corrupted=True)
    assert torch.equal(same["corrupted"]["pixel_values"], same["pixels"]["pixel_values"])
    text = dataclasses.replace(given, images=(), prompt=(Turn("user", "Hi"),))
    with pytest.raises(InputError, match="no image to corrupt"):
        encode_preference(text, processor, corrupted=True)


def test_crop_keeps_size_and_at_most_a_fifth_of_the_area():
    gradient = Image.linear_gradient("L").resize((60, 40))  # brightness says how far down
    for seed in range(20):
        made = crop(gradient, random.Random(seed))
        assert made.size == (60, 40)
        low, high = made.getextrema()
        assert (high - low) / 255 <= 0.2**0.5 + 0.05
