"""Fields of a record, read strictly: the right type, or an InputError that names field and place."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from labs.errors import InputError
from labs.formats.dialects import IMAGE
from labs.formats.files import atomic_write, check_file
from labs.formats.llava import read_records, resolve_image


def read_objects(path: str | os.PathLike, noun: str) -> Iterator[tuple[str, dict]]:
    """Yield (place, object) for each record of JSONL or of a JSON list; the place is for messages.

    The file is looked at on the call, its records as they are asked for. Raises InputError for what
    `check_file` and `read_records` refuse, a record that is no object, and a file without records.
    """
    path = Path(path)
    check_file(path, "data file")
    return _objects(path, noun)


def _objects(path: Path, noun: str) -> Iterator[tuple[str, dict]]:
    number = 0
    for number, (line, record) in enumerate(read_records(path), 1):
        where = f"{path}, line {line}" if line else f"{path}, record {number}"
        if not isinstance(record, dict):
            raise InputError(
                f"{where}: {noun} must be a JSON object, not {kind(record)}.",
                "Write each record as an object with named fields.",
            )
        yield where, record
    if number == 0:
        raise nothing(path, noun)


def nothing(path: str | os.PathLike, noun: str) -> InputError:
    """The error for a file or folder in which no record was found."""
    return InputError(f"{path} holds no record: not even {noun}.", "Check that it was written.")


def text(record: dict, key: str, where: str) -> str:
    """The string under `key`, with something in it besides white space."""
    value = required(record, key, where)
    if not isinstance(value, str) or not value.strip():
        found = kind(value) if not isinstance(value, str) else "an empty one"
        raise InputError(f"{where}: `{key}` must be a text, not {found}.", f"Fill in `{key}`.")
    return value


def whole(record: dict, key: str, where: str) -> int:
    """The whole number under `key`; 3.0 and "3" count as 3 (tables and exports turn ids into them)."""
    value = required(record, key, where)
    if isinstance(value, str) and re.fullmatch(r"\s*-?[0-9]{1,18}\s*", value):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise InputError(
        f"{where}: `{key}` must be a whole number, not {kind(value)} ({str(value)[:40]!r}).",
        f"Correct `{key}` there.",
    )


def required(record: dict, key: str, where: str) -> Any:
    """What is under `key`; an InputError that lists the fields there are, where it is missing."""
    if record.get(key) is None:
        there = ", ".join(f"`{name}`" for name in list(record)[:12]) or "no field at all"
        raise InputError(
            f"{where}: the field `{key}` is missing (there is {there}).",
            f"Add `{key}`, or check that the file is of this format.",
        )
    return record[key]


def claim(seen: dict, key: Any, where: str, name: str = "id") -> None:
    """Note that `key` was used at `where`; raise InputError where it was used before."""
    if key in seen:
        raise InputError(
            f"{where}: the {name} {key} was used before, at {seen[key]}.",
            f"Give each record its own {name}, or remove the copy.",
        )
    seen[key] = short(where)


def short(where: str) -> str:
    """The place without the file's name: "data.json, line 3" -> "line 3"."""
    return where.rpartition(", ")[2]


def question_turn(question: str, images: int = 1) -> str:
    """The question with placeholders for its images before it, unless it says where they are shown."""
    if IMAGE in question or not images:
        return question
    return IMAGE * images + "\n" + question


def checked(rows: Iterable[dict], read: Callable, path: str | os.PathLike) -> Iterator[dict]:
    """The rows, each after the reader took it: what is written can be read.

    read: a generator of one record for each (place, row) it is given; it keeps track of ids.
    """
    last: dict = {}

    def placed() -> Iterator[tuple[str, dict]]:
        for number, row in enumerate(rows, 1):
            last["row"] = row
            yield f"{path}, record {number}", row

    for _ in read(placed()):
        yield last["row"]


def write_objects(objects: Iterable[dict], path: str | os.PathLike, noun: str) -> int:
    """Write JSONL, whole or not at all; return how many. InputError where there is nothing to write."""
    count = 0
    with atomic_write(path) as file:
        for record in objects:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
            count += 1
        if count == 0:
            raise InputError(
                f"There is nothing to write to {path}: not even {noun}.",
                "Check what was selected.",
            )
    return count


def reference(image: Any, root: str | os.PathLike, target: str, where: str) -> str:
    """How a file under `root` refers to `image`: a relative path, or the data URL as it is.

    A picture in memory is saved as `root`/`target`. Raises InputError for a path that leaves `root`,
    since what is written is to be readable.
    """
    if not isinstance(image, str):
        with atomic_write(Path(root) / target, "wb") as file:
            image.save(file, format="PNG")
        return target
    if image.startswith("data:"):
        return image
    path = resolve_image(image, Path(root), where)
    return Path(os.path.relpath(path, os.path.abspath(root))).as_posix()


def kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false"}
    names[type(None)] = "nothing"
    return names.get(type(value), f"a value of type {type(value).__name__}")
