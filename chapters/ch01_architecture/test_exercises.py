"""The checks of chapter 1's exercises. Grade with `labs grade ch01`."""

import math
from fractions import Fraction

import torch
from torch import nn

from labs.grading import Check, case, inputs

# -- merge_image_features ----------------------------------------------------------------------

IMAGE = 3  # the id of a placeholder


def ids_of(rows):
    """[batch, tokens] from words such as "..##.#": a # is a placeholder, a . some other token."""
    source = inputs.generator(11)
    width = max(map(len, rows))
    ids = torch.randint(4, 101, (len(rows), width), generator=source)
    places = torch.tensor([[c == "#" for c in row.ljust(width, ".")] for row in rows])
    return torch.where(places, IMAGE, ids)


def embeds_of(ids, seed, dtype=torch.float32):
    return inputs.normal(*ids.shape, 5, seed=seed, dtype=dtype)


def images_of(*sizes, seed, dtype=torch.float32):
    return [inputs.normal(n, 5, seed=seed + i, dtype=dtype) for i, n in enumerate(sizes)]


def place_by_place(inputs_embeds, input_ids, image_features, image_token_id):
    """The oracle: read the batch like a book, and take the next feature at each placeholder."""
    stream = iter([row for image in image_features for row in image])
    rows = []
    for ids, embeds in zip(input_ids.tolist(), inputs_embeds, strict=True):
        vectors = [
            next(stream).to(inputs_embeds.dtype) if token == image_token_id else embeds[t]
            for t, token in enumerate(ids)
        ]
        rows.append(torch.stack(vectors))
    assert next(stream, None) is None
    return torch.stack(rows)


def feature_slopes(merge, embeds, ids, images, weights, token):
    """Gradients of the features, joined; zeros where autograd sees no way to them."""
    images = [image.clone().requires_grad_() for image in images]
    out = (merge(embeds.clone(), ids, images, token) * weights).sum()
    if not out.requires_grad:
        return torch.zeros(sum(map(len, images)), embeds.shape[-1])
    slopes = torch.autograd.grad(out, images, allow_unused=True)
    return torch.cat(
        [torch.zeros_like(i) if g is None else g for i, g in zip(images, slopes, strict=True)]
    )


def refusal_of(merge, embeds, ids, images, token, numbers):
    """What a batch that does not fit leads to: the exception's type, the numbers that it leaves out."""
    import re

    try:
        merge(embeds, ids, images, token)
    except ValueError as error:
        told = set(re.findall(r"\d+", str(error)))
        return ["ValueError", [n for n in numbers if str(n) not in told]]
    except Exception as error:
        return [type(error).__name__, []]
    return ["no exception", []]


def test_merge_image_features(check: Check):
    # None, one and two images a sample, of unequal sizes, with text between and padding either side.
    mixed = ids_of(["..###..##...", ".............", "####.........", "......##.#"])
    sizes = (3, 2, 4, 2, 1)
    one = ids_of([".##....", "....##.", "..##..."])
    together = ids_of([".#####.", "##....."])
    check.cases(
        [
            case("none, one and two images", embeds_of(mixed, 21), mixed, images_of(*sizes, seed=22), IMAGE),
            case("one image in each sample", embeds_of(one, 31), one, images_of(2, 2, 2, seed=32), IMAGE),
            case("two images side by side", embeds_of(together, 41), together, images_of(3, 2, 2, seed=42), IMAGE),
            case("features in double precision", embeds_of(one, 51), one, images_of(2, 2, 2, seed=52, dtype=torch.float64), IMAGE),
            case("text alone", embeds_of(ids_of([".....", "..."]), 61), ids_of([".....", "..."]), [], IMAGE),
        ],
        place_by_place,
        gradient=["inputs_embeds"],
    )  # fmt: skip

    embeds, images, weights = embeds_of(mixed, 21), images_of(*sizes, seed=22), embeds_of(mixed, 71)
    check.equal(
        "Each feature gets the gradient of the place at which it was put.",
        check.probe(feature_slopes, embeds, mixed, images, weights, IMAGE),
        weights[mixed == IMAGE],
        stage="gradient",
    )

    totals = "{} image placeholders and {} features raise a ValueError that names both numbers."
    across = "An image that would begin in one sample and end in the next raises a ValueError."
    for sizes, sentence in (
        ((3, 2, 4, 2, 3), totals.format(12, 14)),
        ((3, 2, 4), totals.format(12, 9)),
        ((), totals.format(12, 0)),
        ((3, 4, 2, 2, 1), across),
        ((3, 2, 5, 2), across),
    ):
        numbers = [12, sum(sizes)] if sentence != across else []
        given = images_of(*sizes, seed=81)
        told = check.probe(refusal_of, embeds, mixed, given, IMAGE, numbers)
        got = told[0] + (f" without {told[1]}" if told[1] else "")
        check.holds(sentence, told == ["ValueError", []], wanted="a ValueError", got=got)

    # Rows of a batch are merged as they would be alone.
    first = check.call(embeds[:1], mixed[:1], images[:2], IMAGE, label="the first sample alone")
    whole = check.call(embeds, mixed, images, IMAGE, label="the whole batch")
    check.equal("A sample does not depend on the others of the batch.", first, whole[:1])


