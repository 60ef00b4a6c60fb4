"""`changes.jsonl`: what `--fix` did, one line a record. Standard library only, Python 3.9 or newer."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import IO

from labs.doctors.data.repair.edits import Edit
from labs.doctors.data.sample import Place

LOG = "changes.jsonl"  # its name in the folder of the copy
LONGEST = 1000  # characters of a text that is quoted


class Log:
    """Writes a line for each record that was changed or left out.

    {"place", "file", "line", "record", "id", "action": "removed" | "mended", "kinds": [...],
     "why": "...", "edits": [{"kind", "done", "before", "after"}]}
    """

    def __init__(self, file: IO[str]) -> None:
        self.file = file

    def removed(self, place: Place, id: str | None, kinds: Iterable[str], why: str) -> None:
        self._write(place, id, "removed", kinds, why=why)

    def mended(self, place: Place, id: str | None, kinds: Iterable[str], edits: list[Edit]) -> None:
        shown = [
            {"kind": e.kind, "done": e.done, "before": cut(e.before), "after": cut(e.after)}
            for e in edits
        ]
        self._write(place, id, "mended", kinds, edits=shown)

    def _write(self, place: Place, id: str | None, action: str, kinds: Iterable[str], **rest):
        line = {"place": str(place), "file": place.file, "line": place.line}
        line.update(record=place.record, id=id, action=action, kinds=list(kinds), **rest)
        # ASCII: a text may hold half a surrogate pair, which no encoding but an escape can hold.
        self.file.write(json.dumps(line) + "\n")


def cut(text: str) -> str:
    """At most LONGEST characters, what is left out in the middle."""
    half = LONGEST // 2 - 2
    return text if len(text) <= LONGEST else f"{text[:half]} … {text[-half:]}"
