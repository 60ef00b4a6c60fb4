"""Calibration and length bias against closed forms and simulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from labs.errors import InputError
from labs.evaluation.calibration import expected_calibration_error, length_bias, reliability
from labs.evaluation.intervals import wilson_ci


def test_the_curve_by_hand():
    bins = reliability([0.05, 0.1, 0.19, 0.2, 1.0, 0.95], [0, 1, 0, 1, 1, 1], bins=5)
    assert [b.count for b in bins] == [3, 1, 0, 0, 2]
    assert bins[0].predicted == pytest.approx(0.34 / 3) and bins[0].observed == 1 / 3
    assert (bins[0].observed_low, bins[0].observed_high) == tuple(wilson_ci(1, 3))
    assert bins[2].predicted is None and bins[2].observed is None
    assert (bins[4].low, bins[4].high) == (0.8, 1.0) and bins[4].predicted == 0.975
    wanted = 3 / 6 * abs(1 / 3 - 0.34 / 3) + 1 / 6 * 0.8 + 2 / 6 * 0.025
    assert expected_calibration_error(
        [0.05, 0.1, 0.19, 0.2, 1.0, 0.95], [0, 1, 0, 1, 1, 1], 5
    ) == pytest.approx(wanted)


@given(
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 1)), min_size=1, max_size=40),
    st.integers(1, 12),
)
def test_the_curve_is_a_slow_loop(items, bins):
    edges = np.linspace(0, 1, bins + 1)
    found = reliability([p for p, _ in items], [o for _, o in items], bins)
    total = 0.0
    for number, b in enumerate(found):
        last = number == bins - 1
        inside = [
            (p, o) for p, o in items if edges[number] <= p and (p < edges[number + 1] or last)
        ]
        assert b.count == len(inside)
        if inside:
            assert b.predicted == pytest.approx(np.mean([p for p, _ in inside]))
            assert b.observed == pytest.approx(np.mean([o for _, o in inside]))
            total += len(inside) / len(items) * abs(b.predicted - b.observed)
    ece = expected_calibration_error([p for p, _ in items], [o for _, o in items], bins)
    assert ece == pytest.approx(total)
    # One bin: the difference of the two means. More bins never lower it (triangle inequality).
    assert ece >= abs(np.mean([p - o for p, o in items])) - 1e-12


def test_a_calibrated_bradley_terry_lies_on_the_diagonal_and_an_overconfident_one_off_it():
    rng = np.random.default_rng(0)
    margins = rng.normal(0, 2, 40_000)
    outcomes = rng.random(40_000) < 1 / (1 + np.exp(-margins))
    assert expected_calibration_error(1 / (1 + np.exp(-margins)), outcomes) < 0.01
    inside = [b.observed_low <= b.predicted <= b.observed_high for b in reliability(1 / (1 + np.exp(-margins)), outcomes, 20)]  # fmt: skip
    assert sum(inside) >= 17, "95 % intervals of 20 bins"
    sure = 1 / (1 + np.exp(-3 * margins))
    closed = np.mean(np.abs(sure - 1 / (1 + np.exp(-margins))))  # E|p - truth|; binning averages it
    assert expected_calibration_error(sure, outcomes, 50) == pytest.approx(closed, rel=0.05)


@pytest.mark.parametrize(
    ("probabilities", "outcomes", "bins", "word"),
    [
        ([], [], 10, "no items"),
        ([0.5], [1, 0], 10, "1 items on one side and 2"),
        ([1.5], [1], 10, "outside 0 to 1"),
        ([0.5], [0.5], 10, "neither 0 nor 1"),
        ([float("nan")], [1], 10, "not finite"),
        ([0.5], [1], 0, "0 bins"),
    ],
)
def test_bad_calibration_input_is_refused(probabilities, outcomes, bins, word):
    for function in (reliability, expected_calibration_error):
        with pytest.raises(InputError, match=word):
            function(probabilities, outcomes, bins)


def hc3(y, design):
    """Ordinary least squares with HC3, the long way: coefficients and standard errors."""
    inverse = np.linalg.inv(design.T @ design)
    beta = inverse @ design.T @ y
    leverage = np.einsum("ij,jk,ik->i", design, inverse, design)
    weights = ((y - design @ beta) / (1 - leverage)) ** 2
    return beta, np.sqrt(np.diag(inverse @ (design.T * weights) @ design @ inverse))


def example(n=60, seed=0):
    rng = np.random.default_rng(seed)
    quality = rng.integers(0, 5, n).astype(float)
    lengths = 3 * quality + rng.normal(0, 2, n)
    rewards = 0.7 * quality + 0.05 * lengths + rng.normal(0, 0.3 + 0.1 * quality, n)
    return rewards, lengths, quality


def test_the_slope_is_that_of_the_whole_regression():
    rewards, lengths, quality = example()
    found = length_bias(rewards, lengths, quality)
    beta, errors = hc3(rewards, np.column_stack([np.ones(60), quality, lengths]))
    t = stats.t.ppf(0.975, 57)
    assert found.slope == pytest.approx(beta[2])
    assert (found.low, found.high) == pytest.approx((beta[2] - t * errors[2], beta[2] + t * errors[2]))  # fmt: skip
    assert found.p_value == pytest.approx(2 * stats.t.sf(abs(beta[2] / errors[2]), 57))
    # Columns that repeat one another change nothing.
    twice = length_bias(rewards, lengths, np.column_stack([quality, 2 * quality, np.ones(60)]))
    assert twice[:4] == pytest.approx(found[:4])


def test_strata_are_dummies_and_single_items_have_no_say():
    rewards, lengths, quality = example()
    labels = [f"prompt {int(q)}" for q in quality]
    found = length_bias([*rewards, 99.0], [*lengths, -50.0], [*labels, "alone"])
    dummies = (quality[:, None] == np.unique(quality)).astype(float)
    beta, errors = hc3(rewards, np.column_stack([dummies, lengths]))
    width = stats.t.ppf(0.975, 60 - dummies.shape[1] - 1) * errors[-1]
    assert found.slope == pytest.approx(beta[-1]) and found.items == 60
    assert (found.low, found.high) == pytest.approx((beta[-1] - width, beta[-1] + width))


def test_with_equal_quality_it_is_the_plain_slope():
    rewards, lengths, _ = example()
    found = length_bias(rewards, lengths, np.ones(60))
    assert found.slope == pytest.approx(stats.linregress(lengths, rewards).slope)


def test_quality_that_explains_length_away_is_no_bias():
    """Good answers are longer and the reward pays for quality: the plain slope is fooled."""
    holds, fooled = 0, 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        quality = rng.normal(0, 1, 80)
        lengths = 2 * quality + rng.normal(0, 1, 80)
        rewards = quality + rng.normal(0, 0.2 + 0.3 * np.abs(quality), 80)
        found = length_bias(rewards, lengths, quality)
        holds += found.low <= 0 <= found.high
        assert (found.p_value < 0.05) == (not found.low <= 0 <= found.high)
        fooled += stats.linregress(lengths, rewards).pvalue < 0.05
    assert fooled == 200
    assert 183 <= holds <= 198, (
        "a 95 % interval"
    )  # 0.95 ± 3 standard errors of 200, and HC3 is wide


def test_length_bias_without_noise_is_found_exactly():
    lengths = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    quality = np.array([0, 1, 0, 1, 0, 1])
    found = length_bias(2 * quality - 0.25 * lengths, lengths, quality)
    assert found.slope == pytest.approx(-0.25) and found.p_value < 1e-6
    flat = length_bias(np.zeros(6), lengths, quality)
    assert flat.slope == 0 and flat.p_value == 1


@pytest.mark.parametrize(
    ("rewards", "lengths", "quality", "word"),
    [
        ([], [], [], "no items"),
        ([1.0, 2.0], [1.0], [1, 1], "on the other"),
        ([1.0, 2.0], [1.0, 2.0], [1], "on the other"),
        ([1.0, float("inf")], [1.0, 2.0], [1, 1], "not finite"),
        ([1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0], [1.0, float("nan"), 2.0, 3.0], "not finite"),
        ([1.0, 2.0, 3.0, 5.0], [7.0, 7.0, 7.0, 7.0], [1, 2, 3, 4], "does not vary"),
        ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], ["a", "b", "c"], "equal quality"),
        ([1.0, 2.0], [1.0, 2.0], ["a", "a"], "equal quality"),
        ([1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0], [2, 4, 6, 8], "does not vary"),
    ],
)
def test_what_cannot_be_said_is_refused(rewards, lengths, quality, word):
    with pytest.raises(InputError, match=word):
        length_bias(rewards, lengths, quality)
