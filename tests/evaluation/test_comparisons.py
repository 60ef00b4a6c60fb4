import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from labs.errors import InputError
from labs.evaluation.comparisons import (
    benjamini_hochberg,
    bonferroni_confidence,
    holm,
    mcnemar,
)

p_lists = st.lists(st.floats(0, 1), min_size=1, max_size=12)


def pair(b, c, both=3, neither=2):
    first = [1] * b + [0] * c + [1] * both + [0] * neither
    second = [0] * b + [1] * c + [1] * both + [0] * neither
    return first, second


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 5))
def test_mcnemar_from_its_definition(b, c, both):
    got = mcnemar(*pair(b, c, both))
    assert got[:2] == (b, c)
    n = b + c
    tails = sum(math.comb(n, i) for i in range(min(b, c) + 1)) / 2**n
    assert got.exact_p == pytest.approx(min(1, 2 * tails))
    if n:
        assert got.chi2 == pytest.approx(max(abs(b - c) - 1, 0) ** 2 / n)
        assert got.chi2_p == pytest.approx(math.erfc(math.sqrt(got.chi2 / 2)))
    swapped = mcnemar(*pair(c, b, both))
    assert swapped[2:] == pytest.approx(got[2:])


def test_mcnemar_known():
    # Agresti's table of approval ratings: 150 and 86 discordant; R's mcnemar.test gives 16.818.
    got = mcnemar(*pair(150, 86))
    assert got.chi2 == pytest.approx(16.8178, abs=1e-4) and got.chi2_p < 1e-4
    assert mcnemar([True, False], [True, False]) == (0, 0, 1, 0, 1)
    assert mcnemar(*pair(7, 7)).chi2 == 0  # no correction below zero
    assert mcnemar(np.array([1.0, 0.0]), np.array([True, True])).only_second == 1


def test_exact_mcnemar_never_alarms_too_often():
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(1_000):
        first, second = rng.random((2, 40)) < 0.7
        alarms += mcnemar(first, second).exact_p <= 0.05
    assert alarms <= 70  # 5 % of 1,000, and four standard errors


@given(p_lists)
def test_holm_rejects_what_the_step_down_rejects(p):
    adjusted = holm(p)
    for level in (0.01, 0.05, 0.2, *adjusted):
        rejected, order = set(), sorted(range(len(p)), key=lambda i: p[i])
        for step, i in enumerate(order):
            if min(1, (len(p) - step) * p[i]) > level:
                break
            rejected.add(i)
        assert {i for i in range(len(p)) if adjusted[i] <= level} == rejected
    assert np.all(adjusted >= p) and np.all(adjusted <= np.minimum(1, len(p) * np.array(p)))
    assert np.all(np.diff(adjusted[np.argsort(p, kind="stable")]) >= 0)


@given(p_lists)
def test_benjamini_hochberg_rejects_what_the_step_up_rejects(p):
    adjusted = benjamini_hochberg(p)
    ordered = sorted(p)
    for level in (0.011, 0.053, 0.21):
        largest = max((x for i, x in enumerate(ordered, 1) if len(p) * x / i <= level), default=-1)
        assert {i for i in range(len(p)) if adjusted[i] <= level} == {
            i for i in range(len(p)) if p[i] <= largest
        }
    assert np.all(adjusted <= holm(p) + 1e-12)


def test_by_hand():
    p = [0.01, 0.04, 0.03, 0.005]
    assert holm(p) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert benjamini_hochberg(p) == pytest.approx([0.02, 0.04, 0.04, 0.02])
    assert holm([0.3]) == benjamini_hochberg([0.3]) == [0.3]


def test_family_wise_error_of_holm():
    """Twenty tests of which fifteen have nothing to find: any false alarm in at most 5 % of runs."""
    rng = np.random.default_rng(0)
    any_false, plain, found = 0, 0, 0
    for _ in range(2_000):
        z = rng.normal(size=20) + np.array([4.0] * 5 + [0.0] * 15)
        p = 2 * stats.norm.sf(np.abs(z))
        adjusted = holm(p)
        any_false += (adjusted[5:] <= 0.05).any()
        plain += (p[5:] <= 0.05).any()
        found += (adjusted[:5] <= 0.05).sum()
    assert any_false / 2_000 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 2_000)
    assert plain / 2_000 > 0.4 and found / 10_000 > 0.7


def test_intervals_that_hold_together():
    assert bonferroni_confidence(1) == 0.95
    assert bonferroni_confidence(10) == pytest.approx(0.995)
    rng = np.random.default_rng(0)
    z = stats.norm.ppf((1 + bonferroni_confidence(6)) / 2)
    together = (np.abs(rng.normal(size=(4_000, 6))) <= z).all(axis=1).mean()
    assert together >= 0.95 - 3 * math.sqrt(0.05 * 0.95 / 4_000)
    # Where Bonferroni's interval leaves zero out, Holm rejects.
    p = 2 * stats.norm.sf(np.abs(rng.normal(size=6) * 2))
    assert set(np.flatnonzero(p <= 1 - bonferroni_confidence(6))) <= set(
        np.flatnonzero(holm(p) <= 0.05)
    )


@pytest.mark.parametrize("adjust", [holm, benjamini_hochberg])
@pytest.mark.parametrize("bad", [[], [0.5, 1.1], [-0.1], [float("nan")], [[0.1], [0.2]]])
def test_what_is_no_probability(adjust, bad):
    with pytest.raises(InputError):
        adjust(bad)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (lambda: mcnemar([], []), "no items"),
        (lambda: mcnemar([1], [1, 0]), "1 items on one side and 2"),
        (lambda: mcnemar([1, 0.5], [1, 0]), "item 1 is 0.5"),
        (lambda: mcnemar([1, 0], [None, 0]), "item 0 is None"),
        (lambda: bonferroni_confidence(0), "0 comparisons"),
        (lambda: bonferroni_confidence(3, 95.0), "between 0 and 1"),
    ],
)
def test_bad_input(bad, says):
    with pytest.raises(InputError, match=says):
        bad()
