"""Describe first, then answer: does a model that looks at length say less of what is not there?"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from labs.errors import InputError
from labs.shapes import mentions
from labs.shapes.language import QUESTIONS
from labs.suites.contract import Measure, Question, Row
from labs.suites.offline.existence import Existence
from labs.suites.summary import mean_of, share


class Thinking(Existence):
    """The questions of `Existence`, asked directly or after the model has described the picture.

    Both forms have the same ids, pictures and questions, so two runs pair item by item (`rescued`).
    With `describe` the model is first told to describe the image; its description stands before the
    question, as its own turn. That costs tokens, and helps only if the description is better than
    the answer: a model whose captions hallucinate is shown its own hallucination. So beside POPE's
    numbers there are

        tokens    tokens generated a question, of both turns
        named     how often the description names the kind that is asked for
        agrees    how often the answer says what the description said
        unparsed  answers that could not be read: a long turn before makes more of them

    Wei et al. 2022 (chain of thought), arXiv:2201.11903. Chapter 7.
    """

    def __init__(
        self,
        describe: bool = True,
        *,
        negatives: str = "adversarial",
        n: int = 500,
        language: str = "en",
        split: str = "test",
    ):
        super().__init__(negatives, n=n, language=language, split=split)
        self.describe = describe
        self.name = "thinking" if describe else "direct"
        how = "after describing the picture" if describe else "asked directly"
        self.title = f"Is there a …? {how}, {negatives} absent kinds"

    def settings(self) -> dict:
        return {**super().settings(), "describe": self.describe}

    def questions(self) -> Iterator[Question]:
        describe = QUESTIONS[self.language]["caption"][0]
        for question in super().questions():
            if self.describe:
                yield replace(question, before=(describe,))
            else:
                yield question

    def measures(self, rows: Sequence[Row]) -> dict[str, Measure]:
        found = super().measures(rows)
        found["tokens"] = mean_of(rows, lambda row: row.tokens)
        if self.describe:
            found["named"] = share(rows, _named)
            found["agrees"] = share(rows, lambda r: r.status == "read" and r.parsed == _named(r))
        return found


def _named(row: Row) -> bool:
    """Whether the model's own description names the kind that the question asks for."""
    return any(m.kind == row.about["kind"] for text in row.thoughts for m in mentions(text))


class Rescue(NamedTuple):
    """How many questions each form answers right. `spoilt` and `rescued` are McNemar's b and c."""

    both: int
    rescued: int  # wrong when asked directly, right after describing
    spoilt: int  # right when asked directly, wrong after describing
    neither: int


def rescued(direct: Sequence[Row], thinking: Sequence[Row]) -> Rescue:
    """What describing changes, question by question.

    Whether `rescued` against `spoilt` is more than luck, `mcnemar(direct, thinking)` says on the same
    scores, and `group_paired_difference`, which knows that a picture's two questions hang together.
    Raises InputError for no rows and for rows that do not hold
    the same ids. Chapter 7.
    """
    before, after = ({row.id: row.score == 1 for row in rows} for rows in (direct, thinking))
    if before.keys() != after.keys() or not before:
        alone = sorted(before.keys() ^ after.keys())
        raise InputError(
            f"The two runs do not answer the same questions ({len(alone)} are in one of them only"
            + (f", such as {alone[0]})." if alone else ")."),
            "Ask both forms with the same n, language, split and negatives.",
        )
    pairs = [(right, after[id]) for id, right in before.items()]
    return Rescue(
        *(pairs.count(p) for p in ((True, True), (False, True), (True, False), (False, False)))
    )
