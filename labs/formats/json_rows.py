"""The records in a piece of JSON text; what is no JSON is told of and passed over.

Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from labs.formats.dialects import IMAGES, TURNS
from labs.formats.json_faults import BROKEN, ERRORS, bad_bytes, is_cut, may_go_on, why, within
from labs.formats.row import Row, printable

SUSPECT = 4 << 20  # an element this long that holds what looks like records has lost a bracket


class Shape(NamedTuple):
    """How the records of a file are written.

    kind: "list" (one JSON list), "values" (objects one after the other, or just one), "lines" (JSONL).
    start: the byte after which the first record may start. keys: those of the first record that could
    be read; first: the first of them. By these a record is known again after a damaged one.
    whole: whether nothing may follow the end of the list (False for a list inside an object).
    """

    kind: str
    start: int
    keys: frozenset = frozenset()
    first: str | None = None
    whole: bool = True


class Piece(NamedTuple):
    """Bytes of a file that start where a record may start.

    line: the line of byte `start`. more: whether the file goes on after `end`. ragged: whether `end`
    is just where the reading stopped. opening: whether the list was opened just before `start`. size:
    the bytes that were asked for.
    """

    start: int
    end: int
    line: int
    more: bool
    ragged: bool = False
    opening: bool = False
    size: int = 0


class Arrival(NamedTuple):
    """How far the records of a piece went: the next one starts at byte `start`, in line `line`.

    starved: the record there needs more bytes than the piece has. ended: the list was closed.
    """

    start: int
    line: int
    starved: bool = False
    ended: bool = False


def _number(text: str) -> int:
    if len(text) > 4300:
        raise ValueError("a number of more than 4,300 digits")
    return int(text)


# Python 3.11 (and late 3.9 and 3.10) refuses such numbers itself; before, int() takes hours for them.
_DECODER = json.JSONDecoder(parse_int=None if hasattr(sys, "get_int_max_str_digits") else _number)
_SPACE = re.compile(r"[ \t\r\n]*")
_OBJECT = re.compile(r'\{\s*"')
_SAMPLE_KEYS = {*TURNS, *IMAGES, "id", "caption", "question", "prompt", "chosen", "query", "note_title"}  # fmt: skip


class Rows:
    """Iterates over the rows of a piece; `arrival` is set when the iteration is over.

    Record numbers count from 0 in the piece. Where the last record is not whole and the file goes on,
    nothing is said of it: `arrival.starved` asks for a piece with more bytes. The rows do not depend on
    how a file is cut into pieces, as long as each piece starts where the one before arrived.
    """

    def __init__(self, data: bytes, piece: Piece, shape: Shape) -> None:
        self.piece, self.shape = piece, shape
        self.arrival = Arrival(piece.start, piece.line)
        try:
            self.text = data.decode("utf-8")
            self.broken = False
        except UnicodeDecodeError:
            self.text = data.decode("utf-8", "surrogateescape")
            self.broken = True
        self.ascii = len(self.text) == len(data)
        self.at = 0  # the character up to which `byte` and `line` are counted
        self.byte, self.line = piece.start, piece.line
        self.record = 0

    def __iter__(self) -> Iterator[Row]:
        return self._lines() if self.shape.kind == "lines" else self._elements()

    def _move(self, to: int) -> None:
        """Count bytes and lines up to character `to`."""
        text, at = self.text, self.at
        self.line += text.count("\n", at, to)
        if self.ascii:
            self.byte += to - at
        else:
            self.byte += len(text[at:to].encode("utf-8", "surrogateescape"))
        self.at = to

    def _arrive(self, to: int, starved: bool = False, ended: bool = False) -> None:
        self._move(to)
        self.arrival = Arrival(self.byte, self.line, starved, ended)

    def _fault(self, kind: str, detail: str, counted: bool = True) -> Row:
        """A row without a value for what stands at `at`."""
        record = self.record if counted else None
        self.record += counted
        return Row(self.line, record, self.byte, self.byte, None, (kind, detail))

    def _value(self, end: int, value: Any) -> Row:
        """The row of the value from `at` to `end`; moves there."""
        line, start, at = self.line, self.byte, self.at
        self._move(end)
        problem = None
        if self.broken and BROKEN.search(self.text, at, end):
            text = self.text[at:end]
            problem = ("bad_encoding", bad_bytes(text, line))
            value = _DECODER.raw_decode(BROKEN.sub("\ufffd", text))[0]
        self.record += 1
        return Row(line, self.record - 1, start, self.byte, value, problem)

    # One record a line.

    def _lines(self) -> Iterator[Row]:
        decode, space, size = _DECODER.raw_decode, _SPACE.match, len(self.text)
        at = 0
        while at < size:
            end = self.text.find("\n", at)
            newline = end >= 0
            end = end if newline else size
            if not newline and self.piece.more:
                break
            first = space(self.text, at, end).end()
            if first < end:
                self._move(first)
                line = self.text[first:end]
                try:
                    value, length = decode(line)
                    rest = space(line, length).end()
                    if rest < len(line):
                        raise json.JSONDecodeError("text after the record", line, rest)
                    yield self._value(first + length, value)
                except ERRORS as error:
                    cut = not newline and is_cut(error, line)
                    yield self._fault(*why(error, line, self.line, cut))
            at = end + 1
        self._arrive(min(at, size), starved=at < size)

    # A list, or values one after the other.

    def _elements(self) -> Iterator[Row]:
        text, size, more = self.text, len(self.text), self.piece.more
        decode, space = _DECODER.raw_decode, _SPACE.match
        listed, opening = self.shape.kind == "list", self.piece.opening
        at = 0
        while True:
            at = space(text, at).end()
            self._move(at)
            if at == size:
                if listed and not more:
                    yield self._fault("cut_off", "the list is not closed", counted=False)
                return self._arrive(at, ended=not more)
            if not listed and text[at] == ",":
                yield self._fault("bad_json", "a comma between records in no list", counted=False)
                at += 1
                continue
            if listed and text[at] == "]":
                if not opening:
                    fault = "a comma before the end of the list"
                    yield self._fault("bad_json", fault, counted=False)
                return self._arrive(at + 1, ended=True)
            opening = False
            try:
                value, end = decode(text, at)
            except ERRORS as error:
                if more and size - at < SUSPECT and may_go_on(error, size):
                    return self._arrive(at, starved=True)
                follows = self._next_record(at + 1)
                if follows is None and more:
                    return self._arrive(at, starved=True)
                cut = follows is None and is_cut(error, text)
                kind, detail = why(within(error, at), text[at:], self.line, cut)
                # Words before a record are not one; words in place of one are followed by its comma.
                between = follows is not None and not {"{", ","} & set(text[at:follows])
                yield self._fault(kind, detail, counted=not between)
                if follows is None:
                    return self._arrive(size, ended=True)
                at = follows
                continue
            after = space(text, end).end()
            mark = text[after : after + 1]
            if listed and isinstance(value, list) and any(map(self._is_record, value)):
                yield self._fault("bad_json", "a list opens inside the list", counted=False)
                at += 1
                continue
            if not listed:
                if more and after == size and not isinstance(value, (dict, list, str)):
                    return self._arrive(at, starved=True)  # a number may go on
                yield self._value(end, value)
                at = after
            elif mark == ",":
                yield self._value(end, value)
                at = after + 1
            elif mark == "]":
                yield self._value(end, value)
                return self._arrive(after + 1, ended=True)
            elif not mark:
                if more:
                    return self._arrive(at, starved=True)
                yield self._value(end, value)
                at = after
            else:  # neither comma nor end: an object is sound, a string may be what a lost quote left
                sound = isinstance(value, dict)
                follows = after if mark in "{[" else self._next_record(after if sound else at + 1)
                if follows is None and more:
                    return self._arrive(at, starved=True)
                if sound:
                    yield self._value(end, value)
                    self._move(after)
                fault = "no comma after a record" if follows == after else "text after a record"
                fault = f"{fault}, at {printable(mark)}"
                yield self._fault("bad_json", fault, counted=not sound)
                if follows is None:
                    return self._arrive(size, ended=True)
                at = follows

    def _next_record(self, at: int) -> int | None:
        """Where the next record after a damaged one starts: the first object like the first record.

        None where there is none in this piece, or where that cannot be told without more bytes.
        """
        text, size, decode = self.text, len(self.text), _DECODER.raw_decode
        budget = 4 * (size - at) + (1 << 16)  # characters: unclosed brackets within each other
        while budget > 0:
            match = _OBJECT.search(text, at)
            if match is None:
                return None
            at = match.start()
            try:
                value, end = decode(text, at)
            except ERRORS as error:
                far = getattr(error, "pos", at)
                if may_go_on(error, size) and self.piece.more:
                    if self._is_first_key(match.end()):
                        return None
                elif self._is_first_key(match.end()):
                    return at
                # An error counts the lines before it; one of nesting unwinds a thousand levels.
                cost = 5_000 if isinstance(error, RecursionError) else far // 256
                budget -= max(far - at, cost, size - at if may_go_on(error, size) else 0)
                at += 1
                continue
            if self._is_record(value):
                return at
            at = end
        return None

    def _is_first_key(self, at: int) -> bool:
        first = self.shape.first
        return first is not None and self.text.startswith(
            json.dumps(first, ensure_ascii=False)[1:], at
        )

    def _is_record(self, value: Any) -> bool:
        """Whether a value is one of the file's records, not one of the turns inside them."""
        if not isinstance(value, dict):
            return False
        known = self.shape.keys
        if known:
            return 2 * len(known & value.keys()) >= len(known)
        return not _SAMPLE_KEYS.isdisjoint(value)
