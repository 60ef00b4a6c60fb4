"""A collection of pictures as it comes: captions and questions, some of them wrong, some twice.

A picture has two rows, as in LLaVA's instruction data: its caption, and questions that were written
from the caption. So who captions the wrong picture, or adds an object, asks wrongly too.
"""

import dataclasses
import io
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from labs.shapes import Scene, caption, sample_scene, seeded
from labs.shapes.scene import Object
from labs.shapes.tasks import MAKERS, QA, Impossible
from labs.shapes.vocabulary import CELLS, COLOURS, KINDS, PARTNER, SIZES
from labs.shapes.world import record

# Share of the pictures with each fault; a picture has at most one. Of all, COPIES are there again.
RATES = {
    "swapped": 0.15,  # the words are about another picture
    "ghost": 0.15,  # an object is added: the one that usually goes with one that is shown
    "miscounted": 0.10,  # numbers are off by one
    "junk": 0.05,  # the caption is a file name, an address, a line of a shop
    "cut": 0.05,  # the caption ends in mid-sentence
    "empty": 0.05,  # an answer is missing
}
COPIES = 0.25
IN_CAPTION = ("swapped", "ghost", "junk", "cut")
IN_QUESTIONS = ("swapped", "ghost", "miscounted", "empty")
QUESTIONS = 3
ASKED = {"count": 1.0, "colour": 1.0, "position": 1.0}
JUNK = (
    "IMG_{n:04d}.JPG", "https://example.com/p/{n}.html", "photo photo photo photo",
    "click to enlarge", "stock photo {n}, royalty free", "<br>&nbsp;<b>new</b>",
)  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """A picture, its two rows, and what only the author of the collection knows.

    source: number of the picture this one is a copy of, or its own. fault: see RATES.
    """

    number: int
    source: int
    fault: str | None
    image: Image.Image
    caption: dict
    questions: dict

    @property
    def rows(self) -> tuple[dict, dict]:
        return self.caption, self.questions

    @property
    def wrong(self) -> tuple[bool, bool]:
        """Which of the two rows the fault is in."""
        return self.fault in IN_CAPTION, self.fault in IN_QUESTIONS


def collect(count: int, seed: int, dirty: bool = True, split: str = "train") -> list[Picture]:
    """`count` pictures. Where not `dirty`: the same scenes as they should have been, none twice."""
    pictures: list[Picture] = []
    for number in range(count):
        rng = seeded("collected", seed, number, split)
        if dirty and pictures and rng.random() < COPIES:
            # Some pictures are everywhere: the cube prefers the few first.
            pictures.append(copy_of(pictures[int(len(pictures) * rng.random() ** 3)], number))
            continue
        fault = rng.choices((*RATES, None), (*RATES.values(), 1 - sum(RATES.values())))[0]
        pictures.append(picture(number, seed, split, fault if dirty else None))
    return pictures


def rows_of(pictures: Sequence[Picture]) -> list[dict]:
    """All rows, as LLaVA records."""
    return [row for p in pictures for row in p.rows]


def picture(number: int, seed: int, split: str, fault: str | None) -> Picture:
    """Picture `number` of the collection with this fault, or with none."""
    shown = scene_of(number, seed, split)
    told, rng = shown, seeded("told", seed, number, split)
    if fault == "swapped":
        told = scene_of(number + 1_000_000, seed, split)
    elif fault == "ghost":
        told = with_ghost(rng, shown)
    words = caption(told)
    asked = questions(rng, told)
    if fault == "junk":
        words = rng.choice(JUNK).format(n=rng.randrange(10_000))
    elif fault == "cut":
        words = words[: rng.randrange(len(words) // 4, len(words) - 1)].rstrip(" ,")
    elif fault == "empty":
        k = rng.randrange(len(asked))
        asked[k] = dataclasses.replace(asked[k], answer="")
    elif fault == "miscounted":
        asked = [miscounted(rng, qa) for qa in asked]
    describe = MAKERS["caption"](rng, told, "en")
    name = f"{split}-{seed}-{number}"
    rows = [
        record(f"{name}-{part}", shown, turns, "en")
        for part, turns in (("c", [dataclasses.replace(describe, answer=words)]), ("q", asked))
    ]
    image = rows[0]["image"]
    rows[1]["image"] = image
    return Picture(number, number, fault, image, *rows)


def scene_of(number: int, seed: int, split: str) -> Scene:
    return sample_scene(seeded("scene", seed, number, split), split)


def with_ghost(rng: random.Random, scene: Scene) -> Scene:
    """The scene with one more object: of the kind that goes with one that is shown, where absent."""
    usual = {PARTNER[kind] for kind in scene.kinds} - scene.kinds
    absent = sorted(usual or set(KINDS) - scene.kinds)
    free = sorted(set(range(len(CELLS))) - {o.cell for o in scene.objects})
    ghost = Object(rng.choice(absent), rng.choice(COLOURS), rng.choice(SIZES), rng.choice(free))
    objects = sorted((*scene.objects, ghost), key=lambda o: o.cell)
    return dataclasses.replace(scene, objects=tuple(objects))


def questions(rng: random.Random, scene: Scene) -> list[QA]:
    """QUESTIONS different questions with the answers that the scene gives; counts at least once."""
    turns: list[QA] = [MAKERS["count"](rng, scene, "en")]
    while len(turns) < QUESTIONS:
        task = rng.choices(tuple(ASKED), tuple(ASKED.values()))[0]
        try:
            qa = MAKERS[task](rng, scene, "en")
        except Impossible:
            continue
        if qa.question not in [t.question for t in turns]:
            turns.append(qa)
    rng.shuffle(turns)
    return turns


def miscounted(rng: random.Random, qa: QA) -> QA:
    """A number one too high or, above zero, one too low; other answers stay."""
    if not re.fullmatch(r"\d+", qa.answer):
        return qa
    number = int(qa.answer)
    return dataclasses.replace(qa, answer=str(number + rng.choice((1, -1) if number else (1,))))


def copy_of(original: Picture, number: int) -> Picture:
    """The same picture and words, found elsewhere: saved once more as a JPEG."""
    buffer = io.BytesIO()
    original.image.save(buffer, "jpeg", quality=85)
    image = Image.open(buffer).convert("RGB")
    rows = [{**row, "id": f"{row['id']}-copy{number}", "image": image} for row in original.rows]
    return Picture(number, original.source, original.fault, image, *rows)