# -- visual_tokens -----------------------------------------------------------------------------


def best_grid(width, height, limit):
    """(columns, rows) of at most `limit` tiles nearest to the picture's shape, in fractions."""
    grids = [(c, r) for c in range(1, limit + 1) for r in range(1, limit + 1) if c * r <= limit]
    nearest = min(abs(Fraction(c, r) - Fraction(width, height)) for c, r in grids)
    equals = [(c, r) for c, r in grids if abs(Fraction(c, r) - Fraction(width, height)) == nearest]
    large_enough = [g for g in equals if 2 * width * height > 448**2 * g[0] * g[1]]
    return max(large_enough, key=math.prod) if large_enough else min(equals, key=math.prod)


def test_visual_tokens(check: Check):
    canvases = [(336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008)]
    found = {}
    for name, width, height in (("photo", 600, 800), ("icon", 200, 200)):
        columns, rows = best_grid(width, height, 12)
        tiles = columns * rows + (columns * rows > 1)
        found[name] = {
            "llava_1.5": (336 // 14) ** 2,
            "llava_next": exact_grid((height, width), canvases)["tokens"],
            "qwen2_vl": math.floor(width / 28 + 0.5) * math.floor(height / 28 + 0.5),
            "internvl": tiles * (448 // 28) ** 2,
        }
    a_token = 2 * 32 * torch.empty(4096, dtype=torch.bfloat16).nbytes
    cache = found["photo"]["llava_next"] * a_token / 2**20
    check.number({**found, "cache_mib": cache})


# -- llava_next_grid ---------------------------------------------------------------------------


def exact_grid(size, canvases, tile=336, patch=14):
    """The oracle, in fractions: fit, rank by sorting, then mark the cells that are cut one by one."""
    height, width = size

    def rank(numbered):
        number, (high, wide) = numbered
        scale = min(Fraction(high, height), Fraction(wide, width))
        kept = min(math.floor(height * scale) * math.floor(width * scale), height * width)
        return (-kept, high * wide - kept, number)

    _, (high, wide) = min(enumerate(canvases), key=rank)
    rows, columns = high // patch, wide // patch
    filled = [rows, columns]
    if Fraction(width, height) > Fraction(columns, rows):
        filled[0] = math.floor(Fraction(height * columns, width))
    else:
        filled[1] = math.floor(Fraction(width * rows, height))
    cells = []
    for length, used in zip((rows, columns), filled, strict=True):
        edge = (length - used) // 2
        cells.append(sum(edge <= place < length - edge for place in range(length)))
    tokens = sum(1 for _ in range((tile // patch) ** 2))
    tokens += sum(cells[1] + 1 for _ in range(cells[0]))
    return {"canvas": (high, wide), "cells": tuple(cells), "tokens": tokens}


def test_llava_next_grid(check: Check):
    released = [(336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008)]
    other = [(35, 35), (70, 35), (35, 105), (105, 70), (70, 70)]
    sizes = {
        "a landscape": (480, 640),
        "an odd rest of padding": (720, 1280),
        "a portrait": (1201, 757),
        "a strip": (500, 3001),
        "a tower": (2999, 700),
        "as large as a canvas": (672, 672),
        "an icon: all canvases keep it whole": (200, 200),
        "a small tall picture": (331, 127),
        "a shape between two canvases": (350, 500),
        "one pixel": (1, 1),
    }
    check.cases(
        [case(f"{label}, {s[1]} wide and {s[0]} high", s, released) for label, s in sizes.items()]
        + [
            case("other canvases and tiles", (61, 97), other, tile=35, patch=5),
            case("other canvases, a tall picture", (211, 89), other, tile=35, patch=5),
            case("other canvases, a small picture", (17, 30), other[::-1], 35, 7),
        ],
        exact_grid,
    )
    turned = [(wide, high) for high, wide in released]
    standing = check.call((640, 480), turned, label="a landscape and all canvases turned")
    lying = exact_grid((480, 640), released)
    wanted = [lying[key][::-1] for key in ("canvas", "cells")]
    got = [tuple(standing[key]) for key in ("canvas", "cells")]
    check.holds(
        "Turning the picture and all canvases turns canvas and cells.",
        got == wanted,
        wanted=f"canvas {wanted[0]}, cells {wanted[1]}",
        got=f"canvas {got[0]}, cells {got[1]}",
    )


# -- smart_resize ------------------------------------------------------------------------------


def by_search(height, width, factor=28, min_pixels=3136, max_pixels=12845056):
    """The oracle: whole numbers alone; of the multiples that fit, the last, or the first."""

    def nearest(side):
        whole, rest = divmod(side, factor)
        return whole + (2 * rest > factor or (2 * rest == factor and whole % 2 == 1))

    def inside(n, side, other, limit):  # n * factor <= side * sqrt(limit / (side * other))
        return n * n * factor * factor * other <= side * limit

    def reaches(n, side, other, limit):
        return n * n * factor * factor * other >= side * limit

    rows, columns = nearest(height), nearest(width)
    area = rows * columns * factor * factor
    if min_pixels <= area <= max_pixels:
        return rows * factor, columns * factor
    large = area > max_pixels
    found = []
    for side, other in ((height, width), (width, height)):
        n = 1
        if large:
            while inside(n + 1, side, other, max_pixels):
                n += 1
        else:
            while not reaches(n, side, other, min_pixels):
                n += 1
        found.append(n * factor)
    return tuple(found)


def refusal_for(resize, height, width):
    """The type of the exception that a size leads to."""
    try:
        resize(height, width)
    except Exception as error:
        return type(error).__name__
    return "no exception"


def test_smart_resize(check: Check):
    check.cases(
        [
            case("a photo", 800, 600),
            case("a little too large", 419, 661, max_pixels=253 * 28**2),
            case("a screen, at most 1280 tokens", 1080, 1920, max_pixels=1280 * 28**2),
            case("a scan of 300 dpi", 7016, 4961),
            case("a strip", 61, 9001, max_pixels=200 * 28**2),
            case("a small icon", 17, 23, min_pixels=16 * 28**2),
            case("a little too small", 83, 139, min_pixels=17 * 28**2),
            case("one pixel high", 1, 47),
            case("thin, and its shorter side rounds to nothing", 11, 1013),
            case("other factors and limits", 331, 127, 32, 65536, 131072),
            case("factor 7", 1021, 787, factor=7, min_pixels=490, max_pixels=60011),
        ],
        by_search,
    )
    for height, width in ((1, 201), (1407, 7)):
        told = check.probe(refusal_for, height, width)
        check.holds(
            f"{height} x {width}, a side ratio of 201, raises a ValueError.",
            told == "ValueError",
            wanted="ValueError",
            got=told,
        )
    allowed = check.call(7, 1400, label="a side ratio of exactly 200")
    check.holds(
        "A side ratio of 200 is allowed.", tuple(allowed) == by_search(7, 1400), got=allowed
    )


# -- matching_loss -----------------------------------------------------------------------------


def asked_one_by_one(head, right, wrong_text, wrong_image):
    """The oracle: one pair at a time, the logistic function of the difference, in doubles."""
    weight, bias = head.weight.double(), head.bias.double()
    direction, offset = weight[1] - weight[0], bias[1] - bias[0]
    terms = []
    for states, belongs in ((right, 1), (wrong_text, 0), (wrong_image, 0)):
        for pair in states:
            chance = 1 / (1 + torch.exp(-(pair[0].double() @ direction) - offset))
            terms.append(-torch.log(chance if belongs else 1 - chance))
    return (torch.stack(terms).sum() / len(terms)).to(right.dtype)


def test_matching_loss(check: Check):
    head = nn.Linear(5, 2)
    with torch.no_grad():
        head.weight.copy_(inputs.normal(2, 5, seed=501, scale=0.4))
        head.bias.copy_(inputs.normal(2, seed=502))
    right, text = inputs.normal(3, 7, 5, seed=503), inputs.normal(3, 11, 5, seed=504)
    image = inputs.normal(3, 7, 5, seed=505)
    check.cases(
        [
            case("three pairs", head, right, text, image),
            case("one pair", head, right[:1], text[:1], image[:1]),
            case("texts of one token", head, right[:, :1], text[:, 3:], image[:, 2:3]),
        ],
        asked_one_by_one,
        gradient=["right", "wrong_text", "wrong_image"],
    )
    other = [
        torch.cat([x[:, :1], inputs.normal(3, 2, 5, seed=506)], dim=1) for x in (right, text, image)
    ]
    check.equal(
        "States of other tokens than the first do not matter.",
        check.call(head, *other, label="other states behind the first"),
        asked_one_by_one(head, right, text, image),
    )
    blind = nn.Linear(5, 2)
    with torch.no_grad():
        for parameter in blind.parameters():
            parameter.zero_()
    check.equal(
        "A head that cannot tell has a loss of ln 2.",
        check.call(blind, right, text, image, label="a head of zeros"),
        torch.tensor(math.log(2)),
    )


# -- mrope_position_ids ------------------------------------------------------------------------


def sequence(*pieces, left=0, right=0):
    """(types, mask) of one sample; a piece is a number of text tokens or a grid in tokens."""
    types = []
    for piece in pieces:
        types += [0] * piece if isinstance(piece, int) else [1] * math.prod(piece)
    return [0] * left + types + [0] * right, [0] * left + [1] * len(types) + [0] * right


def batch_of(rows, merge):
    """(token_types, grids, attention_mask) of (pieces, side of the padding) rows."""
    plain = [len(sequence(*pieces)[0]) for pieces, _ in rows]
    made = []
    for (pieces, side), length in zip(rows, plain, strict=True):
        pad = max(plain) - length
        made.append(sequence(*pieces, **{side: pad}))
    types, mask = (torch.tensor(x) for x in zip(*made, strict=True))
    grids = [p for pieces, _ in rows for p in pieces if not isinstance(p, int)]
    grids = torch.tensor([(t, h * merge, w * merge) for t, h, w in grids]).reshape(-1, 3)
    return types, grids, mask


def token_by_token(token_types, grids, attention_mask, merge=2):
    """The oracle: lists of triples, and the largest number so far looked up in them."""
    shapes = [(t, h // merge, w // merge) for t, h, w in grids.tolist()]
    positions = torch.zeros(3, *token_types.shape, dtype=torch.long)
    for sample, (types, mask) in enumerate(zip(token_types, attention_mask, strict=True)):
        triples, kinds = [], types[mask == 1].tolist()
        while len(triples) < len(kinds):
            start = 1 + max((max(triple) for triple in triples), default=-1)
            if kinds[len(triples)] == 0:
                triples.append((start, start, start))
                continue
            frames, rows, columns = shapes.pop(0)
            for f in range(frames):
                for r in range(rows):
                    triples += [(start + f, start + r, start + c) for c in range(columns)]
        positions[:, sample, mask == 1] = torch.tensor(triples).T
    assert not shapes
    return positions


def test_mrope_position_ids(check: Check):
    cases = {
        "two images, one, none; padding either side": (
            [
                ([3, (1, 2, 5), 4, (1, 3, 2), 2], "left"),
                ([2, (1, 4, 3), 5], "left"),
                ([7], "right"),
            ],
            2,
        ),
        "an image at the start, text after it": ([([(1, 3, 2), 4], "right")], 2),
        "two images side by side": ([([1, (1, 2, 3), (1, 4, 2), 3], "right"), ([5], "left")], 2),
        "a video of three frames": ([([2, (3, 2, 4), 3, (1, 2, 2), 1], "right")], 2),
        "a video of more frames than rows or columns": ([([1, (7, 2, 3), 2], "right")], 2),
        "no merging": ([([2, (1, 3, 5), 2], "right"), ([1, (1, 2, 2), 3], "left")], 1),
        "three by three patches a token": ([([2, (1, 5, 2), 3], "right"), ([4], "right")], 3),
        "text alone": ([([5], "right"), ([3], "left")], 2),
    }
    check.cases(
        [
            case(label, *batch_of(rows, merge), merge=merge)
            for label, (rows, merge) in cases.items()
        ],
        token_by_token,
    )
    rows, merge = [([3, (1, 2, 5), 4], "left"), ([2], "left")], 2
    types, grids, mask = batch_of(rows, merge)
    wide = [nn.functional.pad(x, (3, 0)) for x in (types, mask)]
    check.equal(
        "More padding on the left moves the positions and changes none.",
        check.call(wide[0], grids, wide[1], merge, label="three more columns of padding")[..., 3:],
        token_by_token(types, grids, mask, merge),
    )


# -- first_patch -------------------------------------------------------------------------------


def a_tower(rows, columns, seed, class_token, width=7, edge=3):
    """A tower of seeded numbers for pictures of rows x columns patches."""
    places = rows * columns + class_token
    parts = {
        "patches": nn.Conv2d(3, width, edge, edge),
        "positions": nn.Embedding(places, width),
        "block": nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU()),
    }
    if class_token:
        parts["class_token"] = nn.Embedding(1, width)
    tower = nn.ModuleDict(parts)
    with torch.no_grad():
        for i, parameter in enumerate(tower.parameters()):
            parameter.copy_(inputs.normal(*parameter.shape, seed=seed + i))
    return tower


def a_connector(seed, width=7, hidden=11):
    connector = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden))
    with torch.no_grad():
        for i, parameter in enumerate(connector.parameters()):
            parameter.copy_(inputs.normal(*parameter.shape, seed=seed + i))
    return connector


def patch_by_patch(tower, connector, pixels):
    """The oracle: cut the picture by hand, and send one patch at a time with its own position."""
    kernel, edge = tower["patches"].weight, tower["patches"].kernel_size[0]
    before = len(tower["positions"].weight) - pixels[0, 0].numel() // edge**2
    rows = []
    for top in range(0, pixels.shape[2], edge):
        for left in range(0, pixels.shape[3], edge):
            square = pixels[:, :, top : top + edge, left : left + edge]
            state = torch.einsum("bcij,ocij->bo", square, kernel) + tower["patches"].bias
            state = state + tower["positions"].weight[before + len(rows)]
            rows.append(connector(tower["block"](state)))
    return torch.stack(rows, dim=1)


def test_first_patch(check: Check):
    connector = a_connector(301)

    def a_case(label, rows, columns, seed, class_token):
        tower = a_tower(rows, columns, seed, class_token)
        return case(
            label, tower, connector, inputs.normal(2, 3, 3 * rows, 3 * columns, seed=seed + 9)
        )

    square = a_case("SigLIP's tower, 2 x 2 patches", 2, 2, 311, False)
    clip = a_case("CLIP's tower, 2 x 2 patches: a healthy run", 2, 2, 331, True)

    def shows_fault(run):
        lost = run(*square.args).shape[1] == 3 and patch_by_patch(*square.args).shape[1] == 4
        return lost and torch.allclose(run(*clip.args), patch_by_patch(*clip.args), atol=1e-5)

    broken = check.exercise.broken
    evidence = "into the connector [64, 35, 24]"
    patch = check.diagnosis("no_class_token", evidence, broken, shows_fault)
    check.cases(
        [
            square,
            clip,
            a_case("SigLIP's tower, 2 x 5 patches", 2, 5, 351, False),
            a_case("CLIP's tower, 3 x 5 patches: 16 places", 3, 5, 371, True),
            a_case("SigLIP's tower, 3 x 1 patches", 3, 1, 391, False),
        ],
        patch_by_patch,
        target=patch,
        gradient=["pixels"],
    )
    single = [a_case("a single patch", 1, 1, 411, False)]
    check.cases(single, patch_by_patch, target=patch)
    tower, _, pixels = square.args
    moved = pixels.clone()
    moved[:, :, :3, :3] += 1.0
    change = patch(tower, connector, moved) - patch(tower, connector, pixels)
    only_first = change[:, 0].abs().max() > 1e-3 and change[:, 1:].abs().max() < 1e-5
    check.holds("The first patch, and it alone, decides the first row of the features.", only_first)


# -- GatedCrossAttention -----------------------------------------------------------------------

HIDDEN, VISION, HEADS = 6, 5, 2


def weights_of(seed):
    """Seeded numbers for every parameter of the layer but the gates."""
    shapes = {
        "norm.weight": (HIDDEN,),
        "norm.bias": (HIDDEN,),
        "q_proj.weight": (HIDDEN, HIDDEN),
        "k_proj.weight": (HIDDEN, VISION),
        "v_proj.weight": (HIDDEN, VISION),
        "out_proj.weight": (HIDDEN, HIDDEN),
        "ffw.0.weight": (HIDDEN,),
        "ffw.0.bias": (HIDDEN,),
        "ffw.1.weight": (4 * HIDDEN, HIDDEN),
        "ffw.3.weight": (HIDDEN, 4 * HIDDEN),
    }
    return {
        name: inputs.normal(*shape, seed=seed + i, scale=0.7)
        for i, (name, shape) in enumerate(shapes.items())
    }


def word_by_word(weights, a, b):
    """The oracle: one token, one head, one image place at a time, in double precision."""
    w = {name: value.double() for name, value in weights.items()}
    a, b = (torch.as_tensor(gate, dtype=torch.float64) for gate in (a, b))

    def normed(x, name):
        centred = x - x.mean()
        spread = (centred.pow(2).mean() + 1e-5).sqrt()
        return centred / spread * w[f"{name}.weight"] + w[f"{name}.bias"]

    def layer(states, images, mask):
        lines = []
        for line, image, may in zip(states.double(), images.double(), mask, strict=True):
            tokens = []
            for x, allowed in zip(line, may.tolist(), strict=True):
                seen = [image[p] for p, ok in enumerate(allowed) if ok]
                if seen:
                    q = w["q_proj.weight"] @ normed(x, "norm")
                    found = []
                    width = HIDDEN // HEADS
                    for head in range(HEADS):
                        own = slice(head * width, (head + 1) * width)
                        keys = [w["k_proj.weight"][own] @ place for place in seen]
                        share = torch.stack([(q[own] * k).sum() / width**0.5 for k in keys]).exp()
                        values = torch.stack([w["v_proj.weight"][own] @ place for place in seen])
                        found.append((share[:, None] * values).sum(0) / share.sum())
                    x = x + torch.tanh(a) * (w["out_proj.weight"] @ torch.cat(found))
                    wide = w["ffw.1.weight"] @ normed(x, "ffw.0")
                    wide = wide * (1 + torch.erf(wide / 2**0.5)) / 2
                    x = x + torch.tanh(b) * (w["ffw.3.weight"] @ wide)
                tokens.append(x)
            lines.append(torch.stack(tokens))
        return torch.stack(lines).to(states.dtype)

    return layer


def gates_of(layer):
    """How many numbers each gate holds, and whether it is trained."""
    names = ("attention_gate", "ffw_gate")
    gates = [getattr(layer, name, None) for name in names]
    return [
        [g.numel(), g.requires_grad] if isinstance(g, torch.nn.Parameter) else "missing"
        for g in gates
    ]


def set_layer(layer, weights, gates):
    own = dict(layer.named_parameters())
    with torch.no_grad():
        for name, value in weights.items():
            own[name].copy_(value)
        for name, value in gates.items():
            own[name].fill_(value)
    return sorted(own)


def slopes_at(layer, states, images, mask, weights):
    """Gradients of the gates, and the largest of all other parameters."""
    layer.zero_grad()
    (layer(states, images, mask) * weights).sum().backward()
    gates, other = {}, torch.zeros(())
    for name, parameter in layer.named_parameters():
        slope = torch.zeros(()) if parameter.grad is None else parameter.grad
        if name in ("attention_gate", "ffw_gate"):
            gates[name] = slope.reshape(())
        else:
            other = torch.maximum(other, slope.abs().max())
    return [gates.get("attention_gate"), gates.get("ffw_gate"), other]


def slopes_of(layer, states, images, mask, weights):
    layer.zero_grad()
    (layer(states, images, mask) * weights).sum().backward()
    return {
        name: p.grad
        for name, p in layer.named_parameters()
        if name.endswith(("proj.weight", ".bias"))
    }


def looking_batch(seed):
    """Three samples of 5 tokens with 7 image places: two images (3 and 4), one, none."""
    states = inputs.normal(3, 5, HIDDEN, seed=seed)
    images = inputs.normal(3, 7, VISION, seed=seed + 1)
    mask = torch.zeros(3, 5, 7, dtype=torch.bool)
    mask[0, 1:3, :3] = True  # the first token comes before any image
    mask[0, 3:, 3:] = True  # the last two see the second image alone
    mask[1, 2:, :3] = True  # one image; its other places are filling
    mask[1, 4] = True  # and one token may look everywhere
    return states, images, mask


def test_GatedCrossAttention(check: Check):
    weights, batch = weights_of(101), looking_batch(121)
    states, images, mask = batch
    layer = check.call(HIDDEN, VISION, HEADS, label="a fresh layer")
    gates = check.probe(gates_of, target=layer)
    check.holds(
        "`attention_gate` and `ffw_gate` are trained parameters of one number each.",
        gates == [[1, True]] * 2,
        stage="returns",
        wanted="[[1, True], [1, True]]",
        got=f"{gates}",
    )
    check.probe(set_layer, weights, {}, target=layer)
    started = check.cases(
        [case("the start, before any training", *batch)], lambda s, i, m: s, target=layer
    )
    check.holds(
        "At the start nothing changes, to the bit.", torch.equal(started[0], states), stage="value"
    )

    check.probe(set_layer, weights, {"attention_gate": 0.7, "ffw_gate": -1.3}, target=layer)
    oracle = word_by_word(weights, 0.7, -1.3)
    check.cases(
        [
            case("two images, one, none", *batch),
            case("one sample, two images", *(x[:1] for x in batch)),
        ],
        oracle,
        target=layer,
        gradient=["states", "images"],
    )
    alone = [x[2:] for x in batch]
    untouched = check.cases([case("no image at all", *alone)], oracle, target=layer)
    check.holds(
        "Without an image nothing changes, to the bit.", torch.equal(untouched[0], states[2:])
    )
    g = inputs.normal(*states.shape, seed=131)
    slopes = check.probe(slopes_of, *batch, g, target=layer)
    finite = all(torch.isfinite(slope).all() for slope in slopes.values())
    check.holds("The weights get finite gradients.", finite, stage="gradient")

    check.probe(set_layer, weights, {"attention_gate": 0.0, "ffw_gate": 0.0}, target=layer)
    gates = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    (word_by_word(weights, *gates)(states, images, mask) * g).sum().backward()
    found = check.probe(slopes_at, *batch, g, target=layer)
    check.equal(
        "At the start the gates get a gradient: that is how the layer opens.",
        found[:2],
        list(gates.grad.float()),
        stage="gradient",
    )
    check.equal(
        "At the start nothing but the gates gets a gradient.",
        found[2],
        torch.zeros(()),
        scale=1.0,
        stage="gradient",
    )

    check.probe(set_layer, weights, {"attention_gate": 0.7, "ffw_gate": -1.3}, target=layer)
    seen = mask.any(1)
    other = torch.where(seen[..., None], images, inputs.normal(3, 7, VISION, seed=141))
    check.equal(
        "Image places that no token may look at do not matter.",
        layer(states, other, mask),
        oracle(states, images, mask),
    )
