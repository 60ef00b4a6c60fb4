"""Multiple choice with four options, once or in every rotation (MMBench's CircularEval)."""

from collections.abc import Iterator, Sequence

from labs.evaluation.answers import read_choice
from labs.evaluation.choice import circular_accuracy
from labs.evaluation.intervals import wilson_ci
from labs.evaluation.reading import Reading
from labs.shapes import seeded
from labs.suites.contract import Measure, Question, Row
from labs.suites.offline.base import WorldSuite
from labs.suites.offline.choice_items import FORMS, LETTERS, Item, make_item
from labs.suites.summary import mean_score, share, unparsed

INSTRUCTION = {
    "en": "Answer with the option's letter from the given choices directly.",
    "zh": "请直接回答选项字母。",
}


class Choice(WorldSuite):
    """`n` questions with the options A to D, about kinds, colours, counts and whole descriptions.

    The prompt is LLaVA-1.5's for MMBench: the question, an option a line, and the wish for a letter.
    The right letter is each of the four equally often, in every form.

    circular: each question is asked four times, its options moved on by one each time, and counts
    only if all four answers are right. A model that guesses gets a quarter of single questions and
    (1/4)^4 = 0.4 % of circular ones; one that always says "A" gets a quarter and none at all.

    *Models that know no letters.* The tiny models have never seen one; asked in words they show how
    format hides skill. Every question therefore also carries, in `about`, what other answerers need:
    `question` and `candidates` (each option as the answer to the bare question, to be compared by
    likelihood: `labs.suites.likelihood`) and `captions` (each option as a caption of the whole
    picture, for a dual encoder), in the order of `letters`. All of them answer with a letter, so one
    suite compares them all.

    Liu et al. 2023 (MMBench), arXiv:2307.06281, section 4; LLaVA docs/Evaluation.md. Chapter 7.
    """

    def __init__(
        self,
        *,
        circular: bool = False,
        n: int = 500,
        language: str = "en",
        split: str = "test",
    ):
        super().__init__(n=n, language=language, split=split)
        self.circular = circular
        self.name = "choice_circular" if circular else "choice"
        self.headline = "circular_accuracy" if circular else "accuracy"
        times = "in all four rotations" if circular else "asked once"
        self.title = f"Multiple choice with four options, {times}"

    def settings(self) -> dict:
        return {**super().settings(), "circular": self.circular}

    def questions(self) -> Iterator[Question]:
        for number in range(self.n):
            item = make_item(number, self.split, self.language)
            order = _deal(number, self.split)
            for rotation in range(len(LETTERS) if self.circular else 1):
                yield self._ask(item, order[rotation:] + order[:rotation], rotation)

    def _ask(self, item: Item, order: list[int], rotation: int) -> Question:
        options = [item.options[i] for i in order]
        lines = [f"{letter}. {text}" for letter, text in zip(LETTERS, options, strict=True)]
        return Question(
            id=f"{item.id}-{rotation}" if self.circular else item.id,
            prompt="\n".join([item.asked, *lines, INSTRUCTION[self.language]]),
            answer=LETTERS[order.index(0)],
            images=(item.image,),
            about={
                "form": item.form, "rotation": rotation, "language": self.language,
                "letters": list(LETTERS), "options": options, "question": item.bare,
                "candidates": options, "captions": [item.captions[i] for i in order],
                "description": item.description,
            },
            group=item.id,
        )  # fmt: skip

    def read(self, question: Question, said: str) -> Reading:
        return read_choice(said, question.about["options"])

    def score(self, question: Question, reading: Reading) -> float:
        return float(reading.value == question.answer)

    def measures(self, rows: Sequence[Row]) -> dict[str, Measure]:
        """The headline; accuracy of single answers, by form too; how often each letter is said.

        A letter said by more than a quarter of the answers is a bias, for each is right in a quarter
        (exactly, where n is a multiple of 16 or all rotations are asked). chance: what guessing gets of
        the headline.
        """
        found = {}
        if self.circular:
            found["circular_accuracy"] = circular(rows)
        found["accuracy"] = mean_score(rows)
        for form in FORMS:
            if of_form := [row for row in rows if row.about["form"] == form]:
                found[f"accuracy_{form}"] = mean_score(of_form)
        for letter in LETTERS:
            found[f"said_{letter}"] = share(rows, lambda row, letter=letter: row.parsed == letter)
        found["unparsed"] = unparsed(rows)
        guess, groups = 1 / len(LETTERS), len({row.group for row in rows})
        chance = guess ** len(LETTERS) if self.circular else guess
        found["chance"] = Measure(chance, None, None, groups)
        return found


def circular(rows: Sequence[Row]) -> Measure:
    """The share of questions that were answered right in all rotations. InputError where one lacks."""
    groups = [row.group for row in rows]
    value = circular_accuracy([row.score for row in rows], groups, passes=len(LETTERS))
    n = len(set(groups))
    low, high = wilson_ci(round(value * n), n)
    return Measure(value, float(low), float(high), n)


def _deal(number: int, split: str) -> list[int]:
    """Which option stands at A, B, C and D. Of four questions of a form in a row the right one (0)
    stands at each place once; the wrong ones fall as they may."""
    form, index = number % len(FORMS), number // len(FORMS)
    block, within = divmod(index, len(LETTERS))
    places = seeded("letters", split, form, block).sample(range(len(LETTERS)), len(LETTERS))
    order = seeded("options", split, number).sample(range(1, len(LETTERS)), len(LETTERS) - 1)
    order.insert(places[within], 0)
    return order
