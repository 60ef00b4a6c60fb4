"""Does memory grow from step to step, and at which step will it be full?

The slope is Theil and Sen's: the median of the slopes between pairs of steps (Sen, "Estimates of
the regression coefficient based on Kendall's tau", 1968). A few large batches do not move it, where
they would bend a least-squares line. Standard library only.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from .diary import Step

WARM_UP = 3  # the first steps allocate optimizer state, workspaces, caches
FEWEST = 8  # steps after warming up, below which nothing is said
POINTS = 120  # pairs are quadratic


@dataclass(frozen=True)
class Trend:
    """Growth of one curve: bytes a step, how steadily, and where it ends."""

    what: str  # "allocated", "peak" or "host"
    per_step: float
    rising: float  # share of steps that did not fall, 0..1
    grown: int  # from the first step looked at to the last
    steps: int
    level: int  # now
    fills_at: int | None  # the step at which the limit is passed, if there is a limit

    @property
    def leaks(self) -> bool:
        """Whether this is a leak: steady, and more than rounding and noise."""
        return self.per_step > 0 and self.rising >= 0.8 and self.grown > max(2**20, self.level / 50)


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """The median slope between all pairs."""
    pairs = [
        (ys[j] - ys[i]) / (xs[j] - xs[i])
        for i in range(len(xs))
        for j in range(i + 1, len(xs))
        if xs[j] != xs[i]
    ]
    return statistics.median(pairs) if pairs else 0.0


def tells(steps: Sequence[Step]) -> bool:
    """Whether there are steps enough to say that nothing grows."""
    return sum(s.step > WARM_UP and s.allocated >= 0 for s in steps) >= FEWEST


def trend(steps: Sequence[Step], what: str = "allocated", limit: int | None = None) -> Trend | None:
    """The trend of one number over the steps; None where it is unknown or too few are there."""
    found = [(s.step, getattr(s, what)) for s in steps if s.step > WARM_UP]
    found = [(step, value) for step, value in found if value >= 0]
    if len(found) < FEWEST:
        return None
    stride = -(-len(found) // POINTS)
    thin = found[::-1][::stride][::-1]  # the last one stays
    xs, ys = [x for x, _ in thin], [y for _, y in thin]
    per_step = slope(xs, ys)
    pairs = zip(ys, ys[1:])  # noqa: B905, RUF007  (Python 3.9)
    rising = sum(b >= a for a, b in pairs) / (len(ys) - 1)
    if limit is None and what != "host":
        limit = steps[-1].limit if steps[-1].limit > 0 else None
    fills = None
    if limit and per_step > 0:
        # What a step needs on top of what it leaves behind has to fit as well.
        last = steps[-1]
        above = max(0, last.peak - last.allocated) if what == "allocated" and last.peak >= 0 else 0
        fills = xs[-1] + max(0, int((limit - above - ys[-1]) / per_step)) + 1
    return Trend(what, per_step, rising, ys[-1] - ys[0], xs[-1] - xs[0], ys[-1], fills)
