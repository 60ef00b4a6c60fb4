"""Fingerprints of pictures and texts: equal for copies, near each other for near copies.

Pillow for the pictures, else the standard library; Python 3.9 or newer.
"""

# ruff: noqa: B905  (Python 3.9 has no zip(strict=))
from __future__ import annotations

import hashlib
import math
import random
import re
import unicodedata
from operator import add, itemgetter, mul, sub
from typing import Any

from labs.formats.near import first_near, hamming, near_pairs

__all__ = [
    "BITS", "DISTANCE", "dhash", "first_near", "hamming", "near_pairs", "picture_hash",
    "plain_text", "text_fingerprint",
]  # fmt: skip

BITS = 256  # of a picture_hash
# Two pictures within so many bits look alike. Measured by the copies of test_fingerprints.py: of 4,400
# near copies of the offline world's scenes 98.2 % are found (95 % interval 97.7 to 98.5), of one pixel
# moved in 48 92.7 %; of 1,595 scenes changed in one attribute 0.8 % are taken for the same, all but one
# for another shape of the same colour and size; among 4,000 random scenes 6 of 256 near pairs are
# wrong. Crops of two photographs: 98 % found, none of the others within 80 bits. Pages of text look
# much alike at this size: of two with the same layout 0.1 % are near.
DISTANCE = 12


def dhash(image: Any, size: int = 8) -> int:
    """The difference hash of a PIL image, size * size bits.

    Bit i is 1 where the brightness rises from pixel i to its right neighbour; pixels are counted
    along the rows of the grey thumbnail of size + 1 by size. Quick and blind to colour; in a flat
    picture the bits are the grain's. After Neal Krawetz, "Kind of like that", 2013.
    """
    from PIL import Image

    grey = _rgb(image).convert("L").resize((size + 1, size), Image.Resampling.BILINEAR)
    pixels, bits = grey.tobytes(), 0
    for row in range(size):
        for column in range(size):
            here = row * (size + 1) + column
            bits |= (pixels[here + 1] > pixels[here]) << (row * size + column)
    return bits


SIDE = 24  # pixels a side of the thumbnail that is looked at
LUMA, CHROMA = 12, 5  # cells a side in which brightness and colour are compared
# The rim's median is the background. A pixel within FLAT of it in Y, Cb and Cr belongs to it, one that
# lies FAR beyond does not. RIM: with so little of the rim plain the picture is no figure on a
# background, with so much it is. In between a little of both, so that no small change is a jump.
FLAT, FAR, RIM = (5, 3, 3), 6, (0.25, 0.42)
ZOOM = (
    5.0,
    0.6,
)  # the window's side: standard deviations of the figure, and the least share of SIDE
GRAIN, ROOT = 2, 0.6  # smaller steps between cells are grain; of larger ones this power is taken
ANCHOR, PLACE = 28, 20  # weights of the constant and of the figure's place
UNIT = 16  # features are whole numbers, in sixteenths: the same sums on every machine


def picture_hash(image: Any) -> int:
    """The fingerprint of a PIL image: BITS bits, of which at most DISTANCE differ for near copies.

    Near copies: saved again as JPEG, made larger or smaller, a little brighter, with other grain,
    moved by a pixel. 0 where there is nothing to see (a picture of one colour, with or without
    grain): say nothing about those.

    1. The picture is looked at as SIDE x SIDE pixels of Y, Cb, Cr.
    2. Where much of its rim is of one colour, it is a figure on a background: the window moves to the
       figure's centre of mass and narrows to its spread. A shift then changes nothing but the place,
       and a small ring fills enough cells to be told from a small circle. Photographs stay as they
       are: their rims are not that plain.
    3. How each of LUMA x LUMA cells differs in brightness from its four neighbours, and each of
       CHROMA x CHROMA cells in colour from two, less the grain; of these a root, so that strong
       edges do not drown weak ones; the place of the figure; a constant, so that faint pictures
       differ by little.
    4. The signs of a random rotation of these numbers (a Hadamard transform after fixed random signs):
       two pictures whose features lie at an angle of a differ in about a / 180° of the bits, and every
       bit depends on the whole picture, which is what keeps the buckets of `near_pairs` small.

    The rotation: Ailon and Chazelle, doi:10.1145/1132516.1132597; signs as a hash: Charikar,
    doi:10.1145/509907.509965.
    """
    features = _features(image)
    if features is None:
        return 0
    return int("".join(["1" if value > 0 else "0" for value in _rotate(features)]), 2)


