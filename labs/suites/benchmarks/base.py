"""What the benchmark suites share: two ways to read an answer, withheld answers, prompts, digests."""

import functools
import hashlib
import os
import re
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from labs.errors import InputError
from labs.evaluation.reading import Reading
from labs.suites.contract import Measure, Question, Row, Suite
from labs.suites.summary import share

RULES = ("ours", "official")

# LLaVA-1.5's prompts (haotian-liu/LLaVA, docs/Evaluation.md and llava/eval/model_vqa_mmbench.py, which
# has the Chinese one for letters; the other Chinese sentence is this project's).
LETTER = {
    "en": "Answer with the option's letter from the given choices directly.",
    "zh": "请直接回答选项字母。",
}
SHORT = {
    "en": "Answer the question using a single word or phrase.",
    "zh": "请用一个词或短语回答问题。",
}


class Benchmark(Suite):
    """A public benchmark read from its own files.

    n: questions asked (what is counted, each suite says); None asks all. instruction: the sentence
    after each question; None takes LLaVA-1.5's, in `language`, or where that is None too in the
    language of the question. "" asks the bare question.

    rule: how answers are read. "ours" reads like `labs.evaluation.answers` and tells what it cannot
    read; "official" reads as the benchmark's own script does, so that scores agree with published
    ones. With "ours" the script's number stands beside every headline number from which it differs,
    its name ending in `_official`: a gap between the two is a model that answers in a form that one
    of them misreads.

    A file that keeps its answers back (a test split) is asked all the same, so that what was said can
    be handed in. Nothing is scored then: the one measure is the share of answers that can be read. Of
    a file with some answers those are scored. Chapter 7.
    """

    label: str  # the benchmark's name as people write it
    main: str = "accuracy"  # the headline where there are answers
    told: tuple[str, ...] = ("accuracy",)  # measures whose official value is worth a line
    prompts = SHORT

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        n: int | None = None,
        instruction: str | None = None,
        language: str | None = None,
        rule: str = "ours",
    ):
        if n is not None and n < 1:
            raise InputError(f"A suite of {n} questions has none.", "Ask at least one.")
        if rule not in RULES:
            raise InputError(f"There is no rule {rule!r}.", "Use 'ours' or 'official'.")
        if language not in (None, *self.prompts):
            raise InputError(f"There is no language {language!r}.", "Use 'en' or 'zh'.")
        self.path, self.n, self.instruction = Path(path), n, instruction
        self.language, self.rule = language, rule

    @property
    def title(self) -> str:
        said = "" if self.scored else "; its answers are held back, so nothing is scored"
        return f"{self.label} ({self.path.name}{said})"

    @property
    def headline(self) -> str:
        return self.main if self.scored else "answered"

    @functools.cached_property
    def scored(self) -> bool:
        """Whether the file says the right answer of any question that is asked."""
        return any(question.answer is not None for question in self.questions())

    def settings(self) -> dict:
        return {
            "file": self.path.name, "sha256": digest(self.files()), "n": self.n, "rule": self.rule,
            "instruction": self.instruction if self.instruction is not None else self.prompts,
            "language": self.language,
        }  # fmt: skip

    @abstractmethod
    def files(self) -> list[Path]:
        """The files that say what is asked and what is right."""

    @abstractmethod
    def read_ours(self, question: Question, said: str) -> Reading: ...

    @abstractmethod
    def read_official(self, question: Question, said: str) -> Reading: ...

    def read(self, question: Question, said: str) -> Reading:
        return (self.read_ours if self.rule == "ours" else self.read_official)(question, said)

    def score(self, question: Question, reading: Reading) -> float:
        return float(reading.value == question.answer)

    @abstractmethod
    def summed(self, rows: Sequence[Row]) -> dict[str, Measure]:
        """The measures of rows that have an answer."""

    def measures(self, rows: Sequence[Row]) -> dict[str, Measure]:
        known = [row for row in rows if row.answer is not None]
        if not known:
            return {"answered": share(rows, lambda row: row.status == "read")}
        found = self.summed(known)
        if self.rule == "ours":
            script = self.summed([self.by_script(row) for row in known])
            told = [name for name in self.told if name in found]
            gaps = [name for name in told if script[name].value != found[name].value]
            found |= {f"{name}_official": script[name] for name in gaps}
        return found

    def by_script(self, row: Row) -> Row:
        """The row as the benchmark's own script reads and scores what was said."""
        question = Question(row.id, row.prompt, row.answer, about=row.about, group=row.group)
        reading = self.read_official(question, row.said)
        score = self.score(question, reading) if reading.status == "read" else 0.0
        return replace(row, status=reading.status, parsed=reading.value, score=score)

    def ending(self, question: str) -> str:
        """The instruction that follows a question."""
        if self.instruction is not None:
            return self.instruction
        return self.prompts[self.language or ("zh" if re.search(r"[㐀-鿿]", question) else "en")]

    def asked(self, question: str) -> str:
        """The question and its instruction on a line of its own."""
        return "\n".join(line for line in (question, self.ending(question)) if line)


def digest(files: Sequence[Path]) -> str:
    """SHA-256 of a file; of several, of the list that `sha256sum` prints of them (bare names)."""
    sums = []
    for path in files:
        with open(path, "rb") as file:
            sums.append(hashlib.file_digest(file, "sha256").hexdigest())
    if len(sums) == 1:
        return sums[0]
    lines = [f"{total}  {path.name}\n" for total, path in zip(sums, files, strict=True)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def yes_no_words(reading: Reading) -> Reading:
    """A reading of True or False in the words of POPE's and MME's labels."""
    if reading.status != "read":
        return reading
    return Reading("yes" if reading.value else "no")


def subsets(rows: Sequence[Row], key: str) -> dict[str, list[Row]]:
    """The rows by what `about` says under `key`, in alphabetical order; rows that say nothing last,
    as "none given"."""
    found: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: (row.about.get(key) is None, row.about.get(key) or "")):
        found.setdefault(row.about.get(key) or "none given", []).append(row)
    return found
