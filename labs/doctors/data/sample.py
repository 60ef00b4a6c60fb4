"""One sample of any format, as it was written: what the checks look at. Nothing is opened or raised here.

Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple


class Place(NamedTuple):
    """Where something stands. `file`: relative to the folder that is checked; `line` from 1 (None where
    a file has none, as a tar); `record` the sample's number in its file, from 0; `member` within a tar."""

    file: str
    line: int | None = None
    record: int | None = None
    member: str | None = None

    def __str__(self) -> str:
        parts = [self.file]
        if self.member:
            parts.append(self.member)
        if self.line is not None:
            parts.append(f"line {self.line:,}")
        elif self.record is not None:
            parts.append(f"record {self.record:,}")
        return ", ".join(parts)


class Problem(NamedTuple):
    """A kind (a key of KINDS) and what exactly, in a few words."""

    kind: str
    detail: str


@dataclass
class Sample:
    """Turns as (role, text) with role "system", "user", "assistant", or as written where unknown.

    images: references as written (a path, a data URL, a web address, a member of the tar).
    alternatives: other answers to the last question (the rejected one of a preference pair).
    problems: what reading it found already. raw: the record itself, for repair.
    """

    place: Place
    id: str | None
    images: list[str]
    turns: list[tuple[str, str]]
    alternatives: list[str] = dataclasses.field(default_factory=list)
    problems: list[Problem] = dataclasses.field(default_factory=list)
    raw: Any = None
