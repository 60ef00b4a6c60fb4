"""What was found out about one picture. Standard library only, Python 3.9 or newer."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from labs.doctors.data.sample import Problem


@dataclass
class ImageVerdict:
    """One picture.

    problems: empty for a sound one. size: (width, height) in pixels as shown, that is after EXIF's
    turn; None where no header could be read. mode, format: Pillow's names ("RGB", "JPEG"). bytes: of
    the file. fingerprint: `picture_hash`, where it was asked for and the picture could be decoded.
    """

    problems: list[Problem] = dataclasses.field(default_factory=list)
    size: tuple[int, int] | None = None
    mode: str | None = None
    format: str | None = None
    bytes: int = 0
    fingerprint: int | None = None

    def to_list(self) -> list[Any]:
        """Plain containers, for a pipe."""
        problems = [[kind, detail] for kind, detail in self.problems]
        return [problems, self.size, self.mode, self.format, self.bytes, self.fingerprint]

    @classmethod
    def from_list(cls, fields: list[Any]) -> ImageVerdict:
        problems, size, *rest = fields
        problems = [Problem(kind, detail) for kind, detail in problems]
        return cls(problems, tuple(size) if size else None, *rest)
