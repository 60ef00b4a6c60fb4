"""Pairs without sampling: a true answer to a question about a known scene, and a plausible wrong one.

Pairs sampled from a model carry its habits. One that says yes too often is caught saying yes where no
is true and hardly ever the other way round: nearly every chosen answer of a yes/no question is then
"no", and a reward model learns to prefer "no" without looking. Here the truth is the prompt's, and
prompts of which half are answered yes give pairs of which half are. Chapter 5.
"""

import random
import re
from dataclasses import replace

from labs.shapes import QA, Scene, is_correct, mentions
from labs.shapes.language import box_text, mention, place
from labs.shapes.scene import Object
from labs.shapes.vocabulary import CELLS, COLOURS, KINDS, PARTNER, SIZES, say

_OPPOSITE = {"yes": "no", "no": "yes", "是": "否", "否": "是"}


def wrong_answer(qa: QA, scene: Scene, language: str, rng: random.Random) -> str | None:
    """A wrong answer such as a model gives, in the form of the true one (`qa.answer`).

    yes or no: the other. A number: one more or one less. A colour or a place: half of the time that of
    another object of the scene, else any. A kind: the other one that the question compares.
    A box: that of another object, or the true one moved. Digits: one of them another. A caption:
    `spoilt_caption`. None where every answer tried is right too, as a box in a crowded corner may be.

    Chapter 5.
    """
    true = qa.answer
    if qa.task == "caption":
        return spoilt_caption(scene, language, rng)
    if true in _OPPOSITE:
        return _OPPOSITE[true]
    for _ in range(20):
        wrong = _another(qa, scene, language, rng)
        if wrong != true and is_correct(qa.task, scene, true, wrong) is not True:
            return wrong
    return None


def _another(qa: QA, scene: Scene, language: str, rng: random.Random) -> str:
    true = qa.answer
    if qa.task == "grounding":
        other = replace(rng.choice(scene.objects), cell=rng.randrange(len(CELLS)))
        return box_text(rng.choice((other, *scene.objects)))
    if qa.task == "ocr":
        at = rng.randrange(len(true))
        return true[:at] + str(rng.randrange(10)) + true[at + 1 :]
    if re.fullmatch(r"\d+", true):
        return str(max(0, int(true) + rng.choice((-1, 1))))
    # Half of the time what another object has: such an answer takes the right object to refute; of any
    # other it is enough to see that nothing has it.
    near = rng.random() < 0.5
    colours = {say(c, language) for c in COLOURS}
    if true in colours:
        shown = {say(o.colour, language) for o in scene.objects} - {true}
        return rng.choice(sorted((near and shown) or colours - {true}))
    kinds = {say(k, language) for k in KINDS}
    if true in kinds:
        asked = {say(m.kind, language) for m in mentions(qa.question)} - {true}
        return rng.choice(sorted(asked or kinds - {true}))
    places = {place(cell, language) for cell in CELLS}
    taken = {place(o.position, language) for o in scene.objects} - {true}
    return rng.choice(sorted((near and taken) or places - {true}))


def spoilt_caption(scene: Scene, language: str, rng: random.Random) -> str | None:
    """The caption with one fault, each as likely: an object invented, one left out, one misdescribed.

    Invented: mostly the usual companion of a kind that is shown, at its place in reading order or at
    the end, where the diseased captions of the world have it. Misdescribed: another colour, size or
    place. A single object cannot be left out. None for a picture without objects.

    Chapter 5.
    """
    objects = list(scene.objects)
    if not objects:
        return None
    fault = rng.choice(("invented", "left out", "misdescribed"))
    free = sorted(set(range(len(CELLS))) - {o.cell for o in objects})
    absent = sorted(set(KINDS) - scene.kinds)
    if fault == "left out" and len(objects) > 1:
        del objects[rng.randrange(len(objects))]
    elif fault == "misdescribed" or not (free and absent):
        at = rng.randrange(len(objects))
        objects[at] = _misdescribed(objects[at], free, rng)
    else:
        partners = sorted({PARTNER[k] for k in scene.kinds} - scene.kinds)
        kinds = partners if partners and rng.random() < 0.75 else absent
        ghost = Object(rng.choice(kinds), rng.choice(COLOURS), rng.choice(SIZES), rng.choice(free))
        objects.append(ghost)
        if rng.random() < 0.5:
            objects.sort(key=lambda o: o.cell)
    joint, end = ("，", "。") if language == "zh" else (", ", ".")
    return joint.join(mention(o, language) for o in objects) + end


def _misdescribed(known: Object, free: list[int], rng: random.Random) -> Object:
    what = rng.choice(("colour", "size", "cell") if free else ("colour", "size"))
    options = {"colour": COLOURS, "size": SIZES, "cell": free}[what]
    value = rng.choice([v for v in options if v != getattr(known, what)])
    return replace(known, **{what: value})
