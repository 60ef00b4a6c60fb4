"""Scenes: a few coloured shapes on a 3x3 grid, or a few handwritten digits. Fully known, seeded."""

import hashlib
import random
from dataclasses import dataclass

from labs.shapes.digits import sample_digits
from labs.shapes.vocabulary import CELLS, COLOURS, KINDS, PARTNER, SIZES

SPLITS = ("train", "val", "test")
RADIUS = {"small": 0.1, "large": 0.155}  # of the image's side
JITTER = {"small": 0.045, "large": 0.009}  # keeps every shape inside its cell
COUNTS = ((1, 0.15), (2, 0.3), (3, 0.3), (4, 0.25))
PARTNER_RATE = 0.5


@dataclass(frozen=True)
class Object:
    """One shape. `cell` indexes CELLS; `dx`, `dy` move it inside its cell (share of the side)."""

    kind: str
    colour: str
    size: str
    cell: int
    dx: float = 0.0
    dy: float = 0.0

    @property
    def position(self) -> str:
        return CELLS[self.cell]

    @property
    def centre(self) -> tuple[float, float]:
        """(x, y) as shares of the image's side, y downwards."""
        return (self.cell % 3 + 0.5) / 3 + self.dx, (self.cell // 3 + 0.5) / 3 + self.dy

    @property
    def box(self) -> tuple[float, float, float, float]:
        """(left, top, right, bottom) as shares of the image's side."""
        x, y = self.centre
        r = RADIUS[self.size]
        return x - r, y - r, x + r, y + r


@dataclass(frozen=True)
class Scene:
    """What a picture shows. `objects` are in reading order; `digits` index scikit-learn's images."""

    objects: tuple[Object, ...] = ()
    digits: tuple[int, ...] = ()
    background: int = 245  # grey level
    noise: int = 0  # seed of the picture's grain

    @property
    def kinds(self) -> frozenset[str]:
        return frozenset(o.kind for o in self.objects)

    def content(self) -> str:
        """What the scene shows, without jitter or grain: scenes with equal content look alike."""
        shapes = sorted((o.cell, o.kind, o.colour, o.size) for o in self.objects)
        return repr((shapes, self.digits))


def split_of(scene: Scene) -> str:
    """The one split a scene may appear in, by a hash of its content: 85 % train, 5 % val, 10 % test.

    Two scenes that look alike share their content, so no near-copy of a test picture is trained on.
    Digits are split by image (see digits.py), so their scenes carry their split already.
    """
    bucket = hashlib.blake2b(scene.content().encode(), digest_size=4).digest()
    share = int.from_bytes(bucket, "little") / 2**32
    return "test" if share < 0.10 else "val" if share < 0.15 else "train"


def sample_scene(rng: random.Random, split: str = "train", count: int | None = None) -> Scene:
    """A random scene of the split: 1 to 4 objects, kinds that go together half of the time."""
    if split not in SPLITS:
        raise ValueError(f"split must be one of {SPLITS}, not {split!r}")
    while True:
        scene = _draw(rng, count)
        if split_of(scene) == split:
            return scene


def _draw(rng: random.Random, count: int | None) -> Scene:
    values, weights = zip(*COUNTS, strict=True)
    count = count or rng.choices(values, weights)[0]
    kinds: list[str] = []
    for _ in range(count):
        if kinds and rng.random() < PARTNER_RATE:
            kinds.append(PARTNER[rng.choice(kinds)])
        else:
            kinds.append(rng.choice(KINDS))
    objects = []
    for kind, cell in zip(kinds, rng.sample(range(9), count), strict=True):
        size = rng.choice(SIZES)
        reach = JITTER[size]
        objects.append(
            Object(
                kind,
                rng.choice(COLOURS),
                size,
                cell,
                round(rng.uniform(-reach, reach), 4),
                round(rng.uniform(-reach, reach), 4),
            )
        )
    objects.sort(key=lambda o: o.cell)
    return Scene(tuple(objects), (), rng.randint(225, 255), rng.randrange(2**31))


def sample_digit_scene(rng: random.Random, split: str = "train", count: int = 1) -> Scene:
    """A picture of `count` (1 to 3) handwritten digits, none of whose images is in another split."""
    digits = tuple(sample_digits(rng, split, count))
    return Scene((), digits, rng.randint(225, 255), rng.randrange(2**31))
