"""What is wrong with text that is no JSON, in words. Standard library only, Python 3.9 or newer."""

from __future__ import annotations

import json
import re

from labs.formats.row import printable

# What json.JSONDecodeError, RecursionError (nested too deep) and int() raise.
ERRORS = (ValueError, RecursionError, OverflowError, MemoryError)
BROKEN = re.compile("[\udc80-\udcff]")  # a byte that is not UTF-8, as surrogateescape writes it
_TRAILING = re.compile(r"(?: starting)? at$|:? *$")
# A string that is open to the end of the file, though the brackets after it are closed.
_CLOSED = re.compile(r"[}\]]\s*\}\s*\]\s*\Z|\}\s*\]\s*\}\s*\Z")
_HALF = re.compile(
    r"-?(?:I(?:n(?:f(?:i(?:n(?:it?)?)?)?)?)?)?|tr?u?|fa?l?s?|nu?l?|Na?|\\(?:u[0-9a-fA-F]{0,4})?"
)


def may_go_on(error: Exception, size: int) -> bool:
    """Whether more bytes could make sound what failed: a string or a bracket is open at the end."""
    if not isinstance(error, json.JSONDecodeError):
        return False
    return error.msg.startswith("Unterminated string") or error.pos >= size - 12


def is_cut(error: Exception, text: str) -> bool:
    """Whether text that ends with the file was cut off, rather than written wrong."""
    end = len(text.rstrip(" \t\r\n"))
    if not isinstance(error, json.JSONDecodeError):
        return False
    if error.msg.startswith("Unterminated string"):  # of a missing quote the brackets are there
        return not _CLOSED.search(text, max(error.pos, end - 200), end)
    # Cut between two tokens, or within a word or an escape.
    return error.pos >= end or _HALF.fullmatch(text, error.pos, end) is not None


def within(error: Exception, start: int) -> Exception:
    """The same error, as of the text from character `start` on."""
    if not isinstance(error, json.JSONDecodeError):
        return error
    return json.JSONDecodeError(error.msg, error.doc[start:], error.pos - start)


def why(error: Exception, text: str, line: int, cut: bool) -> tuple[str, str]:
    """(kind, detail) of an error in `text`, which starts in this line; cut: whether the file ends in it."""
    if isinstance(error, RecursionError):
        return "bad_json", "nested too deep"
    if not isinstance(error, json.JSONDecodeError):
        return "bad_json", "a number of more than 4,300 digits"
    if cut:
        return "cut_off", f"the file ends within it: {printable(text[-40:].strip())}"
    there = line + text.count("\n", 0, error.pos)
    if "\udc80" <= text[error.pos : error.pos + 1] <= "\udcff":
        return "bad_encoding", bad_bytes(text[error.pos :], there)
    message = _TRAILING.sub("", error.msg[:1].lower() + error.msg[1:])
    where = f"line {there:,}, " if there > line else ""
    near = text[max(error.pos - 30, 0) : error.pos + 1].strip(" \t\r\n")
    if near and not near.strip("\0"):
        return "bad_json", f"{where}NUL bytes"
    return "bad_json", f"{where}{message}" + (f", at {printable(near)}" if near else "")


def bad_bytes(text: str, line: int) -> str:
    """Which bytes of `text`, which starts in this line, are not UTF-8; there are some."""
    found = BROKEN.search(text)
    codes = []
    for letter in text[found.start() : found.start() + 3]:
        if not "\udc80" <= letter <= "\udcff":
            break
        codes.append(f"{ord(letter) - 0xDC00:02x}")
    line += text.count("\n", 0, found.start())
    before = BROKEN.sub("\ufffd", text[max(found.start() - 20, 0) : found.start()])
    return f"byte {' '.join(codes)} at line {line:,}, after {printable(before) or 'the start'}"
