import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from labs.errors import InputError
from labs.evaluation import bootstrap_ci, paired_bootstrap, wilson_ci
from labs.evaluation.clusters import (
    drawn_counts,
    group_accuracy_ci,
    group_mean_ci,
    group_paired_difference,
)


def clustered(groups, size, p=0.7, correlation=0.4, seed=0):
    """0/1 answers [groups * size] that agree within a group, and their labels."""
    rng = np.random.default_rng(seed)
    total = 1 / correlation - 1
    chance = rng.beta(p * total, (1 - p) * total, groups)
    labels = np.repeat(np.arange(groups), size)
    return (rng.random(groups * size) < chance[labels]).astype(float), labels


@given(st.integers(0, 20))
def test_without_groups_it_is_the_item_bootstrap(seed):
    rng = np.random.default_rng(seed)
    first, second = rng.random((2, 40))
    options = {"resamples": 499, "seed": seed, "confidence": 0.9}
    assert group_mean_ci(first, **options) == bootstrap_ci(first, **options)
    assert group_paired_difference(first, second, **options) == paired_bootstrap(
        first, second, **options
    )
    # So it is with one item a group, however labelled; None stands alone.
    for groups in (range(40), [f"q{i}" for i in range(40)], [None] * 40):
        groups = list(groups)
        assert group_mean_ci(first, groups, **options) == pytest.approx(
            bootstrap_ci(first, **options)
        )
        assert group_paired_difference(first, second, groups, **options) == pytest.approx(
            paired_bootstrap(first, second, **options)
        )


def test_answers_repeated_tell_nothing_new():
    values = np.random.default_rng(0).random(50)
    five, groups = np.tile(values, 5), np.tile(np.arange(50), 5)
    assert group_mean_ci(five, groups, resamples=999) == pytest.approx(
        bootstrap_ci(values, resamples=999)
    )
    naive = bootstrap_ci(five, resamples=999)
    grouped = group_mean_ci(five, groups, resamples=999)
    assert naive.high - naive.low < 0.5 * (grouped.high - grouped.low)
    second = np.roll(values, 1)
    assert group_paired_difference(
        five, np.tile(second, 5), groups, resamples=999
    ) == pytest.approx(paired_bootstrap(values, second, resamples=999))


def test_groups_of_unequal_size_are_the_slow_loop():
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(30), rng.integers(1, 9, 30))
    values = rng.random(len(labels)) * (labels % 3)
    second = rng.random(len(labels))
    by_group = [np.flatnonzero(labels == g) for g in range(30)]
    slow = []
    for _ in range(4_000):
        items = np.concatenate([by_group[g] for g in rng.integers(0, 30, 30)])
        slow.append((values[items].mean(), (values - second)[items].mean()))
    low, high = np.quantile(slow, [0.025, 0.975], axis=0)
    width = high - low
    mean = group_mean_ci(values, labels)
    # BCa moves the ends a little; the width is the loop's.
    assert mean.high - mean.low == pytest.approx(width[0], rel=0.06)
    difference = group_paired_difference(values, second, labels)
    assert difference.difference == pytest.approx((values - second).mean())
    assert difference[1:3] == pytest.approx((low[1], high[1]), abs=0.05 * width[1])
    # A large group weighs as many items, not as one.
    assert mean.low < values.mean() < mean.high
    # The order of items does not matter, nor what groups are called.
    order = rng.permutation(len(labels))
    renamed = [f"picture {labels[i]}" for i in order]
    assert group_mean_ci(values[order], renamed, seed=1) == pytest.approx(mean, abs=0.02)


def test_the_group_bootstrap_is_wider_where_answers_hang_together():
    values, labels = clustered(60, 8)
    item, group = bootstrap_ci(values), group_mean_ci(values, labels)
    wilson = group_accuracy_ci(values, labels)
    design = math.sqrt(1 + 7 * 0.4)
    assert group.high - group.low == pytest.approx(design * (item.high - item.low), rel=0.25)
    assert wilson.high - wilson.low == pytest.approx(group.high - group.low, rel=0.1)


def test_coverage():
    """In groups of eight 95 % intervals hold the truth, and item intervals do not."""
    held = {"mean": 0, "accuracy": 0, "items": 0, "difference": 0, "difference of items": 0}
    for seed in range(200):
        values, labels = clustered(60, 8, seed=seed)
        worse = values * (np.random.default_rng([9, seed]).random(60) < 0.9)[labels]
        options = {"resamples": 499, "seed": seed}
        found = {
            "mean": group_mean_ci(values, labels, **options),
            "accuracy": group_accuracy_ci(values, labels),
            "items": bootstrap_ci(values, **options),
        }
        for name, (low, high) in found.items():
            held[name] += low <= 0.7 <= high
        for name, result in (
            ("difference", group_paired_difference(values, worse, labels, **options)),
            ("difference of items", paired_bootstrap(values, worse, **options)),
        ):
            held[name] += result.low <= 0.07 <= result.high
    for name in ("mean", "accuracy", "difference"):
        assert stats.binomtest(held[name], 200, 0.94).pvalue > 1e-4, (name, held)
    for name in ("items", "difference of items"):
        assert held[name] < 160, (name, held)


def test_p_value_agrees_with_the_interval_and_is_right_under_the_null():
    values = []
    for seed in range(200):
        first, labels = clustered(40, 4, seed=seed)
        second, _ = clustered(40, 4, seed=1_000 + seed)
        result = group_paired_difference(first, second, labels, resamples=499, seed=seed)
        values.append(result.p_value)
        assert not (result.p_value < 0.045 and result.low < 0 < result.high)
        back = group_paired_difference(second, first, labels, resamples=499, seed=seed)
        assert back.difference == -result.difference
        assert back.p_value == pytest.approx(result.p_value)
        assert back.low == pytest.approx(-result.high)
    assert stats.kstest(values, "uniform").pvalue > 1e-4
    same = group_paired_difference(first, first, labels, resamples=499)
    assert same == (0, 0, 0, 1)


