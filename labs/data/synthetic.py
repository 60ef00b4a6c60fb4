"""Synthetic data that can be checked: the model writes, the oracle keeps what is true.

Where there is no oracle, agreement is the poor man's: what a model says k times over is true more often
than what it says once. `synthesise` does either, or both, so that the one can be measured by the other.
"""

import os
import random
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

from PIL import Image
from scipy.stats import binomtest

from labs.errors import InputError
from labs.formats import IMAGE, write_llava
from labs.formats.fingerprints import plain_text
from labs.shapes import QA, Scene, is_correct, judge, mentions, render, seeded
from labs.shapes.tasks import describe

Generate = Callable[[list[tuple[Image.Image, str]]], list[str]]
Ask = Callable[[random.Random, Scene], QA]
Judge = Callable[[Scene, QA, str], Sequence[str]]

UNREADABLE = "unreadable"
PROBLEMS = (UNREADABLE, "hallucinated", "mistaken", "missing", "wrong")


def ask_for_caption(rng: random.Random, scene: Scene) -> QA:
    """ "Describe the image." """
    return describe(rng, scene, "en")


def oracle_problems(scene: Scene, question: QA, text: str) -> list[str]:
    """What the oracle finds wrong with an answer; an empty list where it is true.

    Of a caption: "hallucinated" (an object that is not there), "mistaken" (a wrong colour, size or
    place), "missing" (an object not named), or "unreadable" where it names none. Of any other answer:
    "wrong", or "unreadable" where it is no answer to such a question.
    """
    if question.task == "caption" and not scene.digits:
        if not mentions(text):
            return [UNREADABLE]
        found = judge(scene, text)
        return [name for name in ("hallucinated", "mistaken", "missing") if getattr(found, name)]
    task = "ocr" if scene.digits else question.task
    answer = question.answer if task != "ocr" else "".join(filter(str.isdigit, question.answer))
    correct = is_correct(task, scene, answer, text)
    return [UNREADABLE] if correct is None else [] if correct else ["wrong"]


