"""How each kind of fault that can be mended is mended, on one raw record.

Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from labs.doctors.data.repair import record as records
from labs.doctors.data.repair.record import Unmendable
from labs.doctors.data.sample import Sample
from labs.doctors.data.text.characters import is_blank
from labs.formats.dialects import IMAGE


class Edit(NamedTuple):
    """One thing done to a record: for which kind of fault, what, and the text before and after."""

    kind: str
    done: str
    before: str
    after: str


def mend(
    sample: Sample,
    kinds: Iterable[str],
    break_up: Callable[[str], str],
    clean: Callable[[str], str],
) -> tuple[Any, list[Edit]]:
    """The record of `sample` without the faults `kinds`, and what was done. `sample` is not changed.

    break_up: special tokens in a text made to be read as letters; clean: control characters removed.
    Raises Unmendable where nothing would be left, or it is not known which turn an image belongs to.
    """
    kinds = set(kinds)
    record = copy.deepcopy(sample.raw)
    done: list[Edit] = []
    for kind, change, said in (
        ("special_token_in_text", break_up, "broke the special token up"),
        ("control_characters", clean, "removed the characters"),
    ):
        if kind in kinds:
            done += [Edit(kind, said, *pair) for pair in records.change_texts(record, change)]
    if kinds & {"no_answer", "empty_answer", "empty_question", "missing_placeholder"}:
        done += _mend_turns(record, sample, kinds)
    return record, done


def _mend_turns(record: Any, sample: Sample, kinds: set[str]) -> list[Edit]:
    turns = records.turn_list(record)
    if turns is None:
        raise Unmendable("there is no turn that could be left out")
    if len(turns) != len(sample.turns):
        raise Unmendable("its turns cannot be told apart")
    roles = [role for role, _ in sample.turns]
    texts = [records.text_of(turn) for turn in turns]
    # A turn shows an image by a placeholder, or by a part of its content; reading writes both as one.
    shows = [text.count(IMAGE) for _, text in sample.turns]
    removed: dict[int, str] = {}
    if "empty_answer" in kinds:
        for i in range(1, len(turns)):
            if roles[i] == "assistant" and is_blank(texts[i]) and roles[i - 1] == "user":
                removed[i - 1] = removed[i] = "empty_answer"
    if "empty_question" in kinds:
        for i in range(len(turns) - 1):
            if roles[i] == "user" and is_blank(texts[i]) and not shows[i]:
                if roles[i + 1] == "assistant":
                    removed[i] = removed[i + 1] = "empty_question"
    if "no_answer" in kinds:
        last = len(turns) - 1
        while last >= 0 and roles[last] != "assistant":
            removed[last] = "no_answer"
            last -= 1
    kept = [i for i in range(len(turns)) if i not in removed]
    if not any(roles[i] == "assistant" for i in kept):
        raise Unmendable("nothing would be left of it")
    done = [
        Edit(removed[i], f"removed turn {i + 1} ({roles[i]})", texts[i], "")
        for i in sorted(removed)
    ]
    lost = sum(shows[i] for i in removed)
    shown = sum(shows[i] for i in kept)
    if len(sample.images) != shown and (lost or "missing_placeholder" in kinds):
        if len(sample.images) != 1 or shown:
            raise Unmendable("it is not known which image belongs to which turn")
        first = next((i for i in kept if roles[i] == "user"), None)
        if first is None:
            raise Unmendable("there is no question to show the image in")
        before, after = records.prepend(turns, first, f"{IMAGE}\n")
        why = "missing_placeholder" if "missing_placeholder" in kinds else removed[min(removed)]
        done.append(Edit(why, f"put {IMAGE} before turn {first + 1}", before, after))
    turns[:] = [turns[i] for i in kept]
    return done
