"""What the package says of itself is true: its examples, and its table of answers that go wrong."""

import doctest
import importlib
import pkgutil

import pytest

from labs.evaluation import answers
from labs.evaluation.reading import STATUSES
from labs.suites.contract import Answer, Question, Suite, row_of

MODULES = [m.name for m in pkgutil.iter_modules(answers.__path__, f"{answers.__name__}.")]


def test_the_examples_are_true():
    tried = 0
    for name in MODULES:
        failed, count = doctest.testmod(importlib.import_module(name))
        assert not failed, name
        tried += count
    assert tried >= 8


def test_everything_is_exported():
    assert sorted(answers.__all__) == answers.__all__
    public = {n for n in dir(answers) if n.startswith("read_") or n.endswith("_rule")}
    assert public <= set(answers.__all__)


def test_every_status_is_explained():
    assert all(f'"{status}"' in answers.__doc__ for status in STATUSES if status != "read")


class Choices(Suite):
    name, title = "choices", "one question"

    def questions(self):
        yield Question("1", "Which?", "B", about={"options": ["a red ring", "a blue star"]})

    def read(self, question, said):
        return answers.read_choice(said, question.about["options"])

    def score(self, question, reading):
        return float(reading.value == question.answer)


@pytest.mark.parametrize(
    ("said", "finished", "status", "score"),
    [
        ("B", True, "read", 1),
        ("A", True, "read", 0),
        ("B B B B B B", False, "read", 1),  # endless, but it says one thing
        ("<think>It may be A, or", False, "endless", 0),
        ("and and and and and", False, "endless", 0),
        ("A or B or A or B or", False, "endless", 0),
        ("<think>It may be A, or", True, "none", 0),
        ("", True, "empty", 0),
        ("A dog is on the left.", True, "none", 0),
        ("A or B", True, "several", 0),
        ("A: a blue star", True, "several", 0),
        ("I cannot see the image.", True, "refused", 0),
        ("синяя звезда", True, "script", 0),
    ],
)
def test_rows_of_answers_that_go_wrong(said, finished, status, score):
    """Nothing that could not be read is scored without its status."""
    suite = Choices()
    row = row_of(suite, next(suite.questions()), Answer(said, 24, finished))
    assert (row.status, row.score) == (status, score)
    assert (row.parsed is None) == (status != "read")
