import numpy as np
import pytest

from labs.errors import InputError
from labs.evaluation.online.cuped import cuped


def arms(rng, n_a, n_b, effect, rho):
    def arm(n, shift):
        before = rng.normal(size=n)
        return shift + rho * before + np.sqrt(1 - rho**2) * rng.normal(size=n), before

    return *arm(n_a, 0.0), *arm(n_b, effect)


def test_it_is_the_coefficient_of_the_arm_in_a_regression():
    """The independent oracle: y ~ 1 + arm + x by least squares."""
    values_a, before_a, values_b, before_b = arms(np.random.default_rng(0), 60, 90, 0.3, 0.7)
    y, x = np.r_[values_a, values_b], np.r_[before_a, before_b]
    design = np.c_[np.ones(150), np.r_[np.zeros(60), np.ones(90)], x]
    coefficients = np.linalg.lstsq(design, y, rcond=None)[0]
    got = cuped(values_a, before_a, values_b, before_b)
    assert got.difference == pytest.approx(coefficients[1])
    assert got.theta == pytest.approx(coefficients[2])


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_unbiased_honest_and_narrower_by_the_correlation(rho):
    """2,000 experiments: bias within 4 standard errors of the mean, coverage within 2 points."""
    rng = np.random.default_rng(1)
    results = [cuped(*arms(rng, 200, 200, 0.25, rho)) for _ in range(2000)]
    difference, se, ratio, _ = np.array(results).T
    assert difference.mean() == pytest.approx(0.25, abs=4 * difference.std() / 2000**0.5)
    assert ((np.abs(difference - 0.25) < 1.96 * se).mean()) == pytest.approx(0.95, abs=0.02)
    assert ratio.mean() == pytest.approx(1 - rho**2, abs=0.01)


def test_a_past_that_is_the_same_for_all_changes_nothing():
    values = np.array([1.0, 2.0, 4.0])
    got = cuped(values, np.ones(3), values + 1, np.ones(3))
    assert got.difference == pytest.approx(1) and got.variance_ratio == 1 and got.theta == 0
    assert got.se == pytest.approx(np.sqrt(2 * values.var(ddof=1) / 3))
    constant = cuped([1.0, 1.0], [0.0, 1.0], [1.0, 1.0], [0.0, 1.0])
    assert constant.difference == 0 and constant.variance_ratio == 1


@pytest.mark.parametrize(
    "bad",
    [
        ([1.0, 2.0], [1.0], [1.0, 2.0], [1.0, 2.0]),
        ([1.0], [1.0], [1.0, 2.0], [1.0, 2.0]),
        ([1.0, 2.0], [1.0, 2.0], [1.0, float("nan")], [1.0, 2.0]),
        ([1.0, 2.0], [1.0, 2.0], [1.0, 2.0], [float("inf"), 2.0]),
        ([[1.0, 2.0]], [[1.0, 2.0]], [1.0, 2.0], [1.0, 2.0]),
    ],
)
def test_visitors_without_a_past(bad):
    with pytest.raises(InputError, match=r"Arm [AB] has"):
        cuped(*bad)
