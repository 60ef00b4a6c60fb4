"""The checks of chapter 2's exercises. Grade with `labs grade ch02`."""

import copy
import math
import random
from fractions import Fraction
from functools import cache

import numpy as np

from labs.grading import Check, case
from labs.shapes import Object, Scene, caption, render
from labs.shapes.language import box_text, noun, place, read_digits
from labs.shapes.vocabulary import say

# -- dhash -------------------------------------------------------------------------------------


def picture(levels, height, width, seed, noise=9):
    """A picture of 8 x 9 cells of these levels, with noise that leaves every average as it is."""
    cell = height // 8, width // 9
    half = cell[0] * cell[1] // 2
    rng = np.random.default_rng(seed)
    pixels = np.zeros((height, width), dtype=np.uint8)
    for row, column in np.ndindex(8, 9):
        level = int(levels[row, column])
        grain = rng.integers(0, min(noise, level, 255 - level) + 1, size=half)
        block = level + rng.permutation(np.concatenate([grain, -grain]))
        y, x = row * cell[0], column * cell[1]
        pixels[y : y + cell[0], x : x + cell[1]] = block.reshape(cell)
    return pixels


def slow_rows(pixels):
    """The oracle: the eight bytes of the hash, row by row, from whole sums of pixels."""
    rows, height, width = [], pixels.shape[0] // 8, pixels.shape[1] // 9
    for r in range(8):
        sums = [0] * 9
        for y in range(r * height, (r + 1) * height):
            for x in range(9 * width):
                sums[x // width] += int(pixels[y, x])
        rows.append(sum(2**c for c in range(8) if sums[c + 1] > sums[c]))
    return rows


def bytes_of(dhash, pixels):
    """[the type of the hash, whether it is one of 64 bits, its bytes, whether pixels were kept]"""
    before = pixels.copy()
    found = dhash(pixels)
    kind = type(found).__name__
    if kind != "int":
        return [kind, False, [], True]
    rows = [found >> 8 * row & 255 for row in range(8)]
    return [kind, 0 <= found < 2**64, rows, bool((before == pixels).all())]


def pictures():
    """Pictures with sides that 72 divides, so that other grids can be cut out of them too."""
    rng = np.random.default_rng(1)
    random_levels = rng.integers(30, 220, size=(8, 9))
    ramp = 40 + 14 * np.arange(9)[None] + 3 * np.arange(8)[:, None]
    margins = random_levels.copy()
    margins[:2], margins[-1], margins[:, 6:] = 255, 0, 255
    return {
        "random cells, noisy": picture(random_levels, 72, 144, seed=2),
        "brighter to the right": picture(ramp, 144, 72, seed=3, noise=39),
        "white and black margins": picture(margins, 72, 216, seed=4, noise=30),
        "dark, then one bright column": picture(np.eye(9, dtype=int)[:8] * 200 + 3, 144, 144, 5, 2),
    }


def in_bits(row):
    """A byte of the hash as its comparisons, from left to right."""
    return " ".join(str(row >> c & 1) for c in range(8))


def test_dhash(check: Check):
    one_each = np.random.default_rng(6).integers(0, 256, size=(8, 9)).astype(np.uint8)
    for name, pixels in {**pictures(), "one pixel a cell": one_each}.items():
        kind, fits, rows, kept = check.probe(bytes_of, pixels)
        check.holds("The hash is an int.", kind == "int", stage="returns", wanted="int", got=kind)
        check.holds("The hash has 64 bits: 0 <= h < 2**64.", fits, stage="shape", got="others")
        for r, (row, wanted) in enumerate(zip(rows, slow_rows(pixels), strict=True)):
            check.holds(
                f"Row {r}, bits {8 * r} to {8 * r + 7}, is wrong ({name}).",
                row == wanted,
                stage="value",
                wanted=in_bits(wanted),
                got=in_bits(row),
            )
        check.holds("The pixels are left as they are.", kept)


# -- near_pairs --------------------------------------------------------------------------------


def slow_pairs(hashes, distance, bits):
    """The oracle: all pairs, bit by bit."""
    table = np.array([[h >> bit & 1 for bit in range(bits)] for h in hashes]).reshape(-1, bits)
    apart = table @ (1 - table).T + (1 - table) @ table.T
    return [(i, j) for i, j in np.argwhere(apart <= distance).tolist() if i < j]


def flipped(value, bits):
    for bit in bits:
        value ^= 1 << bit
    return value


def across_bands(bits, distance, seed):
    """Hashes with partners that differ in one bit of every band but one, at the borders of the
    bands; in one bit of each of `distance` bands; in the highest bits; and in one bit too many, all
    of them inside one band.

    Where `distance` bands are all spoilt, they are so whether bands are pieces of a hash or every
    n-th bit of it: too few bands miss the same pairs however they are cut.
    """
    rng = random.Random(seed)
    hashes = []

    def pair(places, step=1):
        spoilt = len({place * distance // bits for place in places}) == distance
        own = rng.getrandbits(bits)
        moved = [
            place + step * (step * (k * spoilt - place) % distance)
            for k, place in enumerate(places)
        ]
        hashes.extend([own, flipped(own, moved)])

    edges = [bits * k // (distance + 1) for k in range(distance + 2)]
    for spared in range(distance + 1):
        pair([edges[band] for band in range(distance + 1) if band != spared])
    pair([edge - 1 for edge in edges[1:-1]], step=-1)
    pair([bits * (2 * k + 1) // (2 * distance) for k in range(distance)])
    own, top = rng.getrandbits(bits), range(bits - 1 - distance // 2, bits)
    low = [(bits - 1) % distance + distance * k for k in range(distance - len(top))]
    hashes += [own, own, flipped(own, [*top, *low]), flipped(own, [*top, *low, 1 + max(low)])]
    own = rng.getrandbits(bits)
    hashes += [own, flipped(own, range(edges[1] - 1 - distance, edges[1]))]
    hashes += [rng.getrandbits(bits) for _ in range(7)]
    rng.shuffle(hashes)
    return hashes


def counted(near_pairs, hashes, distance, bits, wanted):
    """Whether the pairs are right, whether hashes were compared by ^, whether no more than one pair
    in fifty was, and whether not all were.

    Comparisons are counted by the ints themselves; what is cut out of a hash counts as well.
    """

    class Counted(int):
        made = 0

        def __xor__(self, other):
            Counted.made += 1
            return int.__xor__(self, other)

        __rxor__ = __xor__

        def __rshift__(self, places):
            return Counted(int.__rshift__(self, places))

        def __and__(self, other):
            return Counted(int.__and__(self, other))

        __rand__ = __and__

    found = near_pairs([Counted(h) for h in hashes], distance, bits)
    right = [tuple(pair) for pair in found] == [tuple(pair) for pair in wanted]
    every = len(hashes) * (len(hashes) - 1) // 2
    made = Counted.made
    return [right, made >= len(wanted), made <= every // 50, made < every]


@cache
def crowd():
    """601 hashes of 130 bits: random ones, and families whose members differ in a few bits."""
    rng = random.Random(11)
    hashes = [rng.getrandbits(130) for _ in range(421)]
    for _ in range(60):
        own = rng.getrandbits(130)
        hashes += [flipped(own, rng.sample(range(130), k)) for k in (1, 2, 4)]
    rng.shuffle(hashes)
    return hashes, slow_pairs(hashes, 7, 130)


def test_near_pairs(check: Check):
    check.cases(
        [
            case("64 bits, 4 bands", across_bands(64, 3, seed=1), 3, 64),
            case("83 bits, 5 bands", across_bands(83, 4, seed=2), 4, 83),
            case("256 bits, 8 bands", across_bands(256, 7, seed=3), 7, 256),
        ],
        slow_pairs,
    )
    rng = random.Random(5)
    few = [rng.getrandbits(11) for _ in range(23)]
    check.cases(
        [
            case("equal hashes only", [7, 2**63, 7, 5, 2**63, 7], 0, 64),
            case("11 bits, half of them may differ", few, 5, 11),
            case("no hash at all", [], 3, 64),
        ],
        slow_pairs,
    )
    hashes, wanted = crowd()
    right, compared, cheap, _ = check.probe(counted, hashes, 7, 130, wanted)
    check.holds("The pairs of 601 hashes of 130 bits are right.", right, stage="value")
    check.holds("Hashes are compared by ^, as they are given.", compared, stage="cost")
    few = "At most one pair in fifty is compared."
    check.holds(few, cheap, stage="cost", wanted="at most 3606 of 180300 pairs", got="more")


# -- mixture -----------------------------------------------------------------------------------


def test_mixture(check: Check):
    # Weights by their logarithms, shards filled one by one, steps by the binomial distribution.
    sizes = {"vqa": 467_000, "instruct": 158_000, "text": 40_000}
    drawn = 665_000

    def draws(temperature):
        logs = {name: math.log(n) / temperature for name, n in sizes.items()}
        return {
            name: drawn / sum(math.exp(other - log) for other in logs.values())
            for name, log in logs.items()
        }

    by_root = draws(2)
    shards, room = 0, 0
    for _ in range(sizes["vqa"] + sizes["instruct"]):
        if room < 153_088:
            shards, room = shards + 1, 10**9
        room -= 153_088
    rate = Fraction(1, 500)
    some = sum(math.comb(128, k) * rate**k * (1 - rate) ** (128 - k) for k in range(1, 129))
    check.number(
        {
            "text_percent": by_root["text"] / drawn * 100,
            "text_epochs": by_root["text"] / sizes["text"],
            "text_epochs_equal": draws(math.inf)["text"] / sizes["text"],
            "visual_megatokens": (by_root["vqa"] + by_root["instruct"]) * (336 // 14) ** 2 / 10**6,
            "shards": shards,
            "spoiled_percent": float(100 * some),
        }
    )


# -- flip_record -------------------------------------------------------------------------------


MIRROR = {0: 2, 2: 0, 3: 5, 5: 3, 6: 8, 8: 6}
SIDES = {"en": ("left", "right"), "zh": ("左", "右")}


def mirrored_scene(scene):
    """The scene with its objects on the other side, in the order in which they were."""
    return Scene(
        tuple(
            Object(o.kind, o.colour, o.size, MIRROR.get(o.cell, o.cell), -o.dx, o.dy)
            for o in scene.objects
        ),
        background=scene.background,
    )


def turns_about(scene, language, mirrored=False):
    """Questions and answers about a scene, its words and boxes from the scene itself. Which of two
    objects is further left is asked of the scene; a mirrored scene is asked about the right."""
    first, second, *_ = scene.objects
    side = SIDES[language][mirrored]
    yes = (first.centre[0] < second.centre[0]) != mirrored
    what = noun(first, language, size=False)
    a, b = say(first.kind, language), say(second.kind, language)
    at = box_text(second)
    if language == "zh":
        asked = [
            ("描述这张图片。", caption(scene, language)),
            (f"{a}在{b}的{side}边吗？", "是" if yes else "否"),
            (f"给出{what}的边界框。", box_text(first)),
            (f"{place(first.position, language)}的物体是什么颜色？", say(first.colour, language)),
            (f"{at}里有什么？", say(second.kind, language)),
        ]
    else:
        asked = [
            ("Describe the image.", caption(scene, language)),
            (f"Is the {a} to the {side} of the {b}?", "yes" if yes else "no"),
            (f"Give the box of the {what}.", box_text(first)),
            (f"What colour is the object {place(first.position, language)}?", first.colour),
            (f"What is in {at}?", f"{side.capitalize()} or not, a {second.kind}."),
            (f"Where is the {b}?", place(second.position, language)),
        ]
    asked[0] = ("<image>\n" + asked[0][0], asked[0][1])
    return [
        {"from": who, "value": text}
        for turn in asked
        for who, text in zip(("human", "gpt"), turn, strict=True)
    ]


def drawn_record(name, scene, turns):
    return {"id": name, "image": np.asarray(render(scene))[:41].copy(), "conversations": turns}


def talk(name, *texts):
    """A record of these turns, by turns human and gpt, on a picture of 5 x 7."""
    rng = np.random.default_rng(len(texts))
    who = ("human", "gpt")
    turns = [{"from": who[i % 2], "value": text} for i, text in enumerate(texts)]
    image = rng.integers(0, 256, size=(5, 7, 3)).astype(np.uint8)
    return {"id": name, "image": image, "conversations": turns}


SCENES = [
    Scene(
        (
            Object("ring", "red", "large", 0, 0.004, -0.003),
            Object("star", "blue", "small", 5, -0.031, 0.02),
            Object("cross", "green", "small", 7, 0.011, -0.024),
        )
    ),
    Scene(
        (
            Object("circle", "orange", "small", 2, 0.022, 0.014),
            Object("square", "purple", "large", 6, -0.006, 0.008),
        )
    ),
]


def told(flip, record):
    """What becomes of a record that must be refused: the name of the exception."""
    try:
        flip(record)
    except Exception as error:
        return type(error).__name__
    return "no exception"


def kept(flip, record):
    """Whether the record is the same afterwards, turns and picture."""
    import copy

    before = copy.deepcopy(record)
    flip(record)
    same = bool((before["image"] == record["image"]).all())
    return same and before["conversations"] == record["conversations"]


def test_flip_record(check: Check):
    wanted = {}

    def about(name, scene, language):
        record = drawn_record(name, scene, turns_about(scene, language))
        other = turns_about(mirrored_scene(scene), language, mirrored=True)
        image = np.stack([record["image"][:, x] for x in range(47, -1, -1)], axis=1)
        wanted[name] = {"id": name, "image": image, "conversations": other}
        return case(name, record)

    def words(name, texts, others):
        record, other = talk(name, *texts), talk(name, *others)
        other["image"] = np.stack([record["image"][:, x] for x in range(6, -1, -1)], axis=1)
        wanted[name] = other
        return case(name, record)

    def oracle(record):
        return wanted[record["id"]]

    english = [about(f"english {i}", scene, "en") for i, scene in enumerate(SCENES)]
    check.cases(english, oracle)
    chinese = [about(f"chinese {i}", scene, "zh") for i, scene in enumerate(SCENES)]
    check.cases(chinese, oracle)
    inside = words(
        "words inside words",
        ["Is the bright star already on the right?", "yes", "What is upright?", "Left: a ring."],
        ["Is the bright star already on the left?", "yes", "What is upright?", "Right: a ring."],
    )
    check.cases([inside], oracle)
    both = words(
        "左右",
        ["左右两边各有几个？右边呢？", "一个左右，[0,5,40,100]"],
        ["左右两边各有几个？左边呢？", "一个左右，[60,5,100,100]"],
    )
    check.cases([both], oracle)

    digits = Scene(digits=(3, 14))
    for question in ("Read the digits.", "图片上写了什么？"):
        record = drawn_record("text", digits, [{"from": "human", "value": question}])
        record["conversations"].append({"from": "gpt", "value": read_digits(digits)})
        got = check.probe(told, record)
        sentence = f"A picture of text is refused ({question})."
        refused = got == "ValueError"
        check.holds(sentence, refused, stage="value", wanted="ValueError", got=got)
    same = check.probe(kept, copy.deepcopy(english[0].args[0]))
    check.holds("The record that comes in stays as it is.", same)


# -- pack_stream -------------------------------------------------------------------------------


def llava_like(count, capacity, seed):
    """Lengths with a long tail, as conversations have."""
    rng = random.Random(seed)
    drawn = [int(capacity * rng.lognormvariate(-1.4, 0.7)) for _ in range(count)]
    return [max(3, min(capacity, n)) for n in drawn]


def facts(pack, lengths, capacity, buffer):
    """What the rows are like, every entry true where they are right; None where they are no rows."""
    rows = pack(list(lengths), capacity, buffer)
    keys = {"samples", "positions", "segments"}
    if not isinstance(rows, list) or any(not isinstance(r, dict) or set(r) != keys for r in rows):
        return None
    places = [i for row in rows for i in row["samples"]]
    tokens = [sum(s > 0 for s in row["segments"]) for row in rows]
    gone, held, longest, positions, segments = 0, 0, True, True, True
    read = 0
    for row in rows:
        read = max([read, *(i + 1 for i in row["samples"])])
        held = max(held, read - gone)
        gone += len(row["samples"])
        own = [lengths[i] for i in row["samples"]]
        longest &= sum(own) <= capacity
        padding = [0] * (capacity - sum(own))
        positions &= row["positions"] == [p for n in own for p in range(n)] + padding
        numbered = [k + 1 for k, n in enumerate(own) for _ in range(n)]
        segments &= row["segments"] == numbered + padding
    return {
        "form": all(len(row[key]) == capacity for row in rows for key in ("positions", "segments")),
        "none lost": set(places) == set(range(len(lengths))),
        "most there": len(set(places)) > len(lengths) - buffer,
        "none twice": len(set(places)) == len(places),
        "fits": longest,
        "positions": positions,
        "segments": segments,
        "buffer": held <= buffer,
        "buffer + 1": held <= buffer + 1,
        "share": [
            len(lengths) < 100 or sum(tokens) >= share * capacity * len(rows)
            for share in (0.97, 0.94, 0.87)
        ],
    }


def refusal_of(pack, lengths, capacity, buffer):
    try:
        pack(lengths, capacity, buffer)
    except Exception as error:
        return type(error).__name__
    return "no exception"


RULES = (
    ("form", "shape", "Positions and segments of a row have `capacity` numbers."),
    ("none lost", "value", "Every sample is in a row."),
    ("none twice", "value", "No sample is in two rows, or twice in one."),
    ("fits", "value", "The samples of a row are together no longer than the row."),
    ("positions", "value", "Positions count from 0 in each sample; padding has 0."),
    ("segments", "value", "Segments are 1, 2, 3, … by sample; padding has 0."),
)


def packs(check, name, lengths, capacity, buffer):
    """Hold one packed stream to the rules; returns its share of filled places, in three bits."""
    found = check.probe(facts, lengths, capacity, buffer)
    form = "a list of dicts with samples, positions and segments"
    check.holds(f"The result is {form}.", found is not None, stage="returns", wanted=form)
    for key, stage, sentence in RULES:
        check.holds(f"{sentence} ({name})", found[key], stage=stage)
    check.holds(
        "At no time have more than `buffer` samples been read and not left.",
        found["buffer"],
        wanted=f"at most {buffer}",
        got=f"{buffer + 1}" if found["buffer + 1"] else f"more than {buffer + 1}",
    )
    return found["share"]


def test_pack_stream(check: Check):
    packs(check, "97 samples", llava_like(97, 128, seed=1), 128, 24)
    packs(check, "rows that fit exactly", [5, 5, 7, 17, 3, 17, 2, 17, 10, 7], 17, 4)
    packs(check, "fewer samples than the buffer holds", [7, 13, 5, 3, 11], 17, 29)
    packs(check, "no sample", [], 17, 3)
    got = check.probe(refusal_of, [5, 18, 3], 17, 3)
    refused = got == "ValueError"
    sentence = "A sample that is longer than a row raises a ValueError."
    check.holds(sentence, refused, wanted="ValueError", got=got)
    lengths = llava_like(223, 128, seed=2)
    enough, nearly, half_way = packs(check, "223 samples", lengths, 128, 24)
    check.holds(
        "At least 97 % of the places hold a token.",
        enough,
        stage="cost",
        wanted="at least 97 %",
        got="94 to 97 %" if nearly else "87 to 94 %" if half_way else "less than 87 %",
    )


# -- same_samples ------------------------------------------------------------------------------


def shards_of(*sizes):
    """Shards of these sizes, the samples numbered through."""
    numbers = iter(range(sum(sizes)))
    return [[next(numbers) for _ in range(size)] for size in sizes]


SHARDS = shards_of(9, 21, 4, 16, 11, 19, 13)


def in_order(shards, workers, batch=4, decode=int):
    """The oracle of the run without workers."""
    samples = [decode(number) for shard in shards for number in shard]
    return [samples[i : i + batch] for i in range(0, len(samples), batch)]


def epoch_of(run, shards, workers, batch):
    """What an epoch was: how many samples were missing and how many came again, whether each was
    decoded once, by how many workers, and whether the main process decoded too."""
    import os
    import struct

    reading, writing = os.pipe()

    def decode(number):
        os.write(writing, struct.pack("<i", os.getpid()))
        return 1000 + number

    batches = run(shards, workers, batch, decode)
    os.close(writing)
    data = b""
    while part := os.read(reading, 1 << 16):
        data += part
    os.close(reading)
    readers = set(struct.unpack(f"<{len(data) // 4}i", data))
    wanted = {1000 + number for shard in shards for number in shard}
    got = [sample for samples in batches for sample in samples]
    return {
        "missing": len(wanted - set(got)),
        "again": len(got) - len(set(got)),
        "others": len(set(got) - wanted),
        "small batches": all(0 < len(samples) <= batch for samples in batches),
        "decoded once": len(data) == 4 * len(wanted),
        "workers": len(readers - {os.getpid()}),
        "main process": os.getpid() in readers,
    }


@cache
def comes_twice(run):
    """The fault as the log tells it, and the healthy run."""
    twice, once = run(SHARDS, 2), run(SHARDS, 0)
    numbers = sorted(n for samples in twice for n in samples)
    return (
        numbers == sorted(2 * [n for shard in SHARDS for n in shard])
        and (len(twice), len(numbers), len(once)) == (48, 186, 24)
        and twice[:4] == [[0, 1, 2, 3], [0, 1, 2, 3], [4, 5, 6, 7], [4, 5, 6, 7]]
        and once == in_order(SHARDS, 0)
    )


def test_same_samples(check: Check):
    line = "by worker 1: 93 samples of 7 shards"
    patch = check.diagnosis("not_split", line, check.exercise.broken, comes_twice)
    check.cases(
        [
            case("a healthy run: no workers", SHARDS, 0),
            case("a healthy run, other batches", shards_of(5, 2, 8), 0, batch=7),
        ],
        in_order,
        target=patch,
    )
    for name, shards, batch in (
        ("7 shards, 2 workers", SHARDS, 4),
        ("1 shard, 2 workers", shards_of(17), 5),
    ):
        seen = check.probe(epoch_of, shards, 2, batch, target=patch)
        for key, sentence in (
            ("missing", "No sample is missing"),
            ("again", "No sample comes again"),
            ("others", "No other samples come"),
        ):
            got = f"{seen[key]} samples"
            none = seen[key] == 0
            check.holds(f"{sentence} ({name}).", none, stage="value", wanted="0 samples", got=got)
        check.holds(f"Batches have 1 to `batch` samples ({name}).", seen["small batches"])
        check.holds(f"Each sample is decoded once ({name}).", seen["decoded once"], stage="cost")
        aside = not seen["main process"]
        check.holds(f"The main process does not decode ({name}).", aside, stage="cost")
        wanted = min(2, len(shards))
        got = f"{seen['workers']} workers"
        shared = seen["workers"] >= wanted
        check.holds("The workers share the decoding.", shared, stage="cost", wanted="2", got=got)


# -- ResumableStream ---------------------------------------------------------------------------


def uninterrupted(count, buffer, prefetch, seed, length):
    """The oracle: the indices of an endless stream, without a queue or a state."""
    rng, delivered, epoch = random.Random(seed), [], 0
    while len(delivered) < length:
        order = list(range(count)) if epoch % 2 == 0 else list(range(count))[::-1]
        held, order = order[:buffer], order[buffer:]
        while held:
            drawn = rng.randrange(len(held))
            held[drawn], held[-1] = held[-1], held[drawn]
            delivered.append(held.pop())
            held, order = held + order[:1], order[1:]
        epoch += 1
    return delivered[:length]


def resumed(Stream, count, buffer, prefetch, seed, stops, more):
    """For each stop: the indices delivered up to there, and `more` after resuming. The run goes on
    for two samples after its state was taken, and the one that takes over has been in use."""
    import json

    class Source:
        def __len__(self):
            return count

        def __getitem__(self, index):
            return {"index": range(count)[index]}

    runs = []
    for stop in stops:
        first = Stream(Source(), buffer, prefetch, seed)
        delivered = [next(first)["index"] for _ in range(stop)]
        state = first.state_dict()
        try:
            json.dumps(state)
        except TypeError as error:
            raise ValueError(f"JSON cannot write the state: {error}") from error
        for _ in range(2):
            next(first)
        second = Stream(Source(), buffer, prefetch, seed)
        if stop % 3 == 0:
            for _ in range(stop // 3):
                next(second)
        second.load_state_dict(json.loads(json.dumps(state)))
        runs.append(delivered + [next(second)["index"] for _ in range(more)])
    return runs


def undisturbed(Stream, count, buffer, prefetch, seed, length):
    """The indices of a run whose state is taken after every sample."""
    stream = Stream(range(count), buffer, prefetch, seed)
    delivered = []
    for _ in range(length):
        delivered.append(next(stream))
        stream.state_dict()
    return delivered


def bill(Stream, count, buffer, prefetch, stop):
    """[characters of the state, samples read on resuming and delivering one] within their limits"""
    import json

    class Source:
        read = 0

        def __len__(self):
            return count

        def __getitem__(self, index):
            Source.read += 1
            return {"index": range(count)[index], "picture": "x" * 5000}

    first = Stream(Source(), buffer, prefetch)
    for _ in range(stop):
        next(first)
    text = json.dumps(first.state_dict())
    second = Stream(Source(), buffer, prefetch)
    Source.read = 0
    second.load_state_dict(json.loads(text))
    next(second)
    return [len(text) <= 25_000, Source.read <= buffer + 2 * prefetch + 3]


def test_ResumableStream(check: Check):
    stops = list(range(0, 43))
    for count, buffer, prefetch, seed in ((19, 5, 3, 7), (19, 5, 0, 8), (17, 29, 2, 9)):
        found = check.probe(resumed, count, buffer, prefetch, seed, stops, 23)
        for stop, delivered in zip(stops, found, strict=True):
            wanted = uninterrupted(count, buffer, prefetch, seed, stop + 23)
            where = f"after {stop} samples of {count}, buffer {buffer}, prefetch {prefetch}"
            check.equal(
                f"Resumed is as if uninterrupted ({where}).", delivered, wanted, stage="value"
            )
    found = check.probe(undisturbed, 19, 5, 3, 7, 43)
    wanted = uninterrupted(19, 5, 3, 7, 43)
    check.equal("Taking the state does not disturb the run.", found, wanted)
    small, quick = check.probe(bill, 211, 13, 4, 157)
    check.holds(
        "The state holds indices, not samples.",
        small,
        stage="cost",
        wanted="at most 25,000 characters, with 17 samples of 5,000 held",
    )
    check.holds(
        "Resuming reads what buffer and queue hold, and no more.",
        quick,
        stage="cost",
        wanted="at most 24 samples, after 157 were delivered",
    )
