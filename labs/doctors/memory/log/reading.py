"""Reads a training log of any size: the windows around what may matter, as numbered, clean lines.

A log of 1 GB is never held: it is searched in chunks for a few byte strings, and only the
neighbourhoods of the hits, the head, the tail and some samples between are decoded. Standard
library only, Python 3.9 or newer.
"""

from __future__ import annotations

import codecs
import gzip
import os
import sys
import tempfile
import zlib
from pathlib import Path
from typing import IO

from labs.doctors.memory.log.lines import Line, Log, split
from labs.errors import InputError

CHUNK = 8 << 20
WHOLE = 4 << 20  # logs up to this size are read whole
HEAD, TAIL = 256 << 10, 256 << 10
BEFORE, AFTER = 96 << 10, 24 << 10  # around a hit: the traceback stands before the message
SAMPLES, SAMPLE = 48, 4 << 10  # spots between, for the trend of printed memory numbers
FIRST, LAST = 24, 40  # windows kept when hits are everywhere
UNPACKED = 8 << 30  # a packed log larger than this is refused

# What a run can survive must be looked for everywhere: a caught error, a warning while saving.
ANYWHERE = (b"ut of memory", b"utOfMemory")
# What ends a process stands near the end of its log; searching 1 GB for each would take seconds.
AT_THE_END = (
    *(b"oom_kill", b"oom-kill", b"OOM", b"ut Of Memory", b"UT_OF_MEMORY", b"ut-of-memory"),
    *(b"us error", b"exitcode", b"xit code", b"SIGKILL", b"illed", b"ALLOC_FAILED"),
    *(b"allocate", b"xecutable batch size", b"cache blocks", b"emory monitor", b"MemoryError"),
    *(b"No space left", b"memory summary", b"NVIDIA-SMI", b"unexpectedly", b"Traceback"),
    *(b"available RAM", b"NVML_SUCCESS", b"MEMLIMIT", b"MEMORY LIMIT", b"blocks: 0"),
)
END = 48 << 20


def from_text(text: str, name: str = "text") -> Log:
    """A log that is in memory already (an exception's message, a pasted report)."""
    data = text.encode("utf-8", "replace")
    return Log(name, len(data), [split(data, 1)])


