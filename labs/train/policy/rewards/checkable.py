"""Rewards that a program can check: the offline world's oracle, and a file's right answers. Chapter 5."""

import string
from collections.abc import Sequence

from labs.data.preference.quality import caption_quality
from labs.evaluation.answers import read_choice, read_number, read_text, read_yes_no
from labs.evaluation.answers.normal import bare, normal
from labs.evaluation.answers.numbers import whole_number
from labs.evaluation.answers.yes_no import plain_verdict
from labs.shapes import is_correct
from labs.train.policy.completion import Completion
from labs.train.policy.prompts import Prompt


class WorldReward:
    """1 for a right answer, 0 for a wrong one; a caption's `caption_quality`, from -1 to 1.

        caption: (right - hallucination · invented - mistake · mistaken) / shown, clipped to [-1, 1]

    `labs.data.preference.quality` has the terms. An answer that cannot be read is worth 0 and counted
    in `unread`. Prompts without a scene get None. Chapter 5.
    """

    name = "world"

    def __init__(self, hallucination: float = 1.5, mistake: float = 0.5):
        self.hallucination, self.mistake = hallucination, mistake
        self.unread = 0

    def __call__(
        self, prompts: Sequence[Prompt], completions: Sequence[Completion]
    ) -> list[float | None]:
        return [self._score(p, c.text) for p, c in zip(prompts, completions, strict=True)]

    def _score(self, prompt: Prompt, text: str) -> float | None:
        scene, qa = prompt.about.get("scene"), prompt.about.get("qa")
        if scene is None or qa is None:
            return None
        if qa.task == "caption":
            return caption_quality(scene, text, self.hallucination, self.mistake)
        verdict = is_correct(qa.task, scene, qa.answer, text)
        self.unread += verdict is None
        return float(verdict is True)


class AnswerReward:
    """1 where a completion gives exactly the prompt's `answer`, else 0; None without an answer.

    What the right answer is decides how the completion is read (`labs.evaluation.answers`): a yes or a
    no, a number, a choice (the answer is a letter, or `about["options"]` lists texts and the answer is
    a letter or one of them), else any text, compared without case, spacing, markup and a final full
    stop. Completions that cannot be read are worth 0 and counted in `unread`. Chapter 5.
    """

    name = "answer"

    def __init__(self):
        self.unread = 0

    def __call__(
        self, prompts: Sequence[Prompt], completions: Sequence[Completion]
    ) -> list[float | None]:
        return [self._score(p, c.text) for p, c in zip(prompts, completions, strict=True)]

    def _score(self, prompt: Prompt, text: str) -> float | None:
        if prompt.answer is None:
            return None
        wanted, reading = _read(prompt, text)
        self.unread += reading.status != "read"
        return float(reading.status == "read" and reading.value == wanted)


def _read(prompt: Prompt, text: str):
    """The right answer and the completion's reading, both in the form of the right answer."""
    truth = bare(normal(prompt.answer))
    options = prompt.about.get("options")
    if isinstance(options, list | tuple) and options:
        letters = string.ascii_uppercase[: len(options)]
        # The options' own words first: an option may be called "A".
        texts = [bare(normal(str(o))).casefold() for o in options]
        if truth.casefold() in texts:
            truth = letters[texts.index(truth.casefold())]
        return truth.upper(), read_choice(text, [str(o) for o in options])
    verdict = plain_verdict(truth.lower())
    if verdict is not None:
        return verdict, read_yes_no(text)
    if len(truth) == 1 and truth in "ABCDEFGH":
        return truth, read_choice(text, list("ABCDEFGH"))
    number = whole_number(truth)
    if number is not None:
        return number, read_number(text)
    reading = read_text(text)
    if reading.status == "read":
        reading = reading._replace(value=_plain(reading.value))
    return _plain(read_text(prompt.answer).value or prompt.answer), reading


def _plain(text: str) -> str:
    """Without case, spacing, markup and what stands around it."""
    return " ".join(bare(normal(text)).casefold().split())
