import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labs.errors import InputError
from labs.evaluation.choice import circular_accuracy, circular_scores

questions = st.lists(st.lists(st.booleans(), min_size=1, max_size=5), min_size=1, max_size=8)


def flat(passes):
    groups = [f"q{i}" for i, hits in enumerate(passes) for _ in hits]
    return [hit for hits in passes for hit in hits], groups


@given(questions, st.randoms())
def test_the_slow_loop_and_what_always_holds(passes, random):
    correct, groups = flat(passes)
    scores = circular_scores(correct, groups)
    assert scores.circular == pytest.approx(sum(min(p) for p in passes) / len(passes))
    assert scores.vanilla == pytest.approx(sum(p[0] for p in passes) / len(passes))
    assert scores.mean == pytest.approx(np.mean([np.mean(p) for p in passes]))
    assert scores.circular <= scores.vanilla and scores.circular <= scores.mean + 1e-12
    assert scores.questions == len(passes)
    assert circular_accuracy(correct, groups) == scores.circular
    order = list(range(len(correct)))
    random.shuffle(order)
    shuffled = [correct[i] for i in order], [groups[i] for i in order]
    assert circular_accuracy(*shuffled) == pytest.approx(scores.circular)


def test_a_model_that_likes_a_letter():
    """Right in one rotation of four: 25 % of answers, no question."""
    correct, groups = flat([[i == j for i in range(4)] for j in range(4)] * 3)
    scores = circular_scores(correct[:16], groups[:16], passes=4)
    assert scores == (0, 0.25, 0.25, pytest.approx(1 / 256), 0.25, 4)


def test_chance_is_what_guessing_gives():
    sizes = [2, 3, 4, 4]
    rng = np.random.default_rng(0)
    correct, groups = [], []
    for question in range(8_000):
        for _ in range(sizes[question % 4]):
            correct.append(rng.random() < 1 / sizes[question % 4])
            groups.append(question)
    scores = circular_scores(np.array(correct), np.array(groups))
    assert scores.circular == pytest.approx(scores.circular_chance, abs=0.015)
    assert scores.vanilla == pytest.approx(scores.chance, abs=0.02)
    assert scores.chance == pytest.approx((1 / 2 + 1 / 3 + 1 / 4 + 1 / 4) / 4)


def test_options_and_passes_by_question():
    # Four options asked in two orders only.
    assert circular_scores([1, 1], ["a", "a"], options=4)[3:5] == (1 / 16, 1 / 4)
    given_passes = {"a": 2, "b": 1}
    scores = circular_scores(
        [1, 1, 0], ["a", "a", "b"], passes=given_passes, options={"a": 2, "b": 4}
    )
    assert scores[3:5] == ((1 / 4 + 1 / 4) / 2, (1 / 2 + 1 / 4) / 2)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (lambda: circular_accuracy([], []), "no items"),
        (lambda: circular_accuracy([1], ["a", "b"]), "1 items on one side and 2"),
        (lambda: circular_accuracy([1, None], ["a", "a"]), "item 1 is None"),
        (lambda: circular_accuracy([1, 1], ["a", None]), "without a group"),
        (lambda: circular_accuracy([1] * 3, ["a"] * 3, passes=4), "'a' has 3 passes.*be 4"),
        (lambda: circular_accuracy([1] * 5, ["a"] * 5, passes=4), "'a' has 5 passes"),
        (lambda: circular_accuracy([1, 1], ["a", "b"], passes={"a": 1}), "'b' has None"),
        (lambda: circular_scores([1], ["a"], options=0), "0 for its number of options"),
    ],
)
def test_bad_input(bad, says):
    with pytest.raises(InputError, match=says):
        bad()
