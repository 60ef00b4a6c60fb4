"""Reading: one to three handwritten digits, scored by ANLS."""

import re
import unicodedata
from collections.abc import Iterator, Sequence

from labs.evaluation import anls
from labs.evaluation.answers import read_text
from labs.evaluation.reading import Reading
from labs.shapes import make_record
from labs.suites.contract import Measure, Question, Row
from labs.suites.offline.base import WorldSuite
from labs.suites.summary import mean_score, share, unparsed

_WORDS = {
    "zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7,
    "eight": 8, "nine": 9, "〇": 0, "零": 0, "一": 1, "二": 2, "三": 3, "四": 4, "五": 5, "六": 6,
    "七": 7, "八": 8, "九": 9,
}  # fmt: skip
_WORD = re.compile(
    r"\b(?:zero|one|two|three|four|five|six|seven|eight|nine)\b|[〇零一二三四五六七八九]"
)
_NUMBER = re.compile(r"\d+")
_ONE_BY_ONE = re.compile(r"(?<!\d)\d(?:[ ,、，-]+\d)+(?!\d)")


class Ocr(WorldSuite):
    """ "What does the image say?" of one, two and three handwritten digits in turn.

    The score is ANLS, which gives a part of the point where one digit of three is wrong: `exact`
    stands beside it, for all and by the number of digits. What is compared is the number that the
    answer names (`read_digits`), so that "The image says 407." is as right as "407"; ANLS on the raw
    text, as in ST-VQA's own script, would give the sentence nothing.

    There is no description of these pictures in `about`: it would be the answer.
    Biten et al. 2019 (ST-VQA), arXiv:1905.13648. Chapter 7.
    """

    name = "ocr"
    title = "Read one to three handwritten digits (ANLS)"
    headline = "anls"

    def questions(self) -> Iterator[Question]:
        for index in range(self.n):
            digits = 1 + index % 3
            record = make_record("ocr", index, self.split, self.language, digits=digits)
            [qa] = record["meta"]["turns"]
            yield Question(
                id=record["id"], prompt=qa.question, answer=qa.answer, images=(record["image"],),
                about={"digits": digits, "language": self.language},
            )  # fmt: skip

    def read(self, question: Question, said: str) -> Reading:
        return read_digits(said)

    def score(self, question: Question, reading: Reading) -> float:
        return anls([reading.value], [[question.answer]])

    def measures(self, rows: Sequence[Row]) -> dict[str, Measure]:
        found = {"anls": mean_score(rows), "exact": share(rows, exact)}
        for digits in (1, 2, 3):
            if of_length := [row for row in rows if row.about["digits"] == digits]:
                found[f"exact_{digits}"] = share(of_length, exact)
        found["unparsed"] = unparsed(rows)
        return found


def exact(row: Row) -> bool:
    return row.parsed == row.answer


def read_digits(text: str) -> Reading:
    """The one number that a text names, as its digits ("007" stays "007").

    Digits of any script, written together, one by one ("4 0 7", "4, 0, 7"), or as words ("four zero
    seven", 四〇七). Two different numbers are "several", none is "none".
    """
    reading = read_text(text)
    if reading.status != "read":
        return reading
    plain = unicodedata.normalize("NFKC", reading.value).lower()
    found = _numbers(plain)
    if not found and (words := _WORD.findall(plain)):
        found = {"".join(str(_WORDS[word]) for word in words)}
    if len(found) > 1:
        return Reading(None, "several")
    return Reading(found.pop()) if found else Reading(None, "none")


def _numbers(text: str) -> set[str]:
    """The numbers in a text; digits that stand one by one are one number."""
    joined = _ONE_BY_ONE.sub(lambda match: re.sub(r"\D", "", match.group()), text)
    return {"".join(str(int(digit)) for digit in number) for number in _NUMBER.findall(joined)}
