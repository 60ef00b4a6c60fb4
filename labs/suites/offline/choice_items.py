"""Multiple-choice items about scenes: one right option and three that a careless look would take."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from labs.shapes import Object, Scene, caption, make_record, render, sample_scene, seeded
from labs.shapes.language import QUESTIONS
from labs.shapes.vocabulary import CELLS, COLOURS, KINDS, PARTNER, SIZES, say
from labs.suites.offline.base import described

FORMS = ("kind", "colour", "count", "description")
LETTERS = "ABCD"
WHICH = {"en": "Which description fits the picture?", "zh": "哪一个描述符合这张图片？"}


@dataclass(frozen=True)
class Item:
    """One question with four options; options[0] is right, the caller deals out the letters.

    asked: the question that stands above the options. bare: the question whose answer each option
    would be without them (what a model that knows no letters was trained on). captions: each option
    as a whole caption, for a dual encoder. description: the scene in words, for a text-only model.
    """

    id: str
    form: str
    image: Image.Image
    asked: str
    bare: str
    options: tuple[str, ...]
    captions: tuple[str, ...]
    description: str


def make_item(number: int, split: str, language: str) -> Item:
    """Item `number` of the endless list: the forms take turns."""
    form, index = FORMS[number % len(FORMS)], number // len(FORMS)
    name = f"{split}-choice-{language}-{form}-{index}"
    rng = seeded("choice", form, index, split)  # without the language: both show the same
    scene, image, bare, options, scenes = _MAKERS[form](rng, index, split, language)
    captions = tuple(caption(s, language) for s in scenes)
    asked = bare
    if options is None:  # the captions are the options
        options, asked = captions, WHICH[language]
    words = described(scene, language, name)
    return Item(name, form, image, asked, bare, tuple(options), captions, words)


def _colour(rng, index: int, split: str, language: str):
    """What colour is the ring? Colours of other objects come first among the wrong ones."""
    record = make_record("colour", index, split, language, by="kind")
    scene, [qa] = record["meta"]["scene"], record["meta"]["turns"]
    place = [o.kind for o in scene.objects].index(qa.about["kind"])
    true = scene.objects[place].colour
    elsewhere = [o.colour for o in scene.objects if o.colour != true]
    colours = [true, *_first(rng, elsewhere, COLOURS, {true})]
    scenes = [_with(scene, place, colour=c) for c in colours]
    return scene, record["image"], qa.question, [say(c, language) for c in colours], scenes


def _count(rng, index: int, split: str, language: str):
    """How many objects (one to four), or how many red ones (none to three)?"""
    of, low = (("all", 1), ("colour", 0))[index % 2]
    number = low + index // 2 % 4
    record = make_record("count", index, split, language, of=of, answer=number)
    scene, [qa] = record["meta"]["scene"], record["meta"]["turns"]
    wrong = [v for v in range(low, low + 4) if v != number]
    numbers = [number, *rng.sample(wrong, 3)]
    scenes = [_with_count(rng, scene, v, qa.about.get("colour")) for v in numbers]
    return scene, record["image"], qa.question, [str(v) for v in numbers], scenes


def _kind(rng, index: int, split: str, language: str):
    """The true description, and three with another kind for one object: companions come first."""
    scene = _scene(rng, split, lambda s: len(s.kinds) <= 3)
    place = rng.randrange(len(scene.objects))
    absent = [k for k in KINDS if k not in scene.kinds]
    companions = [k for k in absent if PARTNER[k] in scene.kinds]
    wrong = _first(rng, companions, absent, set())
    scenes = [scene, *(_with(scene, place, kind=k) for k in wrong)]
    return scene, render(scene), QUESTIONS[language]["caption"][0], None, scenes


def _description(rng, index: int, split: str, language: str):
    """The true description, and three with one kind, one colour or one place wrong."""
    scene = _scene(rng, split)
    objects = scene.objects
    kind_of, colour_of, place_of = (rng.randrange(len(objects)) for _ in range(3))
    kind = PARTNER[objects[kind_of].kind]
    true = objects[colour_of].colour
    elsewhere = [o.colour for o in objects if o.colour != true]
    colour = _first(rng, elsewhere, COLOURS, {true})[0]
    free = sorted(set(range(len(CELLS))) - {o.cell for o in objects})
    moved = _with(scene, place_of, cell=rng.choice(free))
    scenes = [
        scene,
        _with(scene, kind_of, kind=kind),
        _with(scene, colour_of, colour=colour),
        moved,
    ]
    return scene, render(scene), QUESTIONS[language]["caption"][0], None, scenes


_MAKERS: dict[str, Callable[..., tuple[Scene, Any, str, list[str] | None, list[Scene]]]] = {
    "kind": _kind, "colour": _colour, "count": _count, "description": _description,
}  # fmt: skip


def _scene(rng: random.Random, split: str, accept=lambda scene: True) -> Scene:
    while True:
        scene = sample_scene(rng, split)
        if accept(scene):
            return scene


def _first(rng, likely: Sequence[str], others: Sequence[str], without: set[str]) -> list[str]:
    """Three different words: the likely ones first, in random order, then others."""
    likely = sorted(set(likely))
    rest = [w for w in others if w not in likely and w not in without]
    return [*rng.sample(likely, len(likely)), *rng.sample(rest, len(rest))][:3]


def _with(scene: Scene, place: int, **changes) -> Scene:
    """The scene with one object changed, in reading order again."""
    objects = list(scene.objects)
    objects[place] = replace(objects[place], **changes)
    return replace(scene, objects=tuple(sorted(objects, key=lambda o: o.cell)))


def _with_count(rng: random.Random, scene: Scene, number: int, colour: str | None) -> Scene:
    """The scene with `number` objects, or with `number` objects of the colour, and as few changes as
    that takes: objects are left out or invented; those of a colour are painted over first."""
    objects = list(scene.objects)
    counted = [o for o in objects if colour in (None, o.colour)]
    for obj in rng.sample(counted, max(0, len(counted) - number)):
        objects.remove(obj)
        if colour:
            objects.append(replace(obj, colour=rng.choice([c for c in COLOURS if c != colour])))
    missing = max(0, number - len(counted))
    others = [o for o in objects if colour and o.colour != colour]
    for obj in rng.sample(others, min(missing, len(others))):
        objects.remove(obj)
        objects.append(replace(obj, colour=colour))
        missing -= 1
    free = sorted(set(range(len(CELLS))) - {o.cell for o in objects})
    for cell in rng.sample(free, missing):
        kind, size = rng.choice(KINDS), rng.choice(SIZES)
        objects.append(Object(kind, colour or rng.choice(COLOURS), size, cell))
    return replace(scene, objects=tuple(sorted(objects, key=lambda o: o.cell)))
