"""Data files read record by record, whatever is wrong with them: each fault is a row with its place.

The strict readers of this package refuse a file at its first fault, which is right before training.
What follows here reads on, in bounded memory, for whoever wants to know of all of them.

Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import tempfile
from collections.abc import Iterator
from typing import BinaryIO

from labs.formats.json_cut import last_cut
from labs.formats.json_rows import Arrival, Piece, Rows, Shape
from labs.formats.row import Row, printable

SIZE = 1 << 20  # bytes of a piece
LARGEST = 32 << 20  # bytes of one record; what is longer is told of and not read
_HEAD = 1 << 20
_SPACES = b" \t\r\n"
_BOMS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_rows(path: str | os.PathLike, shape: Shape | None = None) -> Iterator[Row]:
    """The rows of a JSON file: a list, JSONL, or one object (or several, one after the other).

    Never raises for what the file holds, only OSError for what the disk does. After a damaged element
    of a list it goes on at the next one. Memory: a piece of about a megabyte, or the largest record.
    """
    with utf8(path) as (name, fault):
        if fault:
            yield Row(1, None, 0, 0, None, ("bad_encoding", fault))
        with open(name, "rb") as file:
            yield from _read(Pieces(file, shape or shape_of(file)))


def _read(pieces: Pieces) -> Iterator[Row]:
    record = 0
    while True:
        piece = pieces.take()
        if piece is None:
            return
        rows = Rows(pieces.data, piece, pieces.shape)
        for row in rows:
            yield row if row.record is None else row._replace(record=record + row.record)
        record += rows.record
        for row in pieces.confirm(piece, rows.arrival):
            yield row if row.record is None else row._replace(record=record)
            record += row.record is not None


def encoding_of(head: bytes) -> str | None:
    """The encoding of a file that begins so, UTF-16 or UTF-32; None for what is read as UTF-8."""
    for bom, name in _BOMS:
        if head.startswith(bom):
            return name
    sample = head[:1024]
    if len(sample) >= 8:  # without a mark: the letters of JSON's syntax are half zeros
        odd, even = sample[1::2].count(0), sample[::2].count(0)
        if odd > len(sample) // 5 and not even:
            return "utf-16-le"
        if even > len(sample) // 5 and not odd:
            return "utf-16-be"
    return None


@contextlib.contextmanager
def utf8(path: str | os.PathLike) -> Iterator[tuple[str, str | None]]:
    """(the path of the file in UTF-8, what was wrong with its encoding as a whole or None).

    A file in UTF-16 or UTF-32 is read from a converted copy, which is gone when the block ends.
    """
    with open(path, "rb") as file:
        encoding = encoding_of(file.read(1024))
    if encoding is None:
        yield os.fspath(path), None
        return
    handle, name = tempfile.mkstemp(prefix="labs-utf8-")
    try:
        with (
            os.fdopen(handle, "wb") as target,
            open(path, encoding=encoding, errors="replace", newline="") as source,
        ):
            while True:
                block = source.read(_HEAD)
                if not block:
                    break
                target.write(block.encode("utf-8", "replace"))
        yield name, f"the file is {encoding.upper()}, not UTF-8"
    finally:
        with contextlib.suppress(OSError):
            os.unlink(name)


def shape_of(file: BinaryIO) -> Shape:
    """How the records of an open JSON file are written, from its first megabyte.

    JSONL and one object both start with a brace: JSONL has a whole value in its first line, or, where
    that one is damaged, in a later line.
    """
    file.seek(0)
    head = file.read(_HEAD)
    more = len(head) == _HEAD
    start = len(codecs.BOM_UTF8) if head.startswith(codecs.BOM_UTF8) else 0
    while head[start : start + 1] and head[start] in _SPACES:
        start += 1
    lines = [line for line in head[start:].split(b"\n")[:20] if line.strip()]
    if more and len(lines) > 1:
        lines.pop()  # it may not be whole
    whole = [_is_sound(line) for line in lines]
    listed = head[start : start + 1] == b"["
    if listed and len(lines) > 1 and lines[0].strip() != b"[":
        # A damaged first line of JSONL, if all that follows are whole objects.
        listed = not (all(whole[1:]) and all(line.strip()[:1] == b"{" for line in lines[1:]))
    shape = Shape("list", start + 1) if listed else Shape("values", start)
    if not listed and (any(whole[:1]) or not _starts_value(head, shape, more, whole)):
        shape = Shape("lines", start)
    for row in _head_rows(head, shape, more):
        if isinstance(row.value, dict) and row.value and row.problem is None:
            return shape._replace(keys=frozenset(row.value), first=next(iter(row.value)))
    return shape


def _head_rows(head: bytes, shape: Shape, more: bool) -> Rows:
    piece = Piece(shape.start, len(head), 1, more, opening=True)
    return Rows(head[shape.start :], piece, shape)


def _is_sound(line: bytes) -> bool:
    """Whether a line is an object or a list, and nothing else."""
    if line.strip()[:1] not in (b"{", b"["):
        return False
    rows = Rows(line, Piece(0, len(line), 1, False), Shape("lines", 0))
    return all(row.problem is None for row in rows)


def _starts_value(head: bytes, shape: Shape, more: bool, whole: list[bool]) -> bool:
    """Whether the file starts with an object that goes on over several lines, or with a list that has
    lost its brackets."""
    first = head[shape.start :].partition(b"\n")[0]
    if first[:1] != b"{":
        return False
    rows = _head_rows(head, shape, more)
    row = next(iter(rows), None)
    if row is None:
        return rows.arrival.starved
    if row.problem is None:
        # Of a list without brackets the last line alone is whole.
        return row.end > shape.start + len(first) or not any(whole[:-1])
    return not any(whole) and not first.rstrip().endswith(b"}")


class Pieces:
    """Cuts a file into pieces that start at a record and end, as far as can be told, after one.

    `take` gives the next piece and leaves its bytes in `data`; `confirm` is told where the records of
    a piece really ended. Pieces may be taken ahead of what is confirmed, to be decoded elsewhere; where
    `confirm` returns and `ahead` is False, those taken after the confirmed one are void. What is read
    does not depend on how many are taken ahead.
    """

    def __init__(
        self, file: BinaryIO, shape: Shape, size: int = SIZE, largest: int = LARGEST
    ) -> None:
        self.file, self.shape, self.size, self.largest = file, shape, size, largest
        self.total = os.fstat(file.fileno()).st_size
        self.data = b""
        self.waiting = self.ahead = self.over = False
        file.seek(0)
        line, left = 1, shape.start
        while left > 0:
            block = file.read(min(left, size))
            if not block:
                break
            line, left = line + block.count(b"\n"), left - len(block)
        self._go_to(shape.start, line, opening=True)

    def _go_to(
        self, position: int, line: int, opening: bool = False, wanted: int | None = None
    ) -> None:
        self.position, self.line, self.opening = position, line, opening
        self.wanted = wanted or self.size  # bytes of the next piece

    def take(self) -> Piece | None:
        """The next piece; None at the end, and while an earlier one must be confirmed first."""
        if self.over or self.waiting or (self.position >= self.total and not self.opening):
            return None
        self.file.seek(self.position)
        data = self.file.read(self.wanted)
        more, cut = self.position + len(data) < self.total, None
        if more:
            if self.shape.kind == "lines":
                cut = data.rfind(b"\n") + 1 or None
            else:
                cut = last_cut(data, self.shape.kind == "list")
            data = data[:cut] if cut else data[: _whole_letters(data)]
        end, ragged = self.position + len(data), more and cut is None
        piece = Piece(self.position, end, self.line, more, ragged, self.opening, self.wanted)
        self.data, self.waiting = data, ragged
        self._go_to(end, self.line + data.count(b"\n"))
        return piece

    def confirm(self, piece: Piece, arrival: Arrival) -> list[Row]:
        """Say where the records of `piece`, the oldest one that is not confirmed, ended.

        Returns rows for what lies outside records: with `record` 0 where it stands for one. Sets
        `ahead`: whether the pieces that were taken since are still good.
        """
        self.ahead = arrival.start == piece.end and not (arrival.starved or arrival.ended)
        if self.ahead:
            self.waiting = False
            return []
        self.waiting = False
        if arrival.ended:
            return self._after_list(arrival)
        if arrival.start > piece.start:
            self._go_to(arrival.start, arrival.line)
        elif piece.size < self.largest:
            self._go_to(piece.start, piece.line, piece.opening, 2 * piece.size)
        else:
            return self._too_long(piece)
        return []

    def _too_long(self, piece: Piece) -> list[Row]:
        limit = f"{self.largest >> 20:,} MB" if self.largest >= 1 << 20 else f"{self.largest} bytes"
        detail = f"a record of more than {limit}"
        if self.shape.kind == "lines":
            end = self._find_newline(piece.start)
            self._go_to(end, piece.line + 1)
        else:
            self.over = True
            detail += ", or one that is never closed: what follows was not read"
        return [Row(piece.line, 0, piece.start, piece.start, None, ("bad_json", detail))]

    def _find_newline(self, position: int) -> int:
        self.file.seek(position)
        while True:
            block = self.file.read(_HEAD)
            found = block.find(b"\n")
            if found >= 0 or not block:
                return position + found + 1 if block else self.total
            position += len(block)

    def _after_list(self, arrival: Arrival) -> list[Row]:
        """What follows the end of the list: nothing, or a fault and perhaps more records."""
        self.over = True
        if self.shape.kind != "list" or not self.shape.whole:
            return []
        position, line = arrival.start, arrival.line
        self.file.seek(position)
        while True:
            block = self.file.read(_HEAD)
            rest = block.lstrip(_SPACES)
            spaces = len(block) - len(rest)
            position, line = position + spaces, line + block.count(b"\n", 0, spaces)
            if rest or not block:
                break
        if not rest:
            return []
        near = printable(rest[:30].decode("utf-8", "replace").strip("\0") or "NUL bytes")
        fault = ("bad_json", f"text after the end of the list: {near}")
        if b"{" in rest:  # two lists in one file, or a bracket too many
            self.over = False
            self._go_to(position + (rest[:1] in b"[,"), line, opening=rest[:1] == b"[")
        return [Row(line, None, position, position, None, fault)]


def _whole_letters(data: bytes) -> int:
    """How many bytes of `data` there are before a letter that is cut off at its end."""
    for back in range(1, min(4, len(data)) + 1):
        if data[-back] & 0xC0 != 0x80:  # the letter's first byte
            return len(data) - back if data[-back] >= 0xC0 else len(data)
    return len(data)
