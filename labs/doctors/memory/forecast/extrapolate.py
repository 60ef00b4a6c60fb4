"""From a few layers to all of them, and from two batches to any.

At each moment of a step (`moments.py`) every category is affine in the number of layers of each tower
and in the batch: equal layers save equal tensors. So with L language layers, V vision layers and
batch B

    bytes(L, V, B) = (a + b B) + (c + d B) L + (e + f B) V

and three shallow traces at two batches each give all six numbers. The peak at full size is the
largest over the moments, so it may well lie elsewhere than the peak of the traces. A test holds this
to 0.5 % of the full trace on three families.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING

from labs.doctors.memory.forecast.moments import Key, moments_of
from labs.doctors.memory.plan import Plan

if TYPE_CHECKING:
    from labs.doctors.memory.trace.record import Trace

# The fewest layers of which the first, the last but one and the last are three.
SHALLOW = 3
BATCHES = (2, 3)


@dataclasses.dataclass(frozen=True)
class Law:
    """What was learned from shallow traces of one plan.

    points: (language layers, vision layers, batch) -> moments by category; full: the numbers of layers
    to answer for.
    """

    points: dict[tuple[int, int, int], dict[Key, dict[str, int]]]
    full: tuple[int, int]
    batch: int

    def at(self, batch: int | None = None) -> dict[Key, dict[str, float]]:
        """Bytes by category at each moment, at full depth."""
        target = (*self.full, self.batch if batch is None else batch)
        shared = set.intersection(*(set(point) for point in self.points.values()))
        return {
            key: {
                name: max(
                    0.0,
                    interpolate(
                        {p: moments[key].get(name, 0) for p, moments in self.points.items()}, target
                    ),
                )
                for name in sorted({n for moments in self.points.values() for n in moments[key]})
            }
            for key in shared
        }

    def peak(self, batch: int | None = None) -> tuple[Key, dict[str, float]]:
        """The fullest moment at full depth and what is alive then."""
        found = self.at(batch)
        key = max(found, key=lambda k: (sum(found[k].values()), k))
        return key, found[key]

    def peak_bytes(self, batch: int | None = None) -> float:
        return sum(self.peak(batch)[1].values())


def interpolate(values: dict[tuple[int, int, int], int], target: tuple[int, int, int]) -> float:
    """The value at `target` of what is affine in layers and in batch, from a grid of points.

    The points are those of `grid`: for each batch one base, and one more for each tower that varies.
    """

    def depth(batch: int) -> float:
        here = {point[:2]: value for point, value in values.items() if point[2] == batch}
        base = min(here)
        result = float(here[base])
        for axis in (0, 1):
            other = next(
                (p for p in here if p[axis] != base[axis] and p[1 - axis] == base[1 - axis]), None
            )
            if other is not None:
                slope = (here[other] - here[base]) / (other[axis] - base[axis])
                result += slope * (target[axis] - base[axis])
        return result

    batches = sorted({point[2] for point in values})
    if len(batches) == 1:
        return depth(batches[0])
    first, second = batches
    low, high = depth(first), depth(second)
    return low + (high - low) / (second - first) * (target[2] - first)


def grid(full: tuple[int, int], batches: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """The shallow sizes to trace: (language, vision, batch). A tower that is shallow stays whole."""
    base = tuple(min(count, SHALLOW) for count in full)
    depths = [base]
    for axis in (0, 1):
        if full[axis] > SHALLOW:
            more = list(base)
            more[axis] += 1
            depths.append(tuple(more))
    return [(*depth, batch) for batch, depth in itertools.product(batches, depths)]


def learn(
    plan: Plan,
    trace: Callable[[Plan], Trace],
    layers: dict[str, int],
    batches: tuple[int, ...] | None = None,
    many: Callable = map,
) -> Law:
    """Trace `plan` shallow and learn its law.

    layers: the full numbers, as `Trace.layers` says them. batches: two, to answer for any batch from
    the lower one on (rows must be alike, so not for a batch of named samples); None keeps the plan's.
    many: how to call `trace` for several plans, such as `Pool.map`.
    """
    full = (layers.get("language", 0), layers.get("vision", 0))
    sizes = grid(full, batches or (getattr(plan, batch_field(plan)),))

    def moments_at(size: tuple[int, int, int]) -> dict[Key, dict[str, int]]:
        depth = {"language": size[0], "vision": size[1]}
        small = plan.replace(layers={part: n for part, n in depth.items() if part in layers})
        if batches:
            small = small.replace(**{batch_field(plan): size[2]})
        return {key: moment.parts for key, moment in moments_of(trace(small).events).items()}

    points = dict(zip(sizes, many(moments_at, sizes), strict=True))
    return Law(points, full, getattr(plan, batch_field(plan)))


def batch_field(plan: Plan) -> str:
    """The field of the plan that says how many rows its step has."""
    return "eval_batch" if plan.objective == "evaluate" else "batch"


def largest(fits: Callable[[int], bool], most: int = 1 << 20) -> int:
    """The largest batch that fits, by doubling and bisection; 0 where not even one does."""
    if not fits(1):
        return 0
    low, high = 1, 2
    while high <= most and fits(high):
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
