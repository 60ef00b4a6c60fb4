"""From counts to a Report: findings worst first, histograms in a few bars, lengths in a few numbers.

Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from labs.doctors.data.report.report import Example, Finding, Histogram, repair_of
from labs.doctors.data.tally import Tally

BARS = 24
HISTOGRAMS = {
    "turns": ("Turns of a sample", "turns"),
    "images": ("Images of a sample", "images"),
    "characters": ("Characters of a sample", "characters"),
    "tokens": ("Tokens of a sample", "tokens"),
    "visual_tokens": ("Visual tokens of a sample", "tokens"),
    "image_width": ("Width of an image", "pixels"),
    "image_height": ("Height of an image", "pixels"),
    "image_shape": ("Shape of an image", "% width over height"),
    "image_area": ("Area of an image", "thousand pixels"),
}
# Found of the whole set, or of the model: no number of samples goes with them.
OF_NO_SAMPLE = frozenset(("yes_rate", "shared_caption", "special_token_split"))


def findings(tally: Tally, samples: int, shown: Mapping[str, int], examples: int) -> list[Finding]:
    """What was found, worst first. shown: kind -> samples, where a kind is counted by image."""
    affected: Counter = Counter()
    for kinds in tally.hits.values():
        affected.update(kinds)
    made = []
    for kind, count in tally.worst_first():
        if kind.id in OF_NO_SAMPLE:
            reach = 0
        else:
            reach = affected[kind.id] or shown.get(kind.id) or count
        made.append(
            Finding(
                kind=kind.id,
                group=kind.group,
                severity=kind.severity,
                title=kind.title,
                count=count,
                samples=reach,
                share=min(reach / samples, 1.0) if samples else 0.0,
                semantic=kind.semantic,
                why=kind.why,
                fix=kind.fix,
                repair=kind.repair,
                repair_text=repair_of(kind.id),
                examples=[_example(e) for e in tally.examples.get(kind.id, [])[:examples]],
            )
        )
    return made


def _example(example: Any) -> Example:
    place = example.place
    return Example(
        place=sound(str(place)),
        file=sound(place.file),
        line=place.line,
        record=place.record,
        member=None if place.member is None else sound(place.member),
        id=None if example.id is None else sound(example.id),
        detail=sound(example.detail),
        image=None if example.image is None else sound(example.image),
    )


def sound(text: str) -> str:
    """`text` without halves of surrogate pairs, which no file can be written with."""
    return text.encode("utf-8", "replace").decode("utf-8")


def histogram(name: str, counts: Mapping[int, int], upper: Callable[[int], int]) -> Histogram:
    """A histogram of at most BARS bars from counts by lower edge; upper(edge) is a bin's highest value."""
    low, high = min(counts), upper(max(counts))
    edges = [*range(low, high + 1)] if high - low < BARS else _edges(low, high)
    bins = []
    for start, end in zip(edges, [*edges[1:], high + 1]):  # noqa: B905 - Python 3.9
        bins.append((start, end - 1, sum(n for value, n in counts.items() if start <= value < end)))
    title, unit = HISTOGRAMS[name]
    return Histogram(name, title, unit, bins)


def _edges(low: int, high: int) -> list[int]:
    """Lower edges from the bin of `low` to that of `high`: powers of two, and half-way between them.

    Edges of counts that are themselves binned lie among them, so no bin is cut in two.
    """
    powers = [0] + [1 << i for i in range(high.bit_length())]
    halves = sorted(powers + [3 << i for i in range(high.bit_length()) if 3 << i <= high])
    for edges in (halves, powers):
        kept = [a for a, b in zip(edges, [*edges[1:], high + 1]) if b > low]  # noqa: B905
        if len(kept) <= BARS:
            return kept
    return kept


def lengths(counts: Mapping[int, int], upper: Callable[[int], int]) -> dict[str, int]:
    """Mean, median, 95th and 99th percentile and maximum, from counts by lower edge.

    Upper ends of bins, which are at most a sixteenth too high.
    """
    total = sum(counts.values())
    found: dict[str, int] = {}
    passed = 0
    marks = {"median": 0.5, "p95": 0.95, "p99": 0.99, "longest": 1.0}
    for edge in sorted(counts):
        passed += counts[edge]
        for name, share in marks.items():
            if name not in found and passed >= share * total:
                found[name] = upper(edge)
    mean = sum((edge + upper(edge)) / 2 * count for edge, count in counts.items()) / total
    return {"mean": round(mean), **found}
