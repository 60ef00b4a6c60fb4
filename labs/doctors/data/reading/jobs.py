"""Files as jobs: pieces of the large ones, small ones and shards whole; answers in the files' order.

Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from labs.doctors.data.reading.pool import Alone, Pool
from labs.doctors.data.reading.sources import coco_shape, is_json, rows_of
from labs.formats.json_rows import Piece, Rows, Shape
from labs.formats.row import Row
from labs.formats.rows import SIZE, Pieces, shape_of, utf8


class Job(NamedTuple):
    """A file, or a piece of it. number: of the file among all; name: as places write it; root: what its
    images are relative to; follow_links: whether links may lead out of it; data: where the text is read (a copy, of a file in UTF-16)."""

    number: int
    path: str
    name: str
    format: str
    root: str
    data: str = ""
    piece: Piece | None = None
    shape: Shape | None = None
    follow_links: bool = False


class Answer(NamedTuple):
    """What a job's work returned. number: of its file. rows: what lies between its records and the next
    (`record` 0 where a row stands for one). done: bytes of this file that are behind us."""

    number: int
    result: Any
    rows: list[Row]
    done: int


def read_job(job: Job) -> Iterator[Row] | Rows:
    """The rows of a job. After iterating, `arrival` of a piece's rows says how far they went."""
    if job.piece is None:
        return rows_of(Path(job.path), job.format, Path(job.root))
    with open(job.data, "rb") as file:
        file.seek(job.piece.start)
        data = file.read(job.piece.end - job.piece.start)
    return Rows(data, job.piece, job.shape)


def answers(runner: Pool | Alone, jobs: Iterable[Job], size: int = SIZE) -> Iterator[Answer]:
    """Have every file's work done and yield the answers, each file's in order, one file after the other.

    The work's result has an attribute `arrival`: where the records of a piece ended, or None. size:
    bytes of a piece.
    """
    waiting: deque[tuple[int, Job]] = deque()

    def oldest() -> Answer:
        ticket, job = waiting.popleft()
        return Answer(job.number, runner.result(ticket), [], _bytes(job))

    for job in jobs:
        if not is_json(Path(job.path), job.format) or _bytes(job) <= size:
            while waiting and not runner.room:
                yield oldest()
            waiting.append((runner.submit(job), job))
            continue
        while waiting:
            yield oldest()
        yield from _in_pieces(runner, job, size)
    while waiting:
        yield oldest()


def _bytes(job: Job) -> int:
    return os.path.getsize(job.path)


def _in_pieces(runner: Pool | Alone, job: Job, size: int) -> Iterator[Answer]:
    with utf8(job.path) as (data, fault), open(data, "rb") as file:
        if fault:
            rows = [Row(1, None, 0, 0, None, ("bad_encoding", fault))]
            yield Answer(job.number, None, rows, 0)
        shape = coco_shape(Path(job.path)) if job.format == "coco" else None
        shape = shape or shape_of(file)
        pieces = Pieces(file, shape, size)
        waiting: deque[tuple[int, Piece]] = deque()
        while True:
            while runner.room:
                piece = pieces.take()
                if piece is None:
                    break
                ticket = runner.submit(job._replace(data=data, piece=piece, shape=shape))
                waiting.append((ticket, piece))
            if not waiting:
                return
            ticket, piece = waiting.popleft()
            result = runner.result(ticket)
            rows = pieces.confirm(piece, result.arrival)
            if not pieces.ahead:  # what was taken since started in the wrong place
                for ticket, _ in waiting:
                    runner.forget(ticket)
                waiting.clear()
            yield Answer(job.number, result, rows, min(piece.end, _bytes(job)))
