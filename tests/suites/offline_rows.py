"""Suites on the offline world answered by a rule, and the rows that come of it."""

from functools import partial

from labs.shapes import Object, Scene, mentions
from labs.shapes.vocabulary import CELLS
from labs.suites.contract import Answer, row_of
from labs.suites.offline import (
    Captions,
    Choice,
    Counting,
    EdgeCases,
    Existence,
    Grounding,
    Naming,
    Ocr,
    Thinking,
)

SUITES = {
    "existence": Existence,
    "existence_popular": partial(Existence, "popular"),
    "existence_adversarial": partial(Existence, "adversarial"),
    "captions": Captions,
    "choice": Choice,
    "choice_circular": partial(Choice, circular=True),
    "ocr": Ocr,
    "counting": Counting,
    "colour": Naming,
    "position": partial(Naming, "position"),
    "kind": partial(Naming, "kind"),
    "grounding": Grounding,
    "thinking": Thinking,
    "direct": partial(Thinking, describe=False),
    "edge_cases": EdgeCases,
}


def answered(suite, say, finished=True, thoughts=lambda question: ()):
    """The rows of a suite whose questions are answered by `say(question)`."""
    rows = []
    for question in suite.questions():
        said = say(question)
        answer = Answer(said, len(said.split()), finished, tuple(thoughts(question)))
        rows.append(row_of(suite, question, answer))
    return rows


def perfect(question):
    return question.answer


def scene_in_words(text):
    """The scene that a whole caption describes."""
    return Scene(
        tuple(Object(m.kind, m.colour, m.size, CELLS.index(m.position)) for m in mentions(text))
    )
