"""Rows summed up: means and shares with their 95 % intervals, and how many answers could be read.

What is drawn to make an interval is what could have come out otherwise by itself: a question, or,
where several questions share a picture or are rotations of one another, all of them together.
"""

from collections import Counter
from collections.abc import Callable, Sequence

from labs.errors import InputError
from labs.evaluation.clusters import group_accuracy_ci, group_mean_ci
from labs.evaluation.reading import STATUSES
from labs.suites.contract import Measure, Row

CONFIDENCE = 0.95
RESAMPLES = 2_000
SEED = 0


def mean_score(rows: Sequence[Row]) -> Measure:
    """The mean score of rows with its interval. InputError for no rows. Chapter 7."""
    return mean_of(rows, lambda row: row.score)


def share(rows: Sequence[Row], predicate: Callable[[Row], bool]) -> Measure:
    """The share of rows of which `predicate` is true, with its interval."""
    return mean_of(rows, lambda row: float(bool(predicate(row))))


def mean_of(rows: Sequence[Row], value: Callable[[Row], float]) -> Measure:
    """The mean of `value` over rows, with its interval.

    Zeros and ones: Wilson's interval, of as many answers as those that share groups are worth. Other
    numbers: a bootstrap that draws whole groups. Where all rows are in one group there is no
    interval: one group says nothing about others.
    """
    if not rows:
        raise InputError("There are no answers to sum up.", "Ask at least one question.")
    values, groups = [float(value(row)) for row in rows], [row.group for row in rows]
    mean = sum(values) / len(values)
    binary, units = set(values) <= {0.0, 1.0}, groups.count(None) + len({*groups} - {None})
    if units == 1 and not (binary and len(rows) == 1):
        return Measure(mean, None, None, len(rows))
    shared = groups if units < len(rows) else None
    if binary:
        low, high = group_accuracy_ci(values, shared, confidence=CONFIDENCE)
    else:
        low, high = group_mean_ci(
            values, shared, confidence=CONFIDENCE, resamples=RESAMPLES, seed=SEED
        )
    return Measure(mean, float(low), float(high), len(rows))


def statuses(rows: Sequence[Row]) -> dict[str, int]:
    """How many rows there are of each status, in the order of STATUSES, those of none left out."""
    counts = Counter(row.status for row in rows)
    known = [status for status in STATUSES if counts[status]]
    return {status: counts[status] for status in [*known, *sorted(counts.keys() - STATUSES.keys())]}


def unparsed(rows: Sequence[Row]) -> Measure:
    """The share of answers of which nothing could be read: they score 0, and are shown beside it."""
    return share(rows, lambda row: row.status != "read")


def unfinished(rows: Sequence[Row]) -> Measure:
    """The share of answers that were cut at the limit of tokens."""
    return share(rows, lambda row: not row.finished)
