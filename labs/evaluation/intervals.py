"""How sure is a score: confidence intervals for one system and for the difference of two."""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from labs.errors import InputError
from labs.evaluation.checks import check_items

# Resamples are drawn in blocks of about this many numbers, so that memory stays bounded.
_BLOCK = 2**22


class Interval(NamedTuple):
    low: float
    high: float


class PairedDifference(NamedTuple):
    difference: float  # mean of the first minus mean of the second
    low: float
    high: float
    p_value: float  # two-sided


def wilson_ci(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Wilson score interval for a proportion, `successes` of `n`.

        (p + z²/2n ± z · sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n),   p = successes/n

    Unlike p ± z · sqrt(p(1-p)/n) it stays inside [0, 1] and is honest near 0 and 1: 0 of 20 gives
    (0, 0.161), not (0, 0). Assumes independent items: several questions about one picture are not.

    Raises InputError unless 0 <= successes <= n and n >= 1.

    Wilson 1927; Brown, Cai and DasGupta 2001. Chapter 7.
    """
    if n < 1 or not 0 <= successes <= n:
        raise InputError(
            f"{successes} successes of {n} is not a proportion.",
            "Pass 0 <= successes <= n, n >= 1.",
        )
    _check_confidence(confidence)
    z = stats.norm.ppf((1 + confidence) / 2)
    p = successes / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    # The bounds at the ends are 0 and 1 exactly; rounding would leave them a hair off.
    low = 0.0 if successes == 0 else float(centre - half)
    high = 1.0 if successes == n else float(centre + half)
    return Interval(low, high)


def bootstrap_ci(
    values,
    statistic: Callable = np.mean,
    *,
    confidence: float = 0.95,
    resamples: int = 9_999,
    method: Literal["percentile", "bca"] = "bca",
    seed: int = 0,
) -> Interval:
    """Bootstrap interval for `statistic` of one score an item.

    Items are drawn with replacement `resamples` times. "percentile" takes the quantiles of the
    resampled statistic; "bca" corrects them for bias and skew (the better default; it costs one
    more evaluation an item). `statistic` takes an array, and an `axis` if it can (then it is fast).
    Values that are all equal give an interval of no width. Same seed, same interval.

    `values` [N], finite. Raises InputError for none, for non-finite ones, and where "bca" is not
    defined (a statistic that leaving one item out hardly moves, such as a quantile).

    Efron 1987; Efron and Tibshirani 1993, chapters 13 and 14. Chapter 7.
    """
    values = _scores("bootstrap_ci", values)
    _check_confidence(confidence)
    if np.all(values == values[0]):
        same = float(statistic(values))
        return Interval(same, same)
    result = stats.bootstrap(
        (values,),
        statistic,
        confidence_level=confidence,
        n_resamples=resamples,
        method={"percentile": "percentile", "bca": "BCa"}[method],
        batch=max(1, _BLOCK // len(values)),
        rng=np.random.default_rng(seed),
    )
    low, high = (float(bound) for bound in result.confidence_interval)
    if math.isnan(low) or math.isnan(high):
        raise InputError(
            "The BCa interval of this statistic is not defined on these values.",
            'Use method="percentile".',
        )
    return Interval(low, high)


def paired_bootstrap(
    first, second, *, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> PairedDifference:
    """Is one system better than another on the same items?

    d_n = first_n - second_n; items (not answers) are drawn with replacement, so what makes an item
    hard for both cancels. Returns mean(d), its percentile interval, and the two-sided p-value
    2 · (min(#{mean(d*) <= 0}, #{mean(d*) >= 0}) + 1) / (resamples + 1), at most 1. It agrees with
    the interval: below 1 - confidence where the interval leaves zero out.

    `first`, `second` [N], one score an item (0/1 for right and wrong), in the same order. Raises
    InputError where lengths differ, for none, or for non-finite scores.

    Efron and Tibshirani 1993, chapter 16; Koehn 2004 (W04-3250). Chapter 7.
    """
    first, second = np.asarray(first), np.asarray(second)
    check_items("paired_bootstrap", first, second)
    _check_confidence(confidence)
    differences = _scores("paired_bootstrap", first) - _scores("paired_bootstrap", second)
    n = len(differences)
    rng = np.random.default_rng(seed)
    means, block = [], max(1, _BLOCK // n)
    for start in range(0, resamples, block):
        drawn = rng.integers(0, n, size=(min(block, resamples - start), n))
        means.append(differences[drawn].mean(axis=1))
    means = np.concatenate(means)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    # A rounding error away from zero is zero: 0.1 summed ten times is not 1.
    means[np.abs(means) < 1e-12 * np.abs(differences).max(initial=0)] = 0
    side = min((means <= 0).sum(), (means >= 0).sum())
    p_value = min(1.0, 2 * (side + 1) / (resamples + 1))
    return PairedDifference(float(differences.mean()), float(low), float(high), float(p_value))


def _scores(name: str, values) -> Float[np.ndarray, " items"]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise InputError(
            f"{name} was given scores of shape {array.shape}.", "Pass one number an item."
        )
    check_items(name, array)
    finite = np.isfinite(array)
    if not finite.all():
        raise InputError(
            f"{name} was given a score that is not finite, at item {finite.argmin()}.",
            "Score every item, or leave it out of both lists and say how many were left out.",
        )
    return array


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise InputError(
            f"A confidence of {confidence} is not between 0 and 1.", "Pass for instance 0.95."
        )
