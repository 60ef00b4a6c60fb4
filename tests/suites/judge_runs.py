"""Results folders of the world's captions, written by the real runner for models that speak by rule."""

from pathlib import Path

from labs.shapes import caption
from labs.suites.contract import Answer
from labs.suites.offline.base import scene_of
from labs.suites.registry import load_suite
from labs.suites.runner import run
from tests.suites.judge_world import with_ghost, without_last


class Speaker:
    """Answers a captions suite by a rule: (scene, number of the question) -> text."""

    def __init__(self, name: str, rule):
        self.name, self.rule = name, rule

    def describe(self) -> dict:
        return {"name": self.name, "pictures": "seen"}

    def length(self, question) -> int:
        return len(question.prompt)

    def answer(self, questions):
        said = [
            self.rule(scene_of(q.about["objects"]), int(q.id.rsplit("-", 1)[1])) for q in questions
        ]
        return [Answer(text, len(text), True) for text in said]


RULES = {
    "good-model": lambda scene, number: caption(scene),
    "ghostly-model": lambda scene, number: (with_ghost if number % 3 else caption)(scene),
    "terse-model": lambda scene, number: without_last(scene) or "nothing.",
}


def runs(folder: Path, n: int = 24, names=("good-model", "ghostly-model"), **options) -> list[Path]:
    """A finished run of each named speaker."""
    folders = []
    for name in names:
        suite = load_suite("captions", n=n, **options)
        folders.append(run(Speaker(name, RULES[name]), suite, folder / name / "captions").folder)
    return folders
