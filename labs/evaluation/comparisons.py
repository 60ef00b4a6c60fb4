"""Is the difference real, and is it still where many were tested?"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from labs.errors import InputError
from labs.evaluation.checks import check_items
from labs.evaluation.clusters import check_confidence, right_or_wrong

Items = Sequence | np.ndarray


class McNemar(NamedTuple):
    only_first: int  # b: items that only the first got right
    only_second: int  # c: items that only the second got right
    exact_p: float  # of the exact binomial test
    chi2: float  # with continuity correction
    chi2_p: float


def mcnemar(first: Items, second: Items) -> McNemar:
    """McNemar's test of two systems that were right or wrong on the same items.

        exact:  two-sided binomial test of b of b + c at 1/2
        chi2  = max(|b - c| - 1, 0)² / (b + c),   p from chi-squared with one degree of freedom

    Items that both got right, or both wrong, say nothing about which is better. Report `exact_p`: it
    holds at any number of items; the chi-squared form is an approximation for b + c above about 25
    and is given because papers quote it. With b = c the corrected form is 0 (some code forgets the
    floor and gets 1/(b + c)). With no discordant items both p-values are 1.

    `first`, `second` [N]: True and False, or 1 and 0. Assumes items that are drawn independently; for
    several questions about one picture, or scores between 0 and 1, use `group_paired_difference`.

    Raises InputError for no items, lists that do not pair up, or any other score.

    McNemar 1947; Edwards 1948. Chapter 7.
    """
    check_items("mcnemar", first, second)
    a, b = right_or_wrong("mcnemar", first), right_or_wrong("mcnemar", second)
    only_first, only_second = int(((a == 1) & (b == 0)).sum()), int(((a == 0) & (b == 1)).sum())
    total = only_first + only_second
    if total == 0:
        return McNemar(0, 0, 1.0, 0.0, 1.0)
    chi2 = max(abs(only_first - only_second) - 1, 0) ** 2 / total
    return McNemar(
        only_first,
        only_second,
        exact_p=float(stats.binomtest(only_first, total, 0.5).pvalue),
        chi2=chi2,
        chi2_p=float(stats.chi2.sf(chi2, 1)),
    )


def holm(p_values: Items) -> np.ndarray:
    """Holm's adjusted p-values: reject those at or below 5 %, and the chance that any rejection is
    false is at most 5 %, however the tests hang together.

        sorted p_(1) <= … <= p_(M):   adjusted_(i) = max_{j <= i} min(1, (M - j + 1) · p_(j))

    Never less powerful than Bonferroni (M · p). In the order given, [M]. The step-down has no simple
    intervals that go with it: draw those at `bonferroni_confidence(M)`, which hold together but may
    include zero where Holm just rejects.

    Raises InputError for none, or for anything that is not in [0, 1].

    Holm 1979. Chapter 7.
    """
    p = _p_values("holm", p_values)
    order = np.argsort(p, kind="stable")
    steps = np.minimum(1, np.arange(len(p), 0, -1) * p[order])
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(steps)
    return adjusted


def benjamini_hochberg(p_values: Items) -> np.ndarray:
    """Benjamini and Hochberg's adjusted p-values: reject those at or below 5 %, and on average at
    most 5 % of what is rejected is false. For screening many; for a claim about one use `holm`.

        sorted p_(1) <= … <= p_(M):   adjusted_(i) = min_{j >= i} min(1, M/j · p_(j))

    Holds for independent tests and for positively dependent ones. In the order given, [M]. Intervals
    for the R rejected ones of M that keep the same promise: confidence 1 - R/M · 5 %.

    Raises InputError as `holm`. By scipy.stats.false_discovery_control.

    Benjamini and Hochberg 1995; Benjamini and Yekutieli 2005 (intervals). Chapter 7.
    """
    return stats.false_discovery_control(_p_values("benjamini_hochberg", p_values), method="bh")


def bonferroni_confidence(count: int, confidence: float = 0.95) -> float:
    """The confidence at which each of `count` intervals is drawn so that all hold together:
    1 - (1 - confidence) / count. Ask a bootstrap for more resamples then: its tails are thinner.

    Raises InputError for a count below 1 or a confidence outside (0, 1). Chapter 7.
    """
    check_confidence(confidence)
    if count < 1:
        raise InputError(f"{count} comparisons are none.", "Pass how many intervals are shown.")
    return 1 - (1 - confidence) / count


def _p_values(name: str, p_values: Items) -> np.ndarray:
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1:
        raise InputError(f"{name} was given p-values of shape {p.shape}.", "Pass a plain list.")
    check_items(name, p)
    bad = ~((p >= 0) & (p <= 1))
    if bad.any():
        raise InputError(
            f"{name}: p-value {bad.argmax()} is {p[bad.argmax()]:g}.",
            "Pass probabilities between 0 and 1; leave out what was not tested.",
        )
    return p
