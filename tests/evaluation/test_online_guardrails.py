import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from labs.errors import InputError
from labs.evaluation.online.guardrails import (
    MISMATCH,
    Arm,
    check_guardrails,
    newcombe_ci,
    quantile_difference_ci,
    sample_ratio,
)
from labs.evaluation.online.service import Service, Variant, arm_of


@pytest.mark.parametrize(
    ("first", "second", "interval"),
    [
        ((56, 70), (48, 80), (0.0524, 0.3339)),
        ((9, 10), (3, 10), (0.1705, 0.8090)),
        ((6, 7), (2, 7), (0.0582, 0.8062)),
        ((5, 56), (0, 29), (-0.0381, 0.1926)),
        ((0, 10), (0, 20), (-0.1611, 0.2775)),
        ((10, 10), (0, 10), (0.6075, 1.0)),
    ],
)
def test_newcombe_as_published(first, second, interval):
    """Newcombe 1998, table II, method 10: first minus second."""
    assert newcombe_ci(*second, *first) == pytest.approx(interval, abs=5e-5)
    low, high = newcombe_ci(*first, *second)
    assert (-high, -low) == pytest.approx(interval, abs=5e-5)


def test_newcombe_covers_rare_events():
    """1,500 pairs of arms with 0.5 % and 0.8 %: 95 % within 2 points."""
    a, b = np.random.default_rng(0).binomial(1500, [[0.005], [0.008]], (2, 1500))
    held = sum(low <= 0.003 <= high for low, high in (newcombe_ci(int(x), 1500, int(y), 1500) for x, y in zip(a, b, strict=True)))  # fmt: skip
    assert held / 1500 == pytest.approx(0.95, abs=0.02)


def test_the_quantile_bootstrap_is_plain_resampling():
    rng = np.random.default_rng(0)
    a, b = rng.lognormal(6, 0.5, 300), rng.lognormal(6.1, 0.5, 400)
    difference, low, high = quantile_difference_ci(a, b, 0.9, seed=1)
    assert difference == np.sort(b)[359] - np.sort(a)[269]
    slow = [
        np.sort(rng.choice(b, 400))[359] - np.sort(rng.choice(a, 300))[269] for _ in range(8000)
    ]
    width = high - low
    assert (low, high) == pytest.approx(np.quantile(slow, [0.025, 0.975]), abs=0.06 * width)
    assert (difference, low, high) == quantile_difference_ci(a, b, 0.9, seed=1)
    assert (difference, low, high) != quantile_difference_ci(a, b, 0.9, seed=2)


def test_the_quantile_bootstrap_has_the_exact_distribution():
    """Of 20 different values the tenth of a resample is at most the j-th if ten draws or more are, so
    with the chance P(Binomial(20, j/20) >= 10). Levels near a step of that are left out."""
    b, exact = np.arange(1.0, 21.0), stats.binom.sf(9, 20, np.arange(21) / 20)
    compared = 0
    for confidence in np.arange(0.05, 1.0, 0.05):
        _, low, high = quantile_difference_ci(np.zeros(20), b, 0.5, confidence=float(confidence))
        for level, bound in (((1 - confidence) / 2, low), ((1 + confidence) / 2, high)):
            if np.abs(exact - level).min() > 0.02:
                assert bound == np.searchsorted(exact, level)
                compared += 1
    assert compared > 15


def test_the_quantile_interval_covers():
    """300 pairs of arms: the share held is within 4 points of 95 % (three standard errors: 3.8)."""
    rng = np.random.default_rng(2)
    true = 500 * (np.exp(0.4 * 1.6448536) - np.exp(0.3 * 1.6448536))
    held = 0
    for trial in range(300):
        a = 500 * np.exp(0.3 * rng.normal(size=1500))
        b = 500 * np.exp(0.4 * rng.normal(size=1500))
        _, low, high = quantile_difference_ci(a, b, 0.95, seed=trial)
        held += low <= true <= high
    assert held / 300 == pytest.approx(0.95, abs=0.04)


@given(control=st.integers(1, 5000), treatment=st.integers(1, 5000), share=st.floats(0.05, 0.95))
def test_the_ratio_and_its_interval_say_the_same(control, treatment, share):
    got = sample_ratio(control, treatment, share=share)
    total = control + treatment
    p = stats.chisquare([control, treatment], [total * (1 - share), total * share]).pvalue
    assert (got.verdict == "broken") == (p < MISMATCH)
    if abs(p - MISMATCH) > 1e-9:
        assert (got.verdict == "broken") == (got.low > 0 or got.high < 0)
    assert got.difference == pytest.approx(treatment / total - share)


def test_a_healthy_split_passes_and_a_leak_does_not():
    """Of 1,000 healthy splits about one breaks, more than six less than once in 10,000."""
    b = np.random.default_rng(3).binomial(50_000, 0.5, 1000)
    broken = sum(sample_ratio(50_000 - int(x), int(x)).verdict == "broken" for x in b)
    assert broken <= stats.binom.isf(1e-4, 1000, MISMATCH)
    assert sample_ratio(50_000, 48_750).verdict == "broken"  # one request in forty lost
    assert sample_ratio(90_000, 10_000, share=0.1).verdict == "holds"


def arm(n, counts, latency=None):
    return Arm(n, np.zeros(0) if latency is None else latency, counts)


