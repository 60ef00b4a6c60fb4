"""Majority votes as preference pairs, in the format that reward models and DPO train on."""

import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from labs.errors import InputError
from labs.formats import Preference, Turn, resolve_image, write_preferences
from labs.formats.dialects import IMAGE
from labs.formats.fields import question_turn
from labs.suites.rating.votes import Key, Vote


def majority(votes: Sequence[Vote]) -> str:
    """ "first", "second", "tie" or "both_bad" where more than half of the votes say so, else "split"."""
    (winner, count), *_ = Counter(v.winner for v in votes).most_common(1)
    return winner if 2 * count > len(votes) else "split"


def write_preference_file(
    path: str | os.PathLike, key: Key, votes: Sequence[Vote], dropped: Sequence[str] = ()
) -> tuple[int, dict[str, int]]:
    """Write the comparisons that a majority decided, as `labs.formats.write_preferences` does.

    Returns how many were written, and how many were not, by reason: "tie", "both_bad", "split" (no
    majority), "empty" (an answer without text), "unseen" (no vote). Checks of attention are never
    written; `dropped` names raters whose votes do not count. Pictures are copied to a folder beside
    the file. Each pair says how it was voted on: `votes`, `chosen_model`, `rejected_model`.

    Raises InputError where nothing is left to write, and for a picture that is not there.
    """
    path = Path(path)
    by_comparison: dict[int, list[Vote]] = {}
    for vote in votes:
        if vote.rater not in dropped:
            by_comparison.setdefault(vote.comparison, []).append(vote)
    left_out: Counter = Counter()
    decided: list[tuple[int, str]] = []
    for number, comparison in enumerate(key.comparisons):
        if comparison["gold"]:
            continue
        if number not in by_comparison:
            left_out["unseen"] += 1
            continue
        winner = majority(by_comparison[number])
        if winner not in ("first", "second"):
            left_out[winner] += 1
        elif not all(_plain(answer).strip() for answer in comparison["answers"]):
            left_out["empty"] += 1
        else:
            decided.append((number, winner))
    if not decided:
        raise InputError(
            f"No majority decided any of {sum(left_out.values())} comparisons: there are no "
            "preferences to write.",
            "Collect more votes, or leave --preferences out.",
        )
    pictures = _copy(key, [number for number, _ in decided], path)
    written = write_preferences(
        _pairs(key, decided, by_comparison, pictures), path, image_root=path.parent
    )
    return written, dict(left_out)


def _pairs(key: Key, decided, by_comparison, pictures: dict[str, str]) -> Iterator[Preference]:
    for number, winner in decided:
        comparison = key.comparisons[number]
        best, worst = (0, 1) if winner == "first" else (1, 0)
        question = _plain(comparison["question"]).strip()
        counts = Counter(v.winner for v in by_comparison[number])
        meta = {
            "votes": {
                "chosen": counts[winner],
                "rejected": counts["second" if winner == "first" else "first"],
                "tie": counts["tie"], "both_bad": counts["both_bad"],
            },
            "chosen_model": comparison["models"][best],
            "rejected_model": comparison["models"][worst],
        }  # fmt: skip
        yield Preference(
            # One question may be compared for several pairs of models.
            f"{comparison['id']}#{number}",
            tuple(pictures[name] for name in comparison["pictures"]),
            (Turn("user", question_turn(question, len(comparison["pictures"]))),),
            _plain(comparison["answers"][best]),
            _plain(comparison["answers"][worst]),
            meta,
        )


def _plain(text: str) -> str:
    """A text without placeholders: one that a model wrote stands for no picture."""
    return text.replace(IMAGE, " ")


def _copy(key: Key, numbers: Sequence[int], path: Path) -> dict[str, str]:
    """The pictures of the comparisons, copied beside the file: name in the key -> path."""
    folder = path.parent / f"{path.stem}_images"
    copied: dict[str, str] = {}
    for number in numbers:
        for name in key.comparisons[number]["pictures"]:
            if name in copied:
                continue
            source = resolve_image(name, key.path.parent, str(key.path))
            target = folder / f"{len(copied):04d}{Path(name).suffix}"
            try:
                folder.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or error
                raise InputError(
                    f"The picture {name[:80]} of {key.path} cannot be copied: {reason}.",
                    "Keep the folder `pictures` beside the key.",
                ) from None
            copied[name] = str(target.absolute())
    return copied
