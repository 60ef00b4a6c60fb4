import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from labs.errors import InputError
from labs.evaluation.online.sequential import (
    LEAST,
    always_valid_p,
    confidence_sequence,
    mixture_interval,
    mixture_p,
    mixture_scale,
    naive_p,
)


def at_most(share: float, trials: int) -> int:
    """As many hits as chance gives `share` of `trials` but once in ten thousand."""
    return int(stats.binom.isf(1e-4, trials, share))


def counts(rng, experiments, looks, rate_a, rate_b, step_b=1):
    """Cumulative successes and visitors: at each look one more in A and `step_b` more in B."""
    seen = np.arange(1, looks + 1)
    a = (rng.random((experiments, looks)) < rate_a).cumsum(1)
    b = rng.binomial(step_b, rate_b, (experiments, looks)).cumsum(1)
    return a, seen, b, seen * step_b


@given(a=st.integers(0, 60), b=st.integers(0, 90))
def test_the_naive_test_is_the_chi_square_test(a, b):
    if a + b in (0, 150):
        assert naive_p(a, 60, b, 90) == 1
        return
    table = [[a, 60 - a], [b, 90 - b]]
    theirs = stats.chi2_contingency(table, correction=False).pvalue
    assert naive_p(a, 60, b, 90) == pytest.approx(theirs, abs=1e-12)


@settings(max_examples=30)
@given(d=st.floats(-0.3, 0.3), se=st.floats(0.01, 0.5), tau=st.floats(0.01, 1))
def test_the_martingale_is_the_integral_it_claims_to_be(d, se, tau):
    def ratio(theta):
        return np.exp((d**2 - (d - theta) ** 2) / (2 * se**2)) * stats.norm.pdf(theta, 0, tau)

    reach = 12 * max(se, tau)
    value, _ = integrate.quad(ratio, -reach, reach, points=[d, 0.0], limit=400)
    got = mixture_p(d, se**2, tau=tau)
    assert got == pytest.approx(min(1, 1 / value), rel=1e-5)


def test_p_values_never_rise_and_are_the_smallest_so_far():
    rng = np.random.default_rng(0)
    d, v = rng.normal(0, 0.1, 300), 1 / np.arange(1, 301)
    p = mixture_p(d, v, tau=0.2)
    assert np.all(np.diff(p) <= 0) and np.all((p > 0) & (p <= 1))
    each = [float(mixture_p(x, y, tau=0.2)) for x, y in zip(d, v, strict=True)]
    assert p == pytest.approx(np.minimum.accumulate(each))
    assert mixture_p(np.stack([d, -d]), np.stack([v, v]), tau=0.2)[1] == pytest.approx(p)


@given(seed=st.integers(0, 50), alpha=st.sampled_from([0.01, 0.05, 0.2]))
def test_p_is_at_most_alpha_exactly_when_an_interval_so_far_leaves_zero_out(seed, alpha):
    rng = np.random.default_rng(seed)
    looks = counts(rng, 3, 400, 0.3, 0.3 + 0.004 * seed)
    p = always_valid_p(*looks, tau=0.1)
    low, high = confidence_sequence(*looks, tau=0.1, alpha=alpha)
    left_out = np.maximum.accumulate((low > 0) | (high < 0), axis=1)
    assert np.array_equal(p <= alpha, left_out)
    assert np.all(low >= -1) and np.all(high <= 1) and np.all(low <= high)


