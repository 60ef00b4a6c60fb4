"""A suite and an answerer small enough to see through: sums, and a calculator that errs by rule."""

import time
from collections.abc import Sequence

from labs.evaluation.reading import Reading
from labs.suites.contract import Answer, Question, Suite
from labs.suites.folder import ITEMS
from labs.suites.runner import run


class Sums(Suite):
    """What is 3 + 4? Numbers are read, everything else is not; `groups` questions share a group."""

    name, title = "sums", "Small sums"

    def __init__(self, n: int = 40, groups: int = 1):
        self.n, self.groups = n, groups

    def questions(self):
        for i in range(self.n):
            yield Question(
                id=f"sum-{i}",
                prompt=f"What is {i} + {i * i}?" + " Think well." * (i % 3),
                answer=i + i * i,
                about={"last": i % 10, "wörter": "和"},
                group=None if self.groups == 1 else f"g{i // self.groups}",
                max_new_tokens=8,
            )

    def read(self, question: Question, said: str) -> Reading:
        if not said:
            return Reading(None, "empty")
        return Reading(int(said)) if said.lstrip("-").isdigit() else Reading(None, "none")

    def score(self, question: Question, reading: Reading) -> float:
        return float(reading.value == question.answer)

    def settings(self) -> dict:
        return {"n": self.n}


class Calculator:
    """Right but for every `wrong`-th question, silent at every 7th, endless at every 11th.

    What it says depends on the question only. asked: the ids of each call. fails: the numbers of
    calls that raise `error`. fits: the largest batch that does not raise `error`.
    """

    def __init__(self, name="calculator", wrong=5, *, fails=(), fits=None, error=None, pause=0.0):
        self.name, self.wrong, self.pause = name, wrong, pause
        self.fails, self.fits, self.error = fails, fits, error
        self.asked: list[list[str]] = []
        self.log = None

    def describe(self) -> dict:
        return {"name": self.name, "kind": "calculator", "wrong": self.wrong}

    def length(self, question: Question) -> int:
        return len(question.prompt.split())

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        self.asked.append([q.id for q in questions])
        if self.log is not None:
            self.log.write(" ".join(self.asked[-1]) + "\n")
            self.log.flush()
        if len(self.asked) - 1 in self.fails or (self.fits and len(questions) > self.fits):
            raise self.error
        time.sleep(self.pause)
        return [self._one(q, int(q.id.removeprefix("sum-"))) for q in questions]

    def _one(self, question: Question, i: int) -> Answer:
        if i % 7 == 6:
            return Answer("", 1, True)
        if i % 11 == 10:
            return Answer("well — 那么 \n\x1b[31m" * 3, question.max_new_tokens, False)
        if i % self.wrong == self.wrong - 1:
            return Answer(str(question.answer + 1), 3, True)
        return Answer(str(question.answer), 3, True)


def finished(folder, name="calculator", wrong=5, n=40, groups=1):
    """A finished run."""
    return run(Calculator(name, wrong), Sums(n, groups), folder, batch_size=8)


def items(folder) -> bytes:
    return (folder / ITEMS).read_bytes()
