"""One conversation as the tensors a model takes: tokens, labels and pixels, within a length."""

import weakref
from typing import Literal, get_args

import torch
from PIL import Image

from labs.data.labels import IGNORE, Tokens, build_labels
from labs.data.skips import Skip
from labs.errors import InputError
from labs.formats import Conversation, load_image

Overlong = Literal["skip", "truncate", "error"]


def encode(
    conversation: Conversation,
    processor,
    max_length: int | None = None,
    overlong: Overlong = "skip",
) -> dict:
    """Encode one conversation.

    Returns a dict of
    - input_ids, labels: int64 [T]; labels are -100 where no loss is (see `build_labels`);
    - pixel_values and whatever else the image processor makes (image_grid_thw, image_sizes), the
      images stacked along the first axis; absent when there is no image;
    - num_image_tokens: a list, one number an image.

    A sample longer than `max_length`: "skip" raises Skip, "error" raises InputError, "truncate"
    cuts the end off. A cut that would fall inside an image's tokens is moved before the image, and
    the image is dropped with its tokens; labels are cut with their tokens, so the rest of a cut
    answer is still trained on but its end of turn, which was cut off, is not.

    Raises Skip("no_label") if no token is left to learn, InputError for a missing or broken image.
    """
    check_overlong(overlong)
    images = [load_image(image) for image in conversation.images]
    pixels, replacements = process_images(images, processor, conversation.id)
    tokens = build_labels(conversation, processor, replacements)
    kept = len(images)
    if max_length is not None and len(tokens.input_ids) > max_length:
        tokens, kept = _fit(tokens, max_length, overlong, conversation.id)
        if kept < len(images):
            # Encode the images that are left again: how rows belong to images is the processor's.
            pixels, _ = process_images(images[:kept], processor, conversation.id)
    if not bool((tokens.labels != IGNORE).any()):
        raise Skip("no_label", f"Sample {conversation.id}: no token carries a label.")
    extra = {}
    if getattr(processor, "return_mm_token_type_ids", False):  # Qwen2-VL's positions need them
        types = processor.create_mm_token_type_ids([tokens.input_ids.tolist()])
        extra["mm_token_type_ids"] = torch.tensor(types[0])
    return {
        "input_ids": tokens.input_ids,
        "labels": tokens.labels,
        **extra,
        **pixels,
        "num_image_tokens": [end - start for start, end in tokens.image_spans],
    }


def check_overlong(overlong: str) -> None:
    """Raise InputError for a policy that there is not."""
    if overlong not in get_args(Overlong):
        raise InputError(f"overlong = {overlong!r} is unknown.", "Use skip, truncate or error.")


def process_images(
    images: list[Image.Image], processor, name: str = "?"
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Run the image processor: the tensors for the model, and the text that stands for each image."""
    if not images:
        return {}, []
    if getattr(processor, "image_processor", None) is None:
        raise InputError(
            f"Sample {name} has {len(images)} image(s), but the model reads text only.",
            "Use a vision-language model, or data without images.",
        )
    # With the processor's own defaults, as its call has them: InternVL's cuts into tiles by one.
    options = processor._merge_kwargs(return_tensors="pt")["images_kwargs"]
    inputs, replacements = processor._process_images(images, **options)
    kept = {key: inputs[key] for key in inputs if key not in _unused(processor)}
    return kept, [str(replacement) for replacement in replacements]


_unused_cache: "weakref.WeakKeyDictionary" = weakref.WeakKeyDictionary()


def _unused(processor) -> set[str]:
    """Outputs that serve to count the image tokens and that the model does not take."""
    if processor not in _unused_cache:
        _unused_cache[processor] = set(getattr(processor, "unused_input_names", ()))
    return _unused_cache[processor]


def _fit(tokens: Tokens, max_length: int, overlong: Overlong, name: str) -> tuple[Tokens, int]:
    length = len(tokens.input_ids)
    message = f"Sample {name} has {length} tokens, more than max_length = {max_length}"
    if overlong == "error":
        raise InputError(
            f"{message}.", 'Raise max_length, or set overlong to "skip" or "truncate".'
        )
    if overlong == "skip":
        raise Skip("overlong", f"{message}.")
    end, spans = max_length, []
    for span in tokens.image_spans:
        if span[1] > max_length:
            end = min(end, span[0])
            break
        spans.append(span)
    cut = Tokens(tokens.input_ids[:end], tokens.labels[:end], spans)
    return cut, len(spans)
