import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labs.errors import InputError
from labs.evaluation.captions import bleu, cider, words

sentence = st.lists(st.sampled_from("a red big ring cube on the 红".split()), max_size=9).map(
    " ".join
)
items = st.lists(
    st.tuples(sentence, st.lists(sentence, min_size=1, max_size=4)), min_size=2, max_size=6
)


def split(items):
    return [said for said, _ in items], [many for _, many in items]


# Sets of made-up captions, and what pycocoevalcap 1.2 gives them (its wheel, with the Java programs of
# other metrics, is a hundred megabytes: too much for every run of the tests).
OFFICIAL = json.loads((Path(__file__).parent / "official" / "captions.json").read_text())


@pytest.mark.parametrize("example", OFFICIAL["sets"])
def test_equal_to_the_reference_implementation(example):
    said, many = split(example["items"])
    got = cider(said, many, tokenize=str.split, per_item=True)
    assert got == pytest.approx(example["cider"], abs=1e-9)
    assert cider(said, many, tokenize=str.split) == pytest.approx(np.mean(example["cider"]))
    for order, wanted in enumerate(example["bleu"], 1):
        assert bleu(said, many, order, tokenize=str.split) == pytest.approx(wanted, abs=1e-9)


def test_cider_of_the_truth_and_of_rare_words():
    many = [["a red ring and a blue cube"], ["a big star on the left"], ["two green crosses here"]]
    assert cider([m[0] for m in many], many) == pytest.approx(10)
    assert cider(["nothing of it"] * 3, many) == 0
    # "a" is in two of three pictures, "ring" in one: naming it is worth more.
    common, rare = (cider([x, "", ""], many, per_item=True)[0] for x in ("a", "ring"))
    assert rare > common > 0
    # Saying it twice is clipped, and the longer text pays for its length.
    once = cider(["red ring", "", ""], many, per_item=True)[0]
    assert cider(["red ring red ring red ring", "", ""], many, per_item=True)[0] < once


def test_cider_worked_by_hand():
    # Unigrams only: x is in one of two pictures, so it weighs log 2; cosine 1, of four lengths one.
    assert cider(["x", "y"], [["x"], ["y"]]) == pytest.approx(10 / 4)
    # "x y" against "x": g = log 2 · (1, 1) and (1, 0), cosine 1/sqrt 2; one word more.
    got = cider(["x y", "z"], [["x"], ["z"]], per_item=True)[0]
    assert got == pytest.approx(10 / 4 / math.sqrt(2) * math.exp(-1 / 72))


def test_bleu_worked_by_hand():
    # Papineni's example: "the" seven times is clipped to two.
    said = ["the the the the the the the"]
    assert bleu(said, [["the cat is on the mat", "there is a cat on the mat"]], 1) == pytest.approx(
        2 / 7
    )
    # Two words of two found, four were wanted: e^(1 - 4/2).
    assert bleu(["a b"], [["a b c d"]], 2) == pytest.approx(math.exp(-1))
    assert bleu(["a b c d e"], [["a b c d e"]]) == pytest.approx(1)
    # Of references as near in length the shorter counts: no penalty for three words of two or four.
    assert bleu(["a b c"], [["a b", "a b c d"]], 1) == pytest.approx(1)
    # Counts are summed over the set first: it is no mean of items.
    both = bleu(["a b c d", "x"], [["a b c d"], ["y y y y"]], 1)
    assert both == pytest.approx(4 / 5 * math.exp(1 - 8 / 5))
    assert bleu(["q q q q q"], [["a b c d e"]]) < 1e-4


def test_words_of_both_languages():
    assert words("A dog's T-shirt, on 2 balls!") == ["a", "dog's", "t", "shirt", "on", "2", "balls"]
    assert words("左边有一个red圆环。") == [*"左边有一个", "red", *"圆环"]
    assert words("  …!? ") == []
    many = [["左边有一个红色的圆环"], ["右边有两个蓝色的方块"]]
    assert cider([m[0] for m in many], many) == pytest.approx(10)
    assert bleu([m[0] for m in many], many) == pytest.approx(1)


@given(items)
def test_order_of_items_and_bounds(items):
    said, many = split(items)
    score = cider(said, many)
    assert 0 <= score <= 10 + 1e-9 and 0 <= bleu(said, many) <= 1
    assert cider(said[::-1], many[::-1]) == pytest.approx(score)
    assert bleu(said[::-1], many[::-1]) == pytest.approx(bleu(said, many))
    assert np.mean(cider(said, many, per_item=True)) == pytest.approx(score)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (lambda: cider([], []), "no items"),
        (lambda: cider(["a"], [["a"], ["b"]]), "1 items on one side and 2"),
        (lambda: cider(["a"], [["a"]]), "one item"),
        (lambda: cider(["a", "b"], [["a"], "b"]), "item 1 has 'b'"),
        (lambda: cider(["a", "b"], [["a"], []]), "item 1 has \\[\\]"),
        (lambda: bleu(["a"], [["a", None]]), "item 0 has"),
        (lambda: bleu(["a"], [["a"]], 0), "order 0"),
        (lambda: bleu([], []), "no items"),
    ],
)
def test_bad_input(bad, says):
    with pytest.raises(InputError, match=says):
        bad()
