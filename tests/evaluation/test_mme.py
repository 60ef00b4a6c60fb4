import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labs.errors import InputError
from labs.evaluation.mme import COGNITION, PERCEPTION, mme_scores
from labs.formats import mme as files

OFFICIAL = json.loads((Path(__file__).parent / "official" / "mme.json").read_text())
tasks = st.dictionaries(
    st.sampled_from(PERCEPTION + COGNITION),
    st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=6),
    min_size=1,
)


def rows(answers):
    """(correct, pictures, subtasks) of {subtask: [(first right, second right) of each picture]}."""
    flat = [
        (hit, f"{i:04}.jpg", name)
        for name, pairs in answers.items()
        for i, pair in enumerate(pairs)
        for hit in pair
    ]
    return tuple(map(list, zip(*flat, strict=True)))


@pytest.mark.parametrize("run", OFFICIAL["runs"], ids=lambda run: run["name"])
def test_equal_to_the_official_calculation(run):
    answers = {
        name: [(bits[i] == "1", bits[i + 1] == "1") for i in range(0, len(bits), 2)]
        for name, bits in run["correct"].items()
    }
    scores = mme_scores(*rows(answers))
    assert scores.perception == pytest.approx(run["perception"], abs=1e-9)
    assert scores.cognition == pytest.approx(run["cognition"], abs=1e-9)
    for name, score in run["scores"].items():
        assert scores.subtasks[name].score == pytest.approx(score, abs=1e-9)


def test_worked_by_hand():
    scores = mme_scores(*rows({"OCR": [(1, 1), (1, 0), (0, 0), (1, 1)]}))
    assert scores.subtasks == {"OCR": (62.5, 50, 112.5, 4)}
    assert scores.perception is None and scores.cognition is None  # not all are there
    whole = {name: [(1, 1)] for name in PERCEPTION + COGNITION}
    assert mme_scores(*rows(whole))[1:] == (2000, 800)
    assert mme_scores(*rows({name: [(1, 0)] for name in COGNITION}))[1:] == (None, 200)


@given(tasks, st.randoms())
def test_the_slow_loop_in_any_order(answers, random):
    flat = list(zip(*rows(answers), strict=True))
    random.shuffle(flat)
    scores = mme_scores(*map(list, zip(*flat, strict=True)))
    assert set(scores.subtasks) == set(answers)
    for name, pairs in answers.items():
        got = scores.subtasks[name]
        assert got.accuracy == pytest.approx(100 * np.mean(pairs))
        assert got.accuracy_plus == pytest.approx(100 * np.mean([a and b for a, b in pairs]))
        assert got.score == got.accuracy + got.accuracy_plus
        assert got.accuracy_plus <= got.accuracy and got.pictures == len(pairs)


def test_guessing_gives_75_and_yes_to_all_50():
    rng = np.random.default_rng(0)
    guesses = {"count": (rng.random((20_000, 2)) < 0.5).tolist()}
    assert mme_scores(*rows(guesses)).subtasks["count"].score == pytest.approx(75, abs=1.5)
    yes = {"count": [(True, False)] * 30}
    assert mme_scores(*rows(yes)).subtasks["count"].score == 50


def test_subtasks_are_those_of_the_files():
    assert (PERCEPTION, COGNITION) == (files.PERCEPTION, files.COGNITION)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (([], [], []), "no items"),
        (([1, 1], ["a"], ["OCR", "OCR"]), "2 items on one side and 1"),
        (([1, 1], ["a", "a"], ["OCR"]), "2 items on one side and 1"),
        (([1, 1], ["a", "a"], ["ocr", "ocr"]), "no subtask 'ocr'"),
        (([1, 1], ["a", "a"], ["colour", "colour"]), "mean 'color'"),
        (([1, 1], ["a", "b"], ["OCR", "OCR"]), "'a' of OCR has 1 answers"),
        (([1, 1, 0], ["a", "a", "a"], ["OCR"] * 3), "3 answers"),
        (([1, 0.5], ["a", "a"], ["OCR", "OCR"]), "item 1 is 0.5"),
    ],
)
def test_bad_input(bad, says):
    with pytest.raises(InputError, match=says):
        mme_scores(*bad)
