import pytest
from hypothesis import given
from hypothesis import strategies as st

from labs.errors import InputError
from labs.evaluation import chair_scores

names = st.lists(st.sampled_from("abcde"), max_size=6)


def test_worked_by_hand():
    mentioned = [["ring", "cube", "cube"], ["ring"], []]
    true = [["ring", "star"], ["ring"], ["cross"]]
    # 2 of 4 mentions absent; 1 of 3 captions; 2 of 4 objects mentioned.
    assert chair_scores(mentioned, true) == (0.5, pytest.approx(1 / 3), 0.5)


@given(st.lists(st.tuples(names, names), min_size=1, max_size=8))
def test_the_slow_loop(items):
    mentioned, true = [m for m, _ in items], [t for _, t in items]
    pairs = [(m, t) for said, objects in items for m in said for t in [objects]]
    absent = [m for m, t in pairs if m not in t]
    shown = [(o, said) for said, objects in items for o in sorted(set(objects))]
    got = chair_scores(mentioned, true)
    assert got.chair_i == pytest.approx(len(absent) / len(pairs) if pairs else 0)
    assert got.chair_s == pytest.approx(
        sum(any(m not in t for m in said) for said, t in items) / len(items)
    )
    wanted = sum(o in said for o, said in shown) / len(shown) if shown else 0
    assert got.recall == pytest.approx(wanted)
    assert (got.chair_i == 0) == (got.chair_s == 0)


@given(st.lists(names, min_size=1, max_size=8))
def test_the_truth_hallucinates_nothing_and_silence_recalls_nothing(true):
    assert chair_scores(true, true)[:2] == (0, 0)
    assert chair_scores([set(t) for t in true], true)[:2] == (0, 0)
    assert chair_scores([[] for _ in true], true) == (0, 0, 0)


def test_bad_input():
    with pytest.raises(InputError, match="no items"):
        chair_scores([], [])
    with pytest.raises(InputError, match="1 items on one side and 2"):
        chair_scores([["a"]], [["a"], ["b"]])