def _features(image: Any) -> list[int] | None:
    from PIL import Image

    small = _rgb(image).resize((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0)
    small = small.convert("YCbCr")
    x, y, spread, figure = _figure(small.split())
    window = SIDE - figure * (SIDE - min(SIDE, max(ZOOM[1] * SIDE, ZOOM[0] * spread)))
    left = (figure * (x - SIDE / 2) + (SIDE - window) / 2) % SIDE
    top = (figure * (y - SIDE / 2) + (SIDE - window) / 2) % SIDE
    box = (left, top, left + window, top + window)
    # Four copies side by side, so that a window over the rim goes on at the other side.
    tiles = Image.new("YCbCr", (2 * SIDE, 2 * SIDE))
    for corner in ((0, 0), (SIDE, 0), (0, SIDE), (SIDE, SIDE)):
        tiles.paste(small, corner)
    cells = tiles.resize((LUMA, LUMA), Image.Resampling.BILINEAR, box=box)
    features = _bumps(cells.getchannel(0).tobytes(), LUMA)
    cells = tiles.resize((CHROMA, CHROMA), Image.Resampling.BILINEAR, box=box)
    features += _steps(cells.getchannel(1).tobytes(), CHROMA)
    features += _steps(cells.getchannel(2).tobytes(), CHROMA)
    if not any(features):
        return None
    for centre in (x, y):
        angle = math.pi * centre / SIDE
        features += [round(figure * PLACE * UNIT * wave(angle)) for wave in (math.cos, math.sin)]
    return [*features, ANCHOR * UNIT]


_rim = {i for k in range(SIDE) for i in (k, SIDE * (SIDE - 1) + k, SIDE * k, SIDE * k + SIDE - 1)}
_at_rim = itemgetter(*sorted(_rim))
# How far a value is from a level beyond `flat`: the table for a level is a slice of this one.
_BEYOND = [bytes([max(abs(d) - flat, 0) for d in range(-255, 256)]) for flat in FLAT]


def _figure(bands: Any) -> tuple[float, float, float, float]:
    """Where what is not background lies: its centre of mass (x, y), its spread, and how far the picture
    is a figure on a background at all, from 0 to 1.

    The mass of a pixel is how far it is from the background: linear, so that blur moves no centre.
    """
    masses = []
    for band, beyond in zip(bands, _BEYOND):
        pixels = band.tobytes()
        level = sorted(_at_rim(pixels))[len(_rim) // 2]
        masses.append(pixels.translate(beyond[255 - level : 511 - level]))
    at_rim = zip(*map(_at_rim, masses))
    plain = sum([max(0, FAR - sum(pixel)) for pixel in at_rim]) / (FAR * len(_rim))
    figure = min(1.0, max(0.0, (plain - RIM[0]) / (RIM[1] - RIM[0])))
    if not figure:
        return SIDE / 2, SIDE / 2, SIDE, 0.0
    joined = b"".join(masses)
    columns = [sum(joined[k::SIDE]) for k in range(SIDE)]
    rows = [sum(sum(mass[k : k + SIDE]) for mass in masses) for k in range(0, SIDE * SIDE, SIDE)]
    total = sum(rows)
    if not total:
        return SIDE / 2, SIDE / 2, SIDE, figure
    x = sum(map(mul, _CENTRES, columns)) / total
    y = sum(map(mul, _CENTRES, rows)) / total
    variance = sum((c - x) ** 2 * mass for c, mass in zip(_CENTRES, columns))
    variance += sum((c - y) ** 2 * mass for c, mass in zip(_CENTRES, rows))
    return x, y, math.sqrt(variance / total), figure


_CENTRES = [k + 0.5 for k in range(SIDE)]


def _bumps(pixels: bytes, side: int) -> list[int]:
    """How far each cell is above its four neighbours, weighted; over the rim the other side is next."""
    above, before = _neighbours(pixels, side)
    below = pixels[side:] + pixels[:side]
    after = b"".join(
        [pixels[k + 1 : k + side] + pixels[k : k + 1] for k in range(0, side * side, side)]
    )
    five = zip(pixels, above, below, before, after)
    return [_BUMPS[4 * a - b - c - d - e] for a, b, c, d, e in five]


def _steps(pixels: bytes, side: int) -> list[int]:
    """The weighted step to each cell from the one above it and from the one before it."""
    above, before = _neighbours(pixels, side)
    return [_STEPS[d] for d in (*map(sub, pixels, above), *map(sub, pixels, before))]


def _neighbours(pixels: bytes, side: int) -> tuple[bytes, bytes]:
    """The cell above each cell, and the cell before it in its row."""
    above = pixels[-side:] + pixels[:-side]
    starts = range(0, side * side, side)
    before = [pixels[k + side - 1 : k + side] + pixels[k : k + side - 1] for k in starts]
    return above, b"".join(before)


def _weights(weight: float, parts: int) -> list[int]:
    """The signed root of each difference less the grain, in units; differences below 0 count from the end."""
    roots = [
        round(weight * UNIT * max(step / parts - GRAIN, 0) ** ROOT)
        for step in range(255 * parts + 1)
    ]
    return roots + [-root for root in reversed(roots[1:])]


_BUMPS, _STEPS = _weights(math.sqrt(2), 4), _weights(1.0, 1)
_COUNT = LUMA**2 + 4 * CHROMA**2 + 5
_random = random.Random(2012)
_SIGNS = [_random.choice((-1, 1)) for _ in range(_COUNT)]
_SEATS = _random.sample(range(BITS), _COUNT)


def _rotate(features: list[int]) -> list[int]:
    """The Walsh-Hadamard transform of the features, put on random seats with random signs."""
    values = [0] * BITS
    for seat, sign, feature in zip(_SEATS, _SIGNS, features):
        values[seat] = sign * feature
    for _ in range(BITS.bit_length() - 1):
        even, odd = values[0::2], values[1::2]
        values = [*map(add, even, odd), *map(sub, even, odd)]
    return values


def _rgb(image: Any) -> Any:
    """8-bit RGB: 16-bit grey scaled down, transparency over white, palettes and CMYK converted."""
    from PIL import Image

    if image.mode == "RGB":
        return image
    if image.mode == "L":
        return image.convert("RGB")
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        wide = image.convert("F")
        darkest, brightest = wide.getextrema()
        scale = 255 / 65535 if brightest > 255 else 255.0 if 0 <= darkest <= brightest <= 1 else 1.0
        return wide.point(lambda value: value * scale + 0.0).convert("L").convert("RGB")
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        over = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", over.size, "white"), over).convert("RGB")
    return image.convert("RGB")


def text_fingerprint(text: str) -> int:
    """64 bits that are equal for texts that differ in case, spaces, punctuation or full width only."""
    digest = hashlib.blake2b(plain_text(text).encode("utf-8", "replace"), digest_size=8)
    return int.from_bytes(digest.digest(), "big")


def plain_text(text: str) -> str:
    """Letters and digits in lower case with single spaces between words: what a copy keeps."""
    text = unicodedata.normalize("NFKC", text).lower() if not text.isascii() else text.lower()
    return " ".join(_APART.sub(" ", text).split())


_APART = re.compile(r"[\W_]+")
