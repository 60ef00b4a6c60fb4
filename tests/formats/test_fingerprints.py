"""Fingerprints of pictures: near for near copies, apart for other pictures; near pairs equal brute force."""

import dataclasses
import io
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance
from scipy.stats import binomtest
from sklearn.datasets import load_sample_images

from labs.formats import near
from labs.formats.fingerprints import (
    BITS,
    DISTANCE,
    dhash,
    first_near,
    hamming,
    near_pairs,
    picture_hash,
    plain_text,
    text_fingerprint,
)
from labs.shapes import render, sample_scene
from labs.shapes.vocabulary import COLOURS, KINDS, SIZES

ROOT = Path(__file__).resolve().parents[2]


def jpeg(image, quality):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(io.BytesIO(buffer.getvalue()))


def shifted(image, dx, dy):
    pixels = np.pad(np.asarray(image), ((1, 1), (1, 1), (0, 0)), mode="edge")
    return Image.fromarray(pixels[1 + dy : 1 + dy + image.height, 1 + dx : 1 + dx + image.width])


def grainy(image, seed):
    noise = np.random.default_rng(seed).normal(0, 4, (image.height, image.width, 1))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def copies(image, rng, regrained):
    """Near copies by what was done to them."""

    def scaled(factor):
        method = rng.choice(
            [Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS]
        )
        return image.resize([max(1, round(side * factor)) for side in image.size], method)

    dx, dy = rng.choice([(0, 1), (1, 0), (0, -1), (-1, 0)])
    return {
        "jpeg 95": jpeg(image, 95),
        "jpeg 75": jpeg(image, 75),
        "jpeg 60": jpeg(image, 60),
        "half": scaled(0.5),
        "0.7": scaled(0.7),
        "1.5": scaled(1.5),
        "double": scaled(2),
        "brighter": ImageEnhance.Brightness(image).enhance(1.08),
        "darker": ImageEnhance.Brightness(image).enhance(0.92),
        "grain": regrained,
        "shift": shifted(image, dx, dy),
    }