def test_false_alarms_of_an_exact_walk_under_continuous_looks():
    """2,000 random walks of 2,000 steps, looked at after each: theory says at most 5 %, and tens of
    per cent for the naive test. Either assertion fails by chance less than once in 10,000."""
    rng = np.random.default_rng(1)
    steps = np.arange(1, 2001)
    means = rng.normal(size=(2000, 2000)).cumsum(1) / steps
    variance = np.broadcast_to(1 / steps, means.shape)
    p = mixture_p(means, variance, tau=0.1)
    assert (p[:, -1] <= 0.05).sum() <= at_most(0.05, 2000)
    assert (p[:, -1] <= 0.05).mean() > 0.015  # nor is it a test that never finds anything
    naive = np.abs(means) * np.sqrt(steps) > 1.96
    assert naive.any(1).mean() > 0.4
    # A confidence sequence around another truth is the same event.
    low, high = mixture_interval(means + 0.3, variance, tau=0.1)
    missed = ((low > 0.3) | (high < 0.3)).any(1)
    assert np.array_equal(missed, p[:, -1] <= 0.05)


@pytest.mark.parametrize(
    ("rate", "tau", "step_b"),
    [
        (0.21, 0.03, 1),
        (0.01, 0.2, 1),
        (0.99, 0.5, 1),
        (0.5, 1.0, 1),
        (0.05, 0.05, 4),
        (0.5, 0.5, 9),
    ],
)
def test_false_alarms_of_proportions_under_continuous_looks(rate, tau, step_b):
    """Rare and common events, scales far too large (which decide early, where the normal approximation is
    worst: without LEAST the last one has 8 %), unequal arms: at most 5 % of 2,000 experiments, but for chance (once in 10,000)."""
    rng = np.random.default_rng(2)
    looks = counts(rng, 2000, 2000, rate, rate, step_b)
    p = always_valid_p(*looks, tau=tau)
    assert (p[:, -1] <= 0.05).sum() <= at_most(0.05, 2000)
    assert (naive_p(*looks) <= 0.05).any(1).mean() > 0.2


def test_the_interval_holds_the_truth_at_every_look_at_once():
    rng = np.random.default_rng(3)
    looks = counts(rng, 2000, 1500, 0.2, 0.3)
    low, high = confidence_sequence(*looks, tau=0.05)
    missed = ((low > 0.1) | (high < 0.1)).any(1)
    assert missed.sum() <= at_most(0.05, 2000)
    assert (low[:, -1] > 0).mean() > 0.9  # and it finds the effect
    naive = (low + high) / 2 - looks[2] / looks[3] + looks[0] / looks[1]
    assert np.abs(naive[:, 200:]).max() < 1e-12  # centred on the plain difference


def test_it_finds_what_is_there_in_the_order_of_the_fixed_sample_size():
    rng = np.random.default_rng(4)
    n = 1000
    looks = counts(rng, 500, 2 * n, 0.2, 0.2 + 2.8 * math.sqrt(2 * 0.16 / n))
    p = always_valid_p(*looks, tau=mixture_scale(n, 0.2))
    stop = np.where((p <= 0.05).any(1), (p <= 0.05).argmax(1) + 1, 2 * n)
    assert (p[:, -1] <= 0.05).mean() > 0.78
    assert stop.mean() < 1.2 * n


def test_looks_that_are_left_out_only_make_it_safer():
    looks = counts(np.random.default_rng(5), 20, 2000, 0.3, 0.35)
    every = always_valid_p(*looks, tau=0.05)
    hundredth = always_valid_p(*(x[..., 99::100] for x in looks), tau=0.05)
    assert np.all(hundredth >= every[:, 99::100] - 1e-15)


def test_before_anything_has_happened_it_says_nothing():
    seen = np.arange(1, 10 * LEAST)
    nobody = np.zeros_like(seen)
    everybody = seen
    assert np.all(always_valid_p(nobody, seen, nobody, seen, tau=0.5) == 1)
    assert np.all(always_valid_p(everybody, seen, everybody, seen, tau=0.5) == 1)
    p = always_valid_p(nobody, seen, everybody, seen, tau=0.5)
    first = 2 * LEAST - 1  # half of all succeed: LEAST of each in both arms
    assert np.all(p[:first] == 1) and np.all(p[first:] < 1e-6)
    low, high = confidence_sequence(nobody, seen, everybody, seen, tau=0.5)
    assert np.all(low[:first] == -1) and np.all(high == 1) and low[-1] > 0.8


