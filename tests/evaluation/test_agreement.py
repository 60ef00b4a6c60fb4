import itertools

import krippendorff
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from labs.errors import InputError
from labs.evaluation.agreement import (
    cohens_kappa,
    kappa_ci,
    krippendorff_alpha,
    krippendorff_ci,
)

pairs = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=20)
# Krippendorff 2011, section C: four observers, twelve units, with gaps.
FOUR = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
    [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
]


@given(pairs, st.sampled_from([None, "linear", "quadratic"]))
def test_kappa_equal_to_scikit_learn(items, weights):
    first, second = map(list, zip(*items, strict=True))
    assume(len({*first, *second}) > 1)
    theirs = cohen_kappa_score(first, second, weights=weights)
    assert cohens_kappa(first, second, weights=weights) == pytest.approx(theirs, abs=1e-9)
    # Swapping the raters changes nothing; nor does renaming labels, in their order.
    assert cohens_kappa(second, first, weights=weights) == pytest.approx(theirs, abs=1e-9)
    named = [["bad", "fair", "good", "best"][x] for x in first + second]
    labels = [x for x in ["bad", "fair", "good", "best"] if x in named]
    half = len(first)
    assert cohens_kappa(
        named[:half], named[half:], weights=weights, labels=labels
    ) == pytest.approx(theirs, abs=1e-9)


def test_kappa_worked_by_hand():
    # 20 yes-yes, 15 no-no, 5 and 10 apart (the textbook table): p_o = 0.7, p_e = 0.5.
    first = ["yes"] * 25 + ["no"] * 25
    second = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    assert cohens_kappa(first, second) == pytest.approx(0.4)
    # Two who nearly always say yes agree on 90 % and no better than chance.
    first = [1] * 90 + [0] * 5 + [1] * 5
    second = [1] * 90 + [1] * 5 + [0] * 5
    assert cohens_kappa(first, second) == pytest.approx(1 - 0.1 / 0.095)
    assert cohens_kappa(np.array([0, 1, 2]), np.array([0, 1, 2]), weights="linear") == 1
    # A label that nobody used makes the step across it longer.
    apart = [0, 0, 2, 1], [0, 2, 2, 1]
    assert cohens_kappa(*apart, weights="quadratic", labels=[0, 1, 9, 2]) != pytest.approx(
        cohens_kappa(*apart, weights="quadratic")
    )


def plain_kappa(first, second, weights):
    observed = np.zeros((3, 3))
    np.add.at(observed, (first, second), 1)
    expected = np.outer(observed.sum(axis=1), observed.sum(axis=0)) / len(first)
    apart = np.abs(np.subtract.outer(np.arange(3), np.arange(3)))
    cost = apart > 0 if weights is None else apart**2
    return 1 - (cost * observed).sum() / (cost * expected).sum()