def changed(scene, rng):
    """Scenes that differ from this one in one attribute of one object, in new grain."""
    objects, index = list(scene.objects), rng.randrange(len(scene.objects))
    obj = objects[index]
    used = {o.cell for o in objects}
    beside = [
        cell for cell in range(9)
        if cell not in used and abs(cell % 3 - obj.cell % 3) + abs(cell // 3 - obj.cell // 3) == 1
    ]  # fmt: skip
    edits = {
        "kind": {"kind": rng.choice([k for k in KINDS if k != obj.kind])},
        "colour": {"colour": rng.choice([c for c in COLOURS if c != obj.colour])},
        "size": {"size": next(s for s in SIZES if s != obj.size)},
    }
    if beside:
        edits["cell"] = {"cell": rng.choice(beside)}
    for name, edit in edits.items():
        new = [*objects[:index], dataclasses.replace(obj, **edit), *objects[index + 1 :]]
        yield name, dataclasses.replace(scene, objects=tuple(new), noise=rng.randrange(2**31))


def photographs():
    """Crops of scikit-learn's two photographs, a third apart."""
    for pixels in load_sample_images().images:
        image = Image.fromarray(pixels)
        for left in range(0, 428, 214):
            for top in range(0, 286, 142):
                yield image.crop((left, top, left + 212, top + 141))


def texture(seed, side=160):
    """Smooth random colours: 1/f noise, as in photographs of nothing in particular."""
    rng = np.random.default_rng(seed)
    across, down = np.fft.fftfreq(side)[None], np.fft.fftfreq(side)[:, None]
    frequency = np.maximum(np.hypot(across, down), 1 / side)
    bands = [
        np.fft.ifft2(np.fft.fft2(rng.normal(size=(side, side))) / frequency).real for _ in "rgb"
    ]
    common = bands[0] / bands[0].std()
    colours = [128 + 45 * common + 15 * band / band.std() for band in bands]
    return Image.fromarray(np.clip(np.stack(colours, -1), 0, 255).astype(np.uint8))


def recall(distances, least):
    """The share within DISTANCE, and a readable failure with its interval."""
    hits = sum(d <= DISTANCE for d in distances)
    low, high = binomtest(hits, len(distances)).proportion_ci(method="wilson")
    share = hits / len(distances)
    assert share >= least, f"{hits} of {len(distances)} ({low:.3f} to {high:.3f}) are near"


def test_dhash_is_the_published_rule():
    pixels = np.arange(72, dtype=np.uint8).reshape(8, 9)
    assert dhash(Image.fromarray(pixels)) == 2**64 - 1
    assert dhash(Image.fromarray(pixels[:, ::-1].copy())) == 0
    one = np.full((8, 9), 100, np.uint8)
    one[2, 5] = 120  # rises from pixel 4 to 5 of row 2 only
    assert dhash(Image.fromarray(one)) == 1 << (2 * 8 + 4)
    assert dhash(Image.fromarray(one).convert("RGB"), size=8) == dhash(Image.fromarray(one))
    assert dhash(texture(1), size=16) >> 256 == 0


def test_near_copies_of_scenes_are_near_and_other_scenes_are_not():
    rng = random.Random(20)
    near_by: dict[str, list[int]] = {}
    apart_by: dict[str, list[int]] = {}
    for _ in range(150):
        scene = sample_scene(rng, "train")
        image = render(scene)
        mine = picture_hash(image)
        regrained = render(dataclasses.replace(scene, noise=rng.randrange(2**31)))
        for name, copy in copies(image, rng, regrained).items():
            near_by.setdefault(name, []).append(hamming(mine, picture_hash(copy)))
        for name, other in changed(scene, rng):
            apart_by.setdefault(name, []).append(hamming(mine, picture_hash(render(other))))
    for name, distances in near_by.items():
        recall(distances, 0.87 if name in ("shift", "half") else 0.93)
    recall([d for name, ds in near_by.items() if name != "shift" for d in ds], 0.95)
    for name, distances in apart_by.items():
        confused = sum(d <= DISTANCE for d in distances) / len(distances)
        assert confused <= (0.06 if name == "kind" else 0.03), (name, confused)


def test_scenes_drawn_at_random_are_told_apart():
    rng = random.Random(8)
    scenes = [sample_scene(rng, "train", count=1 + k % 2) for k in range(700)]
    pairs = near_pairs([picture_hash(render(scene)) for scene in scenes], DISTANCE, BITS)
    same = [scenes[i].content() == scenes[j].content() for i, j in pairs]
    wrong = len(pairs) - sum(same)
    # 350 scenes of one object: some hundred pairs that differ in nothing but the kind, or the colour.
    assert sum(same) >= 20 and wrong <= 6, (sum(same), wrong)


def test_near_copies_of_photographs_are_near_and_other_crops_are_not():
    photos = list(photographs())
    pictures = [*photos, *map(texture, range(12))]
    rng = random.Random(3)
    hashes = [picture_hash(picture) for picture in pictures]
    distances = []
    for number, (picture, mine) in enumerate(zip(pictures, hashes, strict=True)):
        made = copies(picture, rng, grainy(picture, rng.randrange(2**31)))
        if number >= len(photos):
            del made["shift"]  # a pixel of 160, where every pixel is different: half are lost
        distances += [hamming(mine, picture_hash(copy)) for copy in made.values()]
    recall(distances, 0.95)
    others = [hamming(a, b) for i, a in enumerate(hashes) for b in hashes[:i]]
    assert min(others) > 4 * DISTANCE


def test_colours_of_equal_brightness_are_told_apart():
    def disc(colour):
        image = Image.new("YCbCr", (48, 48), (240, 128, 128))
        image.paste(colour, (14, 14, 34, 34))
        return picture_hash(image.convert("RGB"))

    red, green = disc((110, 100, 190)), disc((110, 100, 60))
    assert hamming(red, green) > 2 * DISTANCE
    assert dhash(Image.new("RGB", (48, 48), (100, 100, 100))) == 0


@pytest.mark.parametrize("level", [0, 90, 245, 255])
def test_a_flat_picture_has_no_fingerprint_whatever_its_grain(level):
    flat = Image.new("RGB", (64, 48), (level, level, level))
    assert picture_hash(flat) == 0
    assert picture_hash(grainy(flat, level)) == 0
    assert picture_hash(jpeg(grainy(flat, level + 1), 60)) == 0


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "I;16", "I", "F", "1", "YCbCr"])
def test_every_mode_is_read_as_it_looks(mode):
    grey = texture(5).convert("L")
    if mode == "I;16":
        image = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    elif mode == "I":
        image = Image.fromarray(np.asarray(grey).astype(np.int32) * 257)
    elif mode == "F":
        image = Image.fromarray(np.asarray(grey).astype(np.float32) / 255)
    else:
        image = grey.convert(mode)
    assert image.mode == mode
    near_enough = 60 if mode == "1" else DISTANCE  # dithered to black and white
    assert hamming(picture_hash(image), picture_hash(grey)) <= near_enough


def test_transparency_lies_over_white():
    image = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    image.paste((200, 30, 30, 255), (10, 10, 25, 25))
    flat = Image.new("RGB", (40, 40), "white")
    flat.paste((200, 30, 30), (10, 10, 25, 25))
    assert picture_hash(image) == picture_hash(flat)


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (4000, 3), (7, 7)])
def test_odd_sizes_have_a_fingerprint(size):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    assert 0 <= picture_hash(Image.fromarray(pixels)) < 2**BITS


# Near pairs


@st.composite
def crowds(draw):
    """Fingerprints in clusters: random ones alone would never be near each other."""
    bits = draw(st.sampled_from([1, 8, 64, 70, 192, 256]))
    distance = draw(st.sampled_from([0, 1, 3, 12]))
    centres = draw(st.lists(st.integers(0, 2**bits - 1), min_size=1, max_size=4))
    picks = draw(
        st.lists(
            st.tuples(
                st.integers(0, len(centres) - 1),
                st.lists(st.integers(0, bits - 1), max_size=distance + 2),
            ),
            max_size=40,
        )
    )
    hashes = []
    for centre, flips in picks:
        value = centres[centre]
        for bit in flips:
            value ^= 1 << bit
        hashes.append(value)
    return hashes, distance, bits, draw(st.integers(0, len(hashes)))


