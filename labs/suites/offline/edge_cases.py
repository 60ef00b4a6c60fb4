"""Edge cases: what a model does where the input is empty, broken, odd, too long or hostile."""

from collections import Counter
from collections.abc import Iterator, Sequence

from labs.errors import InputError
from labs.evaluation.answers import read_one_of, read_yes_no
from labs.evaluation.reading import Reading
from labs.shapes.vocabulary import COLOURS, say
from labs.suites.contract import Answer, Answerer, Measure, Question, Row
from labs.suites.offline.base import WorldSuite, synonyms
from labs.suites.offline.edge_items import CASES, EXPECTED, Asked
from labs.suites.summary import mean_score, share

ERROR, CRASH = "error: ", "crash: "


class EdgeCases(WorldSuite):
    """Twenty cases in turn, each with the behaviour that is expected of it (`edge_items.CASES`).

    An item is handled if the model does what is expected: the right answer; or an error in a sentence
    that says what is wrong, for input that cannot be used; or, where nobody can say what is right (a
    question about no picture), anything but silence and a crash. "plain" is the same question about
    an ordinary picture: what the other cases are to be compared with.

    Ask through `EdgeAnswerer` (`around`), which turns what one item raises into its answer: "error: "
    and the sentence for an InputError, "crash: " and the exception for anything else. Everywhere
    else in a run an error ends it; here the errors are what is measured. `edge_table` shows, case by
    case, what came.

    The value of a row is {"behaviour", "value", "why"}: "answer" with its value; "unreadable" with
    the status that the reader gave; "error" or "crash" with the sentence. Chapter 7.
    """

    name = "edge_cases"
    title = "Edge cases: no picture, broken files, too long, other languages, instructions in it"
    headline = "handled"

    def questions(self) -> Iterator[Question]:
        for number in range(self.n):
            case, index = CASES[number % len(CASES)], number // len(CASES)
            asked = case.make(index, self.split, self.language)
            yield Question(
                id=f"{self.split}-edge-{self.language}-{case.name}-{index}",
                prompt=asked.prompt,
                answer=_in_words(asked, self.language),
                images=asked.images,
                about={
                    "case": case.name, "expected": case.expected, "truth": asked.truth,
                    "language": self.language,
                },
            )  # fmt: skip

    def around(self, answerer: Answerer) -> "EdgeAnswerer":
        """The answerer as this suite is to be asked of."""
        return answerer if isinstance(answerer, EdgeAnswerer) else EdgeAnswerer(answerer)

    def read(self, question: Question, said: str) -> Reading:
        for prefix, behaviour in ((ERROR, "error"), (CRASH, "crash")):
            if said.startswith(prefix):
                return _behaviour(behaviour, why=said.removeprefix(prefix))
        if question.about["truth"] in COLOURS:
            found = read_one_of(said, synonyms(COLOURS))
        else:
            found = read_yes_no(said)
        if found.status == "empty":
            return found
        if found.status == "read":
            return _behaviour("answer", value=found.value)
        return _behaviour("unreadable", why=found.status)

    def score(self, question: Question, reading: Reading) -> float:
        behaviour, expected = reading.value["behaviour"], question.about["expected"]
        right = behaviour == "answer" and reading.value["value"] == question.about["truth"]
        refused = behaviour == "error"
        return float(
            {
                "answer": right,
                "refuse": refused,
                "answer or refuse": right or refused,
                "anything": behaviour != "crash",
            }[expected]
        )

    def measures(self, rows: Sequence[Row]) -> dict[str, Measure]:
        """The share handled, of all and by case, and the share that raised what is no sentence."""
        found = {
            "handled": mean_score(rows),
            "crashed": share(rows, lambda row: behaviour_of(row) == "crash"),
        }
        for case in CASES:
            if alike := [row for row in rows if row.about["case"] == case.name]:
                found[f"handled_{case.name}"] = mean_score(alike)
        return found


class EdgeAnswerer:
    """Asks an answerer one question at a time, and makes an answer of what it raises.

    An InputError, the error that is made for people, becomes "error: " with its two sentences; any
    other exception becomes "crash: " with its name and its first line. Ctrl-C is not caught.
    """

    def __init__(self, answerer: Answerer):
        self.answerer, self.name = answerer, answerer.name

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        return [self._one(question) for question in questions]

    def length(self, question: Question) -> int:
        return self.answerer.length(question)

    def describe(self) -> dict:
        return {**self.answerer.describe(), "asked": "one at a time, errors kept as answers"}

    def _one(self, question: Question) -> Answer:
        try:
            [answer] = self.answerer.answer([question])
            return answer
        except InputError as error:
            said = ERROR + _one_line(error)
        except Exception as error:  # whatever it is: finding out is what this suite is for
            said = f"{CRASH}{type(error).__name__}: {_one_line(error)}"
        return Answer(said, 0, True)


def behaviour_of(row: Row) -> str:
    """ "answer", "unreadable", "error", "crash", or "silence"."""
    return row.parsed["behaviour"] if row.status == "read" else "silence"


def edge_table(rows: Sequence[Row]) -> list[dict]:
    """One line a case: what it is, what is expected, what came how often, and an example.

    handled, right: shares. right is None where nobody can know. behaviours: how many of each.
    """
    table = []
    for case in CASES:
        alike = [row for row in rows if row.about["case"] == case.name]
        if not alike:
            continue
        known = [row for row in alike if row.about["truth"] is not None]
        right = [
            behaviour_of(row) == "answer" and row.parsed["value"] == row.about["truth"]
            for row in known
        ]
        table.append(
            {
                "case": case.name, "what": case.what, "expected": EXPECTED[case.expected],
                "n": len(alike), "handled": sum(row.score for row in alike) / len(alike),
                "right": sum(right) / len(right) if right else None,
                "behaviours": dict(Counter(map(behaviour_of, alike))), "example": alike[0].said,
            }
        )  # fmt: skip
    return table


def _behaviour(behaviour: str, value=None, why: str | None = None) -> Reading:
    return Reading({"behaviour": behaviour, "value": value, "why": why})


def _in_words(asked: Asked, language: str) -> str | None:
    """The right answer as the world writes it."""
    if asked.truth is None:
        return None
    word = {True: "yes", False: "no"}.get(asked.truth, asked.truth)
    return say(word, language)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
