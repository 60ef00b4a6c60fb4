"""Where records end in a gigabyte of JSON, found without decoding it.

A JSON list is cut into pieces of whole elements so that several processes can decode them. Whether a
comma lies between two elements depends on all that comes before it: on the quotes, which open and
close strings, and on the brackets outside strings. Both are counted here by a few passes of C over the
bytes (replace, translate, count), at some hundreds of megabytes a second; only the last few kilobytes
of a piece are looked at token by token.

Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import re
from typing import BinaryIO, NamedTuple

_BONES = b'"{}[]'
_FLESH = bytes(set(range(256)) - set(_BONES))
_TOKEN = re.compile(rb'\\.|["{}\[\],]', re.DOTALL)
_QUOTE, _BACKSLASH = b'"\\'
_OPEN, _CLOSE = frozenset(b"{["), frozenset(b"}]")
_TAIL = 1 << 14  # bytes at the end of a piece that are looked at one token after the other


def brackets(data: bytes, inside: bool = False) -> tuple[bytes, bool]:
    """The brackets outside strings, in order, and whether `data` ends inside a string.

    inside: whether it starts inside one. `data` must not start in the middle of an escape.
    """
    if b"\\" in data:  # an escaped backslash first: in \\" the quote is a real one
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    # Two quotes with no bracket between them toggle twice, whichever strings they belong to.
    bones = data.translate(None, _FLESH).replace(b'""', b"")
    parts = (b'"' + bones if inside else bones).split(b'"')
    return b"".join(parts[::2]), len(parts) % 2 == 0


def depth_of(found: bytes) -> int:
    """How many more brackets open than close."""
    return found.count(b"{") + found.count(b"[") - found.count(b"}") - found.count(b"]")


def lowest(found: bytes) -> int:
    """The least depth (0 or below) that is reached on the way through these brackets."""
    for _ in range(8):  # pairs with nothing between them cancel: records are this deep, not deeper
        found = found.replace(b"{}", b"").replace(b"[]", b"")
    least = depth = 0
    for token in found:
        depth += 1 if token in _OPEN else -1
        least = min(least, depth)
    return least


def last_cut(data: bytes, commas: bool = True) -> int | None:
    """The end of the last whole element of `data`, which starts where an element may start.

    That is after the last comma outside all brackets and strings; with `commas=False`, for values
    written one after the other, after the last bracket that closes one. None where there is no such
    place. In JSON that is sound the answer is exact; where a quote is missing it may be anything, so
    whoever decodes the piece must look whether its last element ends there.
    """
    tail = _TAIL
    while True:
        start = max(len(data) - tail, 0)
        while start and data[start - 1] == _BACKSLASH:
            start -= 1
        found, inside = brackets(data[:start])
        cut = _scan(data, start, depth_of(found), inside, commas)
        if cut is not None or not start:
            return cut
        tail *= 8


def _scan(data: bytes, start: int, depth: int, inside: bool, commas: bool) -> int | None:
    cut = None
    for match in _TOKEN.finditer(data, start):
        token = data[match.start()]
        if token == _QUOTE:
            inside = not inside
        elif inside or token == _BACKSLASH:
            continue
        elif token in _OPEN:
            depth += 1
        elif token in _CLOSE:
            depth -= 1
            if depth < 0:  # the list itself ends here
                break
            if not commas and depth == 0:
                cut = match.end()
        elif commas and depth == 0:
            cut = match.end()
    return cut


class Span(NamedTuple):
    """A value of a top-level object: its key, where it starts, and where it ends (bytes).

    end: None where the file ends before the value does.
    """

    key: str
    start: int
    end: int | None


_PAIR = re.compile(rb'\s*,?\s*"((?:[^"\\]|\\.){0,200})"\s*:\s*', re.DOTALL)
_SCALAR = re.compile(rb'"(?:[^"\\]|\\.)*"|[^\s,}\]"]+', re.DOTALL)


def top_level(file: BinaryIO, start: int, block: int = 1 << 18) -> list[Span]:
    """The values of the object whose `{` stands at byte `start`: as far as it can be followed.

    `file` is open for reading bytes. The values are passed over, not decoded, in bounded memory.
    """
    spans: list[Span] = []
    position = start + 1
    while True:
        file.seek(position)
        head = file.read(1 << 16)
        match = _PAIR.match(head)
        if match is None or match.end() == len(head):
            return spans
        key, at = match[1].decode("utf-8", "replace"), position + match.end()
        if head[match.end()] in _OPEN:
            end = _close(file, at, block)
        else:
            scalar = _SCALAR.match(head, match.end())
            end = position + scalar.end() if scalar else None
        spans.append(Span(key, at, end))
        if end is None:
            return spans
        position = end


def _close(file: BinaryIO, start: int, block: int) -> int | None:
    """Where the bracket that opens at `start` is closed: the byte after it; None if it never is."""
    depth, inside, position = 0, False, start
    while True:
        file.seek(position)
        data = file.read(block)
        if not data:
            return None
        if len(data) > 1 and (len(data) - len(data.rstrip(b"\\"))) % 2:
            data = data[:-1]  # not in the middle of an escape
        found, after = brackets(data, inside)
        if depth + lowest(found) <= 0:
            end = _close_in(data, depth, inside)
            if end is not None:
                return position + end
        depth, inside = depth + depth_of(found), after
        position += len(data)


def _close_in(data: bytes, depth: int, inside: bool) -> int | None:
    for match in _TOKEN.finditer(data):
        token = data[match.start()]
        if token == _QUOTE:
            inside = not inside
        elif inside:
            continue
        elif token in _OPEN:
            depth += 1
        elif token in _CLOSE:
            depth -= 1
            if depth <= 0:
                return match.end()
    return None
