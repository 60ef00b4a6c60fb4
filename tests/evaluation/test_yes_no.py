import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from labs.errors import InputError
from labs.evaluation import accuracy, pope_scores, yes_rate

pairs = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40)


@settings(max_examples=30)  # scikit-learn takes its time
@given(pairs)
def test_pope_scores_are_sklearns(items):
    said, true = zip(*items, strict=True)
    got = pope_scores(said, true)
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        true, said, average="binary", pos_label=True, zero_division=0
    )
    wanted = (metrics.accuracy_score(true, said), precision, recall, f1, np.mean(said))
    assert tuple(got) == pytest.approx(wanted)
    assert accuracy(said, true) == pytest.approx(wanted[0])
    assert yes_rate(said) == pytest.approx(wanted[4])
    words = [["No.", " YES "][s] for s in said]
    assert pope_scores(words, np.array(true)) == got


def test_the_model_that_always_says_yes():
    got = pope_scores(["yes"] * 10, [True, False] * 5)
    assert got == pytest.approx((0.5, 0.5, 1.0, 2 / 3, 1.0))
    assert pope_scores(["no"] * 10, [True, False] * 5) == (0.5, 0, 0, 0, 0)


def test_an_answer_that_is_neither_is_wrong_and_no_yes():
    #            TP    FN     FN    TN     FP    wrong, but no false positive
    got = pope_scores([1, 0, None, 0, 1, None], [1, 1, 1, 0, 0, 0])
    assert got == pytest.approx((2 / 6, 1 / 2, 1 / 3, 2 / 5, 2 / 6))


def test_accuracy_of_anything_that_compares():
    assert accuracy(["red", "blue", "red"], ["red", "red", "red"]) == pytest.approx(2 / 3)
    assert accuracy(np.array([1, 2]), [1, 3]) == 0.5


@pytest.mark.parametrize(
    ("said", "true", "message"),
    [
        ([], [], "no items"),
        (["yes"], ["yes", "no"], "1 items on one side and 2"),
        (["yes", "maybe"], ["yes", "no"], "answer of item 1 is 'maybe'"),
        (["yes", 0.3], ["yes", "no"], "answer of item 1 is 0.3"),
        (["yes"], [None], "label of item 0"),
    ],
)
def test_bad_input(said, true, message):
    with pytest.raises(InputError, match=message):
        pope_scores(said, true)


def test_bad_input_of_the_smaller_ones():
    with pytest.raises(InputError):
        accuracy([], [])
    with pytest.raises(InputError):
        accuracy([1], [1, 2])
    with pytest.raises(InputError):
        yes_rate([])
    with pytest.raises(InputError, match="neither yes nor no"):
        yes_rate(["yes, there is"])
