"""Do raters agree beyond chance: two of them, or many with gaps.

An interval comes from drawing items with replacement (whole groups of them, where items come in
groups). In a draw where every rating is the same, agreement beyond chance is 0/0. Such draws are not
thrown away, which would hide how little was seen: they count as 0 for the lower bound and as 1 for
the upper one.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Literal

import numpy as np

from labs.errors import InputError
from labs.evaluation.checks import check_items
from labs.evaluation.clusters import check_confidence, drawn_counts, group_codes
from labs.evaluation.intervals import Interval

Items = Sequence | np.ndarray
Weights = Literal["linear", "quadratic"] | None
Level = Literal["nominal", "ordinal", "interval"]
# Counts of how often each item was drawn [draws, items] -> the statistic of each draw, NaN for 0/0.
Statistic = Callable[[np.ndarray], np.ndarray]


def cohens_kappa(
    first: Items, second: Items, *, weights: Weights = None, labels: Sequence | None = None
) -> float:
    """Cohen's kappa: agreement of two raters, less what their habits alone would give.

        kappa = 1 - sum_ij w_ij O_ij / sum_ij w_ij E_ij
        O: how often the first said i and the second j;   E: the same if they did not look, row x
        column / N;   w: 0 on the diagonal, elsewhere 1 (None), |i - j| ("linear") or (i - j)²

    1 is perfect, 0 is what chance gives. Two raters who say yes 95 times in 100 agree on nine items
    in ten without looking: then kappa is low where the share of agreement looks high. Read both.

    `first`, `second` [N]: any labels, one an item. With weights i and j are places in the sorted
    labels, so the steps from 1 to 2 and from 2 to 5 are equal, as in scikit-learn; `labels` gives
    the order of all labels there are, and is needed where weighted labels are texts.

    Raises InputError for no items, lists that do not pair up, an empty label (None or NaN), labels
    without an order, and where both raters gave one and the same label to everything: that is 0/0.

    Cohen 1960, 1968. The same as sklearn.metrics.cohen_kappa_score. Chapter 7.
    """
    items, statistic = _kappa("cohens_kappa", first, second, weights, labels)
    value = statistic(np.ones((1, items)))[0]
    if np.isnan(value):
        raise InputError(
            f"Both raters gave {first[0]!r} to all {items} items: kappa is 0/0.",
            "Report the share of agreement, or rate items that differ.",
        )
    return float(value)


def kappa_ci(
    first: Items,
    second: Items,
    *,
    weights: Weights = None,
    labels: Sequence | None = None,
    groups: Items | None = None,
    confidence: float = 0.95,
    resamples: int = 9_999,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of `cohens_kappa`: items, or whole `groups`, are drawn.

    Draws in which kappa is 0/0: see above. Two raters who never differ get an interval of no width
    unless some draw holds one label only. Raises InputError as `cohens_kappa`, and for a single
    group. Chapter 7.
    """
    cohens_kappa(first, second, weights=weights, labels=labels)
    items, statistic = _kappa("kappa_ci", first, second, weights, labels)
    codes = None if groups is None else group_codes("kappa_ci", groups, items)
    return _interval("kappa_ci", items, codes, statistic, confidence, resamples, seed)


def krippendorff_alpha(ratings: Items, level: Level = "nominal") -> float:
    """Krippendorff's alpha: agreement of any number of raters, with ratings missing.

        alpha = 1 - D_o / D_e
        D_o = 1/n · sum_u sum_{i != j} delta²(r_ui, r_uj) / (m_u - 1)      pairs within an item
        D_e = 1/(n(n - 1)) · sum over all pairs of the n ratings of delta²

    m_u: ratings of item u; an item with fewer than two says nothing and is left out. delta² between
    two ratings is 1 for different ones ("nominal"), (a - b)² ("interval"), or, for "ordinal", the
    square of the number of ratings that lie between them, with half of those at either end.

    `ratings` [raters][items]: one row a rater, None or NaN for what was not rated. Labels of any kind
    for "nominal", numbers for the others. 1 is perfect, 0 is chance, below it is worse than chance;
    Krippendorff asks for 0.8, and for 0.667 where conclusions are tentative.

    Raises InputError for rows of different lengths, ratings that are no numbers where numbers are
    meant, no item with two ratings, and where all ratings are the same: that is 0/0.

    Krippendorff 2011, "Computing Krippendorff's alpha-reliability". The same as the package
    `krippendorff`. Chapter 7.
    """
    _, kept, statistic = _alpha("krippendorff_alpha", ratings, level)
    value = statistic(np.ones((1, len(kept))))[0]
    if np.isnan(value):
        raise InputError(
            "All ratings are the same: Krippendorff's alpha is 0/0.",
            "Rate items that differ, or report the share of agreement.",
        )
    return float(value)


