"""Sums of rows: the right interval for what the rows are, and every status counted."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from labs.errors import InputError
from labs.evaluation.clusters import group_accuracy_ci, group_mean_ci
from labs.evaluation.reading import STATUSES
from labs.suites.contract import Measure, Row
from labs.suites.summary import mean_of, mean_score, share, statuses, unfinished, unparsed


def row(i, score, group=None, status="read", finished=True):
    return Row(str(i), group, "?", "x", {}, "x", [], 2, finished, status, "x", score)


@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_right_and_wrong_alone_get_wilsons_interval(scores):
    found = mean_score([row(i, float(s)) for i, s in enumerate(scores)])
    wilson = stats.binomtest(sum(scores), len(scores)).proportion_ci(method="wilson")
    assert found.value == sum(scores) / len(scores) and found.n == len(scores)
    assert np.allclose((found.low, found.high), wilson)


def test_groups_of_one_are_no_groups():
    alone = [row(i, float(i % 3 == 0)) for i in range(30)]
    named = [row(i, float(i % 3 == 0), f"g{i}") for i in range(30)]
    assert mean_score(named) == mean_score(alone)


def test_copies_of_a_question_make_nothing_surer():
    """Four answers that go together are worth one: the interval must not shrink by their number."""
    scores = [float(i % 4 == 0) for i in range(40)]
    once = mean_score([row(i, s) for i, s in enumerate(scores)])
    copied = mean_score(
        [row(f"{i}-{k}", s, f"g{i}") for i, s in enumerate(scores) for k in range(4)]
    )
    blind = mean_score([row(f"{i}-{k}", s) for i, s in enumerate(scores) for k in range(4)])
    assert copied.value == once.value and copied.n == 160
    width = lambda m: m.high - m.low  # noqa: E731
    assert width(copied) > 0.95 * width(once) > 1.5 * width(blind)


def test_binary_scores_in_groups_take_the_interval_of_shares_in_groups():
    rows = [row(i, float(i % 3 > 0), f"g{i // 2}") for i in range(20)]
    low, high = group_accuracy_ci([r.score for r in rows], [r.group for r in rows])
    assert mean_score(rows)[1:] == (low, high, 20)


def test_partial_scores_are_bootstrapped_by_group():
    rows = [row(i, (i % 5) / 4, f"g{i // 4}") for i in range(40)]
    low, high = group_mean_ci(
        [r.score for r in rows], [r.group for r in rows], resamples=2_000, seed=0
    )
    assert mean_score(rows) == Measure(0.5, low, high, 40)
    assert low < 0.5 < high


def test_one_group_or_one_partial_score_has_no_interval():
    assert mean_score([row(i, float(i), "g") for i in range(2)]) == Measure(0.5, None, None, 2)
    assert mean_score([row(0, 0.5)]) == Measure(0.5, None, None, 1)
    assert mean_score([row(0, 1.0, "g")]).low == pytest.approx(0.2065, abs=1e-4)  # Wilson, 1 of 1


def test_shares_and_means_of_anything():
    rows = [row(i, float(i < 3), finished=i != 7) for i in range(10)]
    assert share(rows, lambda r: r.score == 1).value == 0.3
    assert mean_of(rows, lambda r: int(r.id)).value == 4.5
    assert unfinished(rows).value == 0.1


def test_statuses_are_counted_and_all_but_read_are_unparsed():
    found = ["none", "read", "empty", "none", "read", "endless"]
    rows = [row(i, 0.0, status=s) for i, s in enumerate(found)]
    assert statuses(rows) == {"read": 2, "empty": 1, "none": 2, "endless": 1}
    assert list(statuses(rows)) == [s for s in STATUSES if s in found]
    assert unparsed(rows).value == 4 / 6


def test_nothing_has_no_mean():
    with pytest.raises(InputError, match="no answers"):
        mean_score([])
