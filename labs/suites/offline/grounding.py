"""Grounding: the box of an object, by how far it overlaps the true one."""

from collections.abc import Iterator, Sequence

from labs.evaluation.answers import read_box
from labs.evaluation.reading import Reading
from labs.shapes import make_record
from labs.shapes.oracle import iou, parse_box
from labs.suites.contract import Measure, Question, Row
from labs.suites.offline.base import WorldSuite
from labs.suites.summary import mean_score, share, unparsed


class Grounding(WorldSuite):
    """ "Give the box of the red ring." The answer is [left,top,right,bottom] in percent of the side.

    Headline: the mean overlap, IoU = area of the intersection / area of the union. Beside it the
    shares with an IoU of at least 0.5 and 0.75. A text without a box, and a box that is none (its
    right side left of its left one, or a side beyond the picture), has no overlap and its own status.

    There is no description in `about`: words say "at the top left" and not where exactly.
    Kazemzadeh et al. 2014 (ReferItGame) and Yu et al. 2016 (RefCOCO) take IoU >= 0.5. Chapter 7.
    """

    name = "grounding"
    title = "Give the box of the …: overlap with the true box"
    headline = "iou"

    def questions(self) -> Iterator[Question]:
        for index in range(self.n):
            record = make_record("grounding", index, self.split, self.language)
            [qa] = record["meta"]["turns"]
            yield Question(
                id=record["id"], prompt=qa.question, answer=qa.answer, images=(record["image"],),
                about={"box": list(parse_box(qa.answer)), "language": self.language},
            )  # fmt: skip

    def read(self, question: Question, said: str) -> Reading:
        return read_box(said, scale=100.0)

    def score(self, question: Question, reading: Reading) -> float:
        return iou(reading.value, question.about["box"])

    def measures(self, rows: Sequence[Row]) -> dict[str, Measure]:
        return {
            "iou": mean_score(rows),
            "accuracy_50": share(rows, lambda row: row.score >= 0.5),
            "accuracy_75": share(rows, lambda row: row.score >= 0.75),
            "unparsed": unparsed(rows),
        }
