"""One record of a data file as it was found: where it stands, what it holds, what is wrong with it.

Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Row(NamedTuple):
    """A record, or what stands in its place.

    line: where it starts, from 1 (None in a tar or a Parquet file). record: its number in the file,
    from 0; None for a fault that belongs to no record ("no comma between two records").
    start, end: its bytes in the file, where they are known (-1 elsewhere).
    value: what it holds; None where nothing could be read. problem: (kind, detail) of the fault, with
    kind "bad_json", "cut_off" or "bad_encoding"; a value may be there all the same.
    """

    line: int | None
    record: int | None
    start: int
    end: int
    value: Any
    problem: tuple[str, str] | None = None


def printable(text: str, length: int = 60) -> str:
    """`text` on one line, without what a terminal or a JSON writer would choke on, cut to `length`."""
    if len(text) > length:
        text = text[: length - 1] + "…"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def kind_of(value: Any) -> str:
    """What a JSON value is, in words."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false"}
    numbers = {int: "a number", float: "a number", type(None): "nothing"}
    return names.get(type(value)) or numbers.get(type(value)) or f"a {type(value).__name__}"