def test_kappa_interval_is_that_of_the_slow_loop():
    rng = np.random.default_rng(0)
    first = rng.integers(0, 3, 60)
    second = np.where(rng.random(60) < 0.6, first, rng.integers(0, 3, 60))
    for weights in (None, "quadratic"):
        got = kappa_ci(first, second, weights=weights, resamples=4_000, seed=3)
        drawn = [rng.integers(0, 60, 60) for _ in range(1_500)]
        slow = [plain_kappa(first[i], second[i], weights) for i in drawn]
        assert got == pytest.approx(np.quantile(slow, [0.025, 0.975]), abs=0.018)
        assert got.low < cohens_kappa(first, second, weights=weights) < got.high
    assert kappa_ci(first, second, seed=3) == kappa_ci(first, second, seed=3)
    assert kappa_ci(first, second, seed=3) != kappa_ci(first, second, seed=4)
    narrow, wide = (kappa_ci(first, second, confidence=c) for c in (0.8, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_groups_that_repeat_themselves_do_not_narrow_an_interval():
    rng = np.random.default_rng(0)
    first = rng.integers(0, 2, 40)
    second = np.where(rng.random(40) < 0.8, first, 1 - first)
    groups = np.tile(np.arange(40), 5)
    once = kappa_ci(first, second, resamples=4_000)
    five = np.tile(first, 5), np.tile(second, 5)
    assert kappa_ci(*five, groups=groups, resamples=4_000) == pytest.approx(once, abs=1e-9)
    naive = kappa_ci(*five, resamples=4_000)
    assert naive.high - naive.low < 0.6 * (once.high - once.low)
    ratings = [first.tolist(), second.tolist()]
    alone = krippendorff_ci(ratings, resamples=2_000)
    many = krippendorff_ci(
        [np.tile(r, 5).tolist() for r in ratings], groups=groups, resamples=2_000
    )
    assert many.high - many.low == pytest.approx(alone.high - alone.low, rel=0.1)


def test_draws_in_which_nothing_can_be_seen_widen_the_interval():
    """One item of twenty decides: a third of the draws lack it, and are not thrown away."""
    first = ["yes"] * 19 + ["no"]
    assert cohens_kappa(first, first) == 1
    assert kappa_ci(first, first) == (0, 1)
    assert krippendorff_ci([first, first]) == (0, 1)
    for level in ("ordinal", "interval"):  # 0.1 and 1.0: what cancels leaves a rounding error
        assert krippendorff_ci([[0.1] + [1.0] * 19] * 2, level) == (0, 1)
    second = ["yes"] * 20
    low, high = kappa_ci(first, second)
    assert low == 0 and high == 1


@given(
    st.integers(2, 4).flatmap(
        lambda raters: st.lists(
            st.lists(st.one_of(st.none(), st.integers(1, 5)), min_size=raters, max_size=raters),
            min_size=2, max_size=10,
        )
    ),
    st.sampled_from(["nominal", "ordinal", "interval"]),
)  # fmt: skip
def test_alpha_equal_to_the_package(units, level):
    kept = [[r for r in unit if r is not None] for unit in units]
    pairable = [unit for unit in kept if len(unit) > 1]
    assume(len({r for unit in pairable for r in unit}) > 1)
    ratings = [list(row) for row in zip(*units, strict=True)]
    data = np.array(ratings, dtype=float)
    theirs = krippendorff.alpha(reliability_data=data, level_of_measurement=level)
    assert krippendorff_alpha(ratings, level) == pytest.approx(theirs, abs=1e-9)
    assert krippendorff_alpha(data, level) == pytest.approx(theirs, abs=1e-9)


def slow_alpha(ratings, level):
    """The definition, over pairs of ratings."""
    units = [[r for r in unit if r is not None] for unit in zip(*ratings, strict=True)]
    units = [unit for unit in units if len(unit) > 1]
    flat = [r for unit in units for r in unit]

    def delta(a, b):
        if level == "nominal":
            return float(a != b)
        if level == "interval":
            return (a - b) ** 2
        low, high = sorted((a, b))
        between = sum(low <= r <= high for r in flat)
        return (between - (flat.count(a) + flat.count(b)) / 2) ** 2 if a != b else 0.0

    within = sum(
        delta(a, b) / (len(unit) - 1) for unit in units for a, b in itertools.permutations(unit, 2)
    )
    across = sum(delta(a, b) for a, b in itertools.permutations(flat, 2))
    return 1 - (within / len(flat)) / (across / (len(flat) * (len(flat) - 1)))


@pytest.mark.parametrize(
    ("level", "published"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)]
)
def test_alpha_of_the_published_example(level, published):
    got = krippendorff_alpha(FOUR, level)
    assert got == pytest.approx(published, abs=5e-4)
    assert got == pytest.approx(slow_alpha(FOUR, level), abs=1e-12)
    low, high = krippendorff_ci(FOUR, level, resamples=2_000)
    assert low < got < high <= 1
    # One item has a single rating and is never drawn; a group for each item changes nothing.
    alone = krippendorff_ci(FOUR, level, groups=list(range(12)), resamples=2_000)
    assert alone == pytest.approx((low, high), abs=1e-12)


@pytest.mark.parametrize("level", ["nominal", "ordinal", "interval"])
def test_alpha_interval_is_that_of_the_slow_loop(level):
    rng = np.random.default_rng(1)
    truth = rng.integers(1, 6, 40)
    ratings = np.clip(truth + rng.integers(-1, 2, (3, 40)), 1, 5).astype(float)
    ratings[rng.random((3, 40)) < 0.2] = np.nan
    got = krippendorff_ci(ratings, level, resamples=2_000, seed=5)
    pairable = ratings[:, (~np.isnan(ratings)).sum(axis=0) > 1]
    count = pairable.shape[1]
    slow = [
        krippendorff.alpha(pairable[:, rng.integers(0, count, count)], level_of_measurement=level)
        for _ in range(500)
    ]
    assert got == pytest.approx(np.quantile(slow, [0.025, 0.975]), abs=0.06)


def test_alpha_of_texts_of_two_scripts_and_what_does_not_change_it():
    assert krippendorff_alpha(
        [["是", "否", "是", None], ["是", "否", "否", "是"]]
    ) == pytest.approx(krippendorff_alpha([[1, 0, 1, None], [1, 0, 0, 1]]))
    # An item that one person rated says nothing; the order of raters neither; the place of zero not.
    more = [[*row, 7 if i == 0 else None] for i, row in enumerate(FOUR)]
    moved = [[None if r is None else r * 10 + 1e6 for r in row] for row in FOUR]
    for level in ("nominal", "ordinal", "interval"):
        alpha = krippendorff_alpha(FOUR, level)
        assert krippendorff_alpha(more, level) == pytest.approx(alpha)
        assert krippendorff_alpha(FOUR[::-1], level) == pytest.approx(alpha)
        assert krippendorff_alpha(moved, level) == pytest.approx(alpha, abs=1e-9)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (lambda: cohens_kappa([], []), "no items"),
        (lambda: cohens_kappa([1], [1, 2]), "1 items on one side and 2"),
        (lambda: cohens_kappa([1, 1], [1, 1]), "0/0"),
        (lambda: kappa_ci([1, 1], [1, 1]), "0/0"),
        (lambda: cohens_kappa([1, 2], [1, None]), "item 1 is None"),
        (lambda: cohens_kappa([float("nan"), 2], [1, 2]), "item 0 is nan"),
        (lambda: cohens_kappa(["bad", "ok"], ["ok", "ok"], weights="linear"), "order"),
        (lambda: cohens_kappa([1, 2], [1, 3], labels=[1, 2]), "3 is not among"),
        (lambda: cohens_kappa([1, 2], [1, 2], labels=[1, 2, 2]), "twice"),
        (lambda: kappa_ci([1, 2], [1, 1], groups=["a", "a"]), "one group"),
        (lambda: kappa_ci([1, 2], [1, 1], groups=["a"]), "1 group labels"),
        (lambda: kappa_ci([1, 2], [1, 1], confidence=95.0), "between 0 and 1"),
        (lambda: krippendorff_alpha([]), "no items"),
        (lambda: krippendorff_alpha([[1, 2], [1]]), "1 to 2 items"),
        (lambda: krippendorff_alpha([[1, None], [None, 2]]), "no item has ratings from two"),
        (lambda: krippendorff_alpha([[1, 1], [1, 1]]), "All ratings are the same"),
        (lambda: krippendorff_alpha([[3.3, 3.3], [3.3, 3.3]], "interval"), "the same"),
        (lambda: krippendorff_alpha([["a", "b"], ["a", "a"]], "ordinal"), "'a', no finite number"),
        (lambda: krippendorff_alpha([[1, np.inf], [1, 2]], "interval"), "inf, no finite number"),
        (lambda: krippendorff_ci([[1, 2], [1, 1]], groups=["a", "a"]), "one group"),
    ],
)
def test_bad_input(bad, says):
    with pytest.raises(InputError, match=says):
        bad()
