"""The scores of MME: two yes/no questions on each picture, and a bonus for getting both right."""

import difflib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from labs.errors import InputError
from labs.evaluation.checks import check_items
from labs.evaluation.clusters import right_or_wrong

Items = Sequence | np.ndarray

PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
)  # fmt: skip
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")


class MmeSubtask(NamedTuple):
    accuracy: float  # percent of questions right
    accuracy_plus: float  # percent of pictures with both questions right
    score: float  # their sum, at most 200
    pictures: int


class MmeScores(NamedTuple):
    subtasks: dict[str, MmeSubtask]
    perception: float | None  # of at most 2000; None unless all ten subtasks are there
    cognition: float | None  # of at most 800; None unless all four are there


def mme_scores(correct: Items, pictures: Items, subtasks: Items) -> MmeScores:
    """MME's calculation: per subtask accuracy + accuracy+, in percent, and the two totals.

        accuracy  = 100 · #(right) / #(questions)      accuracy+ = 100 · #(both right) / #(pictures)

    Guessing gives 50 + 25 = 75 a subtask, so 750 in perception: not a low-looking number. Saying yes
    to everything gives 50 + 0, as each picture has one yes and one no.

    `correct`, `pictures`, `subtasks` [N]: for each question whether the answer was right (True, False,
    1, 0; what could not be read is wrong), a name of its picture, and its subtask. Names of pictures
    may repeat from subtask to subtask. A total over some of its subtasks would look like a bad score,
    so there is none: it is None.

    Raises InputError for no questions, lists that do not pair up, a subtask that MME does not have,
    and a picture that has not exactly two questions.

    Fu et al. 2023, arXiv:2306.13394, section 2.2; the same numbers as eval_tool/calculation.py of
    BradyFU/Awesome-Multimodal-Large-Language-Models, branch Evaluation. Chapter 7.
    """
    check_items("mme_scores", correct, pictures)
    check_items("mme_scores", correct, subtasks)
    right = right_or_wrong("mme_scores", correct)
    found: dict[str, dict] = {}
    for hit, picture, subtask in zip(right.tolist(), pictures, subtasks, strict=True):
        if subtask not in PERCEPTION + COGNITION:
            near = difflib.get_close_matches(str(subtask), PERCEPTION + COGNITION, 1)
            raise InputError(
                f"MME has no subtask {subtask!r}.",
                f"Did you mean {near[0]!r}?" if near else "Leave other questions out.",
            )
        found.setdefault(subtask, {}).setdefault(picture, []).append(hit)
    scores = {name: _subtask(name, found[name]) for name in PERCEPTION + COGNITION if name in found}
    totals = [
        sum(scores[name].score for name in names) if all(n in scores for n in names) else None
        for names in (PERCEPTION, COGNITION)
    ]
    return MmeScores(scores, *totals)


def _subtask(name: str, pictures: dict) -> MmeSubtask:
    for picture, hits in pictures.items():
        if len(hits) != 2:
            raise InputError(
                f"Picture {picture!r} of {name} has {len(hits)} answers, where MME has two.",
                "Answer both questions of every picture, each once.",
            )
    count = len(pictures)
    accuracy = 100 * sum(sum(hits) for hits in pictures.values()) / (2 * count)
    plus = 100 * sum(hits == [1, 1] for hits in pictures.values()) / count
    return MmeSubtask(accuracy, plus, accuracy + plus, count)
