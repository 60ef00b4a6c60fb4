"""The JSON files of a results folder, read with suspicion: they may be cut, changed, or from elsewhere."""

import json
from pathlib import Path
from typing import Any

from labs.errors import InputError
from labs.formats.files import check_file

CONFIG, ITEMS, SCORES = "config.json", "items.jsonl", "scores.json"


def read_object(path: Path) -> dict:
    """A JSON object in a file of its own."""
    check_file(path, "results file")
    value = parse(path.read_bytes(), str(path))
    if not isinstance(value, dict):
        raise InputError(f"{path} does not hold a JSON object.", "Run the suite again.")
    return value


def read_lines(path: Path, torn: bool = False) -> tuple[list[tuple[int, dict]], bool]:
    """(line, object) for each line of a JSONL file, and whether the last one was cut off.

    With `torn` a last line without an end is left out, as a kill may leave it; else it is refused.
    """
    data = path.read_bytes()
    pieces = data.split(b"\n")
    rest = pieces.pop()
    if rest and not torn:
        raise InputError(
            f"{path} ends in the middle of line {len(pieces) + 1}.",
            "Run the same `labs eval` command again: it goes on where it stopped.",
        )
    found = []
    for number, piece in enumerate(pieces, 1):
        value = parse(piece, f"{path}, line {number}")
        if not isinstance(value, dict):
            raise InputError(
                f"{path}, line {number} is not a JSON object.", "Run the suite again elsewhere."
            )
        found.append((number, value))
    return found, bool(rest)


def parse(data: bytes, where: str) -> Any:
    """JSON, whatever the bytes: InputError for what is none, or too deep, or not finite."""

    def refuse(name: str):
        raise ValueError(f"{name} is no number")

    try:
        return json.loads(data.decode("utf-8"), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", None) or str(error)
        raise InputError(
            f"{where} is not JSON that can be read: {reason}.",
            "The file was damaged or changed: run the suite again in another --output.",
        ) from None
