"""The whole answer of one check, in plain containers (schema "data-doctor/1").

Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

from labs.doctors.data.kinds import KINDS, SEVERITIES

SCHEMA = "data-doctor/1"
VERDICTS = ("errors", "warnings", "notes", "clean")

# What `--fix` does about a kind, in words.
REPAIRS = {
    "drop": "--fix removes the sample",
    "edit": "--fix mends the sample, or removes it where nothing is left",
    "keep": "--fix leaves it as it is",
}
ON_REQUEST = "--fix --fix-semantic removes the sample"


@dataclass(frozen=True)
class Example:
    """One place where a fault was seen. `place` is for a person, the rest for a program."""

    place: str
    file: str
    line: int | None
    record: int | None
    member: str | None
    id: str | None
    detail: str
    image: str | None = None


@dataclass(frozen=True)
class Finding:
    """One kind of fault.

    count: how often it was found. samples: how many samples it concerns, where that is known (an
    image that is missing concerns every sample that shows it). share: samples over all samples.
    semantic: judged by a score, so it is wrong now and then; everything else is exact.
    """

    kind: str
    group: str
    severity: str
    title: str
    count: int
    samples: int
    share: float
    semantic: bool
    why: str
    fix: str
    repair: str
    repair_text: str
    examples: list[Example] = field(default_factory=list)


@dataclass(frozen=True)
class Histogram:
    """How often a quantity takes which value: `bins` are (lowest, highest, count), both ends included."""

    name: str
    title: str
    unit: str
    bins: list[tuple[int, int, int]]

    @property
    def total(self) -> int:
        return sum(count for _, _, count in self.bins)


@dataclass(frozen=True)
class Report:
    """path: the name of what was checked, without its folder. facts: numbers and words by name.

    unchecked: sentences about what could not be looked at, and why. checked: what was looked at, as
    (what, how far). fixed: what `--fix` wrote, None where nothing was asked of it.
    """

    path: str
    findings: list[Finding] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    histograms: list[Histogram] = field(default_factory=list)
    checked: list[tuple[str, str]] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    fixed: dict[str, Any] | None = None

    @property
    def verdict(self) -> str:
        """The worst severity that was found, in the plural, or "clean"."""
        found = {finding.severity for finding in self.findings}
        return next((f"{severity}s" for severity in SEVERITIES if severity in found), "clean")

    def of(self, severity: str) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == severity]

    def reaches(self, level: str) -> bool:
        """Whether anything was found at or above `level` ("error", "warning"; "never": False)."""
        if level == "never":
            return False
        bar = SEVERITIES.index(level)
        return any(SEVERITIES.index(finding.severity) <= bar for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, the schema's name first."""
        return {"schema": SCHEMA, "verdict": self.verdict, **dataclasses.asdict(self)}

    def to_json(self, indent: int | None = 2) -> str:
        """JSON that another program may rely on; ASCII, for any pipe."""
        return json.dumps(self.to_dict(), indent=indent)


def repair_of(kind: str) -> str:
    """What `--fix` does about a kind, as a sentence's end."""
    known = KINDS[kind]
    return ON_REQUEST if known.semantic and known.repair != "keep" else REPAIRS[known.repair]
