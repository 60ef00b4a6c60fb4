import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labs.errors import InputError
from labs.evaluation.vqa import CONTRACTIONS, normalise_vqa, vqa_accuracy, vqa_score

OFFICIAL = json.loads((Path(__file__).parent / "official" / "vqa.json").read_text())
answers = st.sampled_from(["yes", "Yes.", "no", "two", "2", "a dog", "dog", "", "不是", "none"])
people = st.lists(answers, min_size=4, max_size=12)


def test_equal_to_the_official_script():
    predictions = [item["answer"] for item in OFFICIAL["items"]]
    references = [item["people"] for item in OFFICIAL["items"]]
    theirs = [item["accuracy"] for item in OFFICIAL["items"]]
    assert len(theirs) >= 300 and len(set(theirs)) >= 5
    ours = [vqa_score(p, r) for p, r in zip(predictions, references, strict=True)]
    assert ours == pytest.approx(theirs, abs=1e-9)
    assert vqa_accuracy(predictions, references) == pytest.approx(np.mean(theirs), abs=1e-9)


def test_texts_are_normalised_as_by_the_official_script():
    assert len(OFFICIAL["normalised"]) >= 300
    for text, theirs in OFFICIAL["normalised"]:
        assert normalise_vqa(text) == theirs, text


@given(answers, people)
def test_leaving_each_person_out_in_turn(prediction, people):
    alike = len(set(people)) == 1
    said = prediction if alike else normalise_vqa(prediction)
    theirs = people if alike else [normalise_vqa(p) for p in people]
    slow = [
        min(1, sum(other == said for j, other in enumerate(theirs) if j != i) / 3)
        for i in range(len(theirs))
    ]
    score = vqa_score(prediction, people)
    assert score == pytest.approx(np.mean(slow)) and 0 <= score <= 1
    assert vqa_score(prediction, people[::-1]) == score


def test_of_ten_people():
    for agree, score in enumerate([0, 0.3, 0.6, 0.9, 1, 1, 1, 1, 1, 1]):
        given_by = ["red"] * agree + [f"answer {i}" for i in range(10 - agree)]
        assert vqa_score("Red", given_by) == pytest.approx(score)
    assert vqa_accuracy(["red", "blue"], [["red"] * 10] * 2) == 0.5


def test_where_all_wrote_the_same_nothing_is_normalised():
    assert vqa_score("Yes.", ["yes"] * 10) == 0
    assert vqa_score(" yes\n", ["yes"] * 10) == 1
    assert vqa_score("Yes.", ["yes"] * 9 + ["no"]) == 1


def test_by_hand():
    for text, plain in {
        "A  Dog": "dog",
        "the two dogs.": "2 dogs",
        "1,000": "1000",
        "red/white": "red white",
        "red / white": "red white",
        "t-shirt": "t shirt",
        "3.5 m.": "3.5 m",
        "dont": "don't",
        "couldntve": "couldntve",
        "couldn'tve": "couldn't've",
        "lets": "lets",
        "None": "0",
        "12:30": "12:30",
        "它是红色的。": "它是红色的。",
        "the": "",
    }.items():
        assert normalise_vqa(text) == plain, text


def test_every_contraction_lacks_one_apostrophe():
    assert len(CONTRACTIONS) == 114
    assert all(
        key.count("'") == value.count("'") - 1 and key.replace("'", "") == value.replace("'", "")
        for key, value in CONTRACTIONS.items()
        if value != "somebodyd"
    )


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (lambda: vqa_accuracy([], []), "no items"),
        (lambda: vqa_accuracy(["a"], [["a"] * 10] * 2), "1 items on one side and 2"),
        (lambda: vqa_accuracy(["a", "b"], [["a"] * 10, ["b"] * 3]), "Question 1: .*at least 4"),
        (lambda: vqa_score("2", ["2"] * 9 + [2]), "is 2, no text"),
        (lambda: vqa_score("a", "abcdefghij"), "people's answers are 'abcdefghij'"),
    ],
)
def test_bad_input(bad, says):
    with pytest.raises(InputError, match=says):
        bad()
