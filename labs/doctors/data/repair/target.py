"""Where a cleaned copy may be written, and writing it whole or not at all.

Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from labs.doctors.data.repair.log import LOG
from labs.errors import InputError

DATA_SUFFIXES = (".json", ".jsonl")


def check_target(source: Path, out: Path) -> None:
    """Raise InputError where writing to `out` could overwrite or mix with anything that is there.

    `out` must be new, or an empty folder, and outside of a folder that is the source: a copy inside
    would be read as part of the data the next time.
    """
    if os.path.lexists(out):
        if not out.is_dir():
            raise InputError(
                f"{out} (--fix) exists already.", "Give a new name: nothing is ever overwritten."
            )
        if any(out.iterdir()):
            raise InputError(
                f"The folder {out} (--fix) is not empty.",
                "Give a new name, or empty it: nothing is ever overwritten.",
            )
    if is_file_name(out) and os.path.lexists(log_of(out)):
        raise InputError(
            f"{log_of(out)}, the log of --fix, exists already.",
            "Give a new name: nothing is ever overwritten.",
        )
    if is_file_name(out) and source.is_dir():
        raise InputError(
            f"{source} is a folder and {out} (--fix) names a file.", "Give the name of a folder."
        )
    real, origin = Path(os.path.realpath(out)), Path(os.path.realpath(source))
    if origin.is_dir() and (real == origin or origin in real.parents):
        raise InputError(
            f"{out} (--fix) lies inside {source}, the data that are checked.",
            "Give a place outside of it: the copy would be read as part of the data.",
        )
    parent = real.parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise InputError(
            f"{out} (--fix) cannot be written: {parent} is no folder that you may write to.",
            "Give another place.",
        )


def is_file_name(out: Path) -> bool:
    """Whether `--fix` names a file ("clean.jsonl") and not a folder."""
    return out.suffix.lower() in DATA_SUFFIXES and not out.is_dir()


class Place(NamedTuple):
    """Where the copy is written until it is whole: its folder, its log, and what to check of it."""

    folder: Path
    log: Path
    copy: Path


def log_of(out: Path) -> Path:
    """The log of a copy: in its folder, or beside its file ("clean.jsonl": "clean.changes.jsonl")."""
    return out.with_suffix(f".{LOG}") if is_file_name(out) else out / LOG


@contextlib.contextmanager
def staged(out: Path, source: Path) -> Iterator[Place]:
    """A temporary folder beside `out`, moved to `out` when the block ends well.

    Whoever looks at `out` sees nothing or all of it; a kill leaves a folder whose name ends in
    `.partial`, an error or Ctrl-C leaves nothing. Where `out` names a file, the file named as `source`
    is what is moved, the log first: a copy is never there without it.
    """
    log = log_of(out)
    parent, name = os.path.split(os.path.abspath(out))
    os.makedirs(parent, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{name}.", suffix=".partial", dir=parent))
    try:
        yield Place(folder, folder / LOG, folder / source.name if source.is_file() else folder)
        if is_file_name(out):
            os.rename(folder / LOG, log)
            os.rename(folder / source.name, out)
            folder.rmdir()
        else:
            umask = os.umask(0)
            os.umask(umask)
            folder.chmod(0o777 & ~umask)  # mkdtemp makes folders for the owner alone
            os.rename(folder, out)  # onto nothing, or onto an empty folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
