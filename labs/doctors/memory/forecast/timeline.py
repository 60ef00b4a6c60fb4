"""A trace as people look at it: the course of a step, its fragmentation, its activations by module."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from labs.doctors.memory.cuda import playback
from labs.doctors.memory.plan import Plan
from labs.doctors.memory.trace.record import Event, Trace

COLUMNS = 320
_NUMBER = re.compile(r"\.\d+(?=\.|$)")


@dataclasses.dataclass(frozen=True)
class Timeline:
    """Bytes by category over a step, thinned to columns that each keep their fullest instant.

    phases: (name, first column, last column); reserved: what the allocator holds.
    """

    categories: dict[str, list[int]]
    reserved: list[int]
    phases: list[tuple[str, int, int]]
    events: int


@dataclasses.dataclass(frozen=True)
class Played:
    """What the model of the allocator made of a step: bytes held after each event, and how much more
    than what is allocated it held at its own peak, as a share of the peak of what is allocated."""

    reserved: list[int]
    share: float


def play(events: Sequence[Event], plan: Plan) -> Played:
    """Play a step through the model of the CUDA caching allocator; on a CPU there is none."""
    if plan.device != "cuda":
        return Played([], 0.0)
    played = playback.play(events, expandable=plan.expandable_segments)
    asked = max((moment.requested for moment in played.line), default=0)
    share = played.peak_reserved / asked - 1 if asked else 0.0
    return Played([moment.reserved for moment in played.line], max(0.0, share))


def make_timeline(events: Sequence[Event], played: Played, columns: int = COLUMNS) -> Timeline:
    """Thin a step to `columns`, each the fullest instant of its stretch."""
    names = sorted({event.category for event in events})
    live = dict.fromkeys(names, 0)
    count = max(1, min(columns, len(events)))
    best: list[tuple[int, dict[str, int], int, str] | None] = [None] * count
    total = 0
    for index, event in enumerate(events):
        column = index * count // len(events)
        if event.place == "device":
            change = event.bytes if event.kind == "alloc" else -event.bytes
            live[event.category] += change
            total += change
        held = best[column]
        if held is None or total > held[0]:
            reserved = played.reserved[index] if index < len(played.reserved) else 0
            best[column] = (total, dict(live), reserved, event.phase)
    filled = [entry for entry in best if entry is not None]
    phases: list[tuple[str, int, int]] = []
    for column, (_, _, _, phase) in enumerate(filled):
        if phases and phases[-1][0] == phase:
            phases[-1] = (phase, phases[-1][1], column)
        else:
            phases.append((phase, column, column))
    return Timeline(
        {
            name: [entry[1][name] for entry in filled]
            for name in names
            if any(entry[1][name] for entry in filled)
        },
        [entry[2] for entry in filled],
        phases,
        len(events),
    )


def activations_by_module(trace: Trace, most: int = 10) -> dict[str, int]:
    """Bytes of activations at the peak by module, equal layers together; the rest as "others"."""
    totals: dict[str, int] = {}
    for module, size in trace.by_category_and_module().get("activations", {}).items():
        name = _NUMBER.sub(".*", module) or "(model)"
        totals[name] = totals.get(name, 0) + size
    ranked = sorted(totals.items(), key=lambda item: -item[1])
    shown = dict(ranked[:most])
    if len(ranked) > most:
        shown["others"] = sum(size for _, size in ranked[most:])
    return shown
