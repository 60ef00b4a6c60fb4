"""Writes the cleaned copy of a checked data set. Standard library only, Python 3.9 or newer."""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from labs.doctors.data.kinds import KINDS
from labs.doctors.data.repair.copy import DROP, KEEP, Copied, copy_file
from labs.doctors.data.repair.edits import mend
from labs.doctors.data.repair.log import Log
from labs.doctors.data.repair.record import Unmendable
from labs.doctors.data.sample import Place, Problem, Sample
from labs.formats.row import Row

Read = Callable[[Row, Place], Sample]


@dataclass(frozen=True)
class Plan:
    """What is to be repaired.

    files: the data files; folder: what their places are relative to. hits: (file, record) -> kinds.
    read: makes, for a file, what turns a row and its place into a Sample. look: what is wrong with a
    sample by itself. break_up: special tokens in a text made to be read as letters; clean: control
    characters removed.
    """

    files: tuple[Path, ...]
    folder: Path
    hits: dict[tuple[str, int], list[str]]
    read: Callable[[Path], Read]
    look: Callable[[Sample], Iterable[Problem]]
    break_up: Callable[[str], str]
    clean: Callable[[str], str]
    semantic: bool = False
    images: bool = False  # whether the images that are still shown are to be listed


@dataclass
class Done:
    """What was done: samples kept as they were, mended, removed; `used`: images that are still shown.

    copied: a file's name -> what `copy_file` said of it. mended_at: the places of what was mended.
    """

    kept: int = 0
    mended: int = 0
    removed: int = 0
    copied: dict[str, Copied] = field(default_factory=dict)
    mended_at: set[tuple[str, int]] = field(default_factory=set)
    used: dict[str, None] = field(default_factory=dict)


def repair(
    plan: Plan, folder: Path, log: Log, progress: Callable[[str, int, int | None], None]
) -> Done:
    """Write every file of the plan into `folder`, cleaned, under its path relative to the plan's folder."""
    done, seen = Done(), 0
    for source in plan.files:
        name = source.relative_to(plan.folder).as_posix()
        goal = folder / name
        goal.parent.mkdir(parents=True, exist_ok=True)
        read = plan.read(source)

        def decide(row: Row, text: bytes, name: str = name, read: Read = read) -> Any:
            nonlocal seen
            seen += 1
            if seen % 1000 == 0:
                progress("cleaned copy", seen, None)
            return _decide(row, Place(name, row.line, row.record), plan, read, log, done)

        counted = done.copied[name] = copy_file(source, goal, decide)
        done.kept += counted.kept
        done.mended += counted.changed
        done.removed += counted.dropped
    return done


def remove(hits: dict[tuple[str, int], list[str]], folder: Path, log: Log, done: Done) -> None:
    """Remove from the copy in `folder` what a second look at it found; `hits` by places in the copy.

    Mending can bring a fault to light that no look at one sample shows: a text is the same as one of
    the test set once its control characters are gone.
    """
    for name in {file for file, _ in hits}:
        before = done.copied[name]
        path = folder / name

        def decide(row: Row, text: bytes, name: str = name, before: Copied = before) -> Any:
            kinds = hits.get((name, row.record))
            if not kinds:
                return KEEP
            record, line = before.records[row.record], before.lines[row.record]
            place = Place(name, line or None, record)
            log.removed(place, None, kinds, f"after mending, {KINDS[kinds[0]].title}")
            mended = (name, record) in done.mended_at
            done.mended -= mended
            done.kept -= not mended
            done.removed += 1
            return DROP

        fresh = path.with_name(f".{path.name}.new")
        after = copy_file(path, fresh, decide)
        done.copied[name] = after._replace(
            records=array("Q", [before.records[record] for record in after.records]),
            lines=array("Q", [before.lines[record] for record in after.records]),
        )
        os.replace(fresh, path)


def _decide(row: Row, place: Place, plan: Plan, read: Read, log: Log, done: Done) -> Any:
    """KEEP, DROP, or the mended record; what is not kept as it is goes into the log."""
    if row.record is None:
        kind, detail = row.problem
        log.removed(place, None, [kind], f"no record: {detail}")
        return DROP
    kinds = plan.hits.get((place.file, row.record), ())
    kinds = [kind for kind in kinds if _is_repaired(kind, plan.semantic)]
    if not kinds and not plan.images:
        return KEEP
    sample = read(row, place)
    verdict = _mended(row, sample, kinds, plan, read, log) if kinds else KEEP
    if verdict is not KEEP and verdict is not DROP:
        done.mended_at.add((place.file, row.record))
    if verdict is not DROP and plan.images:
        done.used.update(dict.fromkeys(sample.images))
    return verdict


def _mended(row: Row, sample: Sample, kinds: list[str], plan: Plan, read: Read, log: Log) -> Any:
    fatal = [kind for kind in kinds if KINDS[kind].repair == "drop"]
    if fatal:
        log.removed(sample.place, sample.id, kinds, KINDS[fatal[0]].title)
        return DROP
    try:
        record, edits = mend(sample, kinds, plan.break_up, plan.clean)
    except Unmendable as reason:
        log.removed(sample.place, sample.id, kinds, str(reason))
        return DROP
    # Looked at once more: one fault may have hidden another, and a mended text may be empty.
    again = read(row._replace(value=record, problem=None), sample.place)
    left = [p for p in plan.look(again) if KINDS[p.kind].severity == "error"]
    if left:
        log.removed(sample.place, sample.id, kinds, f"mended, {KINDS[left[0].kind].title}")
        return DROP
    if not edits:  # letters of another encoding are a warning, and not to be removed
        return KEEP
    log.mended(sample.place, sample.id, kinds, edits)
    return record


def _is_repaired(kind: str, semantic: bool) -> bool:
    """Whether `--fix` does anything about a kind: what a score judged only where it was asked to."""
    known = KINDS[kind]
    return known.repair != "keep" and (semantic or not known.semantic)
