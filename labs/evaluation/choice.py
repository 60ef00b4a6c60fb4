"""Multiple choice asked several times, with the options in another order each time (MMBench)."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from labs.errors import InputError
from labs.evaluation.checks import check_items
from labs.evaluation.clusters import right_or_wrong

Items = Sequence | np.ndarray
Number = int | Mapping[Any, int]  # one for all questions, or one for each group


class CircularScores(NamedTuple):
    circular: float  # share of questions that were answered right in every pass
    vanilla: float  # share that were answered right in their first pass
    mean: float  # of the share of a question's passes that were right
    circular_chance: float  # what guessing anew in each pass gives
    chance: float  # what guessing gives in one pass
    questions: int


def circular_accuracy(correct: Items, groups: Items, *, passes: Number | None = None) -> float:
    """CircularEval: the share of questions all of whose passes are right.

    A question with N options is asked N times with the options rotated. A model that likes the letter
    A is right once in N passes, and here scores 0 for it.

    `correct` [N]: was this answer right (True, False, 1, 0); an answer that could not be read is
    wrong here, so count those beside. `groups` [N]: which question it was an answer to. `passes`: how
    many there must be of each question, one number or one for each group. Give it: a question whose
    hard rotation got lost looks better than it is.

    Raises InputError for no answers, lists that do not pair up, an entry that is neither right nor
    wrong, and a question with another number of passes than `passes`.

    Liu et al. 2023 (MMBench), arXiv:2307.06281, section 4. Chapter 7.
    """
    return circular_scores(correct, groups, passes=passes).circular


def circular_scores(
    correct: Items, groups: Items, *, passes: Number | None = None, options: Number | None = None
) -> CircularScores:
    """`circular_accuracy` with what belongs beside it: one pass, all passes, and chance.

        circular_chance = 1/Q · sum_q (1/N_q)^P_q      chance = 1/Q · sum_q 1/N_q

    P_q passes of question q, N_q options (`options`; by default as many as it has passes). "vanilla"
    is the first answer listed of each question. circular <= vanilla and circular <= mean always; how
    far below tells how much of the score hangs on the order of the options.

    Arguments and errors as for `circular_accuracy`; also for options fewer than 1. Chapter 7.
    """
    check_items("circular_scores", correct, groups)
    right = right_or_wrong("circular_scores", correct)
    answers: dict[Any, list[float]] = {}
    for group, hit in zip(groups, right.tolist(), strict=True):
        if group is None:
            raise InputError(
                "circular_scores was given an answer without a group.",
                "Say of each answer which question it is a pass of.",
            )
        answers.setdefault(group, []).append(hit)
    guesses = {}
    for group, hits in answers.items():
        wanted = len(hits) if passes is None else _number(passes, group, "passes")
        if wanted != len(hits):
            raise InputError(
                f"Question {group!r} has {len(hits)} passes, where there should be {wanted}.",
                "Ask the missing ones, or remove those that are there twice.",
            )
        guesses[group] = 1 / (len(hits) if options is None else _number(options, group, "options"))
    count = len(answers)
    return CircularScores(
        circular=sum(all(hits) for hits in answers.values()) / count,
        vanilla=sum(hits[0] for hits in answers.values()) / count,
        mean=sum(sum(hits) / len(hits) for hits in answers.values()) / count,
        circular_chance=sum(guesses[g] ** len(hits) for g, hits in answers.items()) / count,
        chance=sum(guesses.values()) / count,
        questions=count,
    )


def _number(given: Number, group: Any, what: str) -> int:
    number = given.get(group) if isinstance(given, Mapping) else given
    if number is None or number < 1:
        raise InputError(
            f"Question {group!r} has {number!r} for its number of {what}.",
            "Give a whole number from 1 up for every question.",
        )
    return number
