import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import brentq

from labs.errors import InputError
from labs.evaluation import bootstrap_ci, paired_bootstrap, wilson_ci


@given(n=st.integers(1, 500), data=st.data(), confidence=st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_inverts_the_score_test(n, data, confidence):
    """Its bounds are the p0 at which the normal test of p = p0 is just at its limit."""
    successes = data.draw(st.integers(0, n))
    z = stats.norm.ppf((1 + confidence) / 2)
    p = successes / n
    got = wilson_ci(successes, n, confidence)

    def excess(p0):
        return (p - p0) ** 2 * n - z**2 * p0 * (1 - p0)

    low = 0.0 if successes == 0 else brentq(excess, 0, p - 1e-12, xtol=1e-14)
    high = 1.0 if successes == n else brentq(excess, p + 1e-12, 1, xtol=1e-14)
    assert got == pytest.approx((low, high), abs=1e-9)
    assert 0 <= got.low <= p <= got.high <= 1


def test_wilson_equals_scipy_and_the_book():
    theirs = stats.binomtest(37, 120).proportion_ci(method="wilson")
    assert wilson_ci(37, 120) == pytest.approx((theirs.low, theirs.high), rel=1e-9)
    assert wilson_ci(0, 20) == pytest.approx((0, 0.1611), abs=5e-5)
    low, high = wilson_ci(3, 20)
    assert wilson_ci(17, 20) == pytest.approx((1 - high, 1 - low))


@pytest.mark.parametrize("bad", [(-1, 5), (6, 5), (0, 0)])
def test_wilson_of_what_is_no_proportion(bad):
    with pytest.raises(InputError, match="proportion"):
        wilson_ci(*bad)
    with pytest.raises(InputError, match="between 0 and 1"):
        wilson_ci(1, 2, confidence=95.0)


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_bootstrap_of_a_mean_is_near_the_normal_interval(method):
    values = np.random.default_rng(3).normal(5, 2, size=400)
    half = 1.96 * values.std() / math.sqrt(400)
    got = bootstrap_ci(values, method=method, seed=1)
    assert got == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)
    assert got == bootstrap_ci(values, method=method, seed=1)
    assert got != bootstrap_ci(values, method=method, seed=2)
    wider = bootstrap_ci(values, method=method, confidence=0.99, seed=1)
    assert wider.low < got.low < got.high < wider.high


def test_percentile_is_the_slow_loop():
    values = np.random.default_rng(0).exponential(size=31)
    got = bootstrap_ci(values, method="percentile", resamples=20_000, seed=5)
    rng = np.random.default_rng(99)
    means = sorted(sum(rng.choice(values, 31)) / 31 for _ in range(20_000))
    assert got == pytest.approx((means[500], means[-500]), rel=0.02)


def test_bca_covers_a_skewed_mean_more_evenly_than_percentile():
    values = np.random.default_rng(0).exponential(size=31)
    bca, percentile = (bootstrap_ci(values, method=m) for m in ("bca", "percentile"))
    assert bca.low > percentile.low and bca.high > percentile.high  # moved towards the long tail


def test_bootstrap_of_equal_values_and_of_bad_ones():
    assert bootstrap_ci([1, 1, 1]) == (1, 1)
    assert bootstrap_ci([True, True]) == (1, 1)
    for bad in ([], [1.0, float("nan")], [[1.0], [2.0]]):
        with pytest.raises(InputError):
            bootstrap_ci(bad)
    with pytest.raises(InputError, match="item 1"):
        bootstrap_ci([1.0, float("inf"), 2.0])


def test_coverage():
    """A 95 % interval holds the truth about 95 times in 100 (false alarm below one in 10,000)."""
    rng = np.random.default_rng(0)
    held = 0
    for trial in range(300):
        low, high = bootstrap_ci(rng.random(80) < 0.7, resamples=999, seed=trial)
        held += low <= 0.7 <= high
    assert stats.binomtest(held, 300, 0.94).pvalue > 1e-4


def test_paired_bootstrap_sees_what_two_intervals_miss():
    rng = np.random.default_rng(0)
    hardness = rng.normal(0, 10, size=200)
    first = hardness + 0.5 + rng.normal(0, 1, size=200)
    second = hardness + rng.normal(0, 1, size=200)
    result = paired_bootstrap(first, second)
    assert result.difference == pytest.approx(first.mean() - second.mean())
    assert 0 < result.low < result.difference < result.high
    assert result.p_value < 0.01
    apart = bootstrap_ci(first).low > bootstrap_ci(second).high
    assert not apart
    half = 1.96 * (first - second).std() / math.sqrt(200)
    assert result.high - result.low == pytest.approx(2 * half, rel=0.05)


@given(seed=st.integers(0, 99))
def test_paired_bootstrap_is_antisymmetric_and_agrees_with_itself(seed):
    rng = np.random.default_rng(seed)
    a, b = (rng.random((2, 40)) < 0.6).astype(float)
    forward, backward = (
        paired_bootstrap(*pair, resamples=999, seed=1) for pair in ((a, b), (b, a))
    )
    assert forward.difference == -backward.difference
    assert forward.low == pytest.approx(-backward.high)
    assert forward.p_value == pytest.approx(backward.p_value)
    assert forward == paired_bootstrap(a, b, resamples=999, seed=1)
    if forward.low > 0 or forward.high < 0:
        assert forward.p_value <= 0.052
    if forward.p_value < 0.045:
        assert forward.low >= 0 or forward.high <= 0


def test_p_value_is_uniform_when_nothing_differs():
    rng = np.random.default_rng(0)
    values = [
        paired_bootstrap(*rng.normal(size=(2, 60)), resamples=499, seed=i).p_value
        for i in range(300)
    ]
    assert stats.kstest(values, "uniform").pvalue > 1e-4


def test_paired_bootstrap_of_twins_and_of_what_does_not_pair():
    scores = [0.1, 0.7, 0.3]
    assert paired_bootstrap(scores, scores) == (0, 0, 0, 1)
    with pytest.raises(InputError, match="2 items on one side and 3"):
        paired_bootstrap(scores[:2], scores)
    with pytest.raises(InputError, match="no items"):
        paired_bootstrap([], [])
