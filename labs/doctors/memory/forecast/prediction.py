"""A prediction: the answer of `predict`, as data. All sizes in bytes."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from labs.doctors.memory.forecast.timeline import Timeline
from labs.doctors.memory.plan import Plan

SCHEMA = "oom-predict/1"


@dataclasses.dataclass(frozen=True)
class Range:
    """A number of bytes, the band that it should lie in, and why the band is that wide."""

    bytes: float
    low: float
    high: float
    reasons: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Fit:
    """One card: bytes that it offers; "yes", "perhaps" (the band holds its size) or "no"; the largest
    batch that fits by the best estimate, None where that was not asked or rows are not alike."""

    card: str
    usable: int
    verdict: str
    largest_batch: int | None = None


@dataclasses.dataclass(frozen=True)
class Tried:
    """A remedy, predicted: the plan's fields that it changes, the GPU's peak then, what it saves."""

    id: str
    title: str
    changes: dict[str, Any]
    gpu: float
    saves: float
    costs: str
    how: dict[str, str]
    fits: bool = False  # on the card that was asked for, or the next smaller one


@dataclasses.dataclass
class Prediction:
    """The answer. All sizes in bytes; `breakdown` is what is alive at the peak, by category, with
    fragmentation and context; `together` are the remedies that must be combined to fit, if any do."""

    plan: Plan
    gpu: Range
    host: Range
    allocated: float
    reserved: float
    breakdown: dict[str, float]
    peak_phase: str
    phases: dict[str, float]
    fits: list[Fit]
    notes: list[str]
    basis: str
    target: Fit
    modules: dict[str, float] = dataclasses.field(default_factory=dict)
    timeline: Timeline | None = None
    remedies: list[Tried] = dataclasses.field(default_factory=list)
    together: Tried | None = None
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        return {"schema": SCHEMA, **dataclasses.asdict(self)}

    def to_json(self, indent: int | None = 2) -> str:
        """JSON that another program may rely on (schema "oom-predict/1"); sizes in bytes."""
        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False, default=str)