def test_differences_that_cancel_but_for_rounding_are_ties():
    """Half of the groups up by 0.1 + 0.2, half down by 0.3: no sign of anything."""
    first = [0.1, 0.2] * 10 + [0.0, 0.0] * 10
    second = [0.0, 0.0] * 10 + [0.3, 0.0] * 10
    result = group_paired_difference(first, second, np.repeat(np.arange(20), 2), resamples=999)
    assert result.p_value == 1


@given(st.integers(1, 60), st.data())
def test_accuracy_without_groups_is_wilson(n, data):
    right = data.draw(st.integers(0, n))
    correct = [True] * right + [False] * (n - right)
    assert group_accuracy_ci(correct) == wilson_ci(right, n)
    if n > 1:
        assert group_accuracy_ci(correct, list(range(n))) == wilson_ci(right, n)


def test_all_right_and_all_wrong_have_a_width():
    labels = np.repeat(np.arange(5), 4)
    assert group_accuracy_ci(np.zeros(20), labels) == pytest.approx(wilson_ci(0, 5))
    assert group_accuracy_ci(np.ones(20), labels) == pytest.approx(wilson_ci(5, 5))
    assert group_mean_ci(np.ones(20), labels) == (1, 1)  # said in its docstring
    # Groups that are right or wrong as one count as one answer each, but for t.
    values = np.repeat([1.0, 0.0] * 50, 4)
    low, high = group_accuracy_ci(values, np.repeat(np.arange(100), 4))
    wilson = wilson_ci(50, 100)
    assert low == pytest.approx(wilson.low, abs=0.003)
    assert high == pytest.approx(wilson.high, abs=0.003)


def test_accuracy_by_its_formula():
    sizes, right = [3, 5, 2, 6, 4, 4], [3, 4, 0, 5, 1, 4]
    correct = [i < r for size, r in zip(sizes, right, strict=True) for i in range(size)]
    labels = [g for g, size in enumerate(sizes) for _ in range(size)]
    p = 17 / 24
    spread = sum((r - p * size) ** 2 for size, r in zip(sizes, right, strict=True))
    variance = 6 / 5 * spread / 24**2
    z, t = 1.959963984540054, 2.570581835636314  # of the normal, and of Student's t with 5 degrees
    n = p * (1 - p) / variance * (z / t) ** 2
    assert 2 < n < 24
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    assert group_accuracy_ci(correct, labels) == pytest.approx((centre - half, centre + half))


@given(st.integers(0, 50))
def test_accuracy_stays_inside_and_is_symmetric(seed):
    rng = np.random.default_rng(seed)
    labels = np.sort(rng.integers(0, 12, 60))
    values = (rng.random(60) < rng.choice([0.05, 0.5, 0.97])).astype(float)
    low, high = group_accuracy_ci(values, labels)
    assert 0 <= low <= values.mean() <= high <= 1 and low < high
    assert group_accuracy_ci(1 - values, labels) == pytest.approx((1 - high, 1 - low))
    plain = wilson_ci(int(values.sum()), 60)
    assert high - low >= plain.high - plain.low - 1e-9  # groups never tell more than items
    wider = group_accuracy_ci(values, labels, confidence=0.99)
    assert wider.low <= low and high <= wider.high


def test_draws_come_in_blocks_and_are_fair():
    blocks = list(drawn_counts(3_000, 2_000, seed=0))
    assert len(blocks) > 1 and max(b.size for b in blocks) <= 2**21
    counts = np.concatenate(blocks)
    assert counts.shape == (2_000, 3_000) and np.all(counts.sum(axis=1) == 3_000)
    assert counts.mean(axis=0) == pytest.approx(np.ones(3_000), abs=0.12)
    assert counts.var() == pytest.approx(1, abs=0.01)
    assert np.array_equal(next(drawn_counts(5, 7, seed=3)), next(drawn_counts(5, 7, seed=3)))


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (lambda: group_mean_ci([], []), "no items"),
        (lambda: group_mean_ci([1.0, 0.0], ["a", "a"]), "all 2 items are in one group"),
        (lambda: group_mean_ci([1.0, 0.0], ["a"]), "2 items and 1 group labels"),
        (lambda: group_mean_ci([1.0, 0.0], [["a"], ["b"]]), "no text or number"),
        (lambda: group_mean_ci([1.0, float("nan")], ["a", "b"]), "at item 1"),
        (lambda: group_mean_ci([[1.0], [0.0]], ["a", "b"]), "shape"),
        (lambda: group_mean_ci([1.0, 0.0], ["a", "b"], confidence=95.0), "between 0 and 1"),
        (lambda: group_paired_difference([1.0], [1.0, 0.0], ["a"]), "1 items on one side and 2"),
        (lambda: group_paired_difference([1.0, 0], [1.0, 0], ["a", "a"]), "in one group"),
        (lambda: group_paired_difference([1.0, np.inf], [1.0, 0], ["a", "b"]), "at item 1"),
        (lambda: group_accuracy_ci([], []), "no items"),
        (lambda: group_accuracy_ci([1, 0.5], ["a", "b"]), "item 1 is 0.5"),
        (lambda: group_accuracy_ci([True, None], ["a", "b"]), "item 1 is None"),
        (lambda: group_accuracy_ci([True, False], ["a", "a"]), "in one group"),
        (lambda: group_accuracy_ci([True, False], confidence=0.0), "between 0 and 1"),
    ],
)
def test_bad_input(bad, says):
    with pytest.raises(InputError, match=says):
        bad()
