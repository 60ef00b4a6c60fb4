"""Questions with exact answers. Each maker takes a seeded generator and returns a scene and its QA.

Answers are balanced by construction: the wanted answer is drawn first and a scene that has it is
searched for, so that a model that always says the same thing scores chance.
"""

import functools
import random
from dataclasses import dataclass

from labs.shapes.language import ask, box_text, caption, noun, place, plural, read_digits
from labs.shapes.scene import Object, Scene, sample_digit_scene, sample_scene
from labs.shapes.vocabulary import COLOURS, KINDS, PARTNER, SIZES, say

# "reasoning" compares objects; "dialogue" chains questions with "it"; see world.py for records.
TASKS = (
    "caption",
    "existence",
    "conjunction",
    "count",
    "colour",
    "position",
    "grounding",
    "ocr",
    "reasoning",
    "dialogue",
)
NEGATIVES = ("random", "popular", "adversarial")


@dataclass(frozen=True)
class QA:
    """One question and its exact answer. `about` is what a grader needs: the kind asked, the box…"""

    task: str
    question: str
    answer: str
    about: dict


class Impossible(Exception):
    """This scene cannot carry the question asked for; the caller draws another."""


def _unique(scene: Scene) -> list[Object]:
    """Objects whose kind appears once, so that "the ring" is one ring."""
    kinds = [o.kind for o in scene.objects]
    return [o for o in scene.objects if kinds.count(o.kind) == 1]


def _pick(rng: random.Random, items):
    items = list(items)
    if not items:
        raise Impossible
    return rng.choice(items)