def test_one_look_is_a_number():
    p = always_valid_p(200, 1000, 300, 1000, tau=0.05)
    assert p.shape == () and 0 < p < 1e-4
    assert p > naive_p(200, 1000, 300, 1000)
    low, high = confidence_sequence(200, 1000, 300, 1000, tau=0.05)
    assert 0 < low < 0.1 < high


def test_the_scale_is_the_best_there_is():
    n, p = 5000, 0.2
    variance = 2 * p * (1 - p) / n

    def half(tau, alpha=0.05):
        low, high = mixture_interval(0.0, variance, tau=tau, alpha=alpha)
        return float(high - low) / 2

    for alpha in (0.01, 0.05, 0.2):
        tau = mixture_scale(n, p, alpha=alpha)
        assert half(tau, alpha) < min(half(0.95 * tau, alpha), half(1.05 * tau, alpha))
    tau = mixture_scale(n, p)
    # What the docstrings say of it:
    assert tau / math.sqrt(variance) == pytest.approx(2.9, abs=0.05)
    assert half(tau) / (1.96 * math.sqrt(variance)) == pytest.approx(1.5, abs=0.06)
    assert half(2 * tau) / half(tau) == pytest.approx(1.03, abs=0.005)
    assert half(tau / 2) / half(tau) == pytest.approx(1.07, abs=0.005)


def test_means_with_estimated_variances():
    """Skewed values, 1,500 A/A experiments, looks from the 50th visitor on."""
    rng = np.random.default_rng(6)
    seen = np.arange(1, 1001)
    moments = []
    for _ in range(2):
        values = rng.exponential(size=(1500, 1000))
        mean = values.cumsum(1) / seen
        moments.append((mean, ((values**2).cumsum(1) / seen - mean**2)))
    d = (moments[1][0] - moments[0][0])[:, 49:]
    v = ((moments[0][1] + moments[1][1]) / seen)[:, 49:]
    assert (mixture_p(d, v, tau=0.1)[:, -1] <= 0.05).sum() <= at_most(0.05, 1500)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: naive_p(0, 0, 1, 2), "Arm A has a look without visitors"),
        (lambda: naive_p(1, 2, 3, 2), "Arm B has a look with fewer than 0"),
        (lambda: naive_p(-1, 2, 1, 2), "Arm A has a look with fewer than 0"),
        (lambda: naive_p([1, 2], [2, 3, 4], 1, 2), "Arm A has successes of shape"),
        (lambda: naive_p([1, 2], [3, 4], [1, 2, 3], [4, 5, 6]), "looks of shape"),
        (lambda: naive_p(float("nan"), 5, 1, 5), "Arm A"),
        (lambda: always_valid_p([2, 1], [3, 4], [1, 2], [3, 4], tau=0.1), "successes of arm A fall"),
        (lambda: always_valid_p([1, 1], [3, 4], [1, 2], [5, 4], tau=0.1), "visitors of arm B fall"),
        (lambda: always_valid_p(1, 2, 1, 2, tau=0.0), "tau is 0"),
        (lambda: confidence_sequence(1, 2, 1, 2, tau=0.1, alpha=5.0), "alpha is 5"),
        (lambda: mixture_p([0.1, 0.2], [1.0], tau=0.1), "variances"),
        (lambda: mixture_p(0.1, 0.0, tau=0.1), "variance is not finite and above 0"),
        (lambda: mixture_p(float("nan"), 1.0, tau=0.1), "difference is not finite"),
        (lambda: mixture_scale(0, 0.2), "visitors is 0"),
        (lambda: mixture_scale(100, 20.0), "baseline is 20"),
    ],
)  # fmt: skip
def test_what_cannot_be_looked_at(call, said):
    with pytest.raises(InputError, match=said):
        call()
