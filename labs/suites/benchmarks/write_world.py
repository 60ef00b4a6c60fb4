"""The world in the benchmarks' own file formats: small, real files to try suites and scripts on.

What is written is what the public archives hold: an MMBench TSV, POPE's three JSON-lines files, an MME
release folder, VQAv2's pair of files with COCO's names. The questions are worded as the zoo's models
know them and nothing is added (MME's own end in "Please answer yes or no."), so that with
instruction="" they can answer; the categories are the benchmarks' own where they have one.
"""

import os
import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from labs.errors import InputError
from labs.formats.files import atomic_write
from labs.formats.mmbench import MMBenchQuestion, write_mmbench
from labs.formats.mme import MmeQuestion, write_mme
from labs.formats.pope import SETTINGS, PopeQuestion, write_pope
from labs.formats.vqa import PEOPLE, VqaAnswer, VqaQuestion, write_vqa
from labs.shapes import Object, Scene, render, sample_scene, seeded
from labs.shapes.language import ask, place
from labs.shapes.tasks import Impossible, absent_kind
from labs.shapes.vocabulary import CELLS, COLOURS, KINDS, SIZES, say
from labs.suites.benchmarks.mmbench import turned

# Of VQA's 65 question types (GT-Vision-Lab/VQA, QuestionTypes/mscoco_question_types.txt) those that
# the world's questions begin with; what begins with none is "none of the above", as in the release.
_TYPES = ("how many", "is there a", "where is the", "what")


class WorldFiles(NamedTuple):
    """Where everything is. pope: a folder with a file for each setting; mme: the release folder."""

    mmbench: Path
    pope: Path
    mme: Path
    vqa_questions: Path
    vqa_annotations: Path
    vqa_images: Path


def write_world(
    folder: str | os.PathLike, n: int = 40, language: str = "en", rotations: bool = False
) -> WorldFiles:
    """Write `n` held-out questions of MMBench and VQAv2, `n` of each POPE setting and MME task.

    The same arguments write the same bytes. rotations: the TSV also holds the other passes of
    CircularEval, under index + 1,000,000 and so on, as VLMEvalKit distributes MMBench. n is even: in
    POPE and MME each picture is asked about twice, once for a yes and once for a no.

    Raises InputError for another `n`, and for a folder that holds an MME release already. Chapter 7.
    """
    if n < 2 or n % 2:
        raise InputError(
            f"{n} questions cannot be half yes and half no on pictures that are asked about twice.",
            "Ask for an even number of questions.",
        )
    folder = Path(folder)
    files = WorldFiles(
        folder / "mmbench" / f"MMBench_DEV_{'CN' if language == 'zh' else 'EN'}.tsv",
        folder / "pope",
        folder / "mme" / "MME_Benchmark_release_version",
        folder / "vqa" / "v2_OpenEnded_mscoco_val2014_questions.json",
        folder / "vqa" / "v2_mscoco_val2014_annotations.json",
        folder / "vqa" / "val2014",
    )
    choices = [_choice(i, language) for i in range(n)]
    if rotations:
        choices += [turned(row, k) for row in choices for k in range(1, len(row.options))]
    write_mmbench(choices, files.mmbench)
    for setting in SETTINGS:
        write_pope(
            _pope(n, language, setting, files.pope), files.pope / f"coco_pope_{setting}.json"
        )
    with tempfile.TemporaryDirectory() as pictures:
        write_mme(_mme(n, language, Path(pictures)), files.mme)
    write_vqa(_vqa(n, language), *files[3:])
    return files


def _choice(number: int, language: str) -> MMBenchQuestion:
    """A question with four options (two where sizes are compared); the right letter goes round."""
    rng = seeded("mmbench", number)
    maker, category, l2 = (
        (_colour, "attribute_recognition", "finegrained_perception (instance-level)"),
        (_position, "object_localization", "finegrained_perception (instance-level)"),
        (_larger, "attribute_comparison", "finegrained_perception (cross-instance)"),
    )[number % 3]
    scene, (question, right, wrong) = _draw(rng, lambda s: maker(rng, s, language))
    options = rng.sample(wrong, min(3, len(wrong)))
    at = number // 3 % (len(options) + 1)
    options.insert(at, right)
    return MMBenchQuestion(
        number, question, tuple(options), render(scene), "ABCD"[at], category=category,
        l2_category=l2, split="dev", extra={"source": "shapes"},
    )  # fmt: skip


def _colour(rng: random.Random, scene: Scene, language: str):
    thing = rng.choice(_single(scene))
    words = {c: say(c, language) for c in COLOURS}
    right = words.pop(thing.colour)
    return ask("colour", language, rng, what=say(thing.kind, language)), right, [*words.values()]


def _position(rng: random.Random, scene: Scene, language: str):
    thing = rng.choice(_single(scene))
    words = {c: place(c, language) for c in CELLS}
    right = words.pop(thing.position)
    return ask("position", language, rng, what=say(thing.kind, language)), right, [*words.values()]


def _larger(rng: random.Random, scene: Scene, language: str):
    small, large = _two(rng, scene, lambda o: SIZES.index(o.size))
    a, b = rng.sample([small, large], 2)
    words = [say(o.kind, language) for o in (a, b)]
    question = ask("larger", language, rng, a=words[0], b=words[1])
    return question, say(large.kind, language), [say(small.kind, language)]


