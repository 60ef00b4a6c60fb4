"""Encoded samples as one batch: padding, the attention mask, and the images of all samples."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F

from labs.data.labels import IGNORE
from labs.errors import InputError

PER_TOKEN = ("input_ids", "labels", "mm_token_type_ids")
_NOT_FOR_THE_MODEL = ("num_image_tokens", "lengths")


@dataclasses.dataclass
class Collator:
    """Turns a list of encoded samples into the batch that a Transformers model takes.

    Returns input_ids, attention_mask (1 at real tokens) and labels (-100 at padding), each [B, T],
    and pixel_values [images of the whole batch, …] in the order of the samples: a sample with two
    images or none simply adds two or none. No image in the batch, no pixel_values.

    processor: gives the padding token (its tokenizer's pad, else its end-of-text token).
    padding_side: "right" for training; "left" for generation, which goes on from the last column.
    pad_to_multiple_of: round T up (8 or 64 suit tensor cores).
    require_labels: raise InputError for a batch in which no token carries a label; its loss is 0/0.
    """

    processor: Any
    padding_side: Literal["right", "left"] = "right"
    pad_to_multiple_of: int | None = None
    require_labels: bool = True

    def __post_init__(self):
        if self.padding_side not in ("right", "left"):
            raise InputError(
                f'padding_side = "{self.padding_side}" is unknown.', 'Use "right" or "left".'
            )
        self.pad_id = pad_id(self.processor)

    def __call__(self, samples: Sequence[dict]) -> dict[str, torch.Tensor]:
        if not samples:
            raise InputError("A batch of no samples cannot be made.", "Check the sampler.")
        length = max(len(sample["input_ids"]) for sample in samples)
        length = round_up(length, self.pad_to_multiple_of)
        values = {"input_ids": self.pad_id, "labels": IGNORE}
        batch = {
            key: torch.stack(
                [self._pad(sample[key], length, values.get(key, 0)) for sample in samples]
            )
            for key in PER_TOKEN
            if key in samples[0]
        }
        batch["attention_mask"] = torch.stack(
            [self._pad(torch.ones_like(sample["input_ids"]), length, 0) for sample in samples]
        )
        if self.require_labels:
            check_labels(batch)
        return {**batch, **stack_images(samples)}

    def _pad(self, row: torch.Tensor, length: int, value: int) -> torch.Tensor:
        missing = length - len(row)
        sides = (missing, 0) if self.padding_side == "left" else (0, missing)
        return F.pad(row, sides, value=value) if missing else row


def pad_id(processor) -> int:
    """The id that fills up rows: the pad token, else the end-of-text token. Its value never matters
    to the loss, for padding is masked in both attention and labels."""
    tokenizer = getattr(processor, "tokenizer", processor)
    found = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    if found is None:
        raise InputError(
            "The tokenizer has neither a pad nor an end-of-text token.",
            "Set tokenizer.pad_token to a token that never occurs in text.",
        )
    return found


def round_up(length: int, multiple: int | None) -> int:
    return -(-length // multiple) * multiple if multiple else length


def check_labels(batch: dict) -> None:
    """Raise InputError if no position that the shifted loss looks at carries a label."""
    if "labels" in batch and not bool((batch["labels"][:, 1:] != IGNORE).any()):
        raise InputError(
            f"No token of the batch ({len(batch['labels'])} rows) carries a label.",
            "Look at the samples with `labs data show`; raise max_length if answers were cut off.",
        )


def stack_images(samples: Sequence[dict]) -> dict[str, torch.Tensor]:
    """Concatenate what the image processor made of each sample, along the first axis."""
    skip = {*PER_TOKEN, *_NOT_FOR_THE_MODEL, "position_ids"}
    keys = {key: None for sample in samples for key in sample if key not in skip}  # ordered set
    images = {}
    for key in keys:
        parts = [sample[key] for sample in samples if key in sample]
        if len({part.shape[1:] for part in parts}) > 1:
            shapes = sorted({tuple(part.shape[1:]) for part in parts})
            raise InputError(
                f"The images of one batch have different shapes: {key} {shapes}.",
                "Use an image processor that resizes to one size, or batches of one sample.",
            )
        images[key] = torch.cat(parts)
    return images
