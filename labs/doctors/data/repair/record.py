"""The texts and turns of a raw record, found and changed in place, in whichever dialect it is.

Only records that reading understood come here, so the shapes are known; what does not fit raises
Unmendable, and the sample is removed instead. Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from labs.formats.dialects import TEXT, TURNS

OTHER_ANSWERS = ("output_1", "output_2")  # beside the turns, in LLaVA-RLHF's preference pairs
# What is no text of a sample though it is a string.
NAMES = frozenset(
    "id question_id image_id image images file_name image_path path url image_url type role from "
    "split source dataset category label".split()
)


class Unmendable(Exception):
    """This record cannot be mended; its text says why."""


def turn_list(record: Any) -> list | None:
    """The list of turns of a conversation; None where the record is no conversation."""
    if not isinstance(record, dict):
        return None
    found = next((record[key] for key in TURNS if isinstance(record.get(key), list)), None)
    return found


Slot = tuple[Any, Any]  # a dict or list, and a key of it


def slots(record: Any) -> Iterator[Slot]:
    """Every (container, key) under which a text of the sample stands.

    Of a conversation: its turns. Of any other record: its strings, and the messages in its lists
    (the two answers of a preference pair may be lists of messages).
    """
    turns = turn_list(record)
    if turns is not None:
        yield from _turns(turns)
        for key in OTHER_ANSWERS:
            if isinstance(record.get(key), str):
                yield record, key
            elif isinstance(record.get(key), dict):
                yield from turn_slots(record[key])
    elif isinstance(record, dict):
        for key, value in record.items():
            if key in NAMES:
                continue
            if isinstance(value, str):
                yield record, key
            elif isinstance(value, list):
                yield from _turns(value)


def _turns(turns: list) -> Iterator[Slot]:
    for number, turn in enumerate(turns):
        if isinstance(turn, str):
            yield turns, number
        elif isinstance(turn, dict):
            yield from turn_slots(turn)


def turn_slots(turn: dict) -> Iterator[Slot]:
    """The texts of one turn: one string, or the text parts of its content."""
    key = next((key for key in TEXT if turn.get(key) is not None), None)
    content = turn[key] if key else None
    if isinstance(content, str):
        yield turn, key
    elif isinstance(content, list):
        for number, part in enumerate(content):
            if isinstance(part, str):
                yield content, number
            elif isinstance(part, dict) and isinstance(part.get("text"), str):
                yield part, "text"


def change_texts(record: Any, change: Callable[[str], str]) -> list[tuple[str, str]]:
    """Apply `change` to every text of the record, in place; (before, after) of those it altered."""
    altered = []
    for container, key in slots(record):
        before = container[key]
        after = change(before)
        if after != before:
            container[key] = after
            altered.append((before, after))
    return altered


def text_of(turn: Any) -> str:
    """A turn's text for the log, images left out."""
    if isinstance(turn, str):
        return turn
    return "".join(container[key] for container, key in turn_slots(turn))


def prepend(turn_holder: list, number: int, prefix: str) -> tuple[str, str]:
    """Put `prefix` before the text of a turn; returns the text before and after."""
    turn = turn_holder[number]
    if isinstance(turn, str):
        turn_holder[number] = prefix + turn
        return turn, turn_holder[number]
    slot = next(turn_slots(turn), None)
    if slot is None:
        raise Unmendable("its first question holds no text to put a placeholder before")
    container, key = slot
    before = container[key]
    container[key] = prefix + before
    return before, container[key]
