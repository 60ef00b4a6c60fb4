"""Decodes a failed request into a shape: "58.15 GiB = 205,312 tokens × 76,032 vocabulary × 4 bytes".

A printed size is a range (two decimals, rounded up to 2 MiB by the allocator), and many products lie
in it. So each candidate is weighed by surprise: how unlikely it is that a request of any size would
fit this well by chance, in bits, plus what the failing call suggests. Python 3.9 or newer, no packages.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labs.doctors.memory.messages import OutOfMemory
from labs.errors import InputError

ROUND = 2 << 20  # requests of 10 MiB and more go to the driver in multiples of this
SMALL = 20 << 20  # what is asked for any tensor of 1 to 10 MiB: it says nothing
WELL, FITS = 9.0, 5.0  # bits of surprise and prior
MAX_CONFIG = 16 << 20
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


@dataclass(frozen=True)
class Dims:
    """Sizes of a decoder and of its vision tower, where the configuration has them."""

    vocabulary: int = 0
    hidden: int = 0
    layers: int = 0
    heads: int = 0
    kv_heads: int = 0
    head_dim: int = 0
    intermediate: int = 0
    tied: bool = False
    experts: int = 1
    vision_heads: int = 0
    vision_patches: int = 0

    @property
    def parameters(self) -> int:
        """Weights of the decoder, counted from its sizes (gated MLP; norms and biases left out)."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        mlp = 3 * self.hidden * self.intermediate * self.experts
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return embeddings + self.layers * (attention + mlp)


def read_config(model: str | os.PathLike) -> dict[str, Any]:
    """The config.json at `model`, or in that folder. Raises InputError."""
    path = Path(model)
    if path.is_dir():
        path = path / "config.json"
    try:
        if path.stat().st_size > MAX_CONFIG:
            raise InputError(
                f"{path} is too large for a model's configuration.", "Give its config.json."
            )
        config = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise InputError(
            f"There is no model configuration at {path}.",
            "Give the path of a config.json, or of the folder that holds it (explain fetches nothing).",
        ) from None
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror}.", "Check its permissions."
        ) from None
    except (ValueError, RecursionError):
        raise InputError(f"{path} is not JSON.", "Give the model's config.json.") from None
    if not isinstance(config, dict):
        raise InputError(f"{path} holds no JSON object.", "Give the model's config.json.")
    return config


def _first(config: Mapping[str, Any], *names: str) -> int:
    for name in names:
        value = config.get(name)
        if isinstance(value, (list, tuple)) and value:
            value = max((item for item in value if isinstance(item, int)), default=0)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 2**40:
            return int(value)
    return 0


def dims_of(config: Mapping[str, Any]) -> Dims:
    """The sizes, under the many names that model families give them."""
    nested = [
        config.get(key)
        for key in ("text_config", "llm_config", "language_config", "thinker_config")
    ]
    text = next((item for item in nested if isinstance(item, dict)), config)
    vision = config.get("vision_config")
    vision = vision if isinstance(vision, dict) else {}

    def either(*names: str) -> int:
        return _first(text, *names) or _first(config, *names)

    hidden = either("hidden_size", "n_embd", "d_model", "dim")
    heads = either("num_attention_heads", "n_head", "num_heads", "n_heads")
    image, patch = _first(vision, "image_size"), _first(vision, "patch_size")
    return Dims(
        vocabulary=either("vocab_size", "padded_vocab_size"),
        hidden=hidden,
        layers=either("num_hidden_layers", "n_layer", "num_layers", "n_layers"),
        heads=heads,
        kv_heads=either("num_key_value_heads", "multi_query_group_num") or heads,
        head_dim=either("head_dim") or (hidden // heads if heads else 0),
        intermediate=either("intermediate_size", "ffn_hidden_size", "n_inner", "ffn_dim")
        or 4 * hidden,
        tied=bool(text.get("tie_word_embeddings", config.get("tie_word_embeddings", False))),
        experts=either("num_local_experts", "num_experts", "n_routed_experts") or 1,
        vision_heads=_first(vision, "num_attention_heads", "num_heads"),
        vision_patches=(image // patch) ** 2 if image and patch else 0,
    )


def _range(m: OutOfMemory, unit: int) -> tuple[int, int]:
    """The whole numbers n for which n × unit bytes print as this request."""
    low = max(1, -(-(m.tried - m.step - ROUND + 1) // unit))
    return low, (m.tried + m.step) // unit


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
    for what, size, word, pattern, prior in (
        ("logits", dims.vocabulary, "vocabulary", r"logits|lm_head|cross_entropy|log_softmax|logps", large),
        ("mlp", dims.intermediate, "intermediate", r"mlp|gate_proj|up_proj|down_proj|act_fn|feed_forward", 0.0),
        ("hidden", dims.hidden, "hidden", r"layernorm|rms_?norm|residual|embed", -1.0),
    ):  # fmt: skip
        if not size:
            continue
        seen = 5.0 if re.search(pattern, calls, re.I) else 0.0
        for width, dtype in BYTES.items():
            low, high = _range(m, size * width)
            if low > high:
                continue
            n, bits = _nicest(low, high, length)
            if what == "logits" and width == 4 and seen:
                bits += 1  # losses are computed in float32
            if batch and length and n == batch * length:
                bits += math.log2(batch) + 3
            times = f" ({n // length} × {length:,})" if length > 1 and n % length == 0 else ""
            yield Shape(f"{n:,} tokens{times} × {size:,} {word} × {width} bytes: {what} in {dtype}",
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
            for samples in sorted({1, batch or 1}):
                unit = heads * samples * width
                low, high = _range(m, unit)
                first, last = math.isqrt(max(low - 1, 0)) + 1, math.isqrt(high)
                if first > last or last < 64:
                    continue
                n, bits = _nicest(first, last, length if what == "attention" else 0)
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
    """Readings of the request as a product of this model's sizes, the best first; at most four.

    `settings` (batch, length, world) are what the log shows of them; `phase` and `calls` come from
    the traceback. Where none fits well the list begins with a Shape of kind "none"; a request of
    20 MiB or less is the allocator's own block size and decodes to nothing.

    Raises InputError if `model` is no readable configuration.
    """
    config = model if isinstance(model, Mapping) else read_config(model)
    dims = dims_of(config)
    if not dims.hidden or not dims.vocabulary:
        raise InputError(
            "The model's configuration has no hidden_size or vocab_size.",
            "Give the config.json of the whole model, not of its processor or its adapter.",
        )
    if m.tried <= SMALL or m.garbage:
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
    shapes = list(best.values())[:4]
    if not shapes or shapes[0].score < FITS:
        shapes.insert(0, Shape("none", m.tried, 0.0, "none"))
    return shapes
