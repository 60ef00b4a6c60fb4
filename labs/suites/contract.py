"""What a suite, a question and an answerer are: the words that runner, suites and reports share.

A suite gives questions, reads what was said, scores it, and sums up. It never sees a model; an
answerer never sees a score. What lies between them is a row, one line of a results folder, so that
scores can be made again from the folder alone.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, Protocol

from labs.evaluation.reading import Reading


@dataclass(frozen=True)
class Question:
    """One question as a model is asked.

    id: unique in its suite, stable from run to run. prompt: the text that follows the pictures.
    images: Pillow images, paths or data URLs, opened only when they are needed. answer: what is
    right. about: whatever scoring needs and people look for (category, options, …). group: what is
    drawn together when intervals are made: questions about one picture, rotations of one question.
    before: turns that are asked first, whose answers the model gives itself and sees ("Describe the
    image."). `answer` and `about` are written to files, so they hold JSON only.
    """

    id: str
    prompt: str
    answer: Any
    images: tuple = ()
    about: dict = field(default_factory=dict)
    group: str | None = None
    before: tuple[str, ...] = ()
    max_new_tokens: int = 24


class Answer(NamedTuple):
    """What a model said. tokens: those it generated, of all turns. finished: it ended by itself."""

    text: str
    tokens: int
    finished: bool
    thoughts: tuple[str, ...] = ()  # its answers to `before`


class Answerer(Protocol):
    """A model that answers a batch of questions, in their order."""

    name: str

    def answer(self, questions: Sequence[Question]) -> list[Answer]: ...

    def length(self, question: Question) -> int:
        """Roughly how long the prompt is, in tokens: questions of like length share a batch."""
        ...

    def describe(self) -> dict:
        """What a reader needs to ask the same model again; JSON."""
        ...


@dataclass(frozen=True)
class Row:
    """One answered question, as a line of items.jsonl.

    status: "read", or why nothing could be read (`labs.evaluation.reading.STATUSES`). score: in
    [0, 1]; 0 where nothing was read, which is why `status` is counted and shown beside it.
    """

    id: str
    group: str | None
    prompt: str
    answer: Any
    about: dict
    said: str
    thoughts: list[str]
    tokens: int
    finished: bool
    status: str
    parsed: Any
    score: float

    def to_dict(self) -> dict:
        return asdict(self)


class Measure(NamedTuple):
    """A number with its 95 % interval (None where it has none) and how many it was made from."""

    value: float
    low: float | None
    high: float | None
    n: int


class Suite(ABC):
    """Questions of one kind, and what their answers are worth.

    `name` is what the command line takes; `title` is a line for people; `headline` names the
    measure that stands first.
    """

    name: str
    title: str
    headline: str = "accuracy"

    @abstractmethod
    def questions(self) -> Iterator[Question]:
        """The questions, the same and in the same order every time."""

    @abstractmethod
    def read(self, question: Question, said: str) -> Reading:
        """What the answer says, or why it says nothing."""

    @abstractmethod
    def score(self, question: Question, reading: Reading) -> float:
        """What a reading is worth, in [0, 1]. Called for readings with status "read" only."""

    def measures(self, rows: Sequence[Row]) -> dict[str, Measure]:
        """What is reported, the headline first. By default the mean score with its interval."""
        from labs.suites.summary import mean_score

        return {self.headline: mean_score(rows)}

    def settings(self) -> dict:
        """What fixes the questions (number, language, file and its digest, …); JSON."""
        return {}


def row_of(suite: Suite, question: Question, answer: Answer) -> Row:
    """Reads and scores an answer.

    Where nothing can be read and the model did not end by itself, the status is "endless".
    """
    reading = suite.read(question, answer.text)
    readable = reading.status == "read"
    status = reading.status if readable or answer.finished else "endless"
    return Row(
        id=question.id, group=question.group, prompt=question.prompt, answer=question.answer,
        about=question.about, said=answer.text, thoughts=list(answer.thoughts), tokens=answer.tokens,
        finished=answer.finished, status=status, parsed=reading.value,
        score=float(suite.score(question, reading)) if readable else 0.0,
    )  # fmt: skip
