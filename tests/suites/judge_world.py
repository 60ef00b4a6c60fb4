"""Pairs of captions of real scenes, and judges whose habits are known."""

import functools
import random

from labs.shapes import caption, make_record
from labs.shapes.scene import Object, Scene
from labs.shapes.vocabulary import COLOURS, KINDS
from labs.suites.judge import Judge, Pair, PointwiseJudge


def without_last(scene: Scene, language: str = "en") -> str:
    """The caption with its last object left out: shorter, and worse."""
    return caption(scene, language, list(range(len(scene.objects) - 1)))


def with_ghost(scene: Scene, language: str = "en") -> str:
    """The caption with an object that is not there: longer, and worse."""
    kind = next(kind for kind in KINDS if kind not in scene.kinds)
    cell = next(cell for cell in range(9) if cell not in {o.cell for o in scene.objects})
    return caption(Scene((*scene.objects, Object(kind, "red", "small", cell))), language)


def wrong_colour(scene: Scene, language: str = "en") -> str:
    """The caption with the first object in another colour, in which no object of its kind is."""
    first = scene.objects[0]
    shown = {o.colour for o in scene.objects if o.kind == first.kind}
    colour = next(colour for colour in COLOURS if colour not in shown)
    changed = Object(first.kind, colour, first.size, first.cell)
    return caption(Scene((changed, *scene.objects[1:])), language)


@functools.cache
def scenes(n: int, language: str = "en") -> list[dict]:
    """`n` records of captions with two objects or more; drawn once for all tests."""
    found, index = [], 0
    while len(found) < n:
        record = make_record("caption", index, "test", language)
        if len(record["meta"]["scene"].objects) > 1:
            found.append(record)
        index += 1
    return found


def pairs(n: int = 40, language: str = "en", seed: int = 0, groups: int | None = None):
    """Pairs of a true caption and a spoilt one, on either side, and which side is the true one."""
    rng = random.Random(seed)
    made, truth = [], []
    for number, record in enumerate(scenes(n, language)):
        scene = record["meta"]["scene"]
        good = caption(scene, language)
        bad = rng.choice((without_last, with_ghost, wrong_colour))(scene, language)
        side = rng.choice(("first", "second"))
        first, second = (good, bad) if side == "first" else (bad, good)
        group = None if groups is None else str(number % groups)
        made.append(
            Pair(
                record["id"], record["meta"]["turns"][0].question, first, second,
                (record["image"],), scene, group,
            )
        )  # fmt: skip
        truth.append(side)
    return made, truth


class Habit(Judge):
    """A judge by a rule: (pair, generator) -> verdict. Counts how often it is asked."""

    def __init__(self, rule, model: str | None = None, seed: int = 0):
        super().__init__()
        self.name, self.model, self.rule = "habit", model, rule
        self.rng, self.asked = random.Random(seed), 0

    def requests(self, pairs):
        raise AssertionError("nobody asked what it costs")

    def compare(self, pairs, *, batch_size=32, progress=None):
        self.asked += len(pairs)
        if progress:
            progress(len(pairs))
        return [self.rule(pair, self.rng) for pair in pairs]


class Marks(PointwiseJudge):
    """A judge that marks each answer by a rule, its text -> number."""

    name = "marks"

    def __init__(self, rule, model: str | None = None):
        super().__init__()
        self.rule, self.model, self.asked = rule, model, 0

    def requests(self, pairs):
        raise AssertionError("nobody asked what it costs")

    def marks(self, pairs, *, batch_size=32, progress=None):
        self.asked += len(pairs)
        return [(self.rule(pair.first), self.rule(pair.second)) for pair in pairs]