def _pope(n: int, language: str, setting: str, folder: Path) -> Iterator[PopeQuestion]:
    """Two questions a picture, as POPE has six: a kind that is there, and one that is not."""
    for number in range(n // 2):
        rng = seeded("pope", number)  # the settings share their pictures and their yes-questions
        scene, (kind, *absent) = _draw(
            rng, lambda s, rng=rng: [rng.choice(sorted(s.kinds)), *(absent_kind(rng, s, x) for x in SETTINGS)]
        )  # fmt: skip
        path = folder / "images" / f"shapes_test_{number:06d}.png"
        _save(render(scene), path)
        asked = (("yes", kind), ("no", absent[SETTINGS.index(setting)]))
        for turn, (answer, what) in enumerate(asked, 1):
            question = ask("existence", language, rng, what=say(what, language))
            yield PopeQuestion(2 * number + turn, str(path.resolve()), question, answer, setting)


def _mme(n: int, language: str, pictures: Path) -> Iterator[MmeQuestion]:
    """Two questions a picture, in four of MME's tasks: the second is the first with the answer no."""
    makers: dict[str, Callable] = {
        "existence": _exists, "count": _more, "position": _left_of, "color": _coloured,
    }  # fmt: skip
    for task, maker in makers.items():
        for number in range(n // 2):
            rng = seeded("mme", task, number)
            scene, pair = _draw(rng, lambda s, make=maker, rng=rng: make(rng, s, language))
            path = pictures / task / f"{number:04d}.png"
            _save(render(scene), path)
            for question, label in zip(pair, ("yes", "no"), strict=True):
                yield MmeQuestion(task, str(path), question, label)


def _exists(rng: random.Random, scene: Scene, language: str) -> list[str]:
    kinds = rng.choice(sorted(scene.kinds)), absent_kind(rng, scene, "random")
    return [ask("existence", language, rng, what=say(kind, language)) for kind in kinds]


def _coloured(rng: random.Random, scene: Scene, language: str) -> list[str]:
    thing = rng.choice(_single(scene))
    other = rng.choice([c for c in COLOURS if c != thing.colour])
    gap = "" if language == "zh" else " "
    what = [say(c, language) + gap + say(thing.kind, language) for c in (thing.colour, other)]
    return [ask("conjunction", language, rng, what=w) for w in what]


def _more(rng: random.Random, scene: Scene, language: str) -> list[str]:
    totals = {c: sum(o.colour == c for o in scene.objects) for c in COLOURS}
    more = rng.choice([c for c in COLOURS if totals[c]])
    less = rng.choice([c for c in COLOURS if totals[c] < totals[more]])
    a, b = say(more, language), say(less, language)
    return [ask("more", language, rng, a=x, b=y) for x, y in ((a, b), (b, a))]


def _left_of(rng: random.Random, scene: Scene, language: str) -> list[str]:
    a, b = (say(o.kind, language) for o in _two(rng, scene, lambda o: o.cell % 3))
    return [ask("left_of", language, rng, a=x, b=y) for x, y in ((a, b), (b, a))]


def _vqa(n: int, language: str) -> Iterator[VqaQuestion]:
    """Two questions a picture, of the four kinds in turn; the ten people do not always agree."""
    for number in range(n // 2):
        rng = seeded("vqa", number)
        scene, _ = _draw(rng, _single)
        image, image_id = render(scene), 1000 + number
        for turn in range(2):
            question, right, wrong, kind = _asked(rng, scene, language, (2 * number + turn) % 4)
            start = next((t for t in _TYPES if question.lower().startswith(t)), "none of the above")
            told = [right if rng.random() < 0.8 else rng.choice(wrong) for _ in range(PEOPLE)]
            if told.count(right) <= PEOPLE // 2:
                told = [right] * PEOPLE
            answers = tuple(
                VqaAnswer(i, text, "yes" if text == right else "maybe")
                for i, text in enumerate(told, 1)
            )
            key = 1000 * image_id + turn
            yield VqaQuestion(key, image_id, image, question, answers, right, kind, start)


def _asked(rng: random.Random, scene: Scene, language: str, which: int):
    """(question, right answer, what some people say instead, answer type)."""
    if which == 0:
        words = "物体" if language == "zh" else "objects"
        right, wrong = str(len(scene.objects)), [str(k) for k in range(1, 6)]
        wrong.remove(right)
        return ask("count", language, rng, what=words), right, wrong, "number"
    if which == 2:
        there = rng.random() < 0.5
        kind = rng.choice(sorted(scene.kinds) if there else [k for k in KINDS if k not in scene.kinds])  # fmt: skip
        right, wrong = ("yes", "no") if there else ("no", "yes")
        question = ask("existence", language, rng, what=say(kind, language))
        return question, say(right, language), [say(wrong, language)], "yes/no"
    maker = _colour if which == 1 else _position
    return *maker(rng, scene, language), "other"


def _save(image: Image.Image, path: Path) -> None:
    with atomic_write(path, "wb") as file:
        image.save(file, format="PNG")


def _draw(rng: random.Random, wanted: Callable[[Scene], object]) -> tuple[Scene, object]:
    """A held-out scene for which `wanted` gives something, and what it gives."""
    while True:
        scene = sample_scene(rng, "test")
        try:
            return scene, wanted(scene)
        except Impossible:
            continue


def _single(scene: Scene) -> list[Object]:
    """Objects whose kind appears once, so that "the ring" is one ring."""
    kinds = [o.kind for o in scene.objects]
    found = [o for o in scene.objects if kinds.count(o.kind) == 1]
    if not found:
        raise Impossible
    return found


def _two(rng: random.Random, scene: Scene, rank: Callable[[Object], int]) -> list[Object]:
    """Two of the single objects that differ in rank, the lower one first."""
    things = _single(scene)
    rng.shuffle(things)
    first = things[0]
    other = next((o for o in things if rank(o) != rank(first)), None)
    if other is None:
        raise Impossible
    return sorted((first, other), key=rank)
