import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from labs.errors import InputError
from labs.evaluation.online.design import (
    minimum_detectable_effect,
    power,
    power_mean,
    rule_of_16,
    sample_size,
    sample_size_mean,
    sample_size_paired,
)

rates = st.floats(0.02, 0.98)
sides = st.booleans()


def test_the_numbers_in_the_manual_of_r():
    """The examples of `power.prop.test` and `power.t.test`, as their help pages give the results."""
    assert sample_size(0.5, 0.25, power=0.9) == math.ceil(76.7)
    assert power(50, 0.5, 0.25) == pytest.approx(0.740, abs=5e-4)
    assert 0.5 + minimum_detectable_effect(50, 0.5, power=0.9) == pytest.approx(0.8026, abs=5e-5)
    assert power_mean(20, 1.0, 1.0) == pytest.approx(0.8690, abs=5e-5)
    assert sample_size_mean(1.0, 1.0, power=0.9) == math.ceil(22.02)


def test_a_click_rate_of_21_per_cent_and_one_point():
    assert rule_of_16(0.21, 0.01) == 26_544
    assert sample_size(0.21, 0.01) == pytest.approx(26_500, rel=0.002)


def test_the_rule_of_16_is_near_for_small_effects_and_off_for_large_ones():
    for p in (0.1, 0.5, 0.9):
        assert rule_of_16(p, 0.002) == pytest.approx(sample_size(p, 0.002), rel=0.03)
    assert rule_of_16(0.01, 0.04) < 0.5 * sample_size(0.01, 0.04)


@given(baseline=rates, effect=st.floats(-0.4, 0.4), ratio=st.floats(0.2, 5), two_sided=sides)
def test_n_is_the_smallest_with_that_power(baseline, effect, ratio, two_sided):
    assume(abs(effect) > 0.005 and 0.01 < baseline + effect < 0.99)
    how = {"ratio": ratio, "two_sided": two_sided}
    n = sample_size(baseline, effect, power=0.8, **how)
    assert power(n, baseline, effect, **how) >= 0.8 - 1e-6
    if n > 1:
        assert power(n - 1, baseline, effect, **how) < 0.8


@given(baseline=rates, n=st.integers(2000, 100_000), two_sided=sides)
def test_the_smallest_effect_is_the_inverse_of_the_power(baseline, n, two_sided):
    effect = minimum_detectable_effect(n, baseline, two_sided=two_sided)
    assert power(n, baseline, effect, two_sided=two_sided) == pytest.approx(0.8, abs=1e-6)


def test_a_fall_is_the_opposite_rising():
    fall = minimum_detectable_effect(5000, 1 - 0.1)
    assert power(5000, 0.1, -fall) == pytest.approx(0.8, abs=1e-6)
    assert sample_size(0.1, -0.02) == sample_size(0.9, 0.02)


@pytest.mark.parametrize(
    ("baseline", "effect", "ratio", "two_sided"),
    [(0.1, 0.05, 1.0, True), (0.3, -0.06, 3.0, True), (0.5, 0.08, 0.5, False)],
)
def test_a_test_of_n_visitors_finds_it_four_times_in_five(baseline, effect, ratio, two_sided):
    """20,000 experiments: the standard error of the share is 0.003; the normal approximation 0.01."""
    n = sample_size(baseline, effect, ratio=ratio, two_sided=two_sided)
    other = math.ceil(n * ratio)
    rng = np.random.default_rng(0)
    first = rng.binomial(n, baseline, 20_000)
    second = rng.binomial(other, baseline + effect, 20_000)
    pooled = (first + second) / (n + other)
    z = (second / other - first / n) / np.sqrt(pooled * (1 - pooled) * (1 / n + 1 / other))
    limit = stats.norm.isf(0.025 if two_sided else 0.05)
    assert (z * np.sign(effect) > limit).mean() == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize("ratio", [1.0, 2.0])
def test_means_by_simulation(ratio):
    """10,000 experiments: the standard error of the share is 0.004."""
    n = sample_size_mean(2.0, 1.5, ratio=ratio)
    rng = np.random.default_rng(1)
    first = rng.normal(10, 2, (10_000, n))
    second = rng.normal(11.5, 2, (10_000, math.ceil(n * ratio)))
    p = stats.ttest_ind(first, second, axis=1).pvalue
    assert (p < 0.05).mean() == pytest.approx(0.8, abs=0.03)
    assert (p < 0.05).mean() > 0.785


