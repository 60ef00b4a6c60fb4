"""MMBench from its TSV: multiple choice, each question asked in every rotation of its options."""

import functools
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from labs.errors import InputError
from labs.evaluation.answers import read_choice, vlmevalkit_choice_rule
from labs.evaluation.choice import circular_accuracy, circular_scores
from labs.evaluation.intervals import wilson_ci
from labs.evaluation.reading import Reading
from labs.formats.mmbench import ROTATION, MMBenchQuestion, read_mmbench
from labs.suites.benchmarks.base import LETTER, Benchmark, subsets
from labs.suites.contract import Measure, Question, Row
from labs.suites.summary import mean_score


class MMBench(Benchmark):
    """Questions of an MMBench TSV (`labs.formats.read_mmbench`), also of CCBench and its like.

    Under CircularEval a question with N options is asked N times, its options moved on by one each
    time, and is right only if all N answers are. A file that holds the rotations (index + k ·
    1,000,000) is asked as it stands. Of a file with first passes only the rotations are made here;
    they get the same indices, so ids agree: "12", "1000012", "2000012". circular=False asks the first
    passes alone.

    n: questions, however often each is asked. Measures: `circular_accuracy` (the benchmark's number;
    `accuracy` takes its place with circular=False), `accuracy` of single answers, `first_pass`, the
    headline of a guess (`chance`), and the headline by ability (`category/…`, and `l2_category/…`
    above it). Abilities are those that the file names, known or not; a row without one counts under
    `category/none given`.

    The official rule is VLMEvalKit's without a judge model (`exact_matching`): what it cannot match
    is wrong. With a judge it takes a random option after three failed tries. Of a test split, whose
    answers only the MMBench server knows, `labs.suites.exports.write_vlmevalkit` writes the table to
    hand in (vlmevalkit/ in a results folder).

    Raises InputError for what `read_mmbench` refuses, and for a rotation without its first pass
    (VLMEvalKit leaves those out without a word). Liu et al. 2023, arXiv:2307.06281; open-compass/
    VLMEvalKit, vlmeval/dataset/utils/multiple_choice.py. Chapter 7.
    """

    name = "mmbench"
    label = "MMBench"
    prompts = LETTER

    def __init__(
        self, path: str | os.PathLike, n: int | None = None, circular: bool = True, **options
    ):
        super().__init__(path, n=n, **options)
        self.circular = circular
        self.main = "circular_accuracy" if circular else "accuracy"
        self.told = (self.main,) if not circular else (self.main, "accuracy")

    def files(self) -> list[Path]:
        return [self.path]

    def settings(self) -> dict:
        made = self.circular and not self._file.rotated
        return {
            **super().settings(), "circular": self.circular, "rotations": "made" if made else "file",
            # Groups with fewer passes than options are easier than the others.
            "short_groups": self._file.short if self.circular and not made else 0,
        }  # fmt: skip

    def questions(self) -> Iterator[Question]:
        chosen = set(self._file.groups[: self.n])
        for row in read_mmbench(self.path):
            if row.group not in chosen:
                continue
            if self.circular or row.index < ROTATION:
                yield self._question(row)
            if self.circular and not self._file.rotated:
                yield from (self._question(turned(row, k)) for k in range(1, len(row.options)))

    def _question(self, row: MMBenchQuestion) -> Question:
        asked = row.question if row.hint is None else f"{row.hint}\n{row.question}"
        return Question(
            id=str(row.index),
            prompt=row.prompt(self.ending(asked)),
            answer=row.answer,
            images=(row.image,),
            about={
                "index": row.index, "question": row.question, "hint": row.hint,
                "options": list(row.options), "category": row.category,
                "l2_category": row.l2_category, "split": row.split,
                # What an answerer needs that compares the options by likelihood.
                "candidates": list(row.options), "letters": list(row.letters),
            },
            group=str(row.group),
        )  # fmt: skip

    @functools.cached_property
    def _file(self) -> "_Passes":
        passes: dict[int, set[int]] = defaultdict(set)
        options: dict[int, int] = {}
        for row in read_mmbench(self.path):
            passes[row.group].add(row.index // ROTATION)
            options[row.group] = len(row.options)
        for group, there in passes.items():
            if 0 not in there:
                raise InputError(
                    f"{self.path}: index {group + min(there) * ROTATION} is a rotation of question "
                    f"{group}, which is not there.",
                    "Add the first pass of the question, or remove its rotations.",
                )
        rotated = any(len(there) > 1 for there in passes.values())
        short = sum(len(there) < options[group] for group, there in passes.items())
        return _Passes(list(passes), rotated, short)

    def read_ours(self, question: Question, said: str) -> Reading:
        return read_choice(said, question.about["options"])

    def read_official(self, question: Question, said: str) -> Reading:
        return vlmevalkit_choice_rule(said, question.about["options"])

    def summed(self, rows: Sequence[Row]) -> dict[str, Measure]:
        found = {self.main: self._headline(rows)}
        if self.circular:
            first = [row for row in rows if row.about["index"] < ROTATION]
            found |= {"accuracy": mean_score(rows), "first_pass": mean_score(first)}
        found["chance"] = self._chance(rows)
        for key in ("l2_category", "category"):
            for name, part in subsets(rows, key).items():
                found[f"{key}/{name}"] = self._headline(part)
        return found

    def _headline(self, rows: Sequence[Row]) -> Measure:
        if not self.circular:
            return mean_score(rows)
        groups = [row.group for row in rows]
        value = circular_accuracy([row.score for row in rows], groups)
        n = len(set(groups))
        low, high = wilson_ci(round(value * n), n)
        return Measure(value, low, high, n)

    @staticmethod
    def _chance(rows: Sequence[Row]) -> Measure:
        """What guessing a letter anew every time gets of the headline."""
        options = {row.group: len(row.about["options"]) for row in rows}
        groups = [row.group for row in rows]
        scores = circular_scores([row.score for row in rows], groups, options=options)
        return Measure(scores.circular_chance, None, None, scores.questions)


class _Passes(NamedTuple):
    groups: list[int]  # in the order of the file
    rotated: bool  # whether any question is there more than once
    short: int  # groups with fewer passes than options


def turned(row: MMBenchQuestion, k: int) -> MMBenchQuestion:
    """Pass `k` of CircularEval: the options moved up by k places, the first ones to the end.

    LLaVA turns them the same way (llava/eval/model_vqa_mmbench.py, `--all-rounds`).
    """
    k %= len(row.options)
    answer = row.answer
    if answer is not None:
        answer = row.letters[(row.letters.index(answer) - k) % len(row.options)]
    options = row.options[k:] + row.options[:k]
    return replace(row, index=row.group + k * ROTATION, options=options, answer=answer)
