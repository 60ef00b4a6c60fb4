"""Means of verdicts with their intervals: what is drawn is a question, with all that was said of it."""

from collections.abc import Hashable, Sequence

from labs.evaluation.clusters import group_mean_ci
from labs.evaluation.intervals import wilson_ci
from labs.suites.contract import Measure

RESAMPLES = 2_000


def group_mean(
    values: Sequence[float], groups: Sequence[Hashable], seed: int = 0, share: bool = True
) -> Measure | None:
    """The mean of `values` with its 95 % interval over `groups` (one label a value); None for none.

    Zeros and ones that stand alone get Wilson's interval. So do those that are all 0 or all 1, where
    a bootstrap would give no width, for as many trials as there are groups. The rest is a bootstrap
    over groups; where nothing varies from group to group (nothing but ties, a single group) nothing
    is known of the spread, and there is no interval. share: the values are shares of something;
    differences, which may be below 0, are not.
    """
    if not values:
        return None
    mean, distinct = sum(values) / len(values), len(set(groups))
    low = high = None
    binary = share and set(values) <= {0.0, 1.0}
    if binary and (distinct == len(values) or mean in (0.0, 1.0)):
        low, high = wilson_ci(round(mean * distinct), distinct)
    elif distinct > 1:
        low, high = group_mean_ci(values, groups, resamples=RESAMPLES, seed=seed)
        low, high = (None, None) if low == high else (float(low), float(high))
    return Measure(mean, low, high, len(values))
