"""Decodes a failed request into a shape: "58.15 GiB = 205,312 tokens × 76,032 vocabulary × 4 bytes".

A printed size is a range (two decimals, mostly rounded up to 2 MiB by the allocator), and many
products lie in it. So each candidate is weighed by surprise: how unlikely it is that a request of any
size would fit this well by chance, in bits, plus what the failing call suggests. Where none stands
out, the best few are named as candidates. Python 3.9 or newer, no packages.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from labs.doctors.memory.log.dims import Dims, dims_of, read_config
from labs.doctors.memory.log.messages import OutOfMemory
from labs.errors import InputError

ROUND = 2 << 20  # requests of 10 MiB and more go to the driver in multiples of this
BLOCKS = (2 << 20, 20 << 20)  # what is asked of the driver for any small tensor: says nothing
LEAST = 1 << 20  # smaller requests fit too many shapes
WELL, FITS = 9.0, 5.0  # bits of surprise and prior
BYTES = {4: "float32", 2: "bf16/fp16"}


@dataclass(frozen=True)
class Shape:
    """One reading of a request. `bytes` is the product; `score` in bits, higher is better."""

    formula: str
    bytes: int
    score: float
    what: str

    @property
    def fit(self) -> str:
        if self.what == "none":
            return "no product of this model's sizes fits well"
        return "fits well" if self.score >= WELL else "fits" if self.score >= FITS else "possible"


def _span(m: OutOfMemory) -> tuple[int, int]:
    """(least, most) bytes of a tensor whose request prints as this one.

    A number that is no multiple of 2 MiB was never rounded up to one: it came from another allocator
    (a byte budget, XPU, MPS, a release before 1.0), which rounds to 512 bytes at most.
    """
    least, most = m.tried - m.step, m.tried + m.step
    rounded = most // ROUND * ROUND >= least and m.tried > BLOCKS[1] // 2
    return max(1, least - (ROUND if rounded else 512) + 1), most


def _range(m: OutOfMemory, unit: int) -> tuple[int, int]:
    """The whole numbers n for which n × unit bytes print as this request."""
    least, most = _span(m)
    return -(-least // unit), most // unit


def _rare(m: OutOfMemory, spacing: int) -> float:
    """Bits for a whole number fitting at all, where multiples lie wider apart than the span."""
    least, most = _span(m)
    return max(0.0, math.log2(spacing / (most - least + 1)))


def _nicest(low: int, high: int, known: int) -> tuple[int, float]:
    """(n, bits): the least accidental number in the range.

    A multiple of 2^k, or of a length known from the log, in a range narrower than that: the chance
    of one lying there is width / step. At least 0 bits.
    """
    width = high - low + 1
    best, bits = (low + high) // 2, 0.0
    step = 1
    while step <= high:
        n = high // step * step
        if n >= low and math.log2(step / width) > bits:
            best, bits = n, math.log2(step / width)
        step *= 2
    if known > 1:
        n = high // known * known
        if n >= low and n and math.log2(max(known / width, 1)) + 2 > bits:
            best, bits = n, math.log2(max(known / width, 1)) + 2
    return best, bits


def _products(m: OutOfMemory, dims: Dims, length: int, batch: int, calls: str) -> Iterator[Shape]:
    """Tensors with a free number of tokens."""
    large = 2.0 if m.tried >= 1 << 30 else 0.0
    tower = r"vision|visual|vit|clip|patch"
    for what, size, word, pattern, prior in (
        ("logits", dims.vocabulary, "vocabulary", r"logits|lm_head|cross_entropy|log_softmax|logps", large),
        ("mlp", dims.intermediate, "intermediate", r"mlp|gate_proj|up_proj|down_proj|act_fn|feed_forward", 0.0),
        ("hidden", dims.hidden, "hidden", r"layernorm|rms_?norm|residual|embed", -1.0),
        ("vision mlp", dims.vision_intermediate, "vision intermediate", tower, -2.0),
        ("vision hidden", dims.vision_hidden, "vision hidden", tower, -3.0),
    ):  # fmt: skip
        if not size:
            continue
        unit = "patches" if what.startswith("vision") else "tokens"
        seen = 5.0 if re.search(pattern, calls, re.I) else 0.0
        for width, dtype in BYTES.items():
            low, high = _range(m, size * width)
            if low > high:
                continue
            n, bits = _nicest(low, high, length if unit == "tokens" else dims.vision_patches)
            bits += _rare(m, size * width)
            if n < 16 and not seen:
                bits -= 2  # a handful of tokens in a step that ran out is no batch
            if what == "logits" and width == 4 and seen:
                bits += 1  # losses are computed in float32
            if batch and length and n == batch * length and unit == "tokens":
                bits += math.log2(batch) + 3
            times = f" ({n // length} × {length:,})" if length > 1 and n % length == 0 else ""
            yield Shape(f"{n:,} {unit}{times} × {size:,} {word} × {width} bytes: {what} in {dtype}",
                        n * size * width, bits + prior + seen, what)  # fmt: skip


def _squares(m: OutOfMemory, dims: Dims, length: int, batch: int, calls: str) -> Iterator[Shape]:
    """Attention matrices: batch × heads × T × T."""
    seen = 5.0 if re.search(r"attn|attention|softmax|matmul", calls, re.I) else 0.0
    large = 1.0 if m.tried >= 1 << 30 else -2.0
    kinds = [("attention", dims.heads, seen + large), ("vision attention", dims.vision_heads, large + (
        5.0 if re.search(r"vision|visual|vit|clip", calls, re.I) else -1.0))]  # fmt: skip
    for what, heads, prior in kinds:
        if not heads:
            continue
        for width, dtype in BYTES.items():
            for samples in sorted({1, batch} if batch else {1, 2, 4, 8}):
                unit = heads * samples * width
                low, high = _range(m, unit)
                first, last = math.isqrt(max(low - 1, 0)) + 1, math.isqrt(high)
                if first > last or last < 64:
                    continue
                n, bits = _nicest(first, last, length if what == "attention" else 0)
                bits += _rare(m, unit * (2 * n + 1))
                if not batch:
                    bits -= math.log2(samples)  # so many more readings were tried
                who = f"{samples} × " if samples > 1 else ""
                yield Shape(f"{who}{heads} heads × {n:,} × {n:,} × {width} bytes: {what} matrix in {dtype}",
                            unit * n * n, bits + prior, what)  # fmt: skip


def _weights(m: OutOfMemory, dims: Dims, world: int, phase: str | None) -> Iterator[Shape]:
    """Tensors whose size the configuration fixes; a match has a chance of its range in an octave."""
    h = dims.hidden
    fixed = {
        f"embedding or head, {dims.vocabulary:,} × {h:,}": dims.vocabulary * h,
        f"MLP weight, {dims.intermediate:,} × {h:,}": dims.intermediate * h,
        f"fused gate and up, 2 × {dims.intermediate:,} × {h:,}": 2 * dims.intermediate * h,
        f"attention projection, {dims.heads * dims.head_dim:,} × {h:,}": dims.heads
        * dims.head_dim
        * h,
    }
    prior = {"load": 3.0, "optimizer": 3.0, "save": 3.0, "backward": 1.0}.get(phase or "", -1.0)
    for what, count in fixed.items():
        for width, dtype in BYTES.items():
            low, high = _range(m, 1)
            if count and low <= count * width <= high:
                bits = math.log2(m.tried / (high - low + 1))
                yield Shape(f"{what} × {width} bytes: one weight, gradient or optimizer state in {dtype}",
                            count * width, bits + prior, "weight")  # fmt: skip
    total = dims.parameters
    for parts in sorted({world} if world else {1, 2, 4, 8, 16, 32}):
        for width, dtype in BYTES.items():
            product = total * width // parts
            # The count leaves out norms, towers and connectors: some percent are unknown.
            if total and abs(product - m.tried) <= 0.03 * m.tried:
                shard = f" / {parts} ranks" if parts > 1 else ""
                bits = (
                    math.log2(1 / 0.06)
                    - (0 if world else 2)
                    + (4 if phase in ("optimizer", "load", "save") else 0)
                )
                yield Shape(f"about {total / 1e9:.2f}e9 parameters × {width} bytes{shard}: one {dtype} copy "
                            f"of the {'shard' if parts > 1 else 'model'}", product, bits, "parameters")  # fmt: skip


def _buckets(m: OutOfMemory, calls: str) -> Iterator[Shape]:
    """DeepSpeed's flat buffers, by their default sizes."""
    if not re.search("deepspeed|zero", calls, re.I):
        return
    for elements, name in (
        (5e8, "reduce or all-gather bucket"),
        (2e8, "bucket"),
        (1e9, "sub-group"),
    ):
        for width, dtype in BYTES.items():
            product = int(elements) * width
            low, high = _range(m, 1)
            if low <= product <= high:
                yield Shape(f"{elements:.0e} × {width} bytes: DeepSpeed {name} in {dtype}", product, 12.0, "bucket")  # fmt: skip