def absent_kind(rng: random.Random, scene: Scene, negatives: str = "random") -> str:
    """A kind that is not there: any; one whose partner is there (adversarial, after POPE)."""
    absent = [k for k in KINDS if k not in scene.kinds]
    if negatives == "adversarial":
        absent = [k for k in absent if PARTNER[k] in scene.kinds]
    elif negatives == "popular":
        # No kind is drawn more often than another here; "popular" is the first half of the list.
        absent = [k for k in absent if KINDS.index(k) < len(KINDS) // 2]
    return _pick(rng, absent)


def existence(rng, scene, language, answer: bool | None = None, negatives="random") -> QA:
    """ "Is there a ring?" The answer is yes or no with equal chance unless given."""
    answer = rng.random() < 0.5 if answer is None else answer
    kind = _pick(rng, sorted(scene.kinds)) if answer else absent_kind(rng, scene, negatives)
    question = ask("existence", language, rng, what=say(kind, language))
    about = {"kind": kind, "negatives": None if answer else negatives}
    return QA("existence", question, say("yes" if answer else "no", language), about)


def conjunction(rng, scene, language, answer: bool | None = None) -> QA:
    """ "Is there a red ring?" Where no: the ring is there in another colour, or red is elsewhere."""
    answer = rng.random() < 0.5 if answer is None else answer
    shown = {(o.colour, o.kind) for o in scene.objects}
    if answer:
        colour, kind = _pick(rng, sorted(shown))
    else:
        colours, kinds = {c for c, _ in shown}, {k for _, k in shown}
        near = [
            (c, k)
            for c in COLOURS
            for k in KINDS
            if (c, k) not in shown and (c in colours or k in kinds)
        ]
        colour, kind = _pick(rng, near)
    what = say(colour, language) + ("" if language == "zh" else " ") + say(kind, language)
    question = ask("conjunction", language, rng, what=what)
    about = {"kind": kind, "colour": colour}
    return QA("conjunction", question, say("yes" if answer else "no", language), about)


def count(rng, scene, language, of: str | None = None, answer: int | None = None) -> QA:
    """ "How many objects / red objects / rings are there?" """
    of = of or rng.choice(("all", "colour", "kind"))
    if of == "all":
        number, what, about = len(scene.objects), "objects", {}
        words = "物体" if language == "zh" else what
    else:
        options = COLOURS if of == "colour" else KINDS
        totals = {w: sum(getattr(o, of) == w for o in scene.objects) for w in options}
        if answer is None:
            # Two of a colour are rare in a scene drawn at random: asked for evenly, they would be
            # one answer in nine, and a model does well to never say "2".
            values = sorted(set(totals.values()))
            wanted = rng.choices(values, [3 if v > 1 else 1 for v in values])[0]
        else:
            wanted = answer
        word = _pick(rng, [w for w in options if totals[w] == wanted])
        number, about = totals[word], {of: word}
        if language == "zh":
            words = say(word, language) + ("物体" if of == "colour" else "")
        else:
            words = f"{word} objects" if of == "colour" else plural(word)
    if answer is not None and number != answer:
        raise Impossible
    question = ask("count", language, rng, what=words)
    return QA("count", question, str(number), {"of": of, "number": number, **about})


def colour(rng, scene, language, answer: str | None = None, by: str | None = None) -> QA:
    """ "What colour is the ring?" of the only ring, or "What colour is the object at the top?" """
    by = by or rng.choice(("kind", "place"))
    objects = _unique(scene) if by == "kind" else scene.objects
    obj = _pick(rng, [o for o in objects if answer in (None, o.colour)])
    if by == "kind":
        question = ask("colour", language, rng, what=say(obj.kind, language))
    else:
        question = ask("colour_at", language, rng, place=place(obj.position, language))
    return QA("colour", question, say(obj.colour, language), {"by": by, "kind": obj.kind})


def position(rng, scene, language) -> QA:
    """ "Where is the ring?" One of nine places."""
    obj = _pick(rng, _unique(scene))
    question = ask("position", language, rng, what=say(obj.kind, language))
    return QA("position", question, place(obj.position, language), {"kind": obj.kind})


def grounding(rng, scene, language) -> QA:
    """ "Give the box of the red ring." The answer is [left, top, right, bottom] in percent."""
    obj = _pick(rng, scene.objects)
    if sum((o.colour, o.kind) == (obj.colour, obj.kind) for o in scene.objects) > 1:
        raise Impossible
    what = noun(obj, language, size=False)
    question = ask("grounding", language, rng, what=what)
    return QA("grounding", question, box_text(obj), {"box": obj.box})


def ocr(rng, scene, language) -> QA:
    """ "What does the image say?" of handwritten digits."""
    if not scene.digits:
        raise Impossible
    answer = read_digits(scene)
    return QA("ocr", ask("ocr", language, rng), answer, {"digits": len(scene.digits)})


def describe(rng, scene, language) -> QA:
    """ "Describe the image." """
    return QA("caption", ask("caption", language, rng), caption(scene, language), {})


def reasoning(rng, scene, language) -> QA:
    """Comparison of two objects or two colours: more, same colour, larger, left of."""
    form = rng.choice(("more", "same_colour", "larger", "left_of"))
    if form == "more":
        shown = sorted({o.colour for o in scene.objects})
        a = _pick(rng, shown)
        b = _pick(rng, [c for c in COLOURS if c != a])
        a, b = rng.sample((a, b), 2)
        totals = [sum(o.colour == c for o in scene.objects) for c in (a, b)]
        truth = totals[0] > totals[1]
    else:
        unique = _unique(scene)
        if len(unique) < 2:
            raise Impossible
        first, second = rng.sample(unique, 2)
        a, b = first.kind, second.kind
        if form == "same_colour":
            truth = first.colour == second.colour
        elif form == "left_of":
            if first.cell % 3 == second.cell % 3:
                raise Impossible
            truth = first.cell % 3 < second.cell % 3
        else:
            if first.size == second.size:
                raise Impossible
            truth = max((first, second), key=lambda o: SIZES.index(o.size)).kind
    question = ask(form, language, rng, a=say(a, language), b=say(b, language))
    answer = truth if isinstance(truth, str) else "yes" if truth else "no"
    return QA("reasoning", question, say(answer, language), {"form": form})


def dialogue(rng, scene, language, answer: bool | None = None) -> list[QA]:
    """Turns that lean on each other: how many, what colour is the ring, where is it, is there a …

    `answer` is that of the last turn.
    """
    obj = _pick(rng, _unique(scene))
    first = count(rng, scene, language, of="all")
    about = {"kind": obj.kind}
    colour_of = ask("colour", language, rng, what=say(obj.kind, language))
    turns = [
        first,
        QA("dialogue", colour_of, say(obj.colour, language), about),
        QA("dialogue", ask("it_position", language, rng), place(obj.position, language), about),
        existence(rng, scene, language, answer, rng.choice(("random", "adversarial"))),
    ]
    return turns


MAKERS = {
    "caption": describe,
    "existence": existence,
    "conjunction": conjunction,
    "count": count,
    "colour": colour,
    "colour_of_kind": functools.partial(colour, by="kind"),
    "colour_at": functools.partial(colour, by="place"),
    "position": position,
    "grounding": grounding,
    "ocr": ocr,
    "reasoning": reasoning,
}


def question(task: str, rng: random.Random, split: str, language: str, **wanted):
    """A scene of the split and one question of the task about it; draws until both are possible.

    `wanted` goes to the task's maker (`answer=`, `negatives=`, `of=`, `by=`). Returns (scene, [QA, …]).
    """
    for _ in range(10_000):
        if task == "ocr":
            scene = sample_digit_scene(rng, split, wanted.get("digits", 1))
            return scene, [ocr(rng, scene, language)]
        scene = sample_scene(rng, split)
        try:
            if task == "dialogue":
                return scene, dialogue(rng, scene, language)
            return scene, [MAKERS[task](rng, scene, language, **wanted)]
        except Impossible:
            continue
    raise ValueError(f"no scene answers {task} with {wanted}")
