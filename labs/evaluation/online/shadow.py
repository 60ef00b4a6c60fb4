"""Shadow traffic: the new model answers the same requests, and nobody sees what it says.

It finds crashes, latencies under real load, and where the two models differ, at no risk. What it cannot
tell: whether users like the new answers, for none saw them. Clicks, complaints and questions that
follow are reactions to the old model's answers; a new ranker whose picks were never shown looks worse
on them than it is. Nor does it show effects on what users ask next, on caches that the old model's
answers fill, or on load once the traffic is real twice. Disagreement is no verdict either: it says where
to look, and people (or a judge) say who was right. After the shadow comes a small A/B test.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from labs.errors import InputError
from labs.evaluation.intervals import Interval, wilson_ci

RESAMPLES = 2_000


class ForReview(NamedTuple):
    """A disagreement to be judged. weight: how many of its stratum it stands for.

    The share of disagreements in which the new model is right is Σ weight · right / Σ weight.
    """

    index: int
    stratum: str
    weight: float


class ShadowReport(NamedTuple):
    """requests n. agreement: share of the requests that both answered, with its 95 % interval.

    by_stratum: stratum to (agreements, requests both answered). failed_old, failed_new: requests that got
    no answer. review: see `ForReview`. latency: name to (difference new - old in ms, low, high): "median
    of differences", the request by request comparison, and "p95", the difference of the two p95s; None
    where no latencies were given.
    """

    n: int
    agreement: float
    interval: Interval
    by_stratum: dict[str, tuple[int, int]]
    failed_old: int
    failed_new: int
    review: list[ForReview]
    latency: dict[str, tuple[float, float, float]] | None


def shadow(
    old: Sequence,
    new: Sequence,
    *,
    strata: Sequence[str] | None = None,
    same: Callable[[Any, Any], bool] | None = None,
    latency_old=None,
    latency_new=None,
    review: int = 50,
    seed: int = 0,
) -> ShadowReport:
    """Compares two models' answers to the same requests, and draws disagreements for review.

    old, new: one answer a request, in the same order, None where there was none. same: whether two
    answers say the same (by default ==; for free text normalise first, or ask a judge). strata: a name
    for each request (language, kind of question). The `review` disagreements are shared out evenly over
    the strata, so that a rare kind is seen too; within a stratum they are drawn at random by `seed`, and
    `weight` undoes the sharing (review at least as many as there are strata, or some have none). A failure of one model alone is counted as failed, not as disagreement.

    latency_old, latency_new: ms of each request, both or neither. Because requests are the same, hard ones
    are slow for both and cancel: intervals come from resampling requests, not answers.

    Raises InputError for lists that do not pair up, none that both answered, and a review below 0.
    Chapter 7.
    """
    n = len(old)
    strata = ["all"] * n if strata is None else list(strata)
    if n == 0 or len(new) != n or len(strata) != n:
        raise InputError(
            f"{n} old answers, {len(new)} new ones and {len(strata)} strata do not pair up.",
            "Pass one of each a request, in the same order, at least one.",
        )
    if review < 0:
        raise InputError(f"{review} disagreements cannot be reviewed.", "Pass 0 or more.")
    same = same or (lambda a, b: a == b)
    both = [i for i in range(n) if old[i] is not None and new[i] is not None]
    if not both:
        raise InputError("No request was answered by both models.", "Look at the failures first.")
    agreed = {i for i in both if same(old[i], new[i])}
    by_stratum = {
        name: (sum(i in agreed for i in members), len(members))
        for name, members in _members(both, strata).items()
    }
    return ShadowReport(
        n=n,
        agreement=len(agreed) / len(both),
        interval=wilson_ci(len(agreed), len(both)),
        by_stratum=by_stratum,
        failed_old=sum(answer is None for answer in old),
        failed_new=sum(answer is None for answer in new),
        review=_drawn([i for i in both if i not in agreed], strata, review, seed),
        latency=_latency(latency_old, latency_new, n, seed),
    )


def _members(indices: Sequence[int], strata: Sequence[str]) -> dict[str, list[int]]:
    members: dict[str, list[int]] = {}
    for i in indices:
        members.setdefault(strata[i], []).append(i)
    return dict(sorted(members.items()))


def _drawn(differ: Sequence[int], strata: Sequence[str], count: int, seed: int) -> list[ForReview]:
    """`count` disagreements, as even over the strata as their sizes allow."""
    rng = np.random.default_rng(seed)
    members = _members(differ, strata)
    quota = dict.fromkeys(members, 0)
    left = min(count, len(differ))
    while left:
        open_strata = [name for name in members if quota[name] < len(members[name])]
        # A remainder smaller than the number of strata falls on some of them by lot.
        for name in rng.permutation(open_strata)[:left]:
            quota[str(name)] += 1
            left -= 1
    drawn = []
    for name, indices in members.items():
        chosen = rng.choice(indices, size=quota[name], replace=False)
        drawn += [ForReview(int(i), name, len(indices) / quota[name]) for i in sorted(chosen)]
    return drawn


def _latency(old, new, n: int, seed: int) -> dict[str, tuple[float, float, float]] | None:
    if old is None and new is None:
        return None
    pair = [np.asarray([] if x is None else x, dtype=np.float64) for x in (old, new)]
    if any(x.shape != (n,) or not np.isfinite(x).all() for x in pair):
        raise InputError(
            f"Latencies do not fit {n} requests, or one is not finite.",
            "Pass the milliseconds of each request for both models, time-outs at their limit.",
        )
    before, after = pair
    rng = np.random.default_rng(seed)
    medians, tails = [], []
    for _ in range(RESAMPLES):
        rows = rng.integers(0, n, size=n)
        medians.append(np.median(after[rows] - before[rows]))
        tails.append(np.quantile(after[rows], 0.95) - np.quantile(before[rows], 0.95))
    measured = {
        "median of differences": (np.median(after - before), medians),
        "p95": (np.quantile(after, 0.95) - np.quantile(before, 0.95), tails),
    }
    return {
        name: (float(value), *(float(x) for x in np.quantile(draws, [0.025, 0.975])))
        for name, (value, draws) in measured.items()
    }
