"""How sure is a score where questions come in groups: several about one picture, rotations of one.

Answers about one picture succeed and fail together, so a thousand questions about two hundred
pictures tell less than a thousand about a thousand. Here whole groups are drawn. The intervals of
`labs.evaluation.intervals`, used on the same answers, would be too narrow.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
from scipy import stats

from labs.errors import InputError
from labs.evaluation.checks import check_items
from labs.evaluation.intervals import (
    Interval,
    PairedDifference,
    bootstrap_ci,
    paired_bootstrap,
    wilson_ci,
)

Items = Sequence | np.ndarray  # one entry an item

# Resamples are drawn in blocks of about this many numbers, so that memory stays bounded.
_BLOCK = 2**21


def group_mean_ci(
    values: Items,
    groups: Items | None = None,
    *,
    confidence: float = 0.95,
    resamples: int = 9_999,
    seed: int = 0,
) -> Interval:
    """Bootstrap interval (BCa) for the mean score of an item, where items come in groups.

    Whole groups are drawn with replacement, as many as there are. The statistic is a ratio,

        mean* = sum_g (sum of the scores of g) / sum_g (size of g)     g: the groups drawn

    so that with groups of unequal size it is still the mean over items. `groups` [N]: a label for
    each item; items whose label is None stand alone. Without `groups` it is `bootstrap_ci`.

    With few groups no bootstrap is sure: it takes the spread of the groups seen for the spread there
    is. What 95 % then means is measured in `labs bench intervals`; below about 50 groups, or with
    fewer than about 20 wrong (or right) answers, read it as the least doubt there is. Groups that all have one mean give an interval of no width: for
    answers that are right or wrong use `group_accuracy_ci`, which does not.

    `values` [N], finite. Raises InputError for none, for lists that do not pair up, and for a single
    group, which tells nothing about others.

    Davison and Hinkley 1997, section 3.8; Miller 2024, arXiv:2411.00640. Chapter 7.
    """
    if groups is None:
        return bootstrap_ci(values, confidence=confidence, resamples=resamples, seed=seed)
    values = _numbers("group_mean_ci", values)
    check_confidence(confidence)
    sums, sizes = _totals("group_mean_ci", values, groups)
    means, mean = sums / sizes, sums.sum() / sizes.sum()
    if np.ptp(means) <= 1e-12 * np.abs(means).max():
        return Interval(float(mean), float(mean))
    result = stats.bootstrap(
        (sums, sizes),
        _ratio,
        paired=True,  # a group's sum goes with its size
        confidence_level=confidence,
        n_resamples=resamples,
        method="BCa",
        batch=max(1, _BLOCK // len(sums)),
        rng=np.random.default_rng(seed),
    )
    low, high = (float(bound) for bound in result.confidence_interval)
    return Interval(low, high)


def group_paired_difference(
    first: Items,
    second: Items,
    groups: Items | None = None,
    *,
    confidence: float = 0.95,
    resamples: int = 9_999,
    seed: int = 0,
) -> PairedDifference:
    """Is one system better than another on the same items, where items come in groups?

    As `paired_bootstrap`, with whole groups drawn: the mean of first_n - second_n over items, its
    percentile interval, and the two-sided p-value that agrees with it. Without `groups` it is
    `paired_bootstrap`. Labels and errors as for `group_mean_ci`; so are few groups, and here they
    weigh more: with 20 of them 95 % intervals hold the truth about 90 times in 100.

    Efron and Tibshirani 1993, chapter 16; Miller 2024, arXiv:2411.00640. Chapter 7.
    """
    if groups is None:
        return paired_bootstrap(
            first, second, confidence=confidence, resamples=resamples, seed=seed
        )
    name = "group_paired_difference"
    check_items(name, first, second)
    check_confidence(confidence)
    differences = _numbers(name, first) - _numbers(name, second)
    sums, sizes = _totals(name, differences, groups)
    rng = np.random.default_rng(seed)
    count, drawn_means, block = len(sums), [], max(1, _BLOCK // len(sums))
    for start in range(0, resamples, block):
        drawn = rng.integers(0, count, size=(min(block, resamples - start), count))
        drawn_means.append(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))
    drawn_means = np.concatenate(drawn_means)
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn_means, [tail, 1 - tail])
    # A rounding error away from zero is zero, as in `paired_bootstrap`.
    drawn_means[np.abs(drawn_means) < 1e-12 * np.abs(differences).max()] = 0
    side = min((drawn_means <= 0).sum(), (drawn_means >= 0).sum())
    p_value = min(1.0, 2 * (side + 1) / (resamples + 1))
    return PairedDifference(float(differences.mean()), float(low), float(high), float(p_value))


def group_accuracy_ci(
    correct: Items, groups: Items | None = None, *, confidence: float = 0.95
) -> Interval:
    """Wilson interval for the share of right answers, where answers come in groups.

    The number of answers is replaced by the number of independent ones that would tell as much,

        v     = G/(G-1) · sum_g (right_g - p · size_g)² / N²         variance of p, by groups
        n_eff = min(N, p(1-p)/v · (z / t_{G-1})²)

    in Wilson's formula; t in place of z pays for not knowing v where groups are few. With all right
    or all wrong v cannot be seen, and n_eff = G: each group counts as one answer, so that 0 of 20
    questions about five pictures gives (0, 0.43), where five wrong answers would. Without `groups`,
    or where every group has one item, it is `wilson_ci`. It needs no drawing.

    `correct` [N]: True and False, or 1 and 0. Raises InputError for anything else, and as
    `group_mean_ci`.

    Korn and Graubard 1998; Dean and Pagano 2015 (intervals of proportions in clustered surveys).
    Chapter 7.
    """
    right = right_or_wrong("group_accuracy_ci", correct)
    check_confidence(confidence)
    n, p = len(right), right.mean()
    sums, sizes = (
        (right, np.ones(n)) if groups is None else _totals("group_accuracy_ci", right, groups)
    )
    count = len(sums)
    if count == n:
        return wilson_ci(int(right.sum()), n, confidence)
    z = stats.norm.ppf((1 + confidence) / 2)
    if p in (0, 1):
        effective = float(count)
    else:
        variance = count / (count - 1) * ((sums - p * sizes) ** 2).sum() / n**2
        t = stats.t.ppf((1 + confidence) / 2, count - 1)
        # No spread at all between groups: they tell no less than N answers alone.
        shrunk = p * (1 - p) * (z / t) ** 2
        effective = n if variance * n <= shrunk else shrunk / variance
    centre = (p + z**2 / (2 * effective)) / (1 + z**2 / effective)
    half = z * math.sqrt(p * (1 - p) / effective + z**2 / (4 * effective**2))
    half /= 1 + z**2 / effective
    low = 0.0 if p == 0 else float(centre - half)
    high = 1.0 if p == 1 else float(centre + half)
    return Interval(low, high)


def group_codes(name: str, groups: Items, n: int) -> np.ndarray:
    """The labels as numbers from 0 up, in order of appearance; None is a new number every time."""
    if len(groups) != n:
        raise InputError(
            f"{name} was given {n} items and {len(groups)} group labels.",
            "Pass one label an item, in the same order.",
        )
    seen: dict = {}
    try:
        return np.array(
            [seen.setdefault(object() if g is None else g, len(seen)) for g in groups], dtype=int
        )
    except TypeError:
        raise InputError(
            f"{name}: a group label is no text or number.", "Label groups with texts or numbers."
        ) from None


def drawn_counts(n: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each of n units is drawn, [block, n], in blocks that sum to `resamples` rows."""
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK // n)
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        drawn = rng.integers(0, n, size=(rows, n)) + n * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)


