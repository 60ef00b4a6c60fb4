"""Simulated annotators: the Bradley-Terry law, their biases, and panels."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labs.data.preference import Annotator, Judged, panel, vote
from labs.errors import InputError

GOOD, BAD = Judged("a red ring", 1.0), Judged("a red star", 0.0)
N = 4000

texts = st.sampled_from(["yes", "no", "a ring", "a large red ring at the top left", ""])
judged = st.builds(Judged, texts, st.floats(-1, 1))
people = st.builds(Annotator, st.floats(0, 3), st.floats(-2, 2), st.floats(-2, 2), st.floats(-2, 2))


def share(annotator, first, second, n=N):
    return sum(annotator.compare(first, second, str(i)) > 0 for i in range(n)) / n


def near(observed, p, n=N):
    return abs(observed - p) < 4 * math.sqrt(max(p * (1 - p), 1e-4) / n)


@pytest.mark.parametrize("noise", [0.2, 0.5, 2.0])
def test_the_better_answer_wins_as_often_as_the_law_says(noise):
    annotator = Annotator(noise)
    wanted = 1 / (1 + math.exp(-1 / noise))
    assert annotator.probability(GOOD, BAD) == pytest.approx(wanted)
    assert near(share(annotator, GOOD, BAD), wanted)
    assert near(share(annotator, BAD, GOOD), 1 - wanted)


def test_without_noise_the_better_answer_always_wins_and_ties_are_a_coin():
    annotator = Annotator(0)
    assert share(annotator, GOOD, BAD) == 1 and share(annotator, BAD, GOOD) == 0
    assert annotator.probability(GOOD, replace(BAD, quality=1.0)) == 0.5
    assert near(share(annotator, GOOD, replace(BAD, quality=1.0)), 0.5)


@pytest.mark.parametrize(
    ("bias", "first", "second", "d"),
    [
        ({"length_bias": 1.0}, "a ring", "a ring, a red star on the left.", 6 / 31 - 1),
        ({"length_bias": 1.0}, "", "", 0),
        ({"position_bias": 0.7}, "no", "no", 0.7),
        ({"yes_bias": 0.4}, "Yes.", "No.", 0.4),
        ({"yes_bias": 0.4}, "没有", "有", -0.4),
        ({"yes_bias": 0.4}, "yes", "yes, there is", 0),
    ],
)
def test_a_bias_adds_what_its_docstring_says(bias, first, second, d):
    annotator = Annotator(**bias)
    a, b = Judged(first, 0.25), Judged(second, 0.25)
    assert annotator.advantage(a, b) == pytest.approx(d)
    assert annotator.probability(a, b) == pytest.approx(1 / (1 + math.exp(-d / 0.5)))
    assert Annotator().advantage(a, b) == 0


@given(people, judged, judged)
def test_without_position_bias_the_order_does_not_matter(person, a, b):
    fair = replace(person, position_bias=0.0)
    assert fair.probability(a, b) + fair.probability(b, a) == pytest.approx(1)
    assert 0 <= person.probability(a, b) <= 1
    assert person.compare(a, b, "k") == person.compare(a, b, "k")


def test_two_annotators_agree_as_independent_ones_do():
    annotators = panel(2, noise=0.8)
    p = annotators[0].probability(GOOD, BAD)
    votes = [vote(annotators, GOOD, BAD, str(i)) for i in range(N)]
    assert near(sum(v.agreement == 1 for v in votes) / N, p * p + (1 - p) ** 2)
    assert {v.agreement for v in votes} == {0.5, 1.0}
    assert all((v.majority is None) == (v.agreement == 0.5) for v in votes)


def test_a_larger_panel_is_right_more_often_and_a_position_bias_is_halved_by_the_order():
    def right(size, **fields):
        votes = [vote(panel(size, **fields), GOOD, BAD, str(i)) for i in range(1000)]
        return sum(v.majority is True for v in votes) / 1000

    assert right(5, noise=1.0) > right(1, noise=1.0) + 0.08
    # Each sees its own order: a bias of any size is right half of the time, not always or never.
    assert near(right(1, noise=0.0, position_bias=50.0), 0.5, 1000)
    orders = [vote(panel(2), GOOD, BAD, str(i)).a_first for i in range(1000)]
    assert near(sum(a == b for a, b in orders) / 1000, 0.5, 1000)


def test_what_is_no_annotator_is_refused():
    for fields in ({"noise": -0.1}, {"noise": math.nan}, {"length_bias": math.inf}):
        with pytest.raises(InputError, match="annotator"):
            Annotator(**fields)
    with pytest.raises(InputError, match="panel of 0"):
        panel(0)
