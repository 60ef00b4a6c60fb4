"""Votes as raters sent them back, checked against the key and turned into who won."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labs.errors import InputError
from labs.formats.files import check_file
from labs.suites.rating.sheet import FORMAT, VERSION
from labs.suites.rating.words import CHOICES
from labs.suites.suspicious import parse

VOTES, VOTES_VERSION = "labs-rating-votes", 1


@dataclass(frozen=True)
class Vote:
    """One choice. winner: "first" or "second" of the comparison's own order, "tie" or "both_bad".
    side: where the winner stood, "left", "right", or None."""

    rater: str
    comparison: int
    winner: str
    side: str | None
    seconds: float | None
    comment: str


@dataclass(frozen=True)
class Key:
    """A key.json that was read. comparisons: as `write_sheets` wrote them."""

    path: Path
    models: tuple[str, ...]
    comparisons: list[dict]
    sheets: dict[str, dict]


def read_key(path: str | Path) -> Key:
    """The key of a set of sheets. InputError for a file that is none, or is damaged."""
    path = Path(path)
    data = _object(path, "key", FORMAT, VERSION)
    try:
        for comparison in data["comparisons"]:
            good = len(comparison["models"]) == len(comparison["answers"]) == 2
            texts = [comparison["id"], comparison["question"]]
            texts += comparison["models"] + comparison["answers"] + comparison["pictures"]
            if not good or not all(isinstance(text, str) for text in texts):
                raise TypeError
            comparison["gold"] = bool(comparison["gold"])
        count = len(data["comparisons"])
        for sheet in data["sheets"].values():
            if not isinstance(sheet["rater"], str):
                raise TypeError
            for placed in sheet["items"].values():
                if not (
                    type(placed["flipped"]) is bool
                    and type(placed["comparison"]) is int
                    and 0 <= placed["comparison"] < count
                ):
                    raise TypeError
        return Key(path, tuple(map(str, data["models"])), data["comparisons"], data["sheets"])
    except (KeyError, TypeError, AttributeError):
        raise InputError(
            f"{path} is not a whole key: something in it is missing or of another kind.",
            "Use the key.json that `labs rate sheet` wrote, unchanged.",
        ) from None


def read_votes(paths: Sequence[str | Path], key: Key) -> tuple[list[Vote], dict[str, int]]:
    """The votes of all files, and for each rater how many items are left unanswered.

    A rater's file may come twice if it is the same both times. Raises InputError, naming the file, for
    one that is no file of votes, is of a sheet that the key does not know, votes on an item that the
    sheet does not have, twice on one item, or with a choice that there is not; and for two files of
    one sheet that differ: nobody can say which one is meant.
    """
    if not paths:
        raise InputError("There are no votes to read.", "Give the files that raters sent back.")
    votes: list[Vote] = []
    missing: dict[str, int] = {}
    seen: dict[str, tuple[Path, Any]] = {}
    for path in map(Path, paths):
        data = _object(path, "file of votes", VOTES, VOTES_VERSION)
        sheet, given = data.get("sheet"), data.get("votes")
        if not isinstance(sheet, str) or sheet not in key.sheets:
            raise InputError(
                f"{path} is of the sheet {sheet!r}, which {key.path} does not know.",
                "Give the key.json that was written together with that rater's page.",
            )
        if not isinstance(given, list):
            raise InputError(f"{path} holds no list of votes.", "Ask the rater to save it again.")
        if sheet in seen:
            if seen[sheet][1] == given:
                continue
            raise InputError(
                f"{path} and {seen[sheet][0]} are of the same sheet and do not agree.",
                "Keep the one that the rater saved last.",
            )
        seen[sheet] = (path, given)
        plan, rater = key.sheets[sheet]["items"], key.sheets[sheet]["rater"]
        own = _votes_of(given, plan, rater, path)
        votes += own
        missing[rater] = len(plan) - len(own)
    return votes, missing


def _votes_of(given: list, plan: dict, rater: str, path: Path) -> list[Vote]:
    own: dict[str, Vote] = {}
    for number, record in enumerate(given, 1):
        where = f"{path}, vote {number}"
        if not isinstance(record, dict):
            raise InputError(f"{where} is no JSON object.", "Ask the rater to save it again.")
        item, choice = record.get("item"), record.get("choice")
        if not isinstance(item, str) or item not in plan:
            raise InputError(
                f"{where} is on the item {item!r}, which is not on that sheet.",
                "Ask the rater for the file that the page saved, unchanged.",
            )
        if item in own:
            raise InputError(
                f"{where} is a second vote on the item {item}.",
                "Ask the rater for the file that the page saved, unchanged.",
            )
        if choice not in CHOICES:
            raise InputError(
                f"{where} chooses {choice!r}.", f"A choice is one of {', '.join(CHOICES)}."
            )
        seconds = record.get("seconds")
        timed = type(seconds) in (int, float) and 0 <= seconds < 1e7
        comment = record.get("comment", "")
        side = choice if choice in ("left", "right") else None
        winner = choice
        if side:
            winner = "first" if (side == "left") != plan[item]["flipped"] else "second"
        own[item] = Vote(
            rater, plan[item]["comparison"], winner, side, float(seconds) if timed else None,
            comment if isinstance(comment, str) else "",
        )  # fmt: skip
    return list(own.values())


def _object(path: Path, what: str, format: str, version: int) -> dict:
    check_file(path, what)
    data = parse(path.read_bytes(), str(path))
    if not isinstance(data, dict) or data.get("format") != format:
        raise InputError(
            f"{path} is no {what} of a rating sheet.", f'Such a file says "format": "{format}".'
        )
    if data.get("version") != version:
        raise InputError(
            f"{path} is of version {data.get('version')!r}; this one reads {version}.",
            "Read it with the version of labs that wrote the sheets.",
        )
    return data
