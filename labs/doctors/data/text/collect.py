"""What is found out about a stretch of samples, in a form that is cheap to send and to add up.

Standard library only, Python 3.9 or newer.
"""

# ruff: noqa: B905  (Python 3.9 has no zip(strict=); each sample has one answer)
from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from labs.doctors.data.sample import Place, Problem, Sample
from labs.doctors.data.tally import EXAMPLES, Tally
from labs.doctors.data.text import digests
from labs.doctors.data.text.answers import yes_no
from labs.doctors.data.text.turns import Rules, caption_of, look
from labs.formats.row import Row, printable

_INLINE = 64  # characters of a data URL from which on its digest stands for it


# Samples -> for each its problems, its tokens, and the visual ones of these (None where unknown).
CountTokens = Callable[[list[Sample]], Iterable["tuple[list[Problem], int | None, int | None]"]]
_TOGETHER = 64  # samples whose tokens are counted together


@dataclass
class Part:
    """A stretch of one file. Records and references count from 0 in it; arrays have an entry a record.

    lines, starts: where records begin (line from 1, byte; 0 and -1 where unknown). digests: of the
    turns, 16 bytes each, zeros where there is no sample. ids: 0 where there is none. references: reference -> its
    number; uses, users: the reference and the record of each use. sources: where a reference that is
    no file lies: (shard, offset, size), or "data" for one inside the record. captions, captioned: the
    number and the record of each caption. questions, asked: numbers of questions, and how many of them
    each record has. answers: (language, answer) -> count.
    """

    records: int = 0
    samples: int = 0
    turns: int = 0
    tally: Tally = field(default_factory=Tally)
    lines: array = field(default_factory=lambda: array("Q"))
    starts: array = field(default_factory=lambda: array("q"))
    digests: bytearray = field(default_factory=bytearray)
    ids: array = field(default_factory=lambda: array("Q"))
    references: dict[str, int] = field(default_factory=dict)
    uses: array = field(default_factory=lambda: array("I"))
    users: array = field(default_factory=lambda: array("I"))
    sources: dict[int, Any] = field(default_factory=dict)
    captions: array = field(default_factory=lambda: array("Q"))
    captioned: array = field(default_factory=lambda: array("I"))
    questions: array = field(default_factory=lambda: array("Q"))
    asked: array = field(default_factory=lambda: array("H"))
    histograms: dict[str, Counter] = field(default_factory=dict)
    answers: Counter = field(default_factory=Counter)


class Collector:
    """Looks at samples one after the other and fills a Part.

    check: whether faults are looked for; a split that is only compared with needs none. questions:
    whether they are wanted. shards: whether images are members of a tar. tokens: what counts those of
    many samples at once, or None. Call `finish` at the end.
    """

    def __init__(
        self,
        rules: Rules,
        check: bool = True,
        questions: bool = False,
        shards: bool = False,
        tokens: CountTokens | None = None,
        examples: int = EXAMPLES,
    ) -> None:
        self.rules, self.check, self.questions = rules, check, questions
        self.shards, self.tokens = shards, tokens
        self.part = Part(tally=Tally(most=examples))
        self._waiting: list[Sample] = []  # for their tokens to be counted

    def fault(self, row: Row, file: str) -> None:
        """A row that is no record, but something wrong between records."""
        if self.check:
            kind, detail = row.problem
            self.part.tally.add(kind, Place(file, row.line), detail)

    def add(self, row: Row, sample: Sample) -> None:
        """A record: sound, or with faults that `sample.problems` already tells of."""
        part = self.part
        number = part.records
        part.records += 1
        part.lines.append(row.line or 0)
        part.starts.append(row.start)
        part.ids.append(digests.number(sample.id) if sample.id is not None else 0)
        if self.check:
            problems = look(sample, self.rules)
            if problems:
                name = printable(sample.id, 100) if sample.id is not None else None
                part.tally.add_problems(sample.place, name, problems)
        turns = sample.turns
        if not turns:
            part.digests += digests.NONE
            part.asked.append(0)
            return
        part.samples += 1
        part.turns += len(turns)
        part.digests += digests.turns_digest(sample)
        self._images(sample, number)
        if self.questions:
            asked = digests.question_numbers(sample)[:65_535]
            part.questions.extend(asked)
            part.asked.append(len(asked))
        else:
            part.asked.append(0)
        if self.check:
            self._count(sample, number)

    def _images(self, sample: Sample, number: int) -> None:
        part = self.part
        for reference in sample.images:
            source = None
            if reference.startswith("data:") and len(reference) > _INLINE:
                reference, source = f"data:{digests.number(reference):016x}", "data"
            index = part.references.setdefault(reference, len(part.references))
            if source:
                part.sources.setdefault(index, source)
            elif self.shards:
                shard, _, name = reference.partition("/")
                for member, offset, size in sample.raw["members"].values():
                    if member == name:
                        part.sources.setdefault(index, (shard, offset, size))
            part.uses.append(index)
            part.users.append(number)

    def _count(self, sample: Sample, number: int) -> None:
        part = self.part
        caption = caption_of(sample, self.rules)
        if caption is not None and sample.images:
            text = caption.strip().lower()
            if text:
                part.captions.append(digests.number(text))
                part.captioned.append(number)
        characters = 0
        for role, text in sample.turns:
            characters += len(text)
            if role == "assistant":
                answer = yes_no(text)
                if answer is not None:
                    part.answers[answer] += 1
        self._bin("turns", len(sample.turns))
        self._bin("images", len(sample.images))
        self._bin("characters", characters)
        if self.tokens is not None:
            self._waiting.append(sample)
            if len(self._waiting) >= _TOGETHER:
                self.finish()

    def finish(self) -> Part:
        """Count the tokens of the samples that wait for it; what was found so far."""
        waiting, self._waiting = self._waiting, []
        if waiting:
            for sample, (problems, tokens, visual) in zip(waiting, self.tokens(waiting)):
                if problems:
                    name = printable(sample.id, 100) if sample.id is not None else None
                    self.part.tally.add_problems(sample.place, name, problems)
                if tokens is not None:
                    self._bin("tokens", tokens)
                if visual is not None:
                    self._bin("visual_tokens", visual)
        return self.part

    def _bin(self, name: str, count: int) -> None:
        counts = self.part.histograms.get(name)
        if counts is None:
            counts = self.part.histograms[name] = Counter()
        counts[lower_edge(count)] += 1


def lower_edge(count: int) -> int:
    """The lower edge of the bin of a count: exact below 32, then 16 bins from one power of two to the next."""
    if count < 32:
        return count
    shift = count.bit_length() - 5
    return count >> shift << shift


def upper_edge(edge: int) -> int:
    """The largest count in the bin whose lower edge is `edge`."""
    return edge if edge < 32 else edge + (1 << edge.bit_length() - 5) - 1
