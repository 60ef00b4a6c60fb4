"""Guardrails: what a new model must not make worse, whatever it makes better.

"No significant difference" is no proof of no harm: a short test finds none of anything. So each metric
gets a margin, how much worse is still all right, and the question is whether the whole interval of the
difference lies below it (non-inferiority), above it, or neither yet.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from scipy import stats

from labs.errors import InputError
from labs.evaluation.intervals import Interval, wilson_ci
from labs.evaluation.online.checks import check_share

VERDICTS = ("holds", "broken", "cannot be told yet")
MISMATCH = 0.001  # the p-value below which the split itself is broken
RESAMPLES = 9_999
SURE = 0.8  # the chance with which `more` requests tell, if the difference is as it looks


@dataclass(frozen=True)
class Arm:
    """What one arm did. counts: how many of its `requests` were errors, complaints, refusals, …

    latency_ms: one number a request that has one; it may be fewer than `requests`.
    """

    requests: int
    latency_ms: np.ndarray = field(default_factory=lambda: np.zeros(0))
    counts: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self):
        for name, count in self.counts.items():
            if not 0 <= count <= self.requests:
                raise InputError(
                    f"{count} {name} of {self.requests} requests cannot be.",
                    "Pass counts of requests.",
                )
        latency = np.asarray(self.latency_ms)
        if len(latency) > self.requests or not np.isfinite(latency).all():
            raise InputError(
                f"There are {len(latency)} latencies of {self.requests} requests, or one is not finite.",
                "Pass one number for each request that has one.",
            )


class Guardrail(NamedTuple):
    """One metric: control, treatment, and treatment - control with its 95 % interval.

    verdict: "holds" (the interval lies at or below `margin`), "broken" (above it) or "cannot be told
    yet". more: requests an arm beyond those seen after which it will be told with a chance of 80 %, if
    the difference is what it looks like; 0 where it is told, None where it looks just like the margin.
    """

    metric: str
    verdict: str
    control: float
    treatment: float
    difference: float
    low: float
    high: float
    margin: float
    more: int | None


def check_guardrails(
    control: Arm,
    treatment: Arm,
    limits: Mapping[str, float],
    *,
    share: float = 0.5,
    seed: int = 0,
) -> list[Guardrail]:
    """The sample ratio first, then each metric of `limits` in its order.

    limits: metric to margin, the rise that is still acceptable, 0 or more. "p50", "p95", "p99.9", … are
    percentiles of latency in ms (interval: bootstrap; nan, and not to be told, with fewer than ten
    values beyond the percentile); any other name is one of the arms' counts, as a
    share of requests (interval: Newcombe). share: how much of the traffic the treatment was to get.

    Where the sample ratio is broken, requests were lost or added in one arm, most likely not at
    random, and no line below it means anything, for better or worse: find the leak first. To declare
    that *all* guardrails hold needs no correction for their number; that one of several *broke* does
    (Holm). The intervals are for one look.

    Raises InputError for margins below 0, metrics that an arm does not have, and empty arms.

    Non-inferiority: Blackwelder 1982 (Controlled Clinical Trials 3, 345-353). Chapter 7.
    """
    found = [sample_ratio(control.requests, treatment.requests, share=share)]
    for metric, margin in limits.items():
        if not (math.isfinite(margin) and margin >= 0):
            raise InputError(
                f"The margin of {metric} is {margin}.",
                "Pass how much worse is acceptable, 0 or more.",
            )
        percentile = re.fullmatch(r"p(\d+(?:\.\d+)?)", metric)
        if percentile:
            check = _latency(metric, float(percentile[1]) / 100, margin, control, treatment, seed)
        else:
            check = _rate(metric, margin, control, treatment)
        found.append(check)
    return found


def sample_ratio(control: int, treatment: int, *, share: float = 0.5) -> Guardrail:
    """Did the arms get the traffic they were to get? The chi-square test of the split.

        χ² = Σ (observed - expected)² / expected,  1 degree of freedom;  broken where p < 0.001

    As a guardrail: control is the share the treatment was to get, treatment what it got, low and high
    the 99.9 % Wilson interval less the first, which leaves 0 out exactly where p < 0.001. The limit is
    strict because it is tested daily and a healthy split should pass. It "holds" or is "broken".
    Raises InputError for an empty arm.

    Fabijan et al. 2019 (doi:10.1145/3292500.3330722). Chapter 7.
    """
    check_share("share", share)
    if control < 1 or treatment < 1:
        raise InputError(
            f"The arms have {control} and {treatment} requests.", "Compare two arms with traffic."
        )
    total = control + treatment
    low, high = (bound - share for bound in wilson_ci(treatment, total, 1 - MISMATCH))
    expected = [total * (1 - share), total * share]
    p = stats.chisquare([control, treatment], expected).pvalue
    verdict = "broken" if p < MISMATCH else "holds"
    got = treatment / total
    return Guardrail("sample ratio", verdict, share, got, got - share, low, high, 0.0, 0)


def newcombe_ci(
    successes_a: int, n_a: int, successes_b: int, n_b: int, confidence: float = 0.95
) -> Interval:
    """Interval for the difference of two independent proportions, p_b - p_a.

        low = d - sqrt((p_b - l_b)² + (u_a - p_a)²),   high = d + sqrt((u_b - p_b)² + (p_a - l_a)²)

    with the Wilson bounds l, u of each. Honest for rare events, where d ± 1.96 standard errors is not:
    0 of 100 in both arms gives (-0.037, 0.037), not (0, 0). Raises InputError as `wilson_ci`.

    Newcombe 1998 (Statistics in Medicine 17, 873-890), method 10. Chapter 7.
    """
    low_a, high_a = wilson_ci(successes_a, n_a, confidence)
    low_b, high_b = wilson_ci(successes_b, n_b, confidence)
    p_a, p_b = successes_a / n_a, successes_b / n_b
    d = p_b - p_a
    return Interval(
        d - math.hypot(p_b - low_b, high_a - p_a), d + math.hypot(high_b - p_b, p_a - low_a)
    )


def quantile_difference_ci(
    values_a, values_b, q: float, *, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float, float]:
    """(difference, low, high) of the q-quantile of B less that of A, by the percentile bootstrap.

    The quantile is the order statistic x_(k), k = ceil(q n). Resampling needs no resamples: the k-th
    smallest of n draws with replacement is x_(J), J = ceil(n U), U ~ Beta(k, n + 1 - k), the k-th
    smallest of n uniform numbers. So a million latencies cost no more than a sort.

    Arrays of any lengths. Raises InputError for fewer than 10 values beyond the quantile in an arm (of
    200, p95 has just ten), and for a q that is not between 0 and 1.

    Efron and Tibshirani 1993, chapter 13. Chapter 7.
    """
    check_share("quantile", q)
    check_share("confidence", confidence)
    rng = np.random.default_rng(seed)
    estimates, draws = [], []
    for name, values in (("A", values_a), ("B", values_b)):
        ordered = np.sort(np.asarray(values, dtype=np.float64))
        n = len(ordered)
        if n < _least(q) or not np.isfinite(ordered).all():
            raise InputError(
                f"Arm {name} has {n} values, or one is not finite: too little for its {q} quantile.",
                f"Collect at least {_least(q)}.",
            )
        k = _rank(q, n)
        drawn = np.ceil(n * rng.beta(k, n + 1 - k, size=RESAMPLES)).astype(int)
        estimates.append(ordered[k - 1])
        draws.append(ordered[np.clip(drawn, 1, n) - 1])
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws[1] - draws[0], [tail, 1 - tail])
    return float(estimates[1] - estimates[0]), float(low), float(high)


def _latency(
    metric: str, q: float, margin: float, control: Arm, treatment: Arm, seed: int
) -> Guardrail:
    values = [np.asarray(arm.latency_ms, dtype=np.float64) for arm in (control, treatment)]
    n = min(map(len, values))
    check_share(f"percentile {metric}", q)
    least = _least(q)
    if n < least:
        nothing = (math.nan,) * 5
        return Guardrail(metric, "cannot be told yet", *nothing, margin, least - n)
    ends = [float(np.sort(v)[_rank(q, len(v)) - 1]) for v in values]
    difference, low, high = quantile_difference_ci(*values, q, seed=seed)
    return _judged(metric, *ends, difference, low, high, margin, n)


def _rank(q: float, n: int) -> int:
    """Which of n ordered values, from 1, is the q-quantile."""
    return math.ceil(q * n - 1e-9)


def _least(q: float) -> int:
    """How many values have ten beyond their q-quantile."""
    return math.ceil(10 / min(q, 1 - q) - 1e-9)


def _rate(metric: str, margin: float, control: Arm, treatment: Arm) -> Guardrail:
    for name, arm in (("control", control), ("treatment", treatment)):
        if metric not in arm.counts:
            raise InputError(
                f"The {name} arm has no count called {metric!r}.",
                f"Counts: {', '.join(arm.counts) or 'none'}; latencies are p50, p95 and so on.",
            )
    pairs = [(arm.counts[metric], arm.requests) for arm in (control, treatment)]
    low, high = newcombe_ci(*pairs[0], *pairs[1])
    ends = [count / n for count, n in pairs]
    n = min(n for _, n in pairs)
    return _judged(metric, *ends, ends[1] - ends[0], low, high, margin, n)


def _judged(
    metric: str, control: float, treatment: float, difference: float, low: float, high: float,
    margin: float, n: int,
) -> Guardrail:  # fmt: skip
    if high <= margin:
        verdict, more = "holds", 0
    elif low > margin:
        verdict, more = "broken", 0
    else:
        verdict, more = "cannot be told yet", _more(margin - difference, low, high, n)
    return Guardrail(metric, verdict, control, treatment, difference, low, high, margin, more)


def _more(gap: float, low: float, high: float, n: int) -> int | None:
    """Requests an arm still needed for the bound to clear the margin, with a chance of SURE.

    The standard error falls as 1/sqrt(n); it must fall to |gap| / (z_0.975 + z_0.8).
    """
    if gap == 0:
        return None
    z = float(stats.norm.ppf(0.975))
    se = (high - low) / (2 * z)
    needed = n * ((z + float(stats.norm.ppf(SURE))) * se / gap) ** 2
    return max(1, math.ceil(needed - n))
