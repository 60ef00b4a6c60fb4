"""The batch of a plan: every input of the model's forward pass, with its shape, dtype and, where the
model computes with them, its values.

Integer inputs (token ids, masks, grids) are real tensors: models branch on them. Pixels are `Shape`s,
from which the tracer makes fake tensors and a test random ones.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

from labs.doctors.memory.setup.configs import Source
from labs.doctors.memory.setup.visual import Family, Visual, family_of
from labs.errors import InputError

if TYPE_CHECKING:
    import torch


@dataclasses.dataclass(frozen=True)
class Shape:
    """A float input by its shape and dtype's name: its values do not matter."""

    shape: tuple[int, ...]
    dtype: str = "float32"  # processors make float32; models cast

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * {"float32": 4, "bfloat16": 2, "float16": 2}[self.dtype]


@dataclasses.dataclass(frozen=True)
class Sample:
    """One row of the batch: its tokens, the visual ones included, and its pictures and clips."""

    length: int
    visuals: tuple[Visual, ...] = ()
    clips: tuple[Visual, ...] = ()

    @property
    def visual_tokens(self) -> int:
        return sum(visual.tokens for visual in self.visuals + self.clips)

    @property
    def least_length(self) -> int:
        """Visual tokens, the markers around them, and one token of text."""
        return sum(v.tokens + v.around for v in self.visuals + self.clips) + 1


@dataclasses.dataclass(frozen=True)
class Batch:
    """What `model(**inputs)` is called with.

    inputs: name -> a real integer tensor or a Shape; `labels` [B, T] is one of them. visual_tokens: per
    row. tiles: pictures (for grid families, frames) that go through the vision tower. real_images: for
    Idefics3 and SmolVLM, which rows of [B * most tiles] are no padding: those models find out by
    looking at the pixels, which a trace cannot.
    """

    inputs: dict[str, torch.Tensor | Shape]
    lengths: tuple[int, ...]
    visual_tokens: tuple[int, ...]
    tiles: int
    real_images: tuple[bool, ...] | None = None
    notes: tuple[str, ...] = ()

    @property
    def sequence_length(self) -> int:
        return max(self.lengths)


def make_batch(source: Source | Any, plan: Any) -> Batch:
    """The batch that `plan` describes, for the model of `source`.

    source: what `configs.load_source` gives, or a bare configuration (then the image processor is
    assumed to have its family's usual settings). Of the plan it reads batch, sequence_length, images,
    videos; `processor` (overrides of the image processor's settings); `padding` (in batches of two or
    more, is one row shorter than the others, as in real batches: then a mask is built and attention
    runs another kernel); and `samples` (one entry a row: length, images, videos), which replaces all.

    Raises InputError where pictures cannot be given to this model or do not fit the sequence length.
    """
    family = make_family(source, plan)
    samples = plan_samples(family, plan)
    for number, sample in enumerate(samples, 1):
        if sample.least_length > sample.length:
            raise InputError(
                f"Sample {number} has {sample.visual_tokens:,} visual tokens and needs a sequence of at least "
                f"{sample.least_length:,}; the plan's sequence_length is {sample.length:,}.",
                "Give a longer sequence, smaller or fewer pictures, or a lower pixel limit for the processor.",
            )
    return assemble(family, samples)


def make_family(source: Source | Any, plan: Any = None) -> Family:
    """The family of a model with its processor's settings, those of the plan on top."""
    if not isinstance(source, Source):
        source = Source("", source, {}, {})
    over = getattr(plan, "processor", None) or {}
    return family_of(source.config, {**source.processor, **over}, source.video)


def plan_samples(family: Family, plan: Any) -> list[Sample]:
    """The rows of the plan's batch."""
    rows = getattr(plan, "samples", None)
    if rows:
        return [
            make_sample(family, row["length"], row.get("images", ()), row.get("videos", ()))
            for row in rows
        ]
    images = plan.images if takes_pictures(family) else ()
    sample = make_sample(family, plan.sequence_length, images, plan.videos)
    samples = [sample] * plan.batch
    if plan.batch > 1 and getattr(plan, "padding", True) and sample.length > sample.least_length:
        samples[-1] = dataclasses.replace(sample, length=sample.length - 1)
    return samples


def takes_pictures(family: Family) -> bool:
    return bool(family.kinds)


def make_sample(family: Family, length: int, images=(), videos=()) -> Sample:
    return Sample(
        length,
        tuple(family.image(width, height) for width, height in images),
        tuple(family.video(width, height, frames) for width, height, frames in videos),
    )