def test_three_verdicts():
    control = arm(20_000, {"errors": 40})
    verdicts = {}
    for errors in (41, 55, 140):
        ratio, check = check_guardrails(control, arm(20_000, {"errors": errors}), {"errors": 0.001})
        assert ratio.metric == "sample ratio" and ratio.verdict == "holds"
        assert check.difference == pytest.approx((errors - 40) / 20_000)
        assert (check.control, check.margin) == (0.002, 0.001)
        assert check.low < check.difference < check.high
        verdicts[errors] = check.verdict
        assert (check.more == 0) == (check.verdict != "cannot be told yet")
    assert verdicts == {41: "holds", 55: "cannot be told yet", 140: "broken"}
    # No difference at all, in too few requests to say so: not "no harm".
    _, few = check_guardrails(arm(500, {"errors": 1}), arm(500, {"errors": 1}), {"errors": 0.001})
    assert few.verdict == "cannot be told yet" and few.more > 1000
    _, even = check_guardrails(arm(100, {"errors": 1}), arm(100, {"errors": 2}), {"errors": 0.01})
    assert (
        even.verdict == "cannot be told yet" and even.more is None
    )  # it looks just like the margin


def test_harm_at_the_margin_passes_at_most_once_in_forty():
    """1,000 arms whose true rise is the margin: "holds" in at most 2.5 %, and for chance."""
    rng = np.random.default_rng(4)
    a, b = rng.binomial(4000, [[0.02], [0.03]], (2, 1000))
    passed = 0
    for x, y in zip(a, b, strict=True):
        _, check = check_guardrails(
            arm(4000, {"complaints": int(x)}),
            arm(4000, {"complaints": int(y)}),
            {"complaints": 0.01},
        )
        passed += check.verdict == "holds"
    assert passed <= stats.binom.isf(1e-4, 1000, 0.03)  # Newcombe's interval is near 2.5, not exact
    assert passed > 0.01 * 1000


def test_as_many_more_as_it_says_tell_four_times_in_five():
    rates = {"refusals": 0.05}, {"refusals": 0.055}
    control, treatment = (arm(1000, {"refusals": int(1000 * r["refusals"])}) for r in rates)
    _, check = check_guardrails(control, treatment, {"refusals": 0.02})
    assert check.verdict == "cannot be told yet"
    n = 1000 + check.more
    rng = np.random.default_rng(5)
    told = 0
    for _ in range(600):
        arms = [arm(n, {"refusals": int(rng.binomial(n, r["refusals"]))}) for r in rates]
        told += check_guardrails(*arms, {"refusals": 0.02})[1].verdict == "holds"
    assert told / 600 == pytest.approx(0.8, abs=0.06)


def test_the_simulated_service_is_caught():
    service = Service(queries=100)
    old = Variant("A", 0.5)
    new = Variant("B", 0.7, latency_ms=520.0, error_rate=0.012, refusal_rate=0.005)
    log = service.day([old, new], 60_000, seed=1)
    limits = {"p95": 50.0, "p50": 150.0, "errors": 0.002, "refusals": 0.004, "complaints": 0.01}
    checks = check_guardrails(arm_of(log, "A"), arm_of(log, "B"), limits)
    assert [c.metric for c in checks] == ["sample ratio", *limits]
    verdicts = {c.metric: c.verdict for c in checks}
    assert verdicts == {
        "sample ratio": "holds", "p95": "broken", "p50": "holds", "errors": "broken",
        "refusals": "holds", "complaints": "holds",
    }  # fmt: skip
    p95 = next(c for c in checks if c.metric == "p95")
    true = 120 * math.exp(0.35 * 1.6448536)
    assert p95.low < true < p95.high
    assert p95.control == pytest.approx(400 * math.exp(0.35 * 1.6448536), rel=0.03)
    # Requests of the new variant that time out and are never logged: the ratio tells.
    lost = log.where((log.variant == 0) | (log.latency_ms < 900))
    assert check_guardrails(arm_of(lost, "A"), arm_of(lost, "B"), {})[0].verdict == "broken"


def test_latency_of_too_few_requests():
    few = Arm(150, np.full(150, 3.0))
    _, check = check_guardrails(few, few, {"p95": 1.0})
    assert check.verdict == "cannot be told yet" and check.more == 50 and math.isnan(check.low)
    _, check = check_guardrails(few, few, {"p50": 1.0})
    assert check.verdict == "holds" and check.difference == 0


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: Arm(10, counts={"errors": 11}), "11 errors of 10"),
        (lambda: Arm(1, np.zeros(2)), "2 latencies of 1 requests"),
        (lambda: Arm(1, np.array([np.nan])), "not finite"),
        (lambda: sample_ratio(0, 10), "0 and 10 requests"),
        (lambda: sample_ratio(10, 10, share=50.0), "share is 50"),
        (lambda: check_guardrails(arm(9, {}), arm(9, {}), {"errors": 0.1}), "no count called 'errors'"),
        (lambda: check_guardrails(arm(9, {"x": 1}), arm(9, {"x": 1}), {"x": -1.0}), "margin of x is -1"),
        (lambda: check_guardrails(arm(9, {}), arm(9, {}), {"p100": 0.1}), "percentile p100"),
        (lambda: newcombe_ci(1, 0, 1, 2), "not a proportion"),
        (lambda: quantile_difference_ci(np.zeros(50), np.zeros(500), 0.95), "Arm A has 50 values"),
        (lambda: quantile_difference_ci(np.zeros(50), np.zeros(50), 1.5), "quantile is 1.5"),
    ],
)  # fmt: skip
def test_what_cannot_be_guarded(call, said):
    with pytest.raises(InputError, match=said):
        call()
