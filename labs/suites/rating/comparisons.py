"""What people are asked to compare: pairs of answers that differ, and checks of attention."""

import itertools
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from labs.errors import InputError

RIGHT, WRONG = "(right)", "(wrong)"  # the authors of a check's two answers


@dataclass(frozen=True)
class Item:
    """A question with what each model said. answers: model -> text. reference: the right answer, where
    there is one. images: paths, data URLs or Pillow images."""

    id: str
    question: str
    answers: dict[str, str]
    images: tuple = ()
    reference: str | None = None


@dataclass(frozen=True)
class Comparison:
    """Two answers to one question. models, answers: in one order. gold: a check of attention, whose
    first answer is right and whose second is plainly wrong."""

    item: Item
    models: tuple[str, str]
    answers: tuple[str, str]
    gold: bool = False


def choose(items: Sequence[Item], n: int, seed: int) -> tuple[list[Comparison], Counter]:
    """`n` comparisons, evenly over all pairs of models, of questions drawn by `seed`; and how many
    pairs of answers cannot be asked about, by reason.

    Left out are pairs of two equal texts, which tell nothing, and pairs in which an answer names one
    of the models, which would not be blind. Raises InputError where fewer than `n` are left, for an
    id that two items have, and for fewer than two models.
    """
    models = _models(items)
    left_out: Counter = Counter()
    rng = random.Random(f"comparisons/{seed}")
    queues = []
    for a, b in itertools.combinations(models, 2):
        queue = []
        for item in items:
            texts = (item.answers[a], item.answers[b])
            if texts[0].strip() == texts[1].strip():
                left_out["identical"] += 1
            elif any(names_a_model(text, models) for text in (*texts, item.question)):
                left_out["names a model"] += 1
            else:
                queue.append(Comparison(item, (a, b), texts))
        rng.shuffle(queue)
        queues.append(queue)
    there = sum(map(len, queues))
    if there < n:
        raise InputError(
            f"{n} comparisons are wanted, and only {there} pairs of answers can be asked about "
            f"({left_out['identical']} are of two equal texts, {left_out['names a model']} name a "
            "model).",
            "Lower --n, raise --overlap, or ask the models more questions.",
        )
    chosen: list[Comparison] = []
    while len(chosen) < n:
        for queue in queues:
            if queue and len(chosen) < n:
                chosen.append(queue.pop())
    return chosen, left_out


def gold_of(
    items: Sequence[Item], n: int, seed: int, used: Sequence[Comparison]
) -> list[Comparison]:
    """`n` checks: the right answer to a question beside the right answer to quite another one.

    The wrong one is, of all other references, the one that shares the fewest words with the right one:
    a person who looks at the picture cannot take it. Questions that are not compared anyway go first.
    Raises InputError where there are not enough different right answers.
    """
    known = [item for item in items if isinstance(item.reference, str) and item.reference.strip()]
    rng = random.Random(f"gold/{seed}")
    rng.shuffle(known)
    compared = {comparison.item.id for comparison in used}
    known.sort(key=lambda item: item.id in compared)
    if n and (len(known) < n or len({item.reference for item in known}) < 2):
        raise InputError(
            f"{n} checks are wanted, and {len(known)} questions have a right answer to make them of.",
            "Lower --gold, or leave it out where the suite has no texts as right answers.",
        )
    models = _models(items) if items else ()
    checks = []
    for item in known[:n]:
        wrong = min(
            (other.reference for other in known if other.reference != item.reference),
            key=lambda text: _shared(item.reference, text),
        )
        if any(names_a_model(text, models) for text in (item.reference, wrong)):
            raise InputError(
                f"The right answer to {item.id} or to another question names a model.",
                "Leave --gold out.",
            )
        checks.append(Comparison(item, (RIGHT, WRONG), (item.reference, wrong), gold=True))
    return checks


def names_a_model(text: str, models: Sequence[str]) -> bool:
    """Whether a model's name stands in a text as a word of its own (Chinese writes no spaces)."""
    return any(
        re.search(rf"(?<![A-Za-z0-9_]){re.escape(model)}(?![A-Za-z0-9_])", text, re.IGNORECASE)
        for model in models
    )


def _models(items: Sequence[Item]) -> tuple[str, ...]:
    if not items:
        raise InputError("There are no questions to compare answers to.", "Give finished runs.")
    seen: set[str] = set()
    models = tuple(items[0].answers)
    for item in items:
        if item.id in seen:
            raise InputError(f"The id {item.id!r} is used twice.", "Give each question its own.")
        seen.add(item.id)
        if tuple(item.answers) != models:
            raise InputError(
                f"{item.id} has answers of {', '.join(item.answers)}, the first question of "
                f"{', '.join(models)}.",
                "Give every question the answers of the same models, in one order.",
            )
    if len(models) < 2:
        raise InputError("There are fewer than two models to compare.", "Give two runs or more.")
    return models


def _shared(first: str, second: str) -> float:
    """The share of words (of Chinese characters) that two texts have in common, in [0, 1]."""
    a, b = (set(re.findall(r"[\u3400-\u9fff]|\w+", text.lower())) for text in (first, second))
    return len(a & b) / max(1, len(a | b))
