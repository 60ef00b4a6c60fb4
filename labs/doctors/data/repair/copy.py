"""One JSON file written again, record by record: what is left alone is copied byte for byte.

Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from labs.formats.row import Row
from labs.formats.rows import read_rows, shape_of, utf8

KEEP = object()  # this record goes into the copy as it is
DROP = object()  # this record does not


class Copied(NamedTuple):
    """Records of the source that were kept as they are, changed, and left out.

    Of those that are in the copy, in its order: their numbers and lines in the source (0: unknown).
    """

    kept: int
    changed: int
    dropped: int
    records: array
    lines: array


def copy_file(source: Path, target: Path, decide: Callable[[Row, bytes], Any]) -> Copied:
    """Write `source` to `target` as `decide` says of each row.

    decide(row, its bytes) returns KEEP, DROP, or the new record. Rows that are no record (a missing
    comma between two) are shown to it too; they vanish in any case, since the copy is written anew.
    The copy is a list where the source is one, else one record a line.
    """
    counts = {"kept": 0, "changed": 0, "dropped": 0}
    records, lines = array("Q"), array("Q")
    with utf8(source) as (name, _), open(name, "rb") as raw, open(target, "xb") as file:
        shape = shape_of(raw)
        listed = shape.kind == "list"
        file.write(b"[" if listed else b"")
        between = b"\n"
        for row in read_rows(name, shape):
            raw.seek(max(row.start, 0))
            text = raw.read(row.end - row.start) if row.end > row.start else b""
            verdict = decide(row, text)
            if row.record is None:
                continue
            if verdict is DROP or not text:
                counts["dropped"] += 1
                continue
            if verdict is KEEP:
                counts["kept"] += 1
            else:
                counts["changed"] += 1
                text = dumped(verdict, text)
            records.append(row.record)
            lines.append(row.line or 0)
            file.write(between + text if listed else text + b"\n")
            between = b",\n"
        file.write(b"\n]\n" if listed else b"")
        file.flush()
        os.fsync(file.fileno())
    return Copied(**counts, records=records, lines=lines)


def dumped(record: Any, like: bytes) -> bytes:
    """The record as JSON on one line, with letters escaped where those of `like` were."""
    escaped = like.isascii() and b"\\u" in like
    try:
        return json.dumps(record, ensure_ascii=escaped).encode("utf-8")
    except UnicodeEncodeError:  # half of a surrogate pair, which only an escape can hold
        return json.dumps(record, ensure_ascii=True).encode("ascii")
