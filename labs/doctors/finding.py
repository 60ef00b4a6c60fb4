"""What every doctor hands back: findings with their evidence, remedies, and a verdict.

Sizes are bytes wherever a field is a number. Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

SCHEMA = "oom-doctor/1"

CONFIDENCES = ("certain", "likely", "possible")
VERDICTS = ("cause", "no_oom", "cannot_tell")


@dataclass(frozen=True)
class Evidence:
    """One line that shows it: the text, and where it stands (line counted from 1)."""

    text: str
    line: int | None = None
    rank: int | None = None
    file: str | None = None

    @property
    def where(self) -> str:
        """ "line 12, rank 3", or the empty string when neither is known."""
        parts = [self.file] if self.file else []
        if self.line is not None:
            parts.append(f"line {self.line:,}")
        if self.rank is not None:
            parts.append(f"rank {self.rank}")
        return ", ".join(parts)


@dataclass(frozen=True)
class Remedy:
    """One thing to do. `how` maps a framework ("torch", "transformers", …) to what to write there.

    saves_bytes: what it is predicted to save, in bytes, or None where nothing was predicted;
    saves_why: what it saves, in words; costs: what it takes in return (time, quality, effort).
    """

    id: str
    title: str
    how: dict[str, str] = field(default_factory=dict)
    saves_bytes: int | None = None
    saves_why: str = ""
    costs: str = ""
    section: str | None = None


@dataclass(frozen=True)
class Finding:
    """One cause: a stable id, how sure the doctor is, what shows it, why, and what to do.

    `confidence` is "certain" (the log can mean nothing else), "likely" (it fits, and the known
    alternatives do not) or "possible" (it fits among others).
    """

    cause: str
    title: str
    confidence: str
    evidence: list[Evidence] = field(default_factory=list)
    why: str = ""
    remedies: list[Remedy] = field(default_factory=list)
    next_command: str | None = None
    section: str | None = None

    def __post_init__(self) -> None:
        if self.confidence not in CONFIDENCES:
            raise ValueError(f"confidence is one of {CONFIDENCES}, not {self.confidence!r}")


@dataclass(frozen=True)
class Report:
    """The whole answer of one command.

    verdict: "cause" (findings[0] is the cause), "cannot_tell" (there is an out-of-memory, but this
    input does not say why; `notes` say what to collect) or "no_oom" (there is none).
    """

    doctor: str
    command: str
    verdict: str
    findings: list[Finding] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise ValueError(f"verdict is one of {VERDICTS}, not {self.verdict!r}")

    def to_dict(self) -> dict[str, Any]:
        """Plain containers with the schema's name first; every size in bytes."""
        return {"schema": SCHEMA, **dataclasses.asdict(self)}

    def to_json(self, indent: int | None = 2) -> str:
        """JSON that another program may rely on (schema "oom-doctor/1"); ASCII, for any pipe."""
        return json.dumps(self.to_dict(), indent=indent, default=str)


def size(count: float) -> str:
    """Bytes for a person: 1,610,612,736 -> "1.50 GiB" (1 GiB = 1024 MiB); whole bytes below 1 KiB."""
    sign, count = ("-", -count) if count < 0 else ("", count)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            break
        count /= 1024
    return f"{sign}{count:,.0f} bytes" if unit == "bytes" else f"{sign}{count:,.2f} {unit}"