@given(sd=st.floats(0.1, 50), size=st.floats(0.05, 1), two_sided=sides)
def test_means_need_a_visitor_or_two_more_than_the_normal_formula(sd, size, two_sided):
    z = stats.norm.isf(0.025 if two_sided else 0.05) + stats.norm.ppf(0.8)
    normal = 2 * (z / size) ** 2
    n = sample_size_mean(sd, size * sd, two_sided=two_sided)
    assert normal <= n <= normal + 3
    assert n == sample_size_mean(sd, -size * sd, two_sided=two_sided)


def test_means_of_many_visitors():
    assert sample_size_mean(1.0, 0.005) == pytest.approx(2 * (2.8015852 / 0.005) ** 2, rel=1e-4)
    # Just below and above where the noncentral t gives way to the normal:
    assert power_mean(49_900, 1.0, 0.0177) == pytest.approx(
        power_mean(50_100, 1.0, 0.0177), abs=0.002
    )


def test_paired_as_published():
    """Cells of 0.45 and 0.05: 23 pairs, two-sided at 0.8 and one-sided at 0.9 (powerandsamplesize.com)."""
    assert sample_size_paired(0.5, 0.4) == 23
    assert sample_size_paired(0.5, 0.4, power=0.9, two_sided=False) == 23


def test_paired_by_simulation():
    """10,000 benchmarks: the standard error of the share is 0.004."""
    discordant, effect = 0.12, 0.04
    n = sample_size_paired(discordant, effect)
    cells = [(discordant + effect) / 2, (discordant - effect) / 2, 1 - discordant]
    b, c, _ = np.random.default_rng(2).multinomial(n, cells, 10_000).T
    found = (b - c) / np.sqrt(b + c) > 1.959964
    assert found.mean() == pytest.approx(0.8, abs=0.02)


def test_what_two_systems_share_need_not_be_paid_for():
    """Two accuracies of 65 and 66 %: paired with a tenth of the items apart, against two samples."""
    assert sample_size_paired(0.1, 0.01) < sample_size(0.65, 0.01) / 4
    assert sample_size_paired(0.05, 0.01) < sample_size_paired(0.1, 0.01)
    assert sample_size_paired(0.02, 0.02) == math.ceil((1.959964 * 0.02**0.5 + 0.841621 * 0.0196**0.5) ** 2 / 0.0004)  # fmt: skip


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: sample_size(21.0, 1.0), "baseline is 21"),
        (lambda: sample_size(0.0, 0.1), "baseline is 0.0"),
        (lambda: sample_size(0.5, 0.0), "effect of 0.0"),
        (lambda: sample_size(0.5, float("nan")), "effect of nan"),
        (lambda: sample_size(0.95, 0.1), "rate with the effect"),
        (lambda: sample_size(0.5, 0.1, alpha=0.0), "alpha is 0"),
        (lambda: sample_size(0.5, 0.1, power=80.0), "power is 80"),
        (lambda: sample_size(0.5, 0.1, alpha=0.2, power=0.1), "not above alpha"),
        (lambda: sample_size(0.5, 0.1, ratio=0.0), "ratio is 0"),
        (lambda: rule_of_16(0.5, 0.6), "rate with the effect"),
        (lambda: power(0, 0.5, 0.1), "visitors is 0"),
        (lambda: power(10, 0.5, 0.1, alpha=5.0), "alpha is 5"),
        (lambda: minimum_detectable_effect(0, 0.5), "visitors is 0"),
        (lambda: minimum_detectable_effect(5, 0.9), "see no rise above 0.9"),
        (lambda: minimum_detectable_effect(5, 1.0), "baseline is 1.0"),
        (lambda: sample_size_mean(0.0, 1.0), "deviation is 0"),
        (lambda: sample_size_mean(1.0, 0.0), "effect of 0.0"),
        (lambda: sample_size_mean(1.0, 1.0, ratio=-1.0), "ratio is -1"),
        (lambda: power_mean(1, 1.0, 1.0), "no variance"),
        (lambda: sample_size_paired(1.5, 0.1), "discordant share is 1.5"),
        (lambda: sample_size_paired(0.1, 0.2), "cannot differ by 0.2"),
        (lambda: sample_size_paired(0.1, 0.0), "effect of 0.0"),
    ],
)
def test_what_cannot_be_planned(call, said):
    with pytest.raises(InputError, match=said):
        call()
