"""The samples of a layout, one after the other. Standard library only, Python 3.9 or newer."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

from labs.doctors.data.reading import records
from labs.doctors.data.reading.conversation import conversation
from labs.doctors.data.reading.shard import shard_sample
from labs.doctors.data.reading.sources import coco_names, rows_of, table_row_at
from labs.doctors.data.sample import Place, Problem, Sample
from labs.formats.json_rows import Piece, Rows, Shape
from labs.formats.row import Row
from labs.formats.rows import LARGEST
from labs.formats.sniff import Layout

_BUILDERS = {
    "llava": conversation,
    "pairs": records.pair,
    "preference": records.preference,
    "pope": records.pope,
    "mme": records.mme,
    "mmbench": records.mmbench,
    "qilin": records.qilin,
}


def reader(
    format: str, file: Path, names: dict[str, str] | None = None
) -> Callable[[Row, Place], Sample]:
    """What makes a Sample of a row of this file. names: COCO's images, read from the file if None."""
    if format == "coco":
        names = coco_names(file)[0] if names is None else names
        build = functools.partial(records.coco_caption, names=names)
    elif format == "webdataset":
        build = functools.partial(shard_sample, shard=file.name)
    else:
        build = _BUILDERS[format]

    def read(row: Row, place: Place) -> Sample:
        if row.problem is None:
            return build(row.value, place)
        problem = Problem(*row.problem)
        if row.value is None:
            return Sample(place, None, [], [], [], [problem], None)
        sample = build(row.value, place)
        sample.problems.insert(0, problem)
        return sample

    return read


def place_name(file: Path, folder: Path) -> str:
    """A file's name as places write it: relative to the folder that is checked."""
    try:
        return file.relative_to(folder).as_posix()
    except ValueError:
        return file.name


def samples(layout: Layout, folder: Path) -> Iterator[Sample]:
    """Every sample of the layout's files, in order; rows that are no record are passed over.

    folder: what the places' file names are relative to.
    """
    for file in layout.files:
        read, name = reader(layout.format, file), place_name(file, folder)
        for row in rows_of(file, layout.format, layout.root_of(file)):
            if row.record is not None:
                yield read(row, Place(name, row.line, row.record))


def row_at(path: Path, start: int) -> Row | None:
    """The record that starts at this byte of a JSON file or a table; None where none can be read."""
    size = 1 << 16
    while start >= 0 and size <= LARGEST:
        with open(path, "rb") as file:
            file.seek(start)
            data = file.read(size)
        if data and data[:1] not in b"{[":
            return table_row_at(path, start)
        rows = Rows(
            data, Piece(start, start + len(data), 1, len(data) == size), Shape("values", start)
        )
        row = next(iter(rows), None)
        if row is not None:
            return row
        if len(data) < size:
            break
        size *= 8
    return None