def krippendorff_ci(
    ratings: Items,
    level: Level = "nominal",
    *,
    groups: Items | None = None,
    confidence: float = 0.95,
    resamples: int = 9_999,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of `krippendorff_alpha`: items, or whole `groups`, are drawn.

    The raters are taken as they are: the interval says nothing about other raters. Both
    disagreements, and the ranks of "ordinal", are counted anew in each draw. Draws in which alpha
    is 0/0: see above. Raises InputError as `krippendorff_alpha`, and for a single group. Chapter 7.
    """
    krippendorff_alpha(ratings, level)
    items, kept, statistic = _alpha("krippendorff_ci", ratings, level)
    # Items with fewer than two ratings say nothing; a draw is of those that do.
    codes = None if groups is None else group_codes("krippendorff_ci", groups, items)[kept]
    return _interval("krippendorff_ci", len(kept), codes, statistic, confidence, resamples, seed)


def _interval(
    name: str,
    items: int,
    codes: np.ndarray | None,
    statistic: Statistic,
    confidence: float,
    resamples: int,
    seed: int,
) -> Interval:
    check_confidence(confidence)
    if codes is not None:
        codes = np.unique(codes, return_inverse=True)[1]
    units = items if codes is None else int(codes.max()) + 1
    if codes is not None and units < 2:
        raise InputError(
            f"{name}: all {items} items are in one group.",
            "One group says nothing about others; rate more of them, or give no interval.",
        )
    drawn = np.concatenate(
        [
            statistic(counts if codes is None else counts[:, codes])
            for counts in drawn_counts(units, resamples, seed)
        ]
    )
    tail = (1 - confidence) / 2
    low = np.quantile(np.where(np.isnan(drawn), 0.0, drawn), tail)
    high = np.quantile(np.where(np.isnan(drawn), 1.0, drawn), 1 - tail)
    return Interval(float(low), float(high))


def _kappa(
    name: str, first: Items, second: Items, weights: Weights, labels: Sequence | None
) -> tuple[int, Statistic]:
    check_items(name, first, second)
    order = _order(name, [*first, *second], weights, labels)
    count = len(order)
    place = {label: index for index, label in enumerate(order)}
    cells = np.array([place[a] * count + place[b] for a, b in zip(first, second, strict=True)])
    table = np.zeros((len(cells), count * count))
    table[np.arange(len(cells)), cells] = 1
    apart = np.abs(np.subtract.outer(np.arange(count), np.arange(count))).astype(np.float64)
    cost = {None: np.minimum(apart, 1), "linear": apart, "quadratic": apart**2}[weights]

    def statistic(counts: np.ndarray) -> np.ndarray:
        observed = (counts @ table).reshape(-1, count, count)
        rows, columns = observed.sum(axis=2), observed.sum(axis=1)
        expected = rows[:, :, None] * columns[:, None, :] / counts.sum(axis=1)[:, None, None]
        below = (cost * expected).sum(axis=(1, 2))
        above = (cost * observed).sum(axis=(1, 2))
        return 1 - np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)

    return len(cells), statistic


def _order(name: str, given: list, weights: Weights, labels: Sequence | None) -> list:
    for index, label in enumerate(given):
        if _missing(label) or not isinstance(label, Hashable):
            raise InputError(
                f"{name}: the label of item {index % (len(given) // 2)} is {label!r}.",
                "Leave out items that were not rated by both, or make that a label of its own.",
            )
    found = list(dict.fromkeys(given))
    if labels is not None:
        unknown = [label for label in found if label not in list(labels)]
        if unknown or len(set(labels)) != len(labels):
            what = f"{unknown[0]!r} is not among them" if unknown else "one stands there twice"
            raise InputError(
                f"{name}: the labels are {list(labels)!r}, and {what}.",
                "List each label once, in order.",
            )
        return list(labels)
    if weights is None:
        return found
    if any(isinstance(label, str) for label in found):
        raise InputError(
            f"{name}: the labels are texts, and {weights} weights need to know their order.",
            'Give labels=["bad", "fair", "good"], or whatever the order is.',
        )
    return sorted(found)


def _missing(value: Any) -> bool:
    return value is None or bool(np.isscalar(value) and value != value)


def _alpha(name: str, ratings: Items, level: Level) -> tuple[int, np.ndarray, Statistic]:
    """(number of items, those with two ratings or more, the statistic of those)."""
    check_items(name, ratings)
    lengths = {len(row) for row in ratings}
    if len(lengths) != 1:
        raise InputError(
            f"{name} was given raters with {min(lengths)} to {max(lengths)} items.",
            "Give every rater one entry an item, None where there is no rating.",
        )
    rows = [[None if _missing(value) else value for value in row] for row in ratings]
    if level != "nominal":
        rows = [[_number(name, value) for value in row] for row in rows]
    items = lengths.pop()
    rated = [[row[item] for row in rows if row[item] is not None] for item in range(items)]
    kept = np.array([item for item in range(items) if len(rated[item]) > 1], dtype=int)
    if len(kept) == 0:
        raise InputError(
            f"{name}: no item has ratings from two raters.",
            "Let raters share items; agreement cannot be seen otherwise.",
        )
    units = [rated[item] for item in kept]
    return items, kept, _interval_alpha(units) if level == "interval" else _ranked(units, level)


def _number(name: str, value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, str) or not np.isscalar(value) or not np.isfinite(value):
        raise InputError(
            f"{name}: a rating is {value!r}, no finite number.",
            'Give numbers for "ordinal" and "interval", or use "nominal".',
        )
    return float(value)


def _interval_alpha(units: list[list[float]]) -> Statistic:
    # Distances do not depend on where zero is; near the data it costs fewer digits.
    zero = units[0][0]
    sizes = np.array([float(len(unit)) for unit in units])
    ones = np.array([sum(value - zero for value in unit) for unit in units])
    twos = np.array([sum((value - zero) ** 2 for value in unit) for unit in units])
    within = 2 * (sizes * twos - ones**2) / (sizes - 1)

    def statistic(counts: np.ndarray) -> np.ndarray:
        n = counts @ sizes
        scale = n * (counts @ twos)
        across = 2 * (scale - (counts @ ones) ** 2)
        return _one_minus((n - 1) * (counts @ within), across, 1e-12 * scale)

    return statistic


def _ranked(units: list[list], level: Level) -> Statistic:
    found = list(dict.fromkeys(value for unit in units for value in unit))
    values = sorted(found) if level == "ordinal" else found
    place = {value: index for index, value in enumerate(values)}
    table = np.zeros((len(units), len(values)))  # how often each item was given each value
    for row, unit in zip(table, units, strict=True):
        for value in unit:
            row[place[value]] += 1
    sizes = table.sum(axis=1)

    def nominal(counts: np.ndarray) -> np.ndarray:
        within = (sizes**2 - (table**2).sum(axis=1)) / (sizes - 1)
        marginals = counts @ table
        n = marginals.sum(axis=1)
        return _one_minus((n - 1) * (counts @ within), n**2 - (marginals**2).sum(axis=1), 0.0)

    def ordinal(counts: np.ndarray) -> np.ndarray:
        # delta² is the squared distance of two mid-ranks, and these belong to the draw.
        marginals = counts @ table
        ranks = np.cumsum(marginals, axis=1) - marginals / 2
        n = marginals.sum(axis=1)
        ones, twos = ranks @ table.T, ranks**2 @ table.T
        within = (counts * 2 * (sizes * twos - ones**2) / (sizes - 1)).sum(axis=1)
        across = n * (marginals * ranks**2).sum(axis=1) - (marginals * ranks).sum(axis=1) ** 2
        return _one_minus((n - 1) * within, 2 * across, 0.0)

    return nominal if level == "nominal" else ordinal


def _one_minus(above: np.ndarray, below: np.ndarray, zero: np.ndarray | float) -> np.ndarray:
    return 1 - np.divide(above, below, out=np.full_like(above, np.nan), where=below > zero)
