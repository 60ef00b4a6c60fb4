"""Two or more results folders side by side: the same questions, with the pictures, and all answers."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from labs.errors import InputError
from labs.suites.contract import Question
from labs.suites.judge.pairs import Pair
from labs.suites.offline.base import scene_of
from labs.suites.questions import fingerprint, prepare
from labs.suites.registry import load_again
from labs.suites.results import Run, read_run


@dataclass(frozen=True)
class Answered:
    """A question with what each model said to it. answers: in the order of `Together.models`."""

    question: Question
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Together:
    """Runs of several models on one suite."""

    suite: str
    models: tuple[str, ...]
    answered: list[Answered]

    def pairs(self, n: int | None = None, seed: int = 0) -> list[Pair]:
        """The first two models' answers, of all questions or of `n` drawn by `seed`, in their order.

        The scene is there for captions of the world: what the oracle reads are descriptions.
        """
        chosen = self.answered
        if n is not None:
            if n < 1:
                raise InputError(f"{n} pairs are none.", "Give --n 1 or more.")
            places = range(len(chosen))
            drawn = sorted(random.Random(seed).sample(places, min(n, len(chosen))))
            chosen = [chosen[i] for i in drawn]
        return [
            Pair(
                id=a.question.id, question=a.question.prompt, first=a.answers[0],
                second=a.answers[1], images=a.question.images, group=a.question.group,
                scene=self._scene(a.question),
            )
            for a in chosen
        ]  # fmt: skip

    def _scene(self, question: Question):
        objects = question.about.get("objects")
        return scene_of(objects) if self.suite == "captions" and objects else None


def side_by_side(folders: Sequence[str | Path]) -> Together:
    """Read finished runs of one suite. The suite is loaded again, for the pictures.

    Raises InputError for fewer than two runs, runs that were asked different questions, a suite whose
    files have changed since, and whatever `read_run` refuses.
    """
    if len(folders) < 2:
        raise InputError("One run has nothing to be compared with.", "Give two or more runs.")
    runs = [read_run(folder) for folder in folders]
    first = runs[0]
    for run in runs[1:]:
        if run.fingerprint != first.fingerprint:
            raise InputError(
                f"{first.folder} and {run.folder} were asked different questions "
                f"({first.suite} with {len(first.rows)}, {run.suite} with {len(run.rows)}).",
                "Run both models on one suite, with the same --n, --language and --split.",
            )
    questions = prepare(load_again(first.config))
    if fingerprint(questions) != first.fingerprint:
        raise InputError(
            f"The suite {first.suite} no longer asks what {first.folder} was asked.",
            "Restore its files, or run the models again.",
        )
    said = [{row.id: row.said for row in run.rows} for run in runs]
    answered = [Answered(q, tuple(answers[q.id] for answers in said)) for q in questions]
    return Together(first.suite, _names(runs), answered)


def _names(runs: list[Run]) -> tuple[str, ...]:
    """The models' names; with their folders where two runs have the same."""
    models = [run.model for run in runs]
    names = tuple(
        model if models.count(model) == 1 else f"{model} ({run.folder})"
        for model, run in zip(models, runs, strict=True)
    )
    if len(set(names)) < len(names):
        raise InputError("One run is given twice.", "Give two different results folders.")
    return names
