"""Image features into the token sequence: the one line that makes a language model see."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from labs.errors import InputError


def merge_image_features(
    inputs_embeds: Float[Tensor, "batch tokens hidden"],
    input_ids: Int[Tensor, "batch tokens"],
    image_features: Sequence[Float[Tensor, "_ hidden"]] | Float[Tensor, "total hidden"],
    image_token_id: int,
) -> Float[Tensor, "batch tokens hidden"]:
    """The embeddings with the i-th image feature in the place of the i-th placeholder.

        merged[b, t] = features[i]   where input_ids[b, t] is the i-th placeholder, row by row
        merged[b, t] = inputs_embeds[b, t]   elsewhere

    `inputs_embeds` [B, T, D] of `input_ids` [B, T]. `image_features`: one tensor [n_i, D] an image,
    in the order of the batch, or all rows at once, [N, D]. A sample may have no image, one, or
    several; what stands at a placeholder in `inputs_embeds` is lost. Features take the dtype of the
    embeddings. Nothing is written in place: gradients reach the features and the other embeddings.

    Raises InputError where features and placeholders disagree in number (how many of each, and in
    which sample) or in width. Given a tensor an image, it also refuses an image that would begin in
    one sample and end in the next, although the totals agree.

    Liu et al. 2023 (LLaVA), arXiv:2304.08485, section 4.1. Derived in chapter 1.
    """
    places = input_ids == image_token_id
    listed = not isinstance(image_features, Tensor)
    images = list(image_features) if listed else [image_features]
    width = inputs_embeds.shape[-1]
    for number, image in enumerate(images):
        if image.ndim != 2 or image.shape[-1] != width:
            raise InputError(
                f"The features of image {number} have shape {list(image.shape)}, the embeddings "
                f"have width {width}.",
                f"Project each image to [features, {width}] with a connector.",
            )
    _check_numbers(places.sum(dim=1).tolist(), [len(i) for i in images], listed)
    if not images:
        return inputs_embeds
    features = torch.cat(images).to(inputs_embeds)
    # masked_scatter fills the True places row by row; unlike indexing it knows no in-place write.
    return inputs_embeds.masked_scatter(places.unsqueeze(-1), features)


def images_of_samples(placeholders: Sequence[int], sizes: Sequence[int]) -> list[list[int]]:
    """Which images belong to which sample, by counting: each sample takes images until they fill
    its placeholders.

    `placeholders`: how many each sample has. `sizes`: how many features each image has. Returns the
    numbers of the images of each sample. Raises InputError where they do not come out even.
    """
    owners, image = [], 0
    for sample, wanted in enumerate(placeholders):
        first, given = image, 0
        while given < wanted and image < len(sizes):
            given += sizes[image]
            image += 1
        if given != wanted:
            raise _disagree(
                f"Sample {sample} has {_placeholders(wanted)}, and its "
                f"{_images(image - first)} {given} features",
                placeholders,
                sizes,
            )
        owners.append(list(range(first, image)))
    if image < len(sizes):
        rest = sum(sizes[image:])
        raise _disagree(
            f"Sample {len(placeholders) - 1} is the last, and {_images(len(sizes) - image, 'left')} "
            f"{rest} features without a placeholder",
            placeholders,
            sizes,
        )
    return owners


def _check_numbers(placeholders: list[int], sizes: list[int], listed: bool) -> None:
    if listed:
        images_of_samples(placeholders, sizes)
        return
    # Rows without borders between images: the sample at fault is where they run out.
    total = sum(sizes)
    if total == sum(placeholders):
        return
    left = total
    for sample, wanted in enumerate(placeholders):
        if wanted > left:
            what = f"Sample {sample} has {_placeholders(wanted)}, and {left} features are left"
            raise _disagree(what, placeholders, sizes)
        left -= wanted
    what = f"Sample {len(placeholders) - 1} is the last, and {left} features are left over"
    raise _disagree(what, placeholders, sizes)


def _placeholders(number: int) -> str:
    return f"{number} image placeholder{'' if number == 1 else 's'}"


def _images(number: int, which: str = "") -> str:
    which = f"{which} " if which else ""
    return f"{number} {which}image has" if number == 1 else f"{number} {which}images have"


def _disagree(what: str, placeholders: Sequence[int], sizes: Sequence[int]) -> InputError:
    return InputError(
        f"{what} ({sum(placeholders)} placeholders and {sum(sizes)} features in the batch).",
        "Give each image as many placeholders as the connector makes of it, in the same order.",
    )