def encoding_of(head: bytes) -> str:
    """The encoding by byte-order mark, or UTF-16 without one by its zero bytes, else UTF-8."""
    for mark, name in (
        (codecs.BOM_UTF8, "utf-8-sig"),
        (codecs.BOM_UTF32_LE, "utf-32"),
        (codecs.BOM_UTF32_BE, "utf-32"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if head.startswith(mark):
            return name
    pairs = len(head) // 2
    if pairs >= 8:
        if head[1::2].count(0) > pairs * 0.4 and head[0::2].count(0) < pairs * 0.1:
            return "utf-16-le"
        if head[0::2].count(0) > pairs * 0.4 and head[1::2].count(0) < pairs * 0.1:
            return "utf-16-be"
    return "utf-8"


def read_log(path: str | os.PathLike) -> Log:
    """Read `path`, or standard input for "-".

    Raises InputError for what cannot be read, has no bytes, or is not a log.
    """
    if str(path) == "-":
        if sys.stdin.buffer.seekable() and sys.stdin.buffer.tell() == 0:  # explain - < LOG
            return _read(sys.stdin.buffer, "standard input")
        with tempfile.TemporaryFile() as spool:
            _copy(sys.stdin.buffer, spool, "standard input")
            return _read(spool, "standard input")
    try:
        if Path(path).is_dir():
            raise InputError(
                f"{path} is a folder, where one log was expected.",
                "Give one file, or join the ranks' logs: cat FOLDER/* | oom_doctor.py explain -",
            )
        with open(path, "rb") as file:
            if not file.seekable():
                with tempfile.TemporaryFile() as spool:
                    _copy(file, spool, str(path))
                    return _read(spool, str(path))
            return _read(file, str(path))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"The log {path} cannot be read: {reason}.", "Check its name and its permissions."
        ) from None


def _copy(source: IO[bytes], target: IO[bytes], name: str) -> None:
    total = 0
    while True:
        chunk = source.read(CHUNK)
        if not chunk:
            break
        total += len(chunk)
        if total > UNPACKED:
            raise InputError(
                f"{name} unpacks to more than {UNPACKED >> 30} GiB.",
                "Give its end: tail -c 1G LOG | oom_doctor.py explain -",
            )
        target.write(chunk)
    target.seek(0)


def _read(file: IO[bytes], name: str) -> Log:
    head = file.read(4096)
    file.seek(0)
    if not head:
        raise InputError(
            f"The log {name} has zero bytes.",
            "Give the file that the run's error output went to (2>&1 | tee run.log).",
        )
    if head.startswith(b"\x1f\x8b"):
        with tempfile.TemporaryFile() as spool:
            try:
                with gzip.GzipFile(fileobj=file) as packed:
                    _copy(packed, spool, name)
            except (OSError, EOFError, zlib.error):
                raise InputError(
                    f"The log {name} is a damaged gzip file.", "Copy it again, or unpack it first."
                ) from None
            return _read(spool, name)
    encoding = encoding_of(head)
    if encoding == "utf-8" and (
        head[:2] in (b"PK", b"\x80\x04", b"\x80\x02") or b"\0\0\0\0" in head
    ):
        raise InputError(
            f"{name} is a binary file, not a log.",
            "For a memory snapshot use `oom_doctor.py snapshot FILE`; for an archive, unpack it.",
        )
    if encoding not in ("utf-8", "utf-8-sig"):
        with tempfile.TemporaryFile() as spool:
            decoder = codecs.getincrementaldecoder(encoding)("replace")
            while True:
                chunk = file.read(CHUNK)
                spool.write(decoder.decode(chunk, not chunk).encode("utf-8", "replace"))
                if not chunk:
                    break
            spool.seek(0)
            log = _windows(spool, name)
    else:
        log = _windows(file, name)
    log.encoding = encoding
    return log


def _windows(file: IO[bytes], name: str) -> Log:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if size <= WHOLE:
        return Log(name, size, [split(file.read().removeprefix(codecs.BOM_UTF8), 1)])
    counts, hits = _search(file, size)
    near = [(max(0, hit - BEFORE), min(size, hit + AFTER)) for hit in hits]
    regions = _merged([(0, HEAD), *near, (size - TAIL, size)])
    step = size // (SAMPLES + 1)
    spots = [(step * (i + 1), step * (i + 1) + SAMPLE) for i in range(SAMPLES)]
    log = Log(name, size)
    log.regions = [_lines(file, start, end, counts) for start, end in regions]
    log.samples = [_lines(file, start, end, counts) for start, end in spots]
    return log


def _search(file: IO[bytes], size: int) -> tuple[list[int], list[int]]:
    """(newlines before each chunk, offsets of the hits that are kept)."""
    counts, anywhere, ending, tail = [0], [], [], b""
    offset = 0
    while True:
        chunk = file.read(CHUNK)
        if not chunk:
            break
        # The end of the chunk before goes along, for words that lie across the border.
        data, base = tail + chunk, offset - len(tail)
        anywhere += _find(data, base, ANYWHERE)
        if offset + len(chunk) > size - END:
            ending += _find(data, base, AT_THE_END)
        counts.append(counts[-1] + chunk.count(b"\n"))
        offset += len(chunk)
        tail = chunk[-32:]
    return counts, _thinned(sorted(anywhere)) + _thinned(sorted(ending))


def _find(data: bytes, base: int, needles: tuple[bytes, ...]) -> list[int]:
    hits = []
    for needle in needles:
        at = data.find(needle)
        while at >= 0:
            hits.append(base + at)
            at = data.find(needle, at + AFTER)  # what lies nearer is in this hit's window already
    return hits


def _thinned(hits: list[int]) -> list[int]:
    return hits if len(hits) <= FIRST + LAST else hits[:FIRST] + hits[-LAST:]


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _lines(file: IO[bytes], start: int, end: int, counts: list[int]) -> list[Line]:
    chunk = start // CHUNK
    file.seek(chunk * CHUNK)
    number = 1 + counts[chunk] + file.read(start - chunk * CHUNK).count(b"\n")
    data = file.read(end - start)
    if start:  # begin with a whole line, where there is one
        cut = data.find(b"\n")
        if 0 <= cut < len(data) - 1:
            data, number = data[cut + 1 :], number + 1
    return split(data, number)
