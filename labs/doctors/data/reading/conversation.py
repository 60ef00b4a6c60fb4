"""A conversation of any dialect as a Sample: what `parse_conversation` refuses is counted here.

Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

from typing import Any

from labs.doctors.data.sample import Place, Problem, Sample
from labs.formats.dialects import (
    IMAGE,
    IMAGES,
    PART_IMAGE,
    PART_KINDS,
    ROLES,
    TEXT,
    TURNS,
    split_references,
)
from labs.formats.row import kind_of, printable

_NEXT = {"user": "assistant"}  # the role expected after one; after any other it is the user's turn


def conversation(record: Any, place: Place) -> Sample:
    """A record of the LLaVA, ShareGPT, messages or role-less dialect."""
    if not isinstance(record, dict):
        return nothing(record, place, f"{kind_of(record)}, not an object")
    key = next((key for key in TURNS if key in record), None)
    raw = record[key] if key else None
    if not isinstance(raw, list):
        if key is None:
            found = f"no list of turns (the keys are {keys_of(record)})"
        else:
            found = f"{kind_of(raw)} under `{key}`, where a list of turns is expected"
        return nothing(record, place, found)
    problems: list[Problem] = []
    inline: list[str] = []
    turns = turns_of(raw, inline, problems)
    images = images_of(record, IMAGES, problems)
    if inline and images:
        problems.append(
            Problem(
                "bad_field",
                f"images both inside the turns ({len(inline)}) and beside them ({len(images)})",
            )
        )
    return Sample(place, id_of(record), images or inline, turns, [], problems, record)


def nothing(record: Any, place: Place, detail: str) -> Sample:
    """The Sample of a record that is none."""
    name = id_of(record) if isinstance(record, dict) else None
    return Sample(place, name, [], [], [], [Problem("not_a_sample", detail)], record)


def turns_of(raw: list, inline: list[str], problems: list[Problem]) -> list[tuple[str, str]]:
    """(role, text) of each turn; the images inside them go to `inline`, what is odd to `problems`."""
    turns = []
    expected = "user"
    for turn in raw:
        if isinstance(turn, dict):
            name = turn.get("from")
            if name is None:
                name = turn.get("role")
            try:
                role = ROLES[name]
            except (KeyError, TypeError):
                role = _role(name, expected)
            text = turn.get("value")
            if type(text) is not str:
                text = _text(turn, len(turns) + 1, inline, problems)
        elif isinstance(turn, str):
            role, text = expected, turn
        else:
            role, text = expected, "" if turn is None else str(turn)
            detail = f"turn {len(turns) + 1}: {kind_of(turn)} where an object is expected"
            problems.append(Problem("bad_field", detail))
        turns.append((role, text))
        expected = _NEXT.get(role, "user")
    return turns


def _role(name: Any, expected: str) -> str:
    """A role that is not written like one of the table's; unknown ones stay as they are."""
    if name is None:
        return expected
    return ROLES.get(str(name).strip().lower()) or printable(str(name)) or "(empty)"


def _text(turn: dict, number: int, inline: list[str], problems: list[Problem]) -> str:
    key = next((key for key in TEXT if turn.get(key) is not None), None)
    if key is None:
        return ""
    content = turn[key]
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(_part(part, number, inline, problems) for part in content)
    detail = f"turn {number}: {kind_of(content)} under `{key}`, where text is expected"
    problems.append(Problem("bad_field", detail))
    return str(content)


def _part(part: Any, number: int, inline: list[str], problems: list[Problem]) -> str:
    """One element of a content list as text; an image becomes a placeholder, its file goes to `inline`."""
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return part["text"]
    if isinstance(kind, str) and kind in PART_KINDS:
        value = next((part[key] for key in PART_IMAGE if part.get(key) is not None), None)
        if isinstance(value, dict) and "url" in value:
            value = value["url"]
        if value is not None:
            inline += _references(value, f"turn {number}", problems)
        return IMAGE
    what = kind_of(part) if kind is None else f"a part of type {printable(str(kind), 20)}"
    problems.append(Problem("bad_field", f"turn {number}: {what}, neither text nor image"))
    return ""


def images_of(record: dict, keys: tuple[str, ...], problems: list[Problem]) -> list[str]:
    """The references under the first of `keys` that has any."""
    value = next((record[key] for key in keys if record.get(key) is not None), None)
    if value is None or value == "":
        return []
    if isinstance(value, str):
        return split_references(value)
    references: list[str] = []
    for item in value if isinstance(value, list) else [value]:
        references += _references(item, "image", problems)
    return references


def _references(value: Any, where: str, problems: list[Problem]) -> list[str]:
    if isinstance(value, str) and value:
        return [value]
    if isinstance(value, dict) and isinstance(value.get("path"), str) and value["path"]:
        return [value["path"]]
    what = "an empty path" if value == "" else f"{kind_of(value)} where a path is expected"
    problems.append(Problem("bad_field", f"{where}: {what}"))
    return []


def id_of(record: dict, keys: tuple[str, ...] = ("id",)) -> str | None:
    value = next((record[key] for key in keys if record.get(key) is not None), None)
    return None if value is None else value if isinstance(value, str) else str(value)[:200]


def keys_of(record: dict) -> str:
    """The keys of a record, for a sentence."""
    names = ", ".join(printable(str(key), 30) for key in list(record)[:8])
    return names + (", …" if len(record) > 8 else "") or "none"
