import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from labs.errors import InputError
from labs.evaluation.online.group_sequential import (
    alpha_spent,
    crossing_probabilities,
    spending_bounds,
)


def equal(looks):
    return np.arange(1, looks + 1) / looks


def test_five_looks_as_published():
    """What every program for group-sequential designs gives (Lan and DeMets 1983, their first type)."""
    assert spending_bounds(equal(5)) == pytest.approx([4.877, 3.357, 2.680, 2.290, 2.031], abs=6e-4)


@pytest.mark.parametrize(
    ("looks", "rate"),
    [(1, 0.050), (2, 0.083), (3, 0.107), (4, 0.126), (5, 0.142), (10, 0.193), (20, 0.248), (50, 0.320)],
)  # fmt: skip
def test_naive_looks_as_published(looks, rate):
    """Armitage, McPherson and Rowe 1969: looks at 1.96."""
    chances = crossing_probabilities(np.full(looks, 1.959964), equal(looks))
    assert chances.sum() == pytest.approx(rate, abs=6e-4)
    assert chances[0] == pytest.approx(0.05, abs=1e-6)


@settings(max_examples=25)
@given(
    looks=st.lists(st.integers(1, 40), min_size=1, max_size=6, unique=True),
    alpha=st.sampled_from([0.01, 0.05, 0.1]),
)
def test_all_that_is_spent_is_alpha(looks, alpha):
    shares = np.sort(looks) / max(looks)
    bounds = spending_bounds(shares, alpha=alpha)
    spent = crossing_probabilities(bounds, shares).cumsum()
    assert spent == pytest.approx(alpha_spent(shares, alpha=alpha), abs=1e-8)
    assert spent[-1] == pytest.approx(alpha)


def test_bounds_do_not_depend_on_looks_to_come():
    assert spending_bounds([0.3, 0.7]) == pytest.approx(spending_bounds([0.3, 0.7, 0.8, 1.0])[:2])


@pytest.mark.parametrize("drift", [0.0, 1.5, -4.0])
def test_against_the_multivariate_normal(drift):
    """P(inside at looks 1 to k) as a probability of a box, by scipy's own integration."""
    shares, bounds = np.array([0.2, 0.5, 1.0]), np.array([2.2, 2.0, 1.9])
    covariance = np.sqrt(np.minimum.outer(shares, shares) / np.maximum.outer(shares, shares))
    got = crossing_probabilities(bounds, shares, drift=drift)
    inside = 1.0
    for k in (1, 2, 3):
        now = stats.multivariate_normal(drift * np.sqrt(shares[:k]), covariance[:k, :k]).cdf(
            bounds[:k], lower_limit=-bounds[:k]
        )
        assert got[k - 1] == pytest.approx(inside - now, abs=1e-4)
        inside = now


def test_one_look_is_the_ordinary_test():
    assert spending_bounds([1.0]) == pytest.approx([1.959964], abs=1e-6)
    power = crossing_probabilities([1.959964], [1.0], drift=2.8)
    assert power == pytest.approx([stats.norm.sf(1.959964 - 2.8) + stats.norm.cdf(-1.959964 - 2.8)])


def test_very_early_looks_spend_nothing_and_harm_nothing():
    bounds = spending_bounds([0.0005, 0.01, 1.0])
    assert bounds[0] > 30 and bounds[1] > 15 and bounds[2] == pytest.approx(1.96, abs=0.01)
    stopped = crossing_probabilities(bounds, [0.0005, 0.01, 1.0], drift=50.0)
    assert stopped.sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: spending_bounds([]), "do not rise"),
        (lambda: spending_bounds([0.5, 0.5]), "do not rise"),
        (lambda: spending_bounds([0.0, 1.0]), "do not rise"),
        (lambda: spending_bounds([0.5, 1.2]), "outside the planned"),
        (lambda: spending_bounds([1.0], alpha=5.0), "alpha is 5"),
        (lambda: alpha_spent([0.5, float("nan")]), "outside the planned"),
        (lambda: crossing_probabilities([2.0], [0.5, 1.0]), "1 bounds were given for 2"),
        (lambda: crossing_probabilities([2.0, 0.0], [0.5, 1.0]), "not above 0"),
    ],
)
def test_looks_that_are_none(call, said):
    with pytest.raises(InputError, match=said):
        call()
