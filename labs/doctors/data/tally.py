"""Findings counted by kind, with a few examples each, mergeable over processes.

Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from labs.doctors.data.kinds import KINDS, SEVERITIES, Kind
from labs.doctors.data.sample import Place, Problem

EXAMPLES = 20  # kept of each kind unless told otherwise: the first ones by place


class Example(NamedTuple):
    """One finding: where, in which sample, what exactly, and the image it is about (as written)."""

    place: Place
    id: str | None
    detail: str
    image: str | None = None


@dataclass
class Tally:
    """Counts and first examples of each kind.

    hits: (file, record) -> the kinds found there, of those whose repair is not "keep": what `--fix`
    goes by. Only faulty samples are in it, so it stays small where the data is sound. most: examples
    that are kept of each kind.
    """

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[Example]] = field(default_factory=dict)
    hits: dict[tuple[str, int], list[str]] = field(default_factory=dict)
    most: int = EXAMPLES

    def add(
        self, kind: str, place: Place, detail: str, id: str | None = None, image: str | None = None
    ):
        """Count one finding. Raises KeyError for a kind that there is not."""
        repair = KINDS[kind].repair
        self.counts[kind] = self.counts.get(kind, 0) + 1
        kept = self.examples.setdefault(kind, [])
        if len(kept) < self.most:
            kept.append(Example(place, id, detail, image))
        if repair != "keep" and place.record is not None:
            found = self.hits.setdefault((place.file, place.record), [])
            if kind not in found:
                found.append(kind)

    def add_problems(self, place: Place, id: str | None, problems: Iterable[Problem]) -> None:
        for problem in problems:
            self.add(problem.kind, place, problem.detail, id)

    def merge(self, other: Tally) -> None:
        """Take in the findings of another stretch of the data, in whatever order the stretches come."""
        for kind, count in other.counts.items():
            self.counts[kind] = self.counts.get(kind, 0) + count
        for kind, examples in other.examples.items():
            both = self.examples.get(kind, []) + examples
            self.examples[kind] = sorted(both, key=_order)[: self.most]
        for key, kinds in other.hits.items():
            found = self.hits.setdefault(key, [])
            found += [kind for kind in kinds if kind not in found]

    def worst_first(self) -> list[tuple[Kind, int]]:
        """Kinds that were found with their counts: errors, warnings, notes; the most frequent first."""
        found = [(KINDS[kind], count) for kind, count in self.counts.items()]
        return sorted(found, key=lambda f: (SEVERITIES.index(f[0].severity), -f[1], f[0].id))

    def total(self, severity: str) -> int:
        return sum(n for kind, n in self.counts.items() if KINDS[kind].severity == severity)


def _order(example: Example) -> tuple:
    place = example.place
    return place.file, place.record if place.record is not None else -1, place.line or 0