def right_or_wrong(name: str, values: Items) -> np.ndarray:
    """0.0 and 1.0 for each; InputError, with the item, for anything else."""
    check_items(name, values)
    for index, value in enumerate(values):
        if not (np.ndim(value) == 0 and value in (0, 1)):
            raise InputError(
                f"{name}: item {index} is {value!r}, neither right nor wrong.",
                "Pass True or False, or 1 or 0, for each item.",
            )
    return np.array([float(value) for value in values])


def check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise InputError(
            f"A confidence of {confidence} is not between 0 and 1.", "Pass for instance 0.95."
        )


def _ratio(sums: np.ndarray, sizes: np.ndarray, axis: int = -1):
    return sums.sum(axis=axis) / sizes.sum(axis=axis)


def _numbers(name: str, values: Items) -> np.ndarray:
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
            "Score every item, or leave it out and say how many were left out.",
        )
    return array


def _totals(name: str, values: np.ndarray, groups: Items) -> tuple[np.ndarray, np.ndarray]:
    """The sum and the size of each group."""
    codes = group_codes(name, groups, len(values))
    sums, sizes = np.bincount(codes, weights=values), np.bincount(codes).astype(np.float64)
    if len(sums) < 2:
        raise InputError(
            f"{name}: all {len(values)} items are in one group.",
            "One group says nothing about others; score more of them, or give no interval.",
        )
    return sums, sizes
