"""The pictures of a surveyed data set: each opened once, compared, and told of at every sample.

Standard library only here (the children need Pillow); Python 3.9 or newer.
"""

# ruff: noqa: B905 - Python 3.9 has no zip(strict=); the arrays of a table have one length
from __future__ import annotations

import filecmp
import functools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from labs.doctors.data.images import Sizes, check_images, leaks, near_duplicates
from labs.doctors.data.images.source import load_source
from labs.doctors.data.kinds import KINDS
from labs.doctors.data.options import Options
from labs.doctors.data.reading.whole import reader, row_at
from labs.doctors.data.sample import Place, Problem
from labs.doctors.data.survey import HELD_OUT, Survey
from labs.doctors.data.text import digests
from labs.doctors.data.text.images import ImageTable, Inside
from labs.formats.row import printable

Progress = Callable[[str, int, "int | None"], None]


@dataclass(frozen=True, eq=False)
class Picture:
    """An image of a table; as text it is the reference to it."""

    table: ImageTable
    number: int

    def __str__(self) -> str:
        return self.table.references[self.number]


@dataclass
class Gallery:
    """What opening the pictures found.

    opened: how many of how many distinct ones. shown: kind -> how many samples show an image with it,
    of those that are told of once an image. bad: number of an image -> the errors of its file.
    """

    sizes: Sizes = field(default_factory=Sizes)
    opened: int = 0
    shown: Counter = field(default_factory=Counter)
    bad: dict[int, list[str]] = field(default_factory=dict)


def look_at_images(found: Survey, options: Options, progress: Progress) -> Gallery:
    """Open every picture in limited children, compare them, and add what is wrong to `found.tally`.

    Raises InputError where pictures cannot be opened at all (`labs.doctors.data.images.unavailable`).
    """
    gallery = Gallery()
    problems: dict[int, list[Problem]] = {}
    fingerprints: list[tuple[Picture, int]] = []
    for picture, verdict in check_images(_Sources(found, found.images), options, progress):
        gallery.opened += 1
        gallery.sizes.add(verdict)
        if verdict.problems:
            problems[picture.number] = list(verdict.problems)
            errors = [p.kind for p in verdict.problems if KINDS[p.kind].severity == "error"]
            if errors:
                gallery.bad[picture.number] = errors
        if verdict.fingerprint is not None:
            fingerprints.append((picture, verdict.fingerprint))
    if options.near_duplicates:
        fingerprints.sort(key=lambda pair: pair[0].number)
        for picture, problem in _alike(found, fingerprints, options, progress):
            problems.setdefault(picture.number, []).append(problem)
    _tell(found, problems, gallery.shown)
    return gallery


class _Sources:
    """(picture, what to open) of the images of a table that can be opened; `len` counts them all."""

    def __init__(self, found: Survey, table: ImageTable) -> None:
        self.found, self.table = found, table

    def __len__(self) -> int:
        return len(self.table)

    def __iter__(self) -> Iterator[tuple[Picture, Any]]:
        for number in range(len(self.table)):
            source = source_of(self.found, self.table, number)
            if source is not None:
                yield Picture(self.table, number), source


def source_of(found: Survey, table: ImageTable, number: int) -> Any:
    """What to open for an image: a path, a data URL, (tar, offset, size); None where there is nothing."""
    source = table.entry(number).path
    if not isinstance(source, Inside):
        return source
    row = row_at(Path(source.file), source.start)
    if row is None or row.value is None:
        return None
    sample = reader(found.layout.format, Path(source.file), {})(row, Place("", None, source.record))
    wanted = table.references[number]
    for reference in sample.images:
        if reference.startswith("data:") and f"data:{digests.number(reference):016x}" == wanted:
            return reference
    return None


def training_files(found: Survey) -> set[int]:
    """The files that may hold what leaked: those of no held-out split; all, where there are no others."""
    everything = set(range(len(found.files)))
    training = {n for n in everything if found.files[n].split not in HELD_OUT}
    return training or everything


def _alike(
    found: Survey,
    fingerprints: list[tuple[Picture, int]],
    options: Options,
    progress: Progress,
) -> Iterator[tuple[Picture, Problem]]:
    """Pictures for training that look alike, and those that look like one of another split."""
    table, training = found.images, training_files(found)
    inside = {n for n, file in zip(table.uses, table.use_files) if file in training}
    inner = [pair for pair in fingerprints if pair[0].number in inside]
    # One that is shown on both sides is the same file, and the survey has told of it.
    outer = [
        (picture, value, found.files[table.use_files[table.first[picture.number]]].name)
        for picture, value in fingerprints
        if picture.number not in inside
    ]
    if found.other is not None:
        other = found.other.images

        def compare(stage: str, done: int, total: int | None) -> None:
            progress("images of the other splits", done, total)

        for picture, verdict in check_images(_Sources(found, other), options, compare):
            if verdict.fingerprint is not None:
                name = found.other.files[other.use_files[other.first[picture.number]]].name
                outer.append((picture, verdict.fingerprint, name))
    same = functools.partial(_same_picture, found)
    yield from near_duplicates(inner, same=same)
    if inner and outer:
        yield from leaks(inner, outer, same=same)


def _same_picture(found: Survey, one: Picture, two: Picture) -> bool:
    """Whether two files hold the same bytes, or the same pixels in other bytes.

    Both were opened well in a child; what is decoded here is of one fingerprint.
    """
    if _same_bytes(one, two):
        return True
    sources = [source_of(found, picture.table, picture.number) for picture in (one, two)]
    if None in sources:
        return False
    first, second = map(load_source, sources)
    if first is None or second is None or first.size != second.size:
        return False
    return first.tobytes() == second.tobytes()


def _same_bytes(one: Picture, two: Picture) -> bool:
    """Whether two files hold the same; of tars and of what is inside a record it is not known."""
    paths = [picture.table.entry(picture.number).path for picture in (one, two)]
    if not all(isinstance(path, str) for path in paths):
        return False
    if one.table.sizes[one.number] != two.table.sizes[two.number]:
        return False
    try:
        return filecmp.cmp(*paths, shallow=False)
    except OSError:
        return False


LEAKS = frozenset(("leaked_image", "leaked_near_duplicate"))
TOLD = frozenset(("leaked_image", "leaked_sample"))  # exactly, before any picture was opened


def _tell(found: Survey, problems: dict[int, list[Problem]], shown: Counter) -> None:
    """Add problems of images to the tally: at every sample, where `--fix` goes by it, else once."""
    table, tally, training = found.images, found.tally, training_files(found)
    for use, number in enumerate(table.uses):
        if number not in problems:
            continue
        place = table.place(use)
        for kind, detail in problems[number]:
            told = tally.hits.get((place.file, place.record), ())
            if KINDS[kind].repair == "keep":
                shown[kind] += 1
                if table.first[number] != use:
                    continue
            elif kind in told:
                continue
            if kind in LEAKS and (
                table.use_files[use] not in training or not TOLD.isdisjoint(told)
            ):
                continue
            tally.add(kind, place, detail, image=table.references[number])
    _name_examples(found)


def _name_examples(found: Survey) -> None:
    """Give the examples that were found by their image the ids of their samples."""
    files = {file.name: file for file in found.files}
    for examples in found.tally.examples.values():
        for number, example in enumerate(examples):
            place = example.place
            file = files.get(place.file)
            if example.id is not None or file is None or place.record is None:
                continue
            row = row_at(file.path, file.starts[place.record])
            if row is not None and row.value is not None:
                name = reader(found.layout.format, file.path, {})(row, place).id
                if name is not None:
                    examples[number] = example._replace(id=printable(name, 100))