@pytest.mark.parametrize("numpy", ["new", "before 2.0", "none"])
@settings(max_examples=100, deadline=None)
@given(case=crowds())
def test_near_pairs_equal_brute_force(numpy, case):
    hashes, distance, bits, cut = case
    with pytest.MonkeyPatch.context() as patch:
        if numpy == "none":
            patch.setattr(near, "_numpy", lambda: None)
        elif numpy == "before 2.0":
            patch.delattr(np, "bitwise_count")
        count = range(len(hashes))
        brute = [
            (i, j)
            for i in count
            for j in count
            if i < j and hamming(hashes[i], hashes[j]) <= distance
        ]
        assert near_pairs(hashes, distance, bits) == brute
        first = [next((i for i, k in brute if k == j), None) for j in count]
        assert first_near(hashes, distance, bits) == first
        old, new = hashes[:cut], hashes[cut:]
        crossing = [
            next((i for i, o in enumerate(old) if hamming(o, n) <= distance), None) for n in new
        ]
        assert first_near(new, distance, bits, against=old) == crossing


def test_a_crowd_of_copies_is_no_square():
    """20,000 near copies of 20 pictures and 200,000 equal ones: their pairs would be hundreds of millions."""
    rng = random.Random(4)
    centres = [rng.getrandbits(256) for _ in range(20)]
    crowd = [
        centres[k % 20] ^ 1 << rng.randrange(256) ^ 1 << rng.randrange(256) for k in range(20_000)
    ]
    started = time.process_time()
    first = first_near(crowd, 12, 256)
    assert first[:20] == [None] * 20 and all(f is not None and f < 20 for f in first[20:])
    equal = first_near([centres[k % 3] for k in range(200_000)], 12, 256)
    assert equal[3:] == [0, 1, 2] * 66_665 + [0, 1]
    assert time.process_time() - started < 20


def test_random_fingerprints_take_near_linear_time():
    rng = np.random.default_rng(0)

    def seconds(count):
        rows = rng.integers(0, 256, (count, 32), dtype=np.uint8)
        hashes = [int.from_bytes(row.tobytes(), "big") for row in rows]
        hashes[-1] = hashes[0] ^ 0b1011
        started = time.process_time()
        assert near_pairs(hashes, 12, 256) == [(0, count - 1)]
        return time.process_time() - started

    seconds(2_000)
    assert seconds(40_000) < 8 * 4 * max(seconds(10_000), 0.05)


def test_a_fingerprint_of_too_many_bits_is_refused():
    with pytest.raises(ValueError, match="no fingerprint of 8 bits"):
        near_pairs([3, 256], 1, 8)


# Texts


def test_text_fingerprints_forgive_case_spaces_punctuation_and_width():
    same = ["A red ring, at the top.", "a  RED ring at\nthe top", "Ａ red ring at the top！"]
    assert len(set(map(text_fingerprint, same))) == 1
    chinese = ["左上角有一个红色圆环。", "左上角有一个红色圆环", " 左上角有一个红色圆环！"]
    assert len(set(map(text_fingerprint, chinese))) == 1
    different = ["a red ring", "a red ring at the top", "a ring red", "红色圆环", "圆环红色", ""]
    assert len(set(map(text_fingerprint, different))) == len(different)
    assert plain_text("Don't  STOP_me!") == "don t stop me"


def test_lone_surrogates_have_a_fingerprint():
    assert text_fingerprint("a\ud800b") != text_fingerprint("ab")


def pythons():
    """This Python without NumPy, and each older one from 3.9 on that is installed."""
    found = [sys.executable]
    for minor in (9, 10):
        for path in sorted(Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/python")):
            found.append(str(path))
    return found


@pytest.mark.parametrize("python", pythons())
def test_the_standard_library_is_enough_for_near_pairs_and_texts(python):
    """Loaded file by file, as a doctor's single file does; NumPy is hidden."""
    program = f"""
import sys, types, importlib.util
sys.modules["numpy"] = None
for name in ("labs", "labs.formats"):
    package = types.ModuleType(name); package.__path__ = []; sys.modules[name] = package
def load(name):
    spec = importlib.util.spec_from_file_location("labs.formats." + name, {str(ROOT)!r} + "/labs/formats/" + name + ".py")
    module = importlib.util.module_from_spec(spec); sys.modules[spec.name] = module; spec.loader.exec_module(module)
    return module
near, fingerprints, signs = load("near"), load("fingerprints"), load("text_signs")
print(near.near_pairs([0, 255, 1, 254, 0], 2, 8), fingerprints.first_near([9, 8], 1, 4), fingerprints.text_fingerprint("A b"), signs.refusal("As an AI model"))
"""
    done = subprocess.run([python, "-I", "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = [(0, 2), (0, 4), (1, 3), (2, 4)]
    assert done.stdout.strip() == f"{expected} [None, 0] {text_fingerprint('a b')} as an ai"
