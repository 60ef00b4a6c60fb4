"""Counting: how many objects, red objects, rings."""

from collections.abc import Iterator, Sequence

from labs.evaluation.answers import read_number
from labs.evaluation.reading import Reading
from labs.shapes import make_record
from labs.suites.contract import Measure, Question, Row
from labs.suites.offline.base import WorldSuite, described, mean_where
from labs.suites.summary import mean_score, share, unparsed

# (what is counted, the numbers that are asked for, evenly)
COUNTS = (("all", (1, 2, 3, 4)), ("colour", (0, 1, 2)), ("kind", (0, 1, 2)))


class Counting(WorldSuite):
    """ "How many objects / red objects / rings are there?" in turn, true numbers evenly.

    Headline: the exact number. Beside it `mae`, the mean absolute error of the numbers that could be
    read (an answer without a number has no error, and is in `unparsed`); `within_1`, the share that
    is off by one at most; and the accuracy by what is counted and by the true number, for a model
    that always says "two" is right for one of them and for no other. Chapter 7.
    """

    name = "counting"
    title = "How many? of all objects, of a colour, of a kind"

    def questions(self) -> Iterator[Question]:
        for number in range(self.n):
            of, counts = COUNTS[number % len(COUNTS)]
            index = number // len(COUNTS)
            wanted = {"of": of, "answer": counts[index % len(counts)]}
            record = make_record("count", index, self.split, self.language, **wanted)
            [qa] = record["meta"]["turns"]
            name = f"{self.split}-counting-{self.language}-{of}-{index}"
            yield Question(
                id=name, prompt=qa.question, answer=qa.answer, images=(record["image"],),
                about={
                    "of": of, "number": qa.about["number"], "language": self.language,
                    "description": described(record["meta"]["scene"], self.language, name),
                },
            )  # fmt: skip

    def read(self, question: Question, said: str) -> Reading:
        return read_number(said)

    def score(self, question: Question, reading: Reading) -> float:
        return float(reading.value == question.about["number"])

    def measures(self, rows: Sequence[Row]) -> dict[str, Measure]:
        found = {
            "accuracy": mean_score(rows),
            "mae": mean_where(rows, _readable, _error),
            "within_1": share(rows, lambda row: _readable(row) and _error(row) <= 1),
        }
        for key, values in (("of", [of for of, _ in COUNTS]), ("number", range(5))):
            for value in values:
                if alike := [row for row in rows if row.about[key] == value]:
                    found[f"accuracy_{value}"] = mean_score(alike)
        found["unparsed"] = unparsed(rows)
        return found


def _readable(row: Row) -> bool:
    return row.status == "read"


def _error(row: Row) -> float:
    return abs(row.parsed - row.about["number"])
