"""Names of shards: braces expanded, folders listed, and every file there.

Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from labs.errors import InputError

MAX_SHARDS = 1_000_000
SHARD_SUFFIXES = (".tar", ".tar.gz", ".tgz")

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(-?\d{1,18})\.\.(-?\d{1,18})")
_ADDRESS = re.compile(r"(pipe:|[a-z][a-z0-9+.-]+://)", re.IGNORECASE)


def shard_paths(shards: str | os.PathLike | Iterable[str | os.PathLike]) -> list[str]:
    """The files that a path, a brace pattern, a folder, or a list of these stands for, in order.

    A folder stands for its .tar, .tar.gz and .tgz files, by name. Raises InputError where a file
    is missing, where there is none, and for web addresses and `pipe:` commands.
    """
    if isinstance(shards, (str, os.PathLike)):
        shards = [shards]
    paths: list[str] = []
    for pattern in shards:
        pattern = os.fspath(pattern)
        if _ADDRESS.match(pattern):
            raise InputError(
                f"The shards {pattern} are not files of this machine.",
                "Download them first: no command is run and nothing is fetched while training.",
            )
        if os.path.isdir(pattern):
            paths += _listed(Path(pattern))
        else:
            # A file may have braces in its own name.
            paths += [pattern] if os.path.exists(pattern) else expand_braces(pattern)
    missing = [path for path in paths if not os.path.isfile(path)]
    if missing:
        raise InputError(
            f"{len(missing):,} of {len(paths):,} shards are not there; the first: {missing[0]}.",
            "Check the folder and the range of numbers in the braces.",
        )
    if not paths:
        raise InputError("No shard was named.", "Give a path or name-{000000..000123}.tar.")
    return paths


def expand_braces(pattern: str) -> list[str]:
    """`a-{08..11}.tar` -> a-08.tar … a-11.tar, `{a,b}` -> both; several pairs multiply.

    Numbers are padded to the wider of the two ends, as the shell does. Braces around anything else
    stay. Raises InputError for more than a million names.
    """
    names = [""]
    position = 0
    for match in _BRACES.finditer(pattern):
        choices = _choices(match[1], pattern)
        if choices is None:
            continue
        before = pattern[position : match.start()]
        _check_number(len(names) * len(choices), pattern)
        names = [name + before + choice for name in names for choice in choices]
        position = match.end()
    return [name + pattern[position:] for name in names]


def _choices(text: str, pattern: str) -> list[str] | None:
    if match := _RANGE.fullmatch(text):
        first, last = int(match[1]), int(match[2])
        _check_number(abs(last - first) + 1, pattern)
        padded = any(re.match(r"-?0\d", end) for end in match.groups())
        width = max(map(len, match.groups())) if padded else 0
        step = 1 if last >= first else -1
        return [f"{n:0{width}d}" for n in range(first, last + step, step)]
    return text.split(",") if "," in text else None


def _check_number(number: int, pattern: str) -> None:
    if number > MAX_SHARDS:
        raise InputError(
            f"{pattern} stands for {number:,} shards, more than {MAX_SHARDS:,}.",
            "Check the range of numbers in the braces.",
        )


def _listed(folder: Path) -> Iterator[str]:
    found = sorted(str(p) for p in folder.iterdir() if p.name.endswith(SHARD_SUFFIXES))
    if not found:
        raise InputError(
            f"There is no shard in the folder {folder}.", "Its .tar files are what is read."
        )
    return iter(found)