class Rate(NamedTuple):
    """A proportion with its 95 % Wilson interval; NaN where there was nothing to count."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, count: int, total: int) -> "Rate":
        if not total:
            return cls(float("nan"), 0.0, 1.0)
        interval = binomtest(count, total).proportion_ci(method="wilson")
        return cls(count / total, float(interval.low), float(interval.high))


@dataclass
class SyntheticReport:
    """What became of the answers, in the order of the checks.

    asked = disagreed + unreadable + wrong + duplicates + len(kept), with an oracle. `problems` counts
    answers by what is wrong with them; one caption may hallucinate and miss. Without an oracle
    nothing is known to be unreadable or wrong, and the rates of error are NaN.
    kept: LLaVA records with their pictures.
    """

    asked: int = 0
    disagreed: int = 0
    unreadable: int = 0
    wrong: int = 0
    duplicates: int = 0
    problems: Counter = field(default_factory=Counter)
    kept: list[dict] = field(default_factory=list)
    checked: bool = True

    @property
    def yield_rate(self) -> Rate:
        """Of all that was asked, the share that is kept."""
        return Rate.of(len(self.kept), self.asked)

    @property
    def error_rate(self) -> Rate:
        """Of the answers that could be read (and on which the samples agreed), the share that is wrong."""
        read = self.asked - self.disagreed - self.unreadable
        return Rate.of(self.wrong, read if self.checked else 0)

    @property
    def precision(self) -> Rate:
        """Of the answers that came to the oracle, the share that is true: what an unchecked set would hold."""
        judged = self.asked - self.disagreed
        return Rate.of(judged - self.wrong - self.unreadable, judged if self.checked else 0)

    def write(self, path: str | os.PathLike) -> int:
        """Writes the kept records as LLaVA JSON (JSONL if `path` ends so) with their pictures beside it.

        Raises InputError where nothing was kept.
        """
        return write_llava(self.kept, path)


def synthesise(
    generate: Generate,
    scenes: Iterable[Scene],
    ask: Ask = ask_for_caption,
    judge: Judge | None = oracle_problems,
    *,
    samples: int = 1,
    agree: int | None = None,
    key: Callable[[str], Hashable] = plain_text,
    resolution: int = 48,
    batch_size: int = 256,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> SyntheticReport:
    """Asks a model about pictures and keeps the answers that pass the checks.

    generate: a list of (picture, prompt) in, as many texts out; any callable. ask: the question about
    a scene, with a generator of its own (`seed` and the scene's number decide it). judge: names what
    is wrong with an answer (none: true); None keeps answers unchecked.
    samples, agree: `generate` is called `samples` times for each question, and only answers go on to
    which at least `agree` of them (all, if None) come, compared by `key`; the callable must sample
    then, or it agrees with itself for nothing. An answer that was kept before about a scene that
    looks the same is dropped as a duplicate.

    Raises InputError for no scenes, for less than one sample, and where `generate` returns another
    number of texts. Chapter 2.
    """
    if samples < 1 or not 1 <= (agree or samples) <= samples:
        raise InputError(
            f"{agree} of {samples} samples cannot agree.", "Give samples=5, agree=4, for instance."
        )
    report = SyntheticReport(checked=judge is not None)
    seen: set[tuple] = set()
    stream = enumerate(scenes)
    while batch := list(islice(stream, batch_size)):
        questions = [ask(seeded("synthetic", seed, number), scene) for number, scene in batch]
        pictures = [render(scene, resolution) for _, scene in batch]
        prompts = [(p, qa.question) for p, qa in zip(pictures, questions, strict=True)]
        texts = _agreed(generate, prompts, samples, agree or samples, key)
        for (number, scene), qa, picture, text in zip(
            batch, questions, pictures, texts, strict=True
        ):
            report.asked += 1
            if text is None:
                report.disagreed += 1
                continue
            problems = judge(scene, qa, text) if judge else ()
            report.problems.update(problems)
            if UNREADABLE in problems:
                report.unreadable += 1
            elif problems:
                report.wrong += 1
            elif (once := (scene.content(), qa.question, key(text))) in seen:
                report.duplicates += 1
            else:
                seen.add(once)
                report.kept.append(_record(f"synthetic-{seed}-{number}", qa, picture, text))
        if progress:
            progress(report.asked)
    if not report.asked:
        raise InputError("There is no scene to ask about.", "Check what was selected.")
    return report


def self_consistent(
    generate: Generate,
    prompts: Sequence[tuple[Image.Image, str]],
    samples: int = 5,
    agree: int | None = None,
    key: Callable[[str], Hashable] = plain_text,
) -> list[str | None]:
    """For each prompt the answer on which at least `agree` (all, if None) of `samples` samples agree, or None.

    Two answers agree where `key` makes them equal; the first of them is returned. After Wang et al.,
    arXiv:2203.11171, who take the majority of reasoned answers; here disagreement is a reason to drop.
    """
    if samples < 2 or not 2 <= (agree or samples) <= samples:
        raise InputError(
            f"{agree} of {samples} samples cannot agree.", "Give samples=5, agree=4, for instance."
        )
    return _agreed(generate, list(prompts), samples, agree or samples, key)


def _agreed(generate: Generate, prompts: list, samples: int, agree: int, key) -> list[str | None]:
    rounds = [generate(prompts) for _ in range(samples)]
    for texts in rounds:
        if len(texts) != len(prompts):
            raise InputError(
                f"{len(prompts)} questions were asked and {len(texts)} answers came back.",
                "`generate` must return one text for each (picture, prompt), in their order.",
            )
    out: list[str | None] = []
    for answers in zip(*rounds, strict=True):
        votes = Counter(map(key, answers))
        best, count = votes.most_common(1)[0]
        out.append(next(a for a in answers if key(a) == best) if count >= agree else None)
    return out


def _record(id: str, question: QA, picture: Image.Image, text: str) -> dict[str, Any]:
    return {
        "id": id,
        "image": picture,
        "conversations": [
            {"from": "human", "value": f"{IMAGE}\n{question.question}"},
            {"from": "gpt", "value": text},
        ],
        "meta": {"task": question.task, "source": "synthetic"},
    }
