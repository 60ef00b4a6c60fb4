"""MME from its release folder: two yes/no questions a picture, and a bonus for both being right."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np

from labs.errors import InputError
from labs.evaluation.answers import mme_rule, read_yes_no
from labs.evaluation.mme import mme_scores
from labs.evaluation.reading import Reading
from labs.formats.mme import COGNITION, PERCEPTION, MmeQuestion, read_mme, write_mme_answers
from labs.suites.benchmarks.base import Benchmark, subsets, yes_no_words
from labs.suites.contract import Measure, Question, Row
from labs.suites.summary import RESAMPLES, SEED, mean_of, mean_score, share


class Mme(Benchmark):
    """The questions of an MME folder, or of a folder of answer files (`labs.formats.read_mme`).

    n: questions of each task, the first ones; the two of a picture stay together, so an odd number
    asks one more. The questions say "Please answer yes or no." themselves; LLaVA-1.5's sentence
    follows them, as in its own run of MME.

    Measures: `accuracy` of single questions, `accuracy_plus` (pictures of which both answers are
    right), `yes_rate`, then MME's own scores, which are no shares:

        task/T      100 · accuracy + 100 · accuracy_plus of the task, at most 200
        perception  the sum over the ten tasks of perception, at most 2,000
        cognition   the sum over the four of cognition, at most 800

    A guess gets 75 of 200. A sum is there only where all its tasks are: over some of them it would
    look like a bad score.

    The official rule looks at the first four letters of the answer for yes, then for no: "now" says
    no. Raises InputError for a folder of a task that MME does not have (the official script would not
    open it) and for what `read_mme` refuses, such as a picture with other than two questions.
    Intervals draw pictures within each task. Fu et al. 2023, arXiv:2306.13394; BradyFU/Awesome-Multimodal-
    Large-Language-Models, branch Evaluation, eval_tool/calculation.py. Chapter 7.
    """

    name = "mme"
    label = "MME"
    told = ("accuracy", "accuracy_plus", "yes_rate", "perception", "cognition")

    def __init__(
        self,
        path: str | os.PathLike,
        image_root: str | os.PathLike | None = None,
        n: int | None = None,
        **options,
    ):
        super().__init__(path, n=n, **options)
        self.image_root = Path(image_root) if image_root is not None else None
        if not self.path.exists():
            raise InputError(
                f"There is no MME folder {self.path}.",
                "Give the folder of its release, which holds a folder for each task.",
            )

    def files(self) -> list[Path]:
        if self.path.is_file():
            return [self.path]
        return sorted(f for f in self.path.rglob("*.txt") if f.name.lower() != "readme.txt")

    def questions(self) -> Iterator[Question]:
        for task, items in groupby(read_mme(self.path, self.image_root), key=lambda q: q.task):
            if task not in PERCEPTION + COGNITION:
                raise InputError(
                    f"{self.path}: MME has no task {task!r}.",
                    f"Its tasks are {', '.join(PERCEPTION + COGNITION)}; move other folders away.",
                )
            asked = 0
            for image, pair in groupby(items, key=lambda q: q.image):
                if self.n is not None and asked >= self.n:
                    continue  # the rest is read all the same: a mistake in it is told
                for number, item in enumerate(pair, 1):
                    yield self._question(task, image, number, item)
                asked += 2

    def _question(self, task: str, image: str, number: int, item: MmeQuestion) -> Question:
        picture = f"{task}/{os.path.basename(image)}"
        return Question(
            id=f"{picture}/{number}",
            prompt=self.asked(item.question),
            answer=item.label,
            images=(image,),
            about={"task": task, "image": os.path.basename(image), "question": item.question},
            group=picture,
        )

    def read_ours(self, question: Question, said: str) -> Reading:
        return yes_no_words(read_yes_no(said))

    def read_official(self, question: Question, said: str) -> Reading:
        return yes_no_words(mme_rule(" ".join(said.split())))  # a cell of one line

    def summed(self, rows: Sequence[Row]) -> dict[str, Measure]:
        scores = mme_scores(
            [row.score == 1 for row in rows],
            [row.group for row in rows],
            [row.about["task"] for row in rows],
        )
        both = _pictures(rows)
        found = {
            "accuracy": mean_score(rows),
            "accuracy_plus": mean_of(both, lambda row: row.score),
            "yes_rate": share(rows, lambda row: row.parsed == "yes"),
        }
        parts = {task: _worth(part) for task, part in subsets(rows, "task").items()}
        for name, tasks in (("perception", PERCEPTION), ("cognition", COGNITION)):
            if (total := getattr(scores, name)) is not None:
                found[name] = _sum(total, [parts[task] for task in tasks])
        for task, part in parts.items():
            found[f"task/{task}"] = _sum(scores.subtasks[task].score, [part])
        return found

    def write_answers(self, rows: Sequence[Row], folder: str | os.PathLike) -> list[Path]:
        """Write TASK.txt for each task, as MME's calculation.py takes them (`--results_dir`).

        The script wants all 14 tasks; give it the folder of an answer file for each.
        """
        items = [
            MmeQuestion(row.about["task"], row.about["image"], row.about["question"], row.answer, row.said)
            for row in rows
        ]  # fmt: skip
        write_mme_answers(items, folder)
        return [Path(folder) / f"{task}.txt" for task in subsets(rows, "task")]


def _pictures(rows: Sequence[Row]) -> list[Row]:
    """A row for each picture: right where all its answers are."""
    whole: dict[str, Row] = {}
    for row in rows:
        before = whole.get(row.group, row)
        whole[row.group] = replace(before, id=row.group, score=min(before.score, row.score))
    return list(whole.values())


def _worth(rows: Sequence[Row]) -> np.ndarray:
    """What each picture adds to its task, [pictures], whose mean is the task's score: with one of the
    two answers right 50, with both 200."""
    scores: dict[str, list[float]] = {}
    for row in rows:
        scores.setdefault(row.group, []).append(row.score)
    return np.array([100 * np.mean(pair) + 100 * (min(pair) == 1) for pair in scores.values()])


def _sum(value: float, parts: Sequence[np.ndarray]) -> Measure:
    """A sum of means with its interval: pictures are drawn within each task. n: pictures."""
    rng = np.random.default_rng(SEED)
    drawn = sum(
        part[rng.integers(0, len(part), size=(RESAMPLES, len(part)))].mean(axis=1) for part in parts
    )
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Measure(float(value), float(low), float(high), sum(map(len, parts)))