def decode(
    m: OutOfMemory,
    model: str | os.PathLike | Mapping[str, Any],
    settings: Mapping[str, str] | None = None,
    phase: str | None = None,
    calls: str = "",
) -> list[Shape]:
    """Readings of the request as a product of this model's sizes, the best first; at most five.

    `settings` (batch, length, world) are what the log shows of them; `phase` and `calls` come from
    the traceback. Where none stands out the list begins with a Shape of kind "none", and those after
    it are candidates. The allocator's own blocks (2 and 20 MiB) and less than 1 MiB decode to nothing.

    Raises InputError if `model` is no readable configuration.
    """
    config = model if isinstance(model, Mapping) else read_config(model)
    dims = dims_of(config)
    if not dims.hidden or not dims.vocabulary:
        raise InputError(
            "The model's configuration has no hidden_size or vocab_size.",
            "Give the config.json of the whole model, not of its processor or its adapter.",
        )
    if m.tried in BLOCKS or m.tried < LEAST or m.garbage:
        return []
    settings = settings or {}
    number = {
        key: int(value) for key, value in settings.items() if value.isdigit() and len(value) < 9
    }
    length, batch = number.get("length", 0), number.get("batch", 0)
    found = [
        *_products(m, dims, length, batch, calls),
        *_squares(m, dims, length, batch, calls),
        *_weights(m, dims, number.get("world", 0), phase),
        *_buckets(m, calls),
    ]
    found.sort(key=lambda shape: -shape.score)
    best: dict[str, Shape] = {}
    for shape in found:
        best.setdefault(shape.what, shape)
    shapes = list(best.values())[:5]
    if not shapes:
        return [Shape("none", m.tried, 0.0, "none")]
    if shapes[0].score < FITS:
        shapes.insert(
            0, Shape("several shapes are possible, none stands out", m.tried, 0.0, "none")
        )
    return shapes