def assemble(family: Family, samples: list[Sample]) -> Batch:
    """The tensors of these rows, padded on the right to the longest."""
    import torch

    config = family.config
    text_id, pad_id, image_id, video_id = _token_ids(config)
    total = max(sample.length for sample in samples)
    ids = torch.full((len(samples), total), pad_id)
    mask = torch.zeros_like(ids)
    kinds = torch.zeros_like(ids)  # 0 text, 1 image, 2 video
    for row, sample in enumerate(samples):
        ids[row, : sample.length] = text_id
        mask[row, : sample.length] = 1
        # PaliGemma wants its pictures first; elsewhere a token of text comes before them.
        at = 0 if config.model_type == "paligemma" else 1
        for kind, token, visuals in ((1, image_id, sample.visuals), (2, video_id, sample.clips)):
            for visual in visuals:
                at += visual.around // 2
                ids[row, at : at + visual.tokens] = token
                kinds[row, at : at + visual.tokens] = kind
                at += visual.tokens + visual.around - visual.around // 2
    labels = ids.masked_fill((kinds > 0) | (mask == 0), -100)
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    pixels, real = _pixels(family, samples)
    inputs.update(pixels)
    if config.model_type == "paligemma":
        # 0: the prompt, which sees itself whole; 1: the answer. Half and half of the text.
        types = torch.zeros_like(ids)
        for row, sample in enumerate(samples):
            types[row, (sample.visual_tokens + sample.length) // 2 : sample.length] = 1
        inputs["token_type_ids"] = types
    if "image_grid_thw" in inputs or "video_grid_thw" in inputs:
        inputs["mm_token_type_ids"] = kinds
    return Batch(
        inputs,
        tuple(sample.length for sample in samples),
        tuple(sample.visual_tokens for sample in samples),
        sum(v.tiles for sample in samples for v in sample.visuals + sample.clips),
        real,
        tuple(
            f"no processor file says {value}: assumed"
            for value in family.assumed
            if any(sample.clips for sample in samples) or not value.startswith("video ")
        ),
    )


def _token_ids(config: Any) -> tuple[int, int, int, int]:
    """Ids of text, padding, image and video places; text is any id that means nothing else."""
    text = config.get_text_config()
    special = {
        name: getattr(config, name, None)
        for name in (
            "image_token_id",
            "video_token_id",
            "vision_start_token_id",
            "vision_end_token_id",
        )
    }
    pad = getattr(text, "pad_token_id", None)
    pad = pad if isinstance(pad, int) and 0 <= pad < text.vocab_size else 0
    taken = {pad, *special.values()}
    plain = next(i for i in range(1, text.vocab_size) if i not in taken)
    image = special["image_token_id"] if special["image_token_id"] is not None else plain
    # InternVL and SmolVLM give the frames of a clip as images.
    video = special["video_token_id"] if config.model_type.startswith("qwen") else image
    return plain, pad, image, video if video is not None else image


def _pixels(family: Family, samples: list[Sample]) -> tuple[dict, tuple[bool, ...] | None]:
    """The pixel inputs of these rows, by what their family's processor gives."""
    import torch

    images = [visual for sample in samples for visual in sample.visuals]
    clips = [visual for sample in samples for visual in sample.clips]
    if not images and not clips:
        return {}, None
    kind = family.config.model_type
    vision = family.config.vision_config
    channels = getattr(vision, "num_channels", None) or getattr(vision, "in_channels", None) or 3
    if (images and images[0].grid) or (clips and clips[0].grid):
        width = channels * vision.temporal_patch_size * vision.patch_size**2
        inputs = {}
        for visuals, pixels, grid in (
            (images, "pixel_values", "image_grid_thw"),
            (clips, "pixel_values_videos", "video_grid_thw"),
        ):
            if visuals:
                inputs[pixels] = Shape((sum(math.prod(v.grid) for v in visuals), width))
                inputs[grid] = torch.tensor([v.grid for v in visuals])
        if clips and kind == "qwen2_5_vl":
            inputs["second_per_grid_ts"] = torch.ones(len(clips))
        return inputs, None
    if kind == "llava_next":
        tiles = max(visual.tiles for visual in images)
        return {
            "pixel_values": Shape((len(images), tiles, channels, *images[0].tile)),
            "image_sizes": torch.tensor([visual.size for visual in images]),
        }, None
    rows = [sum(visual.tiles for visual in sample.visuals + sample.clips) for sample in samples]
    tile = (images + clips)[0].tile
    if kind in ("idefics3", "smolvlm"):
        # Each row has room for as many tiles as the fullest; the rest is zeros.
        shape = (len(samples), max(rows), channels, *tile)
        real = tuple(i < count for count in rows for i in range(max(rows)))
        held = torch.zeros(shape[:2] + shape[3:], dtype=torch.int64)
        for row, count in enumerate(rows):
            held[row, :count] = 1
        return {"pixel_values": Shape(shape), "pixel_attention_mask": held}, real
    return {"pixel_values": Shape((sum(rows), channels, *tile))}, None
