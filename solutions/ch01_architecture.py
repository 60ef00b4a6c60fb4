"""Chapter 1, architecture: exercises.

The one source of the chapter's exercises: labs/grading/__init__.py says how it is written.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from labs.grading import exercise

# -- merge_image_features ----------------------------------------------------------------------


@exercise(
    kind="implement",
    points=10,
    difficulty="basic",
    minutes=25,
    section="The merge",
    forbid=("transformers",),
    hints=(
        "The placeholders of the batch, read row by row, and the features of all images, one after "
        "the other: what has to be true of their numbers? Is it enough that the totals agree?",
        "For each sample, take images until its placeholders are filled; if they do not come out "
        "even, say so. Then all features in one tensor belong to all places, in order. Mind the "
        "batch without any image: there is nothing to join.",
        "`inputs_embeds.masked_scatter((input_ids == image_token_id)[..., None], "
        "torch.cat(image_features).to(inputs_embeds.dtype))` writes into a new tensor.",
    ),
)
def merge_image_features(
    inputs_embeds: Float[Tensor, "batch tokens hidden"],
    input_ids: Int[Tensor, "batch tokens"],
    image_features: list[Float[Tensor, "_ hidden"]],
    image_token_id: int,
) -> Float[Tensor, "batch tokens hidden"]:
    r"""Image features into the token sequence, each in the place of one placeholder.

    $$m_{b,t} = \begin{cases} f_i & \text{where } \mathtt{input\_ids}_{b,t} \text{ is the } i\text{-th
      placeholder, counted row by row} \\ e_{b,t} & \text{elsewhere} \end{cases}$$

    - `inputs_embeds`: `[batch, tokens, hidden]`, the embeddings of `input_ids` `[batch, tokens]`. A
      place of an image holds the id `image_token_id`; what stands there in `inputs_embeds` is lost.
    - `image_features`: one tensor `[places, hidden]` an image, in the order of the batch. A sample
      has no image, one or several; images differ in their number of places; the list may be empty.

    Returns a tensor of the shape *and dtype* of `inputs_embeds`. Nothing is written in place:
    gradients reach the features and all other embeddings.

    Raises `ValueError` where a sample's placeholders cannot be filled by whole images, so where one
    image would begin in one sample and end in the next, too. Its message says how many
    placeholders and how many features the batch has. Graded: the result for none, one and several
    images a sample; features in another dtype; both gradients; the inputs unchanged; the errors.
    """
    # --- answer
    places = input_ids == image_token_id
    wanted, sizes = places.sum(dim=1).tolist(), [len(image) for image in image_features]
    image = 0
    for sample, count in enumerate(wanted):
        while count > 0 and image < len(sizes):
            count -= sizes[image]
            image += 1
        if count != 0 or (sample == len(wanted) - 1 and image < len(sizes)):
            raise ValueError(
                f"Sample {sample} has {wanted[sample]} placeholders, which its images do not fill: "
                f"{sum(wanted)} placeholders and {sum(sizes)} features in the batch."
            )
    if not sizes:
        return inputs_embeds
    features = torch.cat(image_features).to(inputs_embeds.dtype)
    return inputs_embeds.masked_scatter(places[..., None], features)
    # --- end


def owners(input_ids, image_features, image_token_id):
    """Whether whole images fill each sample; raises ValueError otherwise. It is no answer."""
    left = [len(image) for image in image_features]
    wanted = (input_ids == image_token_id).sum(1).tolist()
    totals = f"{sum(wanted)} placeholders, {sum(left)} features"
    for count in wanted:
        while count > 0 and left:
            count -= left.pop(0)
        if count:
            raise ValueError(totals)
    if left:
        raise ValueError(totals)


@merge_image_features.alternative
def by_token(inputs_embeds, input_ids, image_features, image_token_id):
    ends, total = {0}, 0
    for image in image_features:
        total += len(image)
        ends.add(total)
    rows = [row for image in image_features for row in image]
    used, merged = 0, []
    for ids, embeds in zip(input_ids.tolist(), inputs_embeds, strict=True):
        line = []
        for token, vector in zip(ids, embeds, strict=True):
            if token == image_token_id:
                vector = rows[used].to(vector) if used < total else vector
                used += 1
            line.append(vector)
        merged.append(torch.stack(line))
        if used not in ends:
            break
    count = int((input_ids == image_token_id).sum())
    if used not in ends or used != total:
        raise ValueError(f"{total} image features do not fit into {count} placeholders")
    return torch.stack(merged)


@merge_image_features.alternative
def by_where_and_gather(inputs_embeds, input_ids, image_features, image_token_id):
    owners(input_ids, image_features, image_token_id)
    if len(image_features) == 0:
        return inputs_embeds.clone()
    places = input_ids.eq(image_token_id)
    table = torch.vstack(list(image_features)).to(inputs_embeds.dtype)
    number = places.flatten().cumsum(0).sub(1).clamp(min=0).view_as(input_ids)
    return torch.where(places.unsqueeze(-1), table[number], inputs_embeds)


@merge_image_features.mistake(
    "Every sample starts again with the first image: the second sample sees the picture of the first."
)
def first_image_for_all(inputs_embeds, input_ids, image_features, image_token_id):
    owners(input_ids, image_features, image_token_id)
    merged = inputs_embeds.clone()
    if image_features:
        features = torch.cat(image_features).to(merged.dtype)
        for b, places in enumerate(input_ids == image_token_id):
            merged[b, places] = features[: int(places.sum())]
    return merged


@first_image_for_all.again
def counter_reset_in_each_row(inputs_embeds, input_ids, image_features, image_token_id):
    owners(input_ids, image_features, image_token_id)
    pool = [vector for img in image_features for vector in img]
    lines = []
    for ids, line in zip(input_ids, inputs_embeds, strict=True):
        k = 0
        vectors = []
        for t in range(len(ids)):
            if int(ids[t]) == image_token_id:
                vectors.append(pool[k].to(line.dtype))
                k += 1
            else:
                vectors.append(line[t])
        lines.append(torch.stack(vectors))
    return torch.stack(lines)


@merge_image_features.mistake(
    "The features are joined in front of the text and the placeholders dropped: an image belongs "
    "where its placeholders are, and labels and positions count on that."
)
def joined_at_the_front(inputs_embeds, input_ids, image_features, image_token_id):
    owners(input_ids, image_features, image_token_id)
    features = torch.cat([inputs_embeds.new_zeros(0, inputs_embeds.shape[-1]), *image_features])
    features, merged = features.to(inputs_embeds.dtype), []
    for places, embeds in zip(input_ids == image_token_id, inputs_embeds, strict=True):
        count = int(places.sum())
        merged.append(torch.cat([features[:count], embeds[~places]]))
        features = features[count:]
    return torch.stack(merged)


@joined_at_the_front.again
def picture_first_then_words(inputs_embeds, input_ids, image_features, image_token_id):
    owners(input_ids, image_features, image_token_id)
    queue = list(image_features)
    out = []
    for b in range(input_ids.size(0)):
        is_image = input_ids[b] == image_token_id
        need, front = int(is_image.sum()), []
        while need > 0:
            img = queue.pop(0)
            front.append(img.to(inputs_embeds.dtype))
            need -= img.size(0)
        out.append(torch.vstack([*front, inputs_embeds[b][is_image.logical_not()]]))
    return torch.stack(out, dim=0)


@merge_image_features.mistake(
    "A sample's features are written as one stretch from its first placeholder on: the text between "
    "two images is overwritten, and the second image's placeholders stay."
)
def one_stretch(inputs_embeds, input_ids, image_features, image_token_id):
    owners(input_ids, image_features, image_token_id)
    merged, used = inputs_embeds.clone(), 0
    for b, places in enumerate(input_ids == image_token_id):
        count = int(places.sum())
        if count:
            first = int(places.nonzero()[0])
            features = torch.cat(image_features)[used : used + count].to(merged.dtype)
            merged[b, first : first + count] = features
            used += count
    return merged


@one_stretch.again
def sliced_at_the_first(inputs_embeds, input_ids, image_features, image_token_id):
    owners(input_ids, image_features, image_token_id)
    feats = [v.type_as(inputs_embeds) for im in image_features for v in im]
    result = []
    for ids, emb in zip(input_ids.tolist(), inputs_embeds, strict=True):
        n = ids.count(image_token_id)
        if n == 0:
            result.append(emb)
            continue
        at = ids.index(image_token_id)
        mine, feats = feats[:n], feats[n:]
        result.append(torch.cat([emb[:at], torch.stack(mine), emb[at + n :]]))
    return torch.stack(result)


@merge_image_features.mistake(
    "It writes into `inputs_embeds` itself: autograd forbids that for an embedding that is trained, "
    "and the caller's tensor is changed."
)
def in_place(inputs_embeds, input_ids, image_features, image_token_id):
    owners(input_ids, image_features, image_token_id)
    if image_features:
        features = torch.cat(image_features).to(inputs_embeds.dtype)
        inputs_embeds[input_ids == image_token_id] = features
    return inputs_embeds


@in_place.again
def scattered_underscore(inputs_embeds, input_ids, image_features, image_token_id):
    owners(input_ids, image_features, image_token_id)
    rows = [r.to(inputs_embeds.dtype) for image in image_features for r in image]
    for b, t in (input_ids == image_token_id).nonzero().tolist():
        inputs_embeds[b, t] = rows.pop(0)
    return inputs_embeds


@merge_image_features.mistake(
    "The features are cut from the graph (`.data`, `.detach()`, `no_grad`): the connector behind "
    "them learns nothing."
)
def features_detached(inputs_embeds, input_ids, image_features, image_token_id):
    owners(input_ids, image_features, image_token_id)
    if not image_features:
        return inputs_embeds
    features = torch.cat(image_features).to(inputs_embeds.dtype).detach()
    return inputs_embeds.masked_scatter((input_ids == image_token_id)[..., None], features)


@features_detached.again
def copied_without_gradient(inputs_embeds, input_ids, image_features, image_token_id):
    owners(input_ids, image_features, image_token_id)
    holes = input_ids == image_token_id
    filler = torch.zeros_like(inputs_embeds)
    with torch.no_grad():
        source = [row for img in image_features for row in img]
        for b, t in holes.nonzero().tolist():
            filler[b, t] = source.pop(0)
    return torch.where(holes[:, :, None], filler, inputs_embeds)


@merge_image_features.mistake(
    "A batch of text alone fails: there is nothing to join, and `torch.cat` refuses an empty list."
)
def needs_an_image(inputs_embeds, input_ids, image_features, image_token_id):
    owners(input_ids, image_features, image_token_id)
    features = torch.cat(image_features).to(inputs_embeds.dtype)
    return inputs_embeds.masked_scatter((input_ids == image_token_id)[..., None], features)


@needs_an_image.again
def concatenates_nothing(inputs_embeds, input_ids, image_features, image_token_id):
    mask = input_ids == image_token_id
    vectors = torch.concat(image_features, dim=0)
    if vectors.shape[0] != mask.sum():
        raise ValueError(f"{int(mask.sum())} image tokens, {vectors.shape[0]} image features")
    out = inputs_embeds.clone()
    out[mask] = vectors.type_as(out)
    return out


@merge_image_features.mistake(
    "Features and placeholders are not counted: where there are more features than places, the rest "
    "is dropped in silence."
)
def surplus_dropped(inputs_embeds, input_ids, image_features, image_token_id):
    if not image_features:
        return inputs_embeds
    features = torch.cat(image_features).to(inputs_embeds.dtype)
    return inputs_embeds.masked_scatter((input_ids == image_token_id)[..., None], features)


@surplus_dropped.again
def as_many_as_fit(inputs_embeds, input_ids, image_features, image_token_id):
    result = inputs_embeds.clone()
    stream = iter([v for im in image_features for v in im])
    for b in range(len(input_ids)):
        for t in range(input_ids.shape[1]):
            if input_ids[b, t] == image_token_id:
                try:
                    result[b, t] = next(stream).to(result.dtype)
                except StopIteration:
                    raise RuntimeError("not enough image features") from None
    return result


@merge_image_features.mistake(
    "Only the totals are compared: where they agree by chance, an image begins in one sample and "
    "ends in the next."
)
def totals_only(inputs_embeds, input_ids, image_features, image_token_id):
    places = input_ids == image_token_id
    count, given = int(places.sum()), sum(len(image) for image in image_features)
    if count != given:
        raise ValueError(f"{count} placeholders, {given} features")
    if not image_features:
        return inputs_embeds
    features = torch.cat(image_features).to(inputs_embeds.dtype)
    return inputs_embeds.masked_scatter(places[..., None], features)


@totals_only.again
def compares_two_sums(inputs_embeds, input_ids, image_features, image_token_id):
    b, t = torch.where(input_ids == image_token_id)
    vectors = [v for im in image_features for v in im]
    if len(b) != len(vectors):
        raise ValueError(f"have {len(vectors)} features for {len(b)} places")
    new = inputs_embeds.clone()
    for i, v in enumerate(vectors):
        new[b[i], t[i]] = v.to(new.dtype)
    return new


# -- visual_tokens -----------------------------------------------------------------------------


@exercise(
    kind="compute",
    points=10,
    difficulty="basic",
    minutes=30,
    section="Dynamic resolution",
    forbid=("transformers",),
    hints=(
        "For each family, first find the size that the picture really has when it goes into the "
        "vision tower. How many pixels a side does one *token* stand for there, after any merging?",
        "LLaVA-NeXT: of 600 x 800 on a canvas of 672 x 672, how many of the 48 columns of features "
        "saw picture? Every row that is left ends in one newline, and the overview comes on top. "
        "Which canvas does the icon get, where enlarging it adds no pixels?",
        "Photo: $24^2$; $24^2 + 48 (36 + 1)$; $21 \\cdot 29$; $(3 \\cdot 4 + 1) \\cdot 16^2$. A token "
        "in the cache is $2 \\cdot 32 \\cdot 4096$ numbers.",
    ),
)
def visual_tokens() -> dict:
    r"""What do two pictures cost in four families?

    A *photo*, 600 wide and 800 high, and an *icon* of 200 x 200. Count the visual tokens that one
    picture puts into the language model's sequence, newlines included, markers around the image
    left out:

    - `"llava_1.5"`: resized or padded to 336 x 336, patches of 14, no class token.
    - `"llava_next"`: the canvas of (height, width) 336 x 672, 672 x 336, 672 x 672, 1008 x 336 or
      336 x 1008 that keeps most of the picture's pixels (enlarging adds none), then the one with the
      smallest area, then the first of the list; patches of 14; one overview tile of 336 x 336
      without newlines; of the canvas, the features that saw only padding are removed, and each row
      that is left gets one newline.
    - `"qwen2_vl"`: both sides rounded to the nearest multiple of 28, patches of 14, of which 2 x 2
      become a token. Neither picture meets a limit on pixels.
    - `"internvl"`: of all grids of 1 to 12 tiles of 448 x 448, the one whose width : height is
      nearest to the picture's; of equals, a larger one only where the picture has more than half of
      its pixels; a thumbnail tile where there is more than one; patches of 14, of which 2 x 2 become
      a token.

    Return `{"photo": {...}, "icon": {...}, "cache_mib": ...}`: the four counts of each picture (in
    tokens), and the key-value cache in MiB of 1024² bytes that the photo's tokens fill in
    LLaVA-NeXT with Vicuna-7B: 32 layers, each with keys and values of 4096 numbers a token, in
    bfloat16.
    """
    # --- answer
    side = 336 // 14
    # The photo on 672 x 672 becomes 504 x 672: 36 of 48 columns are picture. The icon's pixels all
    # fit on every canvas: the smallest are two tiles, the first lies across, and 24 columns are left.
    photo_next = side**2 + 48 * (36 + 1)
    icon_next = side**2 + 24 * (24 + 1)
    tile = (448 // 14 // 2) ** 2
    return {
        "photo": {
            "llava_1.5": side**2,
            "llava_next": photo_next,
            "qwen2_vl": round(600 / 28) * round(800 / 28),
            "internvl": (3 * 4 + 1) * tile,  # 3 : 4 is exactly the photo's shape
        },
        "icon": {
            "llava_1.5": side**2,
            "llava_next": icon_next,
            "qwen2_vl": round(200 / 28) ** 2,
            "internvl": tile,
        },
        "cache_mib": photo_next * 2 * 32 * 4096 * 2 / 1024**2,
    }
    # --- end


@visual_tokens.alternative
def counted_in_pixels():
    area = 336 * 336 / 14**2
    photo = {
        "llava_1.5": area,
        "llava_next": area + 504 * 672 / 14**2 + 672 / 14,
        "qwen2_vl": 588 * 812 / 28**2,
        "internvl": 3 * 448 * 4 * 448 / 28**2 + 448 * 448 / 28**2,
    }
    icon = {
        "llava_1.5": 576.0,
        "llava_next": 2 * area + 336 / 14,
        "qwen2_vl": 196 * 196 / 784,
        "internvl": 448 * 448 / 784,
    }
    # Vicuna-7B in bfloat16 keeps half a MiB a token.
    return {"photo": photo, "icon": icon, "cache_mib": photo["llava_next"] / 2}


def counts(next_photo=2352, next_icon=1176, qwen=(609, 49), internvl=(3328, 256), mib=0.5):
    """The numbers for other (wrong) readings of the question; it is no answer."""
    rows = zip(("photo", "icon"), (next_photo, next_icon), qwen, internvl, strict=True)
    found = {
        name: {"llava_1.5": 576, "llava_next": n, "qwen2_vl": q, "internvl": i}
        for name, n, q, i in rows
    }
    return {**found, "cache_mib": next_photo * mib}


@visual_tokens.mistake(
    "LLaVA-NeXT's newlines are missing: each row of the canvas that is left ends in one more token."
)
def no_newlines():
    return counts(24**2 + 48 * 36, 24**2 + 24 * 24)


@no_newlines.again
def rows_times_columns():
    return {
        "photo": {
            "llava_1.5": 24 * 24,
            "llava_next": 2304,
            "qwen2_vl": 21 * 29,
            "internvl": 256 * 13,
        },
        "icon": {"llava_1.5": 24 * 24, "llava_next": 1152, "qwen2_vl": 7 * 7, "internvl": 256},
        "cache_mib": 2304 * 512 / 1024,
    }


@visual_tokens.mistake(
    "LLaVA-NeXT's overview is missing: the whole picture comes once more as a tile of its own, 576 "
    "tokens."
)
def no_overview():
    return counts(48 * 37, 24 * 25)


@no_overview.again
def canvas_alone():
    photo = 48 * 36 + 48
    icon = sum(24 + 1 for _ in range(24))
    return {
        "cache_mib": photo * 2**19 / 2**20,
        "photo": {"llava_1.5": 576, "llava_next": photo, "qwen2_vl": 609, "internvl": 3328},
        "icon": {"llava_1.5": 576, "llava_next": icon, "qwen2_vl": 49, "internvl": 256},
    }


@visual_tokens.mistake(
    "LLaVA-NeXT's padding is counted: features that saw only padding are removed before the newlines "
    "come."
)
def padding_kept():
    return counts(24**2 + 48 * (48 + 1), 24**2 + 24 * (48 + 1))


@padding_kept.again
def full_canvases():
    tokens = {"photo": 576 + (672 // 14) * (672 // 14 + 1), "icon": 576 + (336 // 14) * 49}
    qwen, tiles = {"photo": 21 * 29, "icon": 49}, {"photo": 13, "icon": 1}
    table = {
        name: {
            "llava_1.5": 576,
            "llava_next": tokens[name],
            "qwen2_vl": qwen[name],
            "internvl": 256 * tiles[name],
        }
        for name in tokens
    }
    return table | {"cache_mib": tokens["photo"] * 32 * 2 * 4096 * 2 / 2**20}


@visual_tokens.mistake(
    "Width and height of the photo are swapped: 48 rows of 36 columns are left, not 36 rows of 48, "
    "and there is a newline for each row."
)
def lying_photo():
    return counts(24**2 + 36 * (48 + 1))


@lying_photo.again
def six_hundred_high():
    h, w = 600, 800
    rows = 48 * h // w
    seen = 576 + rows * 48 + rows
    return {
        "photo": {
            "llava_1.5": 576,
            "llava_next": seen,
            "qwen2_vl": round(h / 28) * round(w / 28),
            "internvl": 12 * 256 + 256,
        },
        "icon": {"llava_1.5": 576, "llava_next": 1176, "qwen2_vl": 49, "internvl": 256},
        "cache_mib": seen / 2,
    }


@visual_tokens.mistake(
    "Qwen2-VL's number is that of the patches: 2 x 2 of them are merged before they reach the "
    "language model."
)
def patches_for_tokens():
    return counts(qwen=(609 * 4, 49 * 4))


@patches_for_tokens.again
def fourteen_pixels_each():
    return {
        "photo": {
            "llava_1.5": 576,
            "llava_next": 576 + 1776,
            "qwen2_vl": (588 // 14) * (812 // 14),
            "internvl": 3328,
        },
        "icon": {
            "llava_1.5": 576,
            "llava_next": 576 + 600,
            "qwen2_vl": (196 // 14) ** 2,
            "internvl": 256,
        },
        "cache_mib": 1176,
    }


@visual_tokens.mistake(
    "Qwen2-VL's sides are rounded down: 800 lies nearer to 29 · 28 = 812 than to 784."
)
def rounded_down():
    return counts(qwen=(21 * 28, 49))


@rounded_down.again
def whole_blocks_only():
    def blocks(w, h):
        return (w // 28) * (h // 28)

    out = {"photo": {"qwen2_vl": blocks(600, 800)}, "icon": {"qwen2_vl": blocks(200, 200)}}
    out["photo"].update({"llava_1.5": 576, "llava_next": 2352, "internvl": 3328})
    out["icon"].update({"llava_1.5": 576, "llava_next": 1176, "internvl": 256})
    out["cache_mib"] = 1176.0
    return out


@visual_tokens.mistake("InternVL's thumbnail of the photo is missing: 12 tiles and one more.")
def no_thumbnail():
    return counts(internvl=(12 * 256, 256))


@no_thumbnail.again
def twelve_tiles():
    return {
        "photo": dict(zip(KEYS, (576, 2352, 609, 12 * 16 * 16), strict=True)),
        "icon": dict(zip(KEYS, (576, 1176, 49, 16 * 16), strict=True)),
        "cache_mib": 2352 * 0.5,
    }


KEYS = ("llava_1.5", "llava_next", "qwen2_vl", "internvl")


@visual_tokens.mistake(
    "InternVL's icon has a thumbnail too: a picture of one tile is its own thumbnail."
)
def thumbnail_of_one_tile():
    return counts(internvl=(3328, 512))


@thumbnail_of_one_tile.again
def always_one_more():
    tiles = [12, 1]
    rest = [(576, 2352, 609), (576, 1176, 49)]
    photo, icon = (
        dict(zip(KEYS, (*row, (n + 1) * 256), strict=True))
        for row, n in zip(rest, tiles, strict=True)
    )
    return {"photo": photo, "icon": icon, "cache_mib": 1176}


@visual_tokens.mistake(
    "The cache counts keys or values, not both: each layer keeps two vectors of 4096 numbers a token."
)
def keys_without_values():
    return counts(mib=0.25)


@keys_without_values.again
def one_vector_a_layer():
    photo = dict(zip(KEYS, (576, 2352, 609, 3328), strict=True))
    icon = dict(zip(KEYS, (576, 1176, 49, 256), strict=True))
    bytes_ = photo["llava_next"] * 32 * 4096 * 2
    return {"photo": photo, "icon": icon, "cache_mib": bytes_ / 1024 / 1024}


# -- llava_next_grid ---------------------------------------------------------------------------


@exercise(
    kind="implement",
    points=15,
    difficulty="basic",
    minutes=30,
    section="Which canvas",
    forbid=("transformers", "llava"),
    hints=(
        "What would a canvas of 10,000 x 10,000 gain for a small picture? And of two canvases that "
        "keep equally many of its pixels, which one wastes less of the vision tower's work?",
        "For each canvas compute `kept` and `wasted = canvas area - kept`; take the largest kept, "
        "then the smallest wasted. Then compare the *shapes* of picture and canvas: a picture that "
        "is wider than the canvas has padding above and below, else left and right.",
        "`max(canvases, key=lambda c: (kept(c), -wasted(c)))` gives the first of equals. Wider: "
        "`rows -= 2 * ((rows - height * columns // width) // 2)`. Then "
        "`(tile // patch) ** 2 + rows * (columns + 1)`.",
    ),
)
def llava_next_grid(
    size: tuple[int, int],
    canvases: list[tuple[int, int]],
    tile: int = 336,
    patch: int = 14,
) -> dict:
    r"""Which canvas LLaVA-NeXT gives to a picture, and how many tokens it makes of it.

    All sizes are (height, width), as in the configuration files of the released checkpoints; most
    image libraries say (width, height).

    1. *Canvas.* A picture of $h \times w$ is scaled by $s = \min(W/w, H/h)$ to fit into a canvas of
       $H \times W$, which keeps $\min(\lfloor sw \rfloor \lfloor sh \rfloor,\ hw)$ of its pixels:
       enlarging adds none. Take the canvas that keeps most; of equals, the one that wastes least,
       $HW$ minus what it keeps; of those, the first in the list.
    2. *Cells.* The canvas has $R = H / \text{patch}$ rows and $C = W / \text{patch}$ columns of
       features. Where the picture is wider than the canvas ($w/h > C/R$), it fills $\lfloor hC/w
       \rfloor$ rows, and the rest is padding above and below; else it fills $\lfloor wR/h \rfloor$
       columns, with padding left and right. At *either* edge, half of the rest, rounded down, is
       removed: of 21 rows of which 14 are filled, 3 go at either edge and 15 are left.
    3. *Tokens.* One overview tile of $(\text{tile}/\text{patch})^2$, and the cells that are left,
       with one newline at the end of each row.

    Returns `{"canvas": (height, width), "cells": (rows, columns), "tokens": count}`. Graded: tall,
    wide, square, small and extreme pictures, ties, several lists of canvases and sizes of tiles.
    """
    # --- answer
    height, width = size

    def kept(canvas):
        scale = min(canvas[0] / height, canvas[1] / width)
        return min(int(height * scale) * int(width * scale), height * width)

    def wasted(canvas):
        return canvas[0] * canvas[1] - kept(canvas)

    canvas = max(canvases, key=lambda c: (kept(c), -wasted(c)))
    rows, columns = canvas[0] // patch, canvas[1] // patch
    if width * rows > height * columns:
        rows -= 2 * ((rows - height * columns // width) // 2)
    else:
        columns -= 2 * ((columns - width * rows // height) // 2)
    tokens = (tile // patch) ** 2 + rows * (columns + 1)
    return {"canvas": canvas, "cells": (rows, columns), "tokens": tokens}
    # --- end


@llava_next_grid.alternative
def by_sorting_and_steps(size, canvases, tile=336, patch=14):
    h, w = size
    ranked = []
    for number, (high, wide) in enumerate(canvases):
        if wide * h <= high * w:  # the width is what limits it
            pixels = wide * (h * wide // w)
        else:
            pixels = high * (w * high // h)
        pixels = min(pixels, h * w)
        ranked.append((-pixels, high * wide - pixels, number))
    high, wide = canvases[min(ranked)[2]]
    rows, columns = range(high // patch), range(wide // patch)
    if w / h > len(columns) / len(rows):
        cut = (len(rows) - int(h * len(columns) / w + 1e-7)) // 2
        rows = rows[cut : len(rows) - cut]
    else:
        cut = (len(columns) - int(w * len(rows) / h + 1e-7)) // 2
        columns = columns[cut : len(columns) - cut]
    tokens = (tile // patch) * (tile // patch)
    for _ in rows:
        tokens += len(columns) + 1
    return {"canvas": (high, wide), "cells": (len(rows), len(columns)), "tokens": tokens}


def fits(size, canvas):
    """(height, width) of a picture scaled to fit into a canvas. It is no answer."""
    scale = min(canvas[0] / size[0], canvas[1] / size[1])
    return int(size[0] * scale), int(size[1] * scale)


def best_canvas(size, canvases, cap=True, tie=True):
    """The canvas, also by rules that leave something out. It is no answer."""

    def rank(canvas):
        kept = math.prod(fits(size, canvas))
        if cap:
            kept = min(kept, math.prod(size))
        return (kept, kept - math.prod(canvas) if tie else 0)

    return max(canvases, key=rank)


def cells_of(size, canvas, patch):
    """(rows, columns) that are left without padding. It is no answer."""
    rows, columns = canvas[0] // patch, canvas[1] // patch
    if size[1] * rows > size[0] * columns:
        return rows - 2 * ((rows - size[0] * columns // size[1]) // 2), columns
    return rows, columns - 2 * ((columns - size[1] * rows // size[0]) // 2)


def described(canvas, cells, tile, patch, newlines=1, overview=1):
    """The result for a canvas and its cells. It is no answer."""
    tokens = overview * (tile // patch) ** 2 + cells[0] * (cells[1] + newlines)
    return {"canvas": canvas, "cells": cells, "tokens": tokens}


@llava_next_grid.mistake(
    "Height and width of the picture are swapped: sizes are (height, width) here, and PIL's "
    "`image.size` is (width, height)."
)
def width_first(size, canvases, tile=336, patch=14):
    size = (size[1], size[0])
    canvas = best_canvas(size, canvases)
    return described(canvas, cells_of(size, canvas, patch), tile, patch)


@width_first.again
def pil_order(size, canvases, tile=336, patch=14):
    w, h = size
    scored = []
    for high, wide in canvases:
        s = min(wide / w, high / h)
        good = min(int(w * s) * int(h * s), w * h)
        scored.append((good, good - high * wide))
    best = scored.index(max(scored))
    high, wide = canvases[best]
    r, c = high // patch, wide // patch
    if w / h > c / r:
        r = r - (r - c * h // w) // 2 * 2
    else:
        c = c - (c - r * w // h) // 2 * 2
    return {"canvas": (high, wide), "cells": (r, c), "tokens": (tile // patch) ** 2 + r * c + r}


@llava_next_grid.mistake(
    "Enlarging counts as gain: a picture that is smaller than the canvas has no more pixels on a "
    "larger one, and a small picture gets a canvas full of padding or blur."
)
def enlarging_counts(size, canvases, tile=336, patch=14):
    canvas = best_canvas(size, canvases, cap=False)
    return described(canvas, cells_of(size, canvas, patch), tile, patch)


@enlarging_counts.again
def largest_scaled_area(size, canvases, tile=336, patch=14):
    h, w = size
    best, record = None, (-1, 0)
    for candidate in canvases:
        ratio = min(candidate[1] / w, candidate[0] / h)
        area = int(w * ratio) * int(h * ratio)
        spare = candidate[0] * candidate[1] - area
        if (area, -spare) > record:
            best, record = candidate, (area, -spare)
    rows, cols = (edge // patch for edge in best)
    if w * rows > h * cols:
        rows -= (rows - h * cols // w) // 2 * 2
    else:
        cols -= (cols - w * rows // h) // 2 * 2
    n = (tile // patch) ** 2 + (cols + 1) * rows
    return {"canvas": best, "cells": (rows, cols), "tokens": n}


@llava_next_grid.mistake(
    "Of canvases that keep equally many pixels the first is taken, not the one that wastes least: "
    "the tiles of padding are paid for all the same."
)
def first_of_equals(size, canvases, tile=336, patch=14):
    canvas = best_canvas(size, canvases, tie=False)
    return described(canvas, cells_of(size, canvas, patch), tile, patch)


@first_of_equals.again
def strictly_more_pixels(size, canvases, tile=336, patch=14):
    h, w = size
    chosen, most = canvases[0], 0
    for high, wide in canvases:
        s = min(high / h, wide / w)
        pixels = min(int(h * s) * int(w * s), h * w)
        if pixels > most:
            chosen, most = (high, wide), pixels
    r, c = chosen[0] // patch, chosen[1] // patch
    wider = w / h > c / r
    seen = h * c // w if wider else w * r // h
    gone = ((r if wider else c) - seen) // 2
    r, c = (r - 2 * gone, c) if wider else (r, c - 2 * gone)
    return {"canvas": chosen, "cells": (r, c), "tokens": (tile // patch) ** 2 + r * (c + 1)}


@llava_next_grid.mistake(
    "The canvas of the nearest shape is taken, which is InternVL's rule: LLaVA-NeXT counts the "
    "pixels that are kept."
)
def nearest_shape(size, canvases, tile=336, patch=14):
    canvas = min(canvases, key=lambda c: abs(c[1] / c[0] - size[1] / size[0]))
    return described(canvas, cells_of(size, canvas, patch), tile, patch)


@nearest_shape.again
def closest_aspect_ratio(size, canvases, tile=336, patch=14):
    h, w = size
    distance = [abs(w / h - wide / high) for high, wide in canvases]
    high, wide = canvases[distance.index(min(distance))]
    r, c = high // patch, wide // patch
    if w / h > wide / high:
        r -= 2 * ((r - (h * c) // w) // 2)
    else:
        c -= 2 * ((c - (w * r) // h) // 2)
    total = sum([(tile // patch) ** 2, r * c, r])
    return {"canvas": (high, wide), "cells": (r, c), "tokens": total}


@llava_next_grid.mistake(
    "The newlines are missing: each row of features that is left ends in one more token."
)
def without_newlines(size, canvases, tile=336, patch=14):
    canvas = best_canvas(size, canvases)
    return described(canvas, cells_of(size, canvas, patch), tile, patch, newlines=0)


@without_newlines.again
def area_of_the_cells(size, canvases, tile=336, patch=14):
    h, w = size

    def key(c):
        s = min(c[1] / w, c[0] / h)
        use = min(int(w * s) * int(h * s), w * h)
        return -use, c[0] * c[1] - use

    high, wide = sorted(canvases, key=key)[0]
    r, c = high // patch, wide // patch
    if w * r > h * c:
        r -= (r - h * c // w) // 2 * 2
    else:
        c -= (c - w * r // h) // 2 * 2
    return {"canvas": (high, wide), "cells": (r, c), "tokens": r * c + (tile // patch) ** 2}


@llava_next_grid.mistake(
    "The overview is missing: the whole picture comes once more as one tile, before the canvas."
)
def without_overview(size, canvases, tile=336, patch=14):
    canvas = best_canvas(size, canvases)
    return described(canvas, cells_of(size, canvas, patch), tile, patch, overview=0)


@without_overview.again
def rows_with_ends(size, canvases, tile=336, patch=14):
    h, w = size
    kept = {}
    for c in canvases:
        s = min(c[1] / w, c[0] / h)
        kept[c] = min(int(w * s) * int(h * s), w * h)
    canvas = max(canvases, key=lambda c: (kept[c], kept[c] - c[0] * c[1]))
    r, c = canvas[0] // patch, canvas[1] // patch
    if w / h > c / r:
        r = r - 2 * ((r - h * c // w) // 2)
    else:
        c = c - 2 * ((c - w * r // h) // 2)
    return {"canvas": canvas, "cells": (r, c), "tokens": r * (c + 1)}


@llava_next_grid.mistake(
    "Rows and columns that saw only padding are counted: they are removed before the newlines come."
)
def padding_stays(size, canvases, tile=336, patch=14):
    canvas = best_canvas(size, canvases)
    return described(canvas, (canvas[0] // patch, canvas[1] // patch), tile, patch)


@padding_stays.again
def whole_canvas(size, canvases, tile=336, patch=14):
    h, w = size
    table = []
    for i, (high, wide) in enumerate(canvases):
        s = min(high / h, wide / w)
        area = min(int(h * s) * int(w * s), h * w)
        table.append((area, area - high * wide, -i))
    high, wide = canvases[-max(table)[2]]
    r, c = high // patch, wide // patch
    tiles = (tile // patch) ** 2
    return {"canvas": (high, wide), "cells": (r, c), "tokens": tiles + r * c + r}


@llava_next_grid.mistake(
    "All that is not filled is cut off. The rest is halved first and rounded down, at either edge, "
    "so that no feature that saw picture is lost: an odd rest leaves one row or column more."
)
def filled_rows_alone(size, canvases, tile=336, patch=14):
    canvas = best_canvas(size, canvases)
    rows, columns = canvas[0] // patch, canvas[1] // patch
    if size[1] * rows > size[0] * columns:
        cells = (size[0] * columns // size[1], columns)
    else:
        cells = (rows, size[1] * rows // size[0])
    return described(canvas, cells, tile, patch)


@filled_rows_alone.again
def picture_only(size, canvases, tile=336, patch=14):
    h, w = size
    best, score = None, None
    for canvas in canvases:
        s = min(canvas[0] / h, canvas[1] / w)
        use = min(int(h * s) * int(w * s), h * w)
        now = (use, use - canvas[0] * canvas[1])
        if score is None or now > score:
            best, score = canvas, now
    r, c = (x // patch for x in best)
    r, c = min(r, h * c // w), min(c, w * r // h)
    return {"canvas": best, "cells": (r, c), "tokens": (tile // patch) ** 2 + r * (c + 1)}


# -- smart_resize ------------------------------------------------------------------------------


@exercise(
    kind="implement",
    points=10,
    difficulty="basic",
    minutes=25,
    section="Which canvas",
    forbid=("transformers", "qwen_vl_utils"),
    hints=(
        "There are three cases, and they are told apart *after* rounding. In which direction may the "
        "sides be rounded where the picture is too large, and where it is too small?",
        "The area must shrink by `height * width / max_pixels`; so each side by the root of that, "
        "from the picture's *own* sides. Then down to a multiple of `factor`, and never to nothing.",
        "`beta = math.sqrt(height * width / max_pixels)`, "
        "`max(factor, math.floor(height / beta / factor) * factor)`; too small: "
        "`beta = math.sqrt(min_pixels / (height * width))` and `math.ceil(height * beta / factor)`.",
    ),
)
def smart_resize(
    height: int,
    width: int,
    factor: int = 28,
    min_pixels: int = 3136,
    max_pixels: int = 12845056,
) -> tuple[int, int]:
    r"""The size to which Qwen2-VL brings a picture: multiples of `factor`, within limits of pixels.

    1. Each side is rounded to the nearest multiple of `factor` (halves to the even one, as Python's
       `round` does); a side may become 0 here.
    2. If that has more than `max_pixels` pixels: with $\beta = \sqrt{hw / \text{max\_pixels}}$ of the
       sides *before* any rounding, $h/\beta$ and $w/\beta$ are rounded down instead, but to one
       `factor` at least.
    3. If it has fewer than `min_pixels`: with $\beta = \sqrt{\text{min\_pixels} / hw}$, $h\beta$ and
       $w\beta$ are rounded up instead.

    Raises `ValueError` where one side is more than 200 times the other. Returns (height, width).
    Graded: pictures of every shape, too large, too small, thin, other factors and limits; a side
    ratio of exactly 200, which is allowed, and of 201, which is not.
    """
    # --- answer
    if max(height, width) > 200 * min(height, width):
        raise ValueError(f"{height} x {width}: one side is more than 200 times the other")
    rows, columns = round(height / factor), round(width / factor)
    if rows * columns * factor**2 > max_pixels:
        beta = math.sqrt(height * width / max_pixels)
        rows = max(1, math.floor(height / beta / factor))
        columns = max(1, math.floor(width / beta / factor))
    elif rows * columns * factor**2 < min_pixels:
        beta = math.sqrt(min_pixels / (height * width))
        rows, columns = math.ceil(height * beta / factor), math.ceil(width * beta / factor)
    return rows * factor, columns * factor
    # --- end


def refuse_slivers(height, width):
    """Raises ValueError for a side ratio above 200. It is no answer."""
    if max(height, width) / min(height, width) > 200:
        raise ValueError("one side is more than 200 times the other")


@smart_resize.alternative
def by_whole_numbers(height, width, factor=28, min_pixels=3136, max_pixels=12845056):
    refuse_slivers(height, width)

    def nearest(side):
        return round(torch.tensor(side / factor, dtype=torch.float64).item()) * factor

    area = nearest(height) * nearest(width)
    if min_pixels <= area <= max_pixels:
        return nearest(height), nearest(width)
    limit = max_pixels if area > max_pixels else min_pixels
    sides = []
    for side, other in ((height, width), (width, height)):
        # n * factor <= side * sqrt(limit / (side * other)), squared
        n = math.isqrt(side * limit // (other * factor**2))
        if limit == min_pixels and n * n * factor**2 * other < side * limit:
            n += 1
        sides.append(max(n, 1) * factor)
    return tuple(sides)


def resized(
    height, width, factor, low, high, first=round, down=math.floor, up=math.ceil, beta=None
):
    """The rule with parts handed in, for wrong answers. It is no answer."""
    refuse_slivers(height, width)
    h, w = first(height / factor) * factor, first(width / factor) * factor
    beta = beta or (lambda ratio, rounded: math.sqrt(ratio))
    if h * w > high:
        b = beta(height * width / high, h * w / high)
        h, w = (max(factor, down(side / b / factor) * factor) for side in (height, width))
    elif h * w < low:
        b = beta(low / (height * width), low / (h * w) if h * w else low / (height * width))
        h, w = (up(side * b / factor) * factor for side in (height, width))
    return h, w


@smart_resize.mistake(
    "Sides are rounded down from the start: 812 lies nearer to 800 than 784 does. Only a picture that "
    "is too large is rounded down."
)
def down_from_the_start(height, width, factor=28, min_pixels=3136, max_pixels=12845056):
    return resized(height, width, factor, min_pixels, max_pixels, first=math.floor)


@down_from_the_start.again
def integer_division(height, width, factor=28, min_pixels=3136, max_pixels=12845056):
    if height > 200 * width or width > 200 * height:
        raise ValueError("too narrow")
    h = height // factor * factor
    w = width // factor * factor
    area = height * width
    if h * w > max_pixels:
        shrink = (area / max_pixels) ** 0.5
        h = max(factor, int(height / shrink // factor) * factor)
        w = max(factor, int(width / shrink // factor) * factor)
    if h * w < min_pixels:
        grow = (min_pixels / area) ** 0.5
        h, w = (-int(-x * grow // factor) * factor for x in (height, width))
    return h, w


@smart_resize.mistake("The limits on pixels are not there: a large picture costs what it likes.")
def no_limits(height, width, factor=28, min_pixels=3136, max_pixels=12845056):
    refuse_slivers(height, width)
    return round(height / factor) * factor, round(width / factor) * factor


@no_limits.again
def nearest_multiples(height, width, factor=28, min_pixels=3136, max_pixels=12845056):
    if max(height, width) / min(height, width) > 200:
        raise ValueError(f"aspect ratio of {height} x {width}")
    result = []
    for side in (height, width):
        blocks = round(side / factor)
        result.append(blocks * factor)
    return tuple(result)


@smart_resize.mistake(
    "A picture that is too large is brought to the *nearest* multiples: that can be above the limit "
    "again. Round down."
)
def nearest_when_large(height, width, factor=28, min_pixels=3136, max_pixels=12845056):
    return resized(height, width, factor, min_pixels, max_pixels, down=round)


@nearest_when_large.again
def still_above_the_limit(height, width, factor=28, min_pixels=3136, max_pixels=12845056):
    big, small = max(height, width), min(height, width)
    if big / small > 200:
        raise ValueError("too extreme")

    def snap(scale):
        return [max(factor, factor * round(s * scale / factor)) for s in (height, width)]

    plain = [factor * round(s / factor) for s in (height, width)]
    if plain[0] * plain[1] > max_pixels:
        return tuple(snap(math.sqrt(max_pixels / height / width)))
    if plain[0] * plain[1] < min_pixels:
        scale = math.sqrt(min_pixels / height / width)
        return tuple(factor * math.ceil(s * scale / factor) for s in (height, width))
    return tuple(plain)


@smart_resize.mistake(
    "A picture that is too small is rounded down, or to the nearest, after it has been enlarged: that can "
    "be below the limit again. Round up."
)
def nearest_when_small(height, width, factor=28, min_pixels=3136, max_pixels=12845056):
    return resized(height, width, factor, min_pixels, max_pixels, up=round)


@nearest_when_small.again
def not_quite_enough(height, width, factor=28, min_pixels=3136, max_pixels=12845056):
    refuse_slivers(height, width)
    blocks = [round(height / factor), round(width / factor)]
    pixels = blocks[0] * blocks[1] * factor * factor
    if pixels < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        blocks = [round(height * grow / factor), round(width * grow / factor)]
    elif pixels > max_pixels:
        shrink = math.sqrt(max_pixels / (height * width))
        blocks = [max(1, int(height * shrink / factor)), max(1, int(width * shrink / factor))]
    return blocks[0] * factor, blocks[1] * factor


@smart_resize.mistake(
    "The root is missing: the *area* has to shrink by that ratio, so each side by its square root."
)
def no_root(height, width, factor=28, min_pixels=3136, max_pixels=12845056):
    return resized(height, width, factor, min_pixels, max_pixels, beta=lambda ratio, _: ratio)


@no_root.again
def area_ratio_on_sides(height, width, factor=28, min_pixels=3136, max_pixels=12845056):
    if not 1 / 200 <= height / width <= 200:
        raise ValueError("ratio")
    h, w = (round(s / factor) for s in (height, width))
    now = h * w * factor**2
    if now > max_pixels:
        by = max_pixels / (height * width)
        h, w = (max(1, math.floor(s * by / factor)) for s in (height, width))
    elif now < min_pixels:
        by = min_pixels / (height * width)
        h, w = (math.ceil(s * by / factor) for s in (height, width))
    return h * factor, w * factor


@smart_resize.mistake(
    "Beta comes from the rounded sides: it is the ratio of the picture's own area to the limit."
)
def beta_of_rounded_sides(height, width, factor=28, min_pixels=3136, max_pixels=12845056):
    def rooted(_, rounded):
        return math.sqrt(rounded)

    return resized(height, width, factor, min_pixels, max_pixels, beta=rooted)


@beta_of_rounded_sides.again
def from_the_grid(height, width, factor=28, min_pixels=3136, max_pixels=12845056):
    refuse_slivers(height, width)
    h_bar, w_bar = round(height / factor) * factor, round(width / factor) * factor
    if h_bar * w_bar > max_pixels:
        beta = math.sqrt(h_bar * w_bar / max_pixels)
        return tuple(max(factor, math.floor(s / beta / factor) * factor) for s in (height, width))
    if h_bar * w_bar < min_pixels:
        beta = math.sqrt(min_pixels / ((h_bar * w_bar) or (height * width)))
        return tuple(math.ceil(s * beta / factor) * factor for s in (height, width))
    return h_bar, w_bar


# -- matching_loss -----------------------------------------------------------------------------


@exercise(
    kind="implement",
    points=10,
    difficulty="basic",
    minutes=20,
    section="One network that reads both",
    forbid=("transformers",),
    hints=(
        "The fused encoder gives one state for each token of the text. Which of them was put there to "
        "speak for the pair, and where does it stand, however much padding follows?",
        "Take the first state of each of the three batches, send all through the same head, and write "
        "down the labels in the same order: which class means that the two belong together?",
        "`logits = head(torch.cat([right[:, 0], wrong_text[:, 0], wrong_image[:, 0]]))`, labels of B "
        "ones and 2B zeros, then `F.cross_entropy(logits, labels)`.",
    ),
)
def matching_loss(
    head: nn.Linear,
    right: Float[Tensor, "batch tokens hidden"],
    wrong_text: Float[Tensor, "batch tokens_2 hidden"],
    wrong_image: Float[Tensor, "batch tokens hidden"],
) -> Float[Tensor, ""]:
    r"""The loss of image-text matching: does this text belong to this image?

    BLIP's fused encoder reads a text while it looks at an image. Its states come here three times:
    `right`, where the two belong together; `wrong_text`, each image with a text of another;
    `wrong_image`, each text with an image of another: hard negatives, B of each. Texts differ in
    length between the batches.

    $$L = -\frac{1}{3B} \sum_{n=1}^{3B} \log \text{softmax}(W h_n + b)_{y_n}$$

    - $h_n$: the state of the pair's *first* token, which BLIP puts there for this question; padding
      stands at the end.
    - `head`: a linear layer with two outputs; class 1 means that the two belong together.

    Returns a scalar tensor. Graded: the value and the gradients of all three; that no state but the
    first matters.
    """
    # --- answer
    logits = head(torch.cat([right[:, 0], wrong_text[:, 0], wrong_image[:, 0]]))
    labels = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
    labels[: len(right)] = 1
    return F.cross_entropy(logits, labels)
    # --- end


@matching_loss.alternative
def by_margin(head, right, wrong_text, wrong_image):
    # With two classes the softmax is a sigmoid of the difference.
    def margin(states):
        logits = head(states[:, 0, :])
        return logits[:, 1] - logits[:, 0]

    terms = [F.softplus(-margin(right)), F.softplus(margin(wrong_text))]
    return torch.cat([*terms, F.softplus(margin(wrong_image))]).mean()


@matching_loss.alternative
def three_losses(head, right, wrong_text, wrong_image):
    total = 0.0
    for states, label in ((right, 1), (wrong_text, 0), (wrong_image, 0)):
        total = total - head(states.select(1, 0)).log_softmax(-1)[:, label].mean()
    return total / 3


def matched(head, batches, state=lambda x: x[:, 0], labels=(1, 0, 0), reduction="mean"):
    """The loss with parts handed in, for wrong answers. It is no answer."""
    wanted = [torch.full((len(x),), y) for x, y in zip(batches, labels, strict=True)]
    logits = head(torch.cat([state(x) for x in batches]))
    return F.cross_entropy(logits, torch.cat(wanted), reduction=reduction)


@matching_loss.mistake(
    "The last token's state is read: behind a short text that is padding. The first one speaks for the "
    "pair."
)
def last_token(head, right, wrong_text, wrong_image):
    return matched(head, [right, wrong_text, wrong_image], lambda x: x[:, -1])


@last_token.again
def final_state(head, right, wrong_text, wrong_image):
    loss = torch.zeros(())
    for i, states in enumerate((right, wrong_text, wrong_image)):
        log_p = torch.log_softmax(head(states)[:, states.shape[1] - 1], dim=-1)
        loss = loss - (log_p[:, 1] if i == 0 else log_p[:, 0]).sum()
    return loss / (3 * right.shape[0])


@matching_loss.mistake(
    "The states of all tokens are averaged: the head is to read the first token alone, and padding is "
    "in that average too."
)
def mean_of_states(head, right, wrong_text, wrong_image):
    return matched(head, [right, wrong_text, wrong_image], lambda x: x.mean(1))


@mean_of_states.again
def pooled(head, right, wrong_text, wrong_image):
    h = torch.vstack([s.sum(dim=1) / s.size(1) for s in (right, wrong_text, wrong_image)])
    y = torch.arange(len(h)) < len(right)
    return F.nll_loss(head(h).log_softmax(1), y.long())


@matching_loss.mistake(
    "The labels are the wrong way round: class 1 means that the two belong together."
)
def labels_swapped(head, right, wrong_text, wrong_image):
    return matched(head, [right, wrong_text, wrong_image], labels=(0, 1, 1))


@labels_swapped.again
def match_is_class_zero(head, right, wrong_text, wrong_image):
    good = head(right[:, 0]).log_softmax(-1)[:, 0]
    bad = head(torch.cat((wrong_text[:, 0], wrong_image[:, 0]))).log_softmax(-1)[:, 1]
    return -torch.cat((good, bad)).mean()


@matching_loss.mistake(
    "Right and wrong pairs weigh the same, as two halves: there are twice as many wrong ones, and the "
    "mean is over all 3B pairs."
)
def two_halves(head, right, wrong_text, wrong_image):
    wrong = matched(head, [wrong_text, wrong_image], labels=(0, 0))
    return (matched(head, [right], labels=(1,)) + wrong) / 2


@two_halves.again
def balanced(head, right, wrong_text, wrong_image):
    positive = -F.log_softmax(head(right[:, 0]), -1)[:, 1]
    negative = -F.log_softmax(head(torch.cat([wrong_text[:, 0], wrong_image[:, 0]])), -1)[:, 0]
    return 0.5 * positive.mean() + 0.5 * negative.mean()


@matching_loss.mistake(
    "The wrong images are left out: only texts are negatives, and the head never learns to look."
)
def texts_only(head, right, wrong_text, wrong_image):
    return matched(head, [right, wrong_text], labels=(1, 0))


@texts_only.again
def two_batches(head, right, wrong_text, wrong_image):
    b = right.shape[0]
    first = torch.cat([right[:, 0], wrong_text[:, 0]], dim=0)
    target = torch.cat([torch.ones(b), torch.zeros(b)]).long()
    logits = head(first)
    return (logits.logsumexp(1) - logits.gather(1, target[:, None])[:, 0]).mean()


@matching_loss.mistake("The loss is a sum over the pairs, and grows with the batch.")
def summed_pairs(head, right, wrong_text, wrong_image):
    return matched(head, [right, wrong_text, wrong_image], reduction="sum")


@summed_pairs.again
def never_averaged(head, right, wrong_text, wrong_image):
    loss = 0
    for row in right:
        loss = loss - head(row[0]).log_softmax(0)[1]
    for row in [*wrong_text, *wrong_image]:
        loss = loss - head(row[0]).log_softmax(0)[0]
    return loss


# -- mrope_position_ids ------------------------------------------------------------------------

TEXT, VISUAL = 0, 1  # what a token is


@exercise(
    kind="implement",
    points=15,
    difficulty="challenge",
    minutes=35,
    section="Where a token stands",
    forbid=("transformers",),
    hints=(
        "Go through one sample from left to right with one counter: the position at which the next "
        "piece starts. What does a text token do to it, and what does an image of 4 x 6 tokens do?",
        "A visual's tokens lie frame by frame, row by row. `torch.arange` for each of the three axes, "
        "all combinations of them in that order, plus the counter. Padding is left out before you "
        "begin, and its positions stay 0.",
        "`ids = torch.cartesian_prod(arange(t), arange(h // merge), arange(w // merge)).T + start`, "
        "then `start = ids.max() + 1`. The next visual of the *batch* takes the next grid.",
    ),
)
def mrope_position_ids(
    token_types: Int[Tensor, "batch tokens"],
    grids: Int[Tensor, "visuals 3"],
    attention_mask: Int[Tensor, "batch tokens"],
    merge: int = 2,
) -> Int[Tensor, "3 batch tokens"]:
    r"""Qwen2-VL's position ids: time, height and width of every token of mixed sequences.

    - `token_types`: `[batch, tokens]`, 0 for text and 1 for a visual (image or video).
    - `grids`: `[visuals, 3]`, time, height and width of each visual of the batch, in order, counted
      in *patches*; `merge` x `merge` patches are one token, and frames are not merged. A visual has
      $t \cdot (h / \text{merge}) \cdot (w / \text{merge})$ tokens, frame by frame, row by row.
    - `attention_mask`: `[batch, tokens]`, 1 for a token and 0 for padding, on either side.

    A text token has the same position in all three rows, and the next text token one more. A visual
    that starts at position $p$ gives its token in frame $f$, row $r$, column $c$ the positions
    $(p + f,\ p + r,\ p + c)$; an image is one frame. What follows a visual starts one past the
    *largest* position so far, in any of the three rows, as the paper has it (arXiv:2409.12191).
    Each sample starts at 0; padding does not count, and its positions are 0.

    Returns `[3, batch, tokens]`, int64, the rows in the order time, height, width. Graded: none, one
    and two images a sample, two without text between them, a video, padding on either side, `merge`
    of 1, 2 and 3.
    """
    # --- answer
    positions = torch.zeros(3, *token_types.shape, dtype=torch.long)
    grids = iter(grids.tolist())
    for sample in range(len(token_types)):
        columns = attention_mask[sample].nonzero().flatten()
        start = at = 0
        while at < len(columns):
            if token_types[sample, columns[at]] == TEXT:
                ids = torch.full((3, 1), start)
            else:
                t, h, w = next(grids)
                axes = torch.arange(t), torch.arange(h // merge), torch.arange(w // merge)
                ids = torch.cartesian_prod(*axes).T + start
            positions[:, sample, columns[at : at + ids.shape[1]]] = ids
            at += ids.shape[1]
            start = int(ids.max()) + 1
    return positions
    # --- end


@mrope_position_ids.alternative
def by_meshgrid_and_runs(token_types, grids, attention_mask, merge=2):
    result = torch.zeros((3, *token_types.shape), dtype=torch.int64)
    number = 0
    for b, (types, mask) in enumerate(zip(token_types, attention_mask, strict=True)):
        kinds = types[mask.bool()].tolist()
        pieces, done, offset = [torch.zeros(3, 0, dtype=torch.int64)], 0, 0
        while done < len(kinds):
            if kinds[done] == TEXT:
                end = done
                while end < len(kinds) and kinds[end] == TEXT:
                    end += 1
                pieces.append(torch.arange(offset, offset + end - done).repeat(3, 1))
                offset, done = offset + end - done, end
                continue
            t, h, w = (int(x) for x in grids[number])
            h, w, number = h // merge, w // merge, number + 1
            mesh = torch.meshgrid(*(torch.arange(n) for n in (t, h, w)), indexing="ij")
            pieces.append(torch.stack([axis.reshape(-1) for axis in mesh]) + offset)
            offset, done = offset + max(t, h, w), done + t * h * w
        result[:, b, mask.bool()] = torch.cat(pieces, dim=1)
    return result


@mrope_position_ids.alternative
def by_indices(token_types, grids, attention_mask, merge=2):
    todo = [(t, h // merge, w // merge) for t, h, w in grids.tolist()][::-1]
    time, high, wide = (torch.zeros_like(token_types, dtype=torch.long) for _ in range(3))
    for b in range(token_types.shape[0]):
        top, inside, base, shape = -1, 0, 0, (0, 0, 0)
        for i in range(token_types.shape[1]):
            if attention_mask[b, i] == 0:
                continue
            if token_types[b, i] == 0:
                top += 1
                time[b, i] = high[b, i] = wide[b, i] = top
                continue
            if inside == 0:
                shape, base = todo.pop(), top + 1
            frame, rest = divmod(inside, shape[1] * shape[2])
            row, column = divmod(rest, shape[2])
            time[b, i], high[b, i], wide[b, i] = base + frame, base + row, base + column
            top = max(top, base + frame, base + row, base + column)
            inside = (inside + 1) % (shape[0] * shape[1] * shape[2])
    return torch.stack([time, high, wide])


def walk(token_types, grids, attention_mask, merge, visual, advance, begin=None):
    """The reference with its pieces handed in, for wrong answers; it is no answer.

    `visual(t, h, w, start)` gives the ids [3, tokens] of a visual, `advance(ids, start)` the next
    start, `begin(sample)` the number of the first grid of a sample (None: the next one).
    """
    positions, used = torch.zeros(3, *token_types.shape, dtype=torch.long), 0
    for sample in range(len(token_types)):
        columns = attention_mask[sample].nonzero().flatten()
        used = used if begin is None else begin(sample)
        start = at = 0
        while at < len(columns):
            if token_types[sample, columns[at]] == TEXT:
                ids, after = torch.full((3, 1), start), start + 1
            else:
                t, h, w = grids[used].tolist()
                used += 1
                ids = visual(t, h // merge, w // merge, start)
                after = advance(ids, start)
            room = columns[at : at + ids.shape[1]]
            positions[:, sample, room] = ids[:, : len(room)]
            at += ids.shape[1]
            start = after
    return positions


def laid_out(t, h, w, start):
    """Positions of a grid of tokens, frame by frame, row by row. It is no answer."""
    return torch.cartesian_prod(torch.arange(t), torch.arange(h), torch.arange(w)).T + start


def past_largest(ids, start):
    return int(ids.max()) + 1


@mrope_position_ids.mistake(
    "Every token counts up in all three rows, which is ordinary RoPE: a visual's tokens lie in a grid, "
    "and their three positions differ."
)
def one_dimension(token_types, grids, attention_mask, merge=2):
    index = attention_mask.long().cumsum(dim=1) - 1
    return (index * attention_mask).expand(3, -1, -1)


@one_dimension.again
def places_in_the_sequence(token_types, grids, attention_mask, merge=2):
    ids = torch.zeros(3, *token_types.shape, dtype=torch.long)
    for b, row in enumerate(attention_mask):
        real = row.nonzero().flatten()
        ids[:, b, real] = torch.arange(len(real))
    return ids


@mrope_position_ids.mistake(
    "What follows an image goes on at the number of its tokens, as in ordinary RoPE. An image of 4 x 6 "
    "tokens takes 6 positions, not 24: the next starts one past the largest."
)
def goes_on_by_count(token_types, grids, attention_mask, merge=2):
    def by_count(ids, start):
        return start + ids.shape[1]

    return walk(token_types, grids, attention_mask, merge, laid_out, by_count)


@goes_on_by_count.again
def text_keeps_its_index(token_types, grids, attention_mask, merge=2):
    index = attention_mask.long().cumsum(1) - 1
    ids = index.masked_fill(attention_mask == 0, 0).repeat(3, 1, 1)
    g = 0
    for b in range(token_types.shape[0]):
        spots = [i for i in range(token_types.shape[1]) if attention_mask[b, i]]
        k = 0
        while k < len(spots):
            if token_types[b, spots[k]] == 0:
                k += 1
                continue
            t, h, w = grids[g].tolist()
            h, w, g = h // merge, w // merge, g + 1
            first = int(index[b, spots[k]])
            for j in range(t * h * w):
                where = spots[k + j]
                ids[0, b, where] = first + j // (h * w)
                ids[1, b, where] = first + (j // w) % h
                ids[2, b, where] = first + j % w
            k += t * h * w
    return ids


@mrope_position_ids.mistake(
    "Height and width are swapped: the rows of the result are time, height, width, and a visual's "
    "tokens lie row by row."
)
def height_for_width(token_types, grids, attention_mask, merge=2):
    def swapped(t, h, w, start):
        return laid_out(t, h, w, start)[[0, 2, 1]]

    return walk(token_types, grids, attention_mask, merge, swapped, past_largest)


@height_for_width.again
def time_width_height(token_types, grids, attention_mask, merge=2):
    out = torch.zeros(3, *token_types.shape, dtype=torch.long)
    g = 0
    for b in range(len(token_types)):
        p, i = 0, 0
        real = torch.where(attention_mask[b] == 1)[0].tolist()
        while i < len(real):
            if token_types[b, real[i]] == 0:
                out[:, b, real[i]] = p
                p, i = p + 1, i + 1
            else:
                t, h, w = (int(n) for n in grids[g])
                h //= merge
                w //= merge
                g += 1
                for f in range(t):
                    for r in range(h):
                        for c in range(w):
                            out[:, b, real[i]] = torch.tensor([p + f, p + c, p + r])
                            i += 1
                p += max(t, h, w)
    return out


@mrope_position_ids.mistake(
    "The grid is taken as it is, in patches: rows and columns are those of the tokens after merging, "
    "height / merge and width / merge."
)
def grid_before_merging(token_types, grids, attention_mask, merge=2):
    def in_patches(t, h, w, start):
        n = torch.arange(t * h * w)
        h, w = h * merge, w * merge
        return torch.stack([n // (h * w), n // w % h, n % w]) + start

    return walk(token_types, grids, attention_mask, merge, in_patches, past_largest)


@grid_before_merging.again
def unmerged_rows(token_types, grids, attention_mask, merge=2):
    positions = torch.zeros((3, *token_types.shape)).long()
    which = -1
    for b in range(token_types.size(0)):
        nxt, n, count = 0, 0, 0
        for i in range(token_types.size(1)):
            if not attention_mask[b, i]:
                continue
            if token_types[b, i] == 0:
                positions[:, b, i] = nxt
                nxt += 1
                continue
            if n == count:
                which += 1
                t, h, w = grids[which].tolist()
                n, count, base = 0, t * h * w // merge**2, nxt
            here = [base + n // (h * w), base + (n % (h * w)) // w, base + n % w]
            positions[:, b, i] = torch.tensor(here)
            nxt = max(nxt, *(x + 1 for x in here))
            n += 1
    return positions


@mrope_position_ids.mistake(
    "Padding counts: a sample that is padded on the left starts at 0 with its first real token, and "
    "padding keeps 0."
)
def padding_counts(token_types, grids, attention_mask, merge=2):
    everything = torch.ones_like(attention_mask)
    return walk(token_types, grids, everything, merge, laid_out, past_largest)


@padding_counts.again
def mask_not_used(token_types, grids, attention_mask, merge=2):
    batch, length = token_types.shape
    out = torch.empty(3, batch, length, dtype=torch.int64)
    left = grids.tolist()
    for b in range(batch):
        kinds, columns, p = token_types[b].tolist(), [], 0
        while len(columns) < length:
            if kinds[len(columns)] == 0:
                columns.append((p, p, p))
                p += 1
            else:
                t, h, w = left.pop(0)
                h, w = h // merge, w // merge
                columns += [
                    (p + f, p + r, p + c) for f in range(t) for r in range(h) for c in range(w)
                ]
                p += max(t, h, w)
        out[:, b] = torch.tensor(columns).T
    return out


@mrope_position_ids.mistake(
    "An image's positions begin at 0, wherever it stands: they are counted from the position at which "
    "the image starts."
)
def images_at_zero(token_types, grids, attention_mask, merge=2):
    def from_zero(t, h, w, start):
        return laid_out(t, h, w, 0)

    def after(ids, start):
        return start + int(ids.max()) + 1

    return walk(token_types, grids, attention_mask, merge, from_zero, after)


@images_at_zero.again
def coordinates_of_the_picture(token_types, grids, attention_mask, merge=2):
    res = torch.zeros(3, token_types.shape[0], token_types.shape[1], dtype=torch.long)
    g = iter(grids)
    for b, types in enumerate(token_types):
        idx = attention_mask[b].nonzero()[:, 0].tolist()
        counter = 0
        while idx:
            if types[idx[0]] == 0:
                res[:, b, idx.pop(0)] = counter
                counter += 1
                continue
            t, h, w = next(g).tolist()
            h, w = h // merge, w // merge
            for j in range(t * h * w):
                place = idx.pop(0)
                res[0, b, place], res[1, b, place], res[2, b, place] = (
                    j // (h * w),
                    j // w % h,
                    j % w,
                )
            counter += max(t, h, w)
    return res


@mrope_position_ids.mistake(
    "Every sample starts with the first grid again: the grids are those of the batch, one after the "
    "other."
)
def first_grid_again(token_types, grids, attention_mask, merge=2):
    return walk(
        token_types, grids, attention_mask, merge, laid_out, past_largest, begin=lambda sample: 0
    )


@first_grid_again.again
def grid_index_in_the_loop(token_types, grids, attention_mask, merge=2):
    final = torch.zeros(3, *token_types.shape, dtype=torch.long)
    for b in range(len(final[0])):
        grid_index = 0
        keep = attention_mask[b] > 0
        types = token_types[b][keep]
        ids = torch.zeros(3, len(types), dtype=torch.long)
        i = p = 0
        while i < len(types):
            if types[i] == 0:
                ids[:, i] = p
                i += 1
                p += 1
                continue
            t, h, w = grids[grid_index].tolist()
            grid_index += 1
            h, w = h // merge, w // merge
            n = min(t * h * w, len(types) - i)
            j = torch.arange(n)
            ids[:, i : i + n] = p + torch.stack((j // (h * w), (j // w) % h, j % w))
            i += t * h * w
            p += max(t, h, w)
        final[:, b, keep] = ids
    return final


@mrope_position_ids.mistake(
    "Time counts up with every token of an image: all tokens of one frame share one time."
)
def time_of_each_token(token_types, grids, attention_mask, merge=2):
    def running(t, h, w, start):
        ids = laid_out(t, h, w, start)
        ids[0] = start + torch.arange(ids.shape[1])
        return ids

    def after(ids, start):
        return max(int(ids[1:].max()), start + ids.shape[1] - 1) + 1

    return walk(token_types, grids, attention_mask, merge, running, after)


@time_of_each_token.again
def sequence_index_as_time(token_types, grids, attention_mask, merge=2):
    index = attention_mask.cumsum(dim=1) - 1
    t_ids = torch.where(attention_mask == 1, index, 0).long()
    h_ids, w_ids = t_ids.clone(), t_ids.clone()
    n = 0
    for b in range(token_types.shape[0]):
        i = 0
        cols = attention_mask[b].nonzero().view(-1)
        while i < len(cols):
            if token_types[b, cols[i]] == 1:
                t, h, w = grids[n].tolist()
                h, w, n = h // merge, w // merge, n + 1
                start = t_ids[b, cols[i]].item()
                for j in range(t * h * w):
                    h_ids[b, cols[i + j]] = start + (j // w) % h
                    w_ids[b, cols[i + j]] = start + j % w
                i += t * h * w
            else:
                i += 1
    return torch.stack((t_ids, h_ids, w_ids))


@mrope_position_ids.mistake(
    "What follows an image starts at the largest position so far, which is taken: it starts one past "
    "it."
)
def at_the_largest(token_types, grids, attention_mask, merge=2):
    def largest(ids, start):
        return int(ids.max())

    return walk(token_types, grids, attention_mask, merge, laid_out, largest)


@at_the_largest.again
def one_too_few(token_types, grids, attention_mask, merge=2):
    out = torch.zeros(3, *token_types.shape, dtype=torch.long)
    queue = [[t, h // merge, w // merge] for t, h, w in grids.tolist()]
    for b in range(out.shape[1]):
        cells = [i for i, m in enumerate(attention_mask[b].tolist()) if m]
        p = 0
        while cells:
            if token_types[b, cells[0]] == 0:
                out[:, b, cells.pop(0)] = p
                p += 1
            else:
                t, h, w = queue.pop(0)
                for f in range(t):
                    for r in range(h):
                        for c in range(w):
                            i = cells.pop(0)
                            out[0, b, i], out[1, b, i], out[2, b, i] = p + f, p + r, p + c
                p += max(t - 1, h - 1, w - 1)
    return out


# -- first_patch -------------------------------------------------------------------------------


def tower_states(
    tower: nn.ModuleDict, pixels: Float[Tensor, "batch 3 height width"]
) -> Float[Tensor, "batch places width"]:
    """A small vision tower: patches, row by row, and before them a class token, if it has one.

    CLIP's tower has one, SigLIP's has none (it pools over all patches instead).
    """
    x = tower["patches"](pixels).flatten(2).mT
    if "class_token" in tower:
        x = torch.cat([tower["class_token"].weight.expand(len(x), 1, -1), x], dim=1)
    return tower["block"](x + tower["positions"].weight)


def visual_features(
    tower: nn.ModuleDict, connector: nn.Module, pixels: Float[Tensor, "batch 3 height width"]
) -> Float[Tensor, "batch patches hidden"]:
    """What goes to the language model: each patch through the connector, the class token left out."""
    states = tower_states(tower, pixels)
    return connector(states[:, 1:])


PATCH_LOG = """
a picture of 6 x 6 coloured cells, one patch each; the question names a cell, the answer is its colour
towers frozen, connector and head trained for 1500 steps, 64 pictures a batch
tower from CLIP    patches [64, 24, 6, 6]  places [64, 37, 24]  into the connector [64, 36, 24]
tower from SigLIP  patches [64, 24, 6, 6]  places [64, 36, 24]  into the connector [64, 35, 24]
loss, mean of the last 50 steps: CLIP 0.004, SigLIP 0.079
right answers by cell, 500 new pictures, tower from SigLIP (chance 0.20; from CLIP all above 0.97)
  0.23 1.00 1.00 1.00 1.00 1.00
  1.00 1.00 1.00 1.00 1.00 1.00
  1.00 1.00 1.00 1.00 1.00 1.00
  1.00 0.89 1.00 0.99 1.00 1.00
  1.00 1.00 1.00 1.00 1.00 1.00
  0.95 1.00 1.00 1.00 1.00 1.00
"""


@exercise(
    kind="debug",
    points=12,
    difficulty="basic",
    minutes=25,
    section="Bug hunt: the patch that never arrives",
    forbid=("transformers",),
    diagnoses={
        "no_class_token": "the tower has no class token: what is dropped as one is the first patch",
        "class_token_kept": "the class token goes to the language model as if it were a patch",
        "patches_transposed": "the patches are read column by column",
        "one_position_short": "the first patch has no position embedding",
        "too_coarse": "the patches are larger than the cells that the questions are about",
    },
    log=PATCH_LOG,
    broken=visual_features,
    hints=(
        "The picture has 6 x 6 patches. How many places come out of each tower, and how many go into "
        "the connector? What are they in the tower that gives 36?",
        "`[:, 1:]` is right for CLIP and wrong for SigLIP. Ask the tower which of the two it is: the "
        "number of its places alone does not say (16 may be 4 x 4 patches, or 3 x 5 and one more).",
        '`first = 1 if "class_token" in tower else 0`, then `connector(states[:, first:])`.',
    ),
)
def first_patch() -> dict:
    r"""A model that answers questions about all parts of a picture but one: find the fault and mend it.

    `visual_features` was written for a tower from CLIP and now serves one from SigLIP. Nothing
    stops: the number of placeholders is taken from the shape of its result. (A public project has
    `image_context_length = 728` for a SigLIP tower of 27 x 27 patches.)

    Return `{"diagnosis": ..., "evidence": ..., "patch": ...}`: a key of the list, the line of the
    log that only this cause explains, and a function with the parameters and the result of
    `visual_features`: one row for *each* patch and none for anything else. Graded: the features
    and their gradients into the pixels, for SigLIP's tower and pictures of several shapes, wide
    and tall ones and a single patch too; and that CLIP's tower still loses its class token and
    nothing else.
    """

    # --- answer
    def patched(tower, connector, pixels):
        first = 1 if "class_token" in tower else 0
        return connector(tower_states(tower, pixels)[:, first:])

    line = next(line for line in PATCH_LOG.splitlines() if "[64, 35, 24]" in line)
    return {"diagnosis": "no_class_token", "evidence": line, "patch": patched}
    # --- end


SIGLIP_LINE = "tower from SigLIP  patches [64, 24, 6, 6]  places [64, 36, 24]  into the connector [64, 35, 24]"


@first_patch.alternative
def counted_patches():
    def patch(tower, connector, pixels):
        rows, columns = tower["patches"](pixels).shape[-2:]
        states = tower_states(tower, pixels)
        return connector(states[:, states.shape[1] - rows * columns :])

    return {"diagnosis": "no_class_token", "evidence": SIGLIP_LINE, "patch": patch}


@first_patch.alternative
def by_names_of_parameters():
    def features(tower, connector, pixels):
        states = tower_states(tower, pixels)
        if any(name.startswith("class_token") for name, _ in tower.named_parameters()):
            _, *states = states.unbind(1)
            states = torch.stack(states, 1)
        return connector(states)

    evidence = "36, 24]  into the connector [64, 35, 24]"
    return {"diagnosis": "no_class_token", "evidence": evidence, "patch": features}


def mended(fill):
    """An answer whose patch fills up what the broken run lost; it is no answer."""

    def patch(tower, connector, pixels):
        features = visual_features(tower, connector, pixels)
        wanted = tower["patches"](pixels)[0, 0].numel()
        return fill(features, wanted) if features.shape[1] < wanted else features

    return {"diagnosis": "no_class_token", "evidence": SIGLIP_LINE, "patch": patch}


@first_patch.mistake(
    "A row of zeros stands for the lost patch: the number is right again, and the language model "
    "still knows nothing of that part of the picture."
)
def padded_with_zeros():
    def fill(features, wanted):
        return F.pad(features, (0, 0, wanted - features.shape[1], 0))

    return mended(fill)


@padded_with_zeros.again
def blank_row_in_front():
    def run(tower, connector, pixels):
        out = connector(tower_states(tower, pixels)[:, 1:])
        if "class_token" in tower:
            return out
        return torch.cat([torch.zeros_like(out[:, :1]) if out.size(1) else blank(out), out], dim=1)

    def blank(out):
        return out.new_zeros(out.size(0), 1, out.size(2))

    return {"diagnosis": "no_class_token", "evidence": SIGLIP_LINE, "patch": run}


@first_patch.mistake(
    "The second patch is written twice, in the first one's place too: the number is right again, and the "
    "first patch still never reaches the model."
)
def second_patch_twice():
    def fill(features, wanted):
        return torch.cat([features[:, :1], features], dim=1)

    return mended(fill)


@second_patch_twice.again
def neighbour_stands_in():
    def run(tower, connector, pixels):
        states = tower_states(tower, pixels)
        if "class_token" in tower:
            return connector(states[:, 1:])
        index = torch.arange(states.shape[1]).clamp(min=1)
        index = index[: len(index) if len(index) > 1 else 0]
        return connector(states[:, index])

    return {"diagnosis": "no_class_token", "evidence": SIGLIP_LINE, "patch": run}


@first_patch.mistake(
    "Nothing is dropped any more, from any tower: CLIP's class token now goes to the language model as if "
    "it were a patch."
)
def never_dropped():
    def patch(tower, connector, pixels):
        return connector(tower_states(tower, pixels))

    return {"diagnosis": "no_class_token", "evidence": SIGLIP_LINE, "patch": patch}


@never_dropped.again
def all_places():
    def everything(tower, connector, pixels):
        rows = tower_states(tower, pixels).unbind(dim=1)
        return torch.stack([connector(row) for row in rows], dim=1)

    return {"diagnosis": "no_class_token", "evidence": SIGLIP_LINE, "patch": everything}


@first_patch.mistake(
    "The tower is told by whether its number of places is a square: 3 x 5 patches and a class token are 16 "
    "places, a square, and 3 x 4 patches without one are not. Ask the tower."
)
def told_by_the_square():
    def patch(tower, connector, pixels):
        states = tower_states(tower, pixels)
        square = math.isqrt(states.shape[1]) ** 2 == states.shape[1]
        return connector(states if square else states[:, 1:])

    return {"diagnosis": "no_class_token", "evidence": SIGLIP_LINE, "patch": patch}


@told_by_the_square.again
def integer_root():
    def run(tower, connector, pixels):
        hidden = tower_states(tower, pixels)
        side = hidden.size(1) ** 0.5
        if side != int(side):
            hidden = hidden[:, 1:, :]
        return connector(hidden)

    return {"diagnosis": "no_class_token", "evidence": SIGLIP_LINE, "patch": run}


@first_patch.mistake(
    "As many places as there are patches are kept, but the first ones: CLIP's class token stays, and its "
    "last patch goes instead."
)
def first_places_kept():
    def patch(tower, connector, pixels):
        count = tower["patches"](pixels)[0, 0].numel()
        return connector(tower_states(tower, pixels)[:, :count])

    return {"diagnosis": "no_class_token", "evidence": SIGLIP_LINE, "patch": patch}


@first_places_kept.again
def cut_at_the_end():
    def run(tower, connector, pixels):
        states = tower_states(tower, pixels)
        edge = tower["patches"].kernel_size[0]
        n = (pixels.shape[2] // edge) * (pixels.shape[3] // edge)
        surplus = states.shape[1] - n
        if surplus:
            states = states[:, :-surplus]
        return connector(states)

    return {"diagnosis": "no_class_token", "evidence": SIGLIP_LINE, "patch": run}


@first_patch.mistake(
    "The 35 rows are stretched to 36 by interpolation: each row is now a blend of its neighbours, and the "
    "first patch is still missing."
)
def stretched():
    def fill(features, wanted):
        return F.interpolate(features.mT, size=wanted, mode="linear").mT

    return mended(fill)


@stretched.again
def resampled():
    def run(tower, connector, pixels):
        rows = connector(tower_states(tower, pixels)[:, 1:]).transpose(1, 2)
        edge = tower["patches"].kernel_size[0]
        n = (pixels.shape[-2] // edge) * (pixels.shape[-1] // edge)
        if rows.shape[-1] != n:
            rows = nn.functional.interpolate(rows, n, mode="linear", align_corners=False)
        return rows.transpose(1, 2)

    return {"diagnosis": "no_class_token", "evidence": SIGLIP_LINE, "patch": run}


# -- GatedCrossAttention -----------------------------------------------------------------------


class CrossAttentionParts(nn.Module):
    """The weights of Flamingo's layer, all but the gates: given."""

    def __init__(self, hidden_size: int, vision_hidden_size: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(hidden_size)
        self.q_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.k_proj = nn.Linear(vision_hidden_size, hidden_size, bias=False)
        self.v_proj = nn.Linear(vision_hidden_size, hidden_size, bias=False)
        self.out_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.ffw = nn.Sequential(
            nn.LayerNorm(hidden_size),
            nn.Linear(hidden_size, 4 * hidden_size, bias=False),
            nn.GELU(),
            nn.Linear(4 * hidden_size, hidden_size, bias=False),
        )


@exercise(
    kind="implement",
    points=20,
    difficulty="challenge",
    minutes=45,
    section="A gate that starts shut",
    forbid=("transformers", "open_flamingo"),
    hints=(
        "What has to be true of the two gates so that a fresh layer gives `states` back to the bit? "
        "And what is a softmax over a row in which everything is forbidden?",
        "Scores of a head are `q @ k.mT / sqrt(width of the head)`; the softmax runs over the image "
        "places. A row that may look nowhere: let it look everywhere for the softmax, and multiply "
        "what it gets by zero afterwards. (With a mask of -inf that is *added*, the NaN is in the "
        "gradient too, however you replace it in the result.)",
        "`sees = mask.any(-1, keepdim=True)`; `weights = scores.masked_fill(~(mask | ~sees)[:, None], "
        "-inf).softmax(-1)`; then `states + tanh(a) * looked * sees`, and on the result of that "
        "`states + tanh(b) * ffw(states) * sees`.",
    ),
)
class GatedCrossAttention(CrossAttentionParts):
    r"""Flamingo's layer: the tokens of a frozen language model look at the images, through a gate.

    $$y = x + \tanh(a) \cdot \text{Attention}(\text{LN}(x), \text{images}), \qquad
      z = y + \tanh(b) \cdot \text{FFW}(y)$$

    - `__init__(hidden_size, vision_hidden_size, num_heads)`: the base class makes norm, projections
      (`q_proj`, `k_proj`, `v_proj`, `out_proj`) and `ffw`, which begins with a LayerNorm of its own.
      You add the gates, scalar parameters `attention_gate` (a) and `ffw_gate` (b). Both start at
      zero.
    - `forward(states, images, mask)`: `states` `[batch, tokens, hidden]`, `images`
      `[batch, places, vision]`, `mask` `[batch, tokens, places]`, True where a token may look.
      Queries come from the normalised states, keys and values from the images as they are. With
      heads of width $d$: $\text{softmax}(q k^\top / \sqrt{d})\, v$ over the image places, heads side
      by side in the order of the projections' rows, then `out_proj`.
    - A token that may look nowhere (there is no image before it) passes through unchanged, to the
      bit, whatever the gates are: no attention, and no feed-forward either.

    Returns `[batch, tokens, hidden]`. Graded: the start (unchanged to the bit; the gates alone get
    a gradient); values and gradients with open gates, for tokens that may look at no, one and two
    images; that what is masked does not matter. Alayrac et al., arXiv:2204.14198.
    """

    def __init__(self, hidden_size: int, vision_hidden_size: int, num_heads: int):
        super().__init__(hidden_size, vision_hidden_size, num_heads)
        # --- answer
        self.attention_gate = nn.Parameter(torch.zeros(()))
        self.ffw_gate = nn.Parameter(torch.zeros(()))
        # --- end

    def forward(
        self,
        states: Float[Tensor, "batch tokens hidden"],
        images: Float[Tensor, "batch places vision"],
        mask: Bool[Tensor, "batch tokens places"],
    ) -> Float[Tensor, "batch tokens hidden"]:
        # --- answer
        q, k, v = (
            x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for x in (self.q_proj(self.norm(states)), self.k_proj(images), self.v_proj(images))
        )
        sees = mask.any(dim=-1, keepdim=True)
        scores = q @ k.mT / q.shape[-1] ** 0.5
        weights = scores.masked_fill(~(mask | ~sees)[:, None], float("-inf")).softmax(dim=-1)
        looked = self.out_proj((weights @ v).transpose(1, 2).flatten(2)) * sees
        states = states + self.attention_gate.tanh() * looked
        return states + self.ffw_gate.tanh() * self.ffw(states) * sees
        # --- end


@GatedCrossAttention.alternative
class ByScaledDotProduct(CrossAttentionParts):
    def __init__(self, hidden_size, vision_hidden_size, num_heads):
        super().__init__(hidden_size, vision_hidden_size, num_heads)
        self.attention_gate = nn.Parameter(torch.tensor([0.0]))
        self.ffw_gate = nn.Parameter(torch.tensor([0.0]))

    def heads(self, x):
        batch, length, width = x.shape
        return x.view(batch, length, self.num_heads, width // self.num_heads).permute(0, 2, 1, 3)

    def forward(self, states, images, mask):
        blind = ~mask.any(-1)
        q = self.heads(self.q_proj(self.norm(states)))
        k, v = self.heads(self.k_proj(images)), self.heads(self.v_proj(images))
        allowed = mask.clone()
        allowed[blind] = True
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed.unsqueeze(1))
        looked = self.out_proj(mixed.permute(0, 2, 1, 3).reshape(states.shape))
        y = states + torch.tanh(self.attention_gate) * looked.masked_fill(blind[..., None], 0)
        z = y + torch.tanh(self.ffw_gate) * self.ffw(y)
        return torch.where(blind[..., None], states, z)


@GatedCrossAttention.alternative
class TokenByToken(CrossAttentionParts):
    def __init__(self, hidden_size, vision_hidden_size, num_heads):
        super().__init__(hidden_size, vision_hidden_size, num_heads)
        self.attention_gate = nn.Parameter(torch.zeros(1).squeeze())
        self.ffw_gate = nn.Parameter(torch.zeros(1).squeeze())

    def look(self, x, image):
        q = self.q_proj(self.norm(x)).chunk(self.num_heads)
        k = self.k_proj(image).chunk(self.num_heads, dim=1)
        v = self.v_proj(image).chunk(self.num_heads, dim=1)
        heads = []
        for a, b, c in zip(q, k, v, strict=True):
            heads.append((b @ a / len(a) ** 0.5).softmax(0) @ c)
        return self.out_proj(torch.cat(heads))

    def forward(self, states, images, mask):
        out = []
        for line, image, allowed in zip(states, images, mask, strict=True):
            tokens = []
            for x, may in zip(line, allowed, strict=True):
                if may.any():
                    x = x + self.attention_gate.tanh() * self.look(x, image[may])
                    x = x + self.ffw_gate.tanh() * self.ffw(x)
                tokens.append(x)
            out.append(torch.stack(tokens))
        return torch.stack(out)


@GatedCrossAttention.alternative
class FilledThenMended(CrossAttentionParts):
    # masked_fill gives its filled entries no gradient, so here the NaN stays in the forward pass.
    def __init__(self, hidden_size, vision_hidden_size, num_heads):
        super().__init__(hidden_size, vision_hidden_size, num_heads)
        self.attention_gate = nn.Parameter(torch.zeros(()))
        self.ffw_gate = nn.Parameter(torch.zeros(()))

    def forward(self, states, images, mask):
        heads = (self.num_heads, -1)
        q = self.q_proj(self.norm(states)).unflatten(-1, heads)
        k, v = self.k_proj(images).unflatten(-1, heads), self.v_proj(images).unflatten(-1, heads)
        scores = torch.einsum("bthd,bkhd->bhtk", q, k) / math.sqrt(q.shape[-1])
        weights = scores.masked_fill(~mask[:, None], -torch.inf).softmax(-1).nan_to_num(0.0)
        looked = self.out_proj(torch.einsum("bhtk,bkhd->bthd", weights, v).flatten(2))
        y = states + self.attention_gate.tanh() * looked
        return y + self.ffw_gate.tanh() * self.ffw(y) * mask.any(-1, keepdim=True)


class GatedVariant(CrossAttentionParts):
    """The layer with parts that a wrong answer replaces; it is no answer itself."""

    start = 0.0

    def __init__(self, hidden_size, vision_hidden_size, num_heads):
        super().__init__(hidden_size, vision_hidden_size, num_heads)
        self.attention_gate = nn.Parameter(torch.tensor(self.start))
        self.ffw_gate = nn.Parameter(torch.tensor(self.start))

    def gate(self, x):
        return x.tanh()

    def weights(self, scores, mask):
        sees = mask.any(-1, keepdim=True)
        return scores.masked_fill(~(mask | ~sees), float("-inf")).softmax(-1) * sees

    def scale(self, q):
        return q.shape[-1] ** -0.5

    def feed(self, states, mask):
        return self.gate(self.ffw_gate) * self.ffw(states) * mask.any(-1, keepdim=True)

    def forward(self, states, images, mask):
        q, k, v = (
            x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for x in (self.q_proj(self.norm(states)), self.k_proj(images), self.v_proj(images))
        )
        weights = self.weights(q @ k.mT * self.scale(q), mask[:, None])
        looked = self.out_proj((weights @ v).transpose(1, 2).flatten(2))
        states = states + self.gate(self.attention_gate) * looked
        return states + self.feed(states, mask)


@GatedCrossAttention.mistake(
    "The gates start at one, like the weight of a norm: the frozen language model is disturbed from "
    "the first step on. They start at zero."
)
class GatesAtOne(GatedVariant):
    start = 1.0


@GatesAtOne.again
class OnesForGates(CrossAttentionParts):
    def __init__(self, hidden_size, vision_hidden_size, num_heads):
        super().__init__(hidden_size, vision_hidden_size, num_heads)
        self.attention_gate = nn.Parameter(torch.ones(1))
        self.ffw_gate = nn.Parameter(torch.ones(1))

    def forward(self, states, images, mask):
        b, t, d = states.shape
        h = self.num_heads
        q = self.q_proj(self.norm(states)).reshape(b, t, h, d // h)
        k = self.k_proj(images).reshape(b, -1, h, d // h)
        v = self.v_proj(images).reshape(b, -1, h, d // h)
        blind = (~mask).all(dim=-1)
        logits = torch.einsum("bthd,bkhd->bhtk", q, k) / math.sqrt(d // h)
        logits = logits.masked_fill(~(mask | blind[..., None]).unsqueeze(1), -torch.inf)
        mixed = torch.einsum("bhtk,bkhd->bthd", logits.softmax(-1), v).reshape(b, t, d)
        y = states + torch.tanh(self.attention_gate) * self.out_proj(mixed)
        y = y + torch.tanh(self.ffw_gate) * self.ffw(y)
        return torch.where(blind[..., None], states, y)


@GatedCrossAttention.mistake(
    "The gate is a sigmoid: at zero that is a half, so that the layer is half open from the start. "
    "tanh(0) is 0."
)
class SigmoidGates(GatedVariant):
    def gate(self, x):
        return x.sigmoid()


@SigmoidGates.again
class HalfOpen(CrossAttentionParts):
    def __init__(self, hidden_size, vision_hidden_size, num_heads):
        super().__init__(hidden_size, vision_hidden_size, num_heads)
        self.attention_gate = nn.Parameter(torch.zeros(()))
        self.ffw_gate = nn.Parameter(torch.zeros(()))

    def forward(self, states, images, mask):
        batch, tokens, width = states.shape
        split = (batch, -1, self.num_heads, width // self.num_heads)
        q = self.q_proj(self.norm(states)).view(split).transpose(1, 2)
        k = self.k_proj(images).view(split).transpose(1, 2)
        v = self.v_proj(images).view(split).transpose(1, 2)
        has_image = mask.any(2, keepdim=True)
        attended = F.scaled_dot_product_attention(q, k, v, (mask | ~has_image)[:, None])
        attended = self.out_proj(attended.transpose(1, 2).reshape(batch, tokens, width))
        states = states + torch.sigmoid(self.attention_gate) * attended * has_image
        return states + torch.sigmoid(self.ffw_gate) * self.ffw(states) * has_image


@GatedCrossAttention.mistake(
    "The feed-forward block has no gate: it adds untrained numbers to every token from the first step "
    "on."
)
class FeedForwardOpen(GatedVariant):
    def feed(self, states, mask):
        return self.ffw(states) * mask.any(-1, keepdim=True)


@FeedForwardOpen.again
class OneGateOnly(CrossAttentionParts):
    def __init__(self, hidden_size, vision_hidden_size, num_heads):
        super().__init__(hidden_size, vision_hidden_size, num_heads)
        self.attention_gate = nn.Parameter(torch.zeros(()))
        self.ffw_gate = nn.Parameter(torch.zeros(()))

    def forward(self, states, images, mask):
        width = states.shape[-1] // self.num_heads
        sees = mask.any(-1)
        queries = self.q_proj(self.norm(states)).split(width, dim=-1)
        keys, values = self.k_proj(images).split(width, -1), self.v_proj(images).split(width, -1)
        heads = []
        for q, k, v in zip(queries, keys, values, strict=True):
            s = torch.bmm(q, k.transpose(1, 2)) / width**0.5
            s[~mask & sees[..., None]] = float("-inf")
            heads.append(torch.bmm(s.softmax(2), v))
        looked = self.out_proj(torch.cat(heads, dim=-1))
        x = states + torch.tanh(self.attention_gate) * looked
        x = x + self.ffw(x)
        return torch.where(sees[..., None], x, states)


@GatedCrossAttention.mistake(
    "There is no tanh: the gate is the bare parameter, which nothing keeps between -1 and 1."
)
class BareGates(GatedVariant):
    def gate(self, x):
        return x


@BareGates.again
class ScalarTimesBranch(CrossAttentionParts):
    def __init__(self, hidden_size, vision_hidden_size, num_heads):
        super().__init__(hidden_size, vision_hidden_size, num_heads)
        self.attention_gate = nn.Parameter(torch.tensor(0.0))
        self.ffw_gate = nn.Parameter(torch.tensor(0.0))

    def forward(self, states, images, mask):
        n = self.num_heads
        q = self.q_proj(self.norm(states)).unflatten(2, (n, -1))
        k, v = self.k_proj(images).unflatten(2, (n, -1)), self.v_proj(images).unflatten(2, (n, -1))
        s = torch.einsum("bthd,bkhd->bthk", q, k) * q.size(-1) ** -0.5
        none = ~mask.any(-1)
        s = torch.where((mask | none[:, :, None])[:, :, None], s, -torch.inf)
        o = torch.einsum("bthk,bkhd->bthd", torch.softmax(s, -1), v).flatten(2)
        out = states + self.attention_gate * self.out_proj(o)
        out = out + self.ffw_gate * self.ffw(out)
        return states.where(none[..., None], out)


@GatedCrossAttention.mistake(
    "The softmax runs over the tokens: each image place hands itself out among the words. It belongs "
    "over the image places, the last axis of the scores."
)
class SoftmaxOverTokens(GatedVariant):
    def weights(self, scores, mask):
        return scores.masked_fill(~mask, -1e9).softmax(-2) * mask


@SoftmaxOverTokens.again
class ColumnsSumToOne(CrossAttentionParts):
    def __init__(self, hidden_size, vision_hidden_size, num_heads):
        super().__init__(hidden_size, vision_hidden_size, num_heads)
        self.attention_gate = nn.Parameter(torch.zeros(()))
        self.ffw_gate = nn.Parameter(torch.zeros(()))

    def forward(self, states, images, mask):
        b, t, d = states.shape
        hd = d // self.num_heads
        q = self.q_proj(self.norm(states)).view(b, t, -1, hd)
        k = self.k_proj(images).view(b, images.shape[1], -1, hd)
        v = self.v_proj(images).view(b, images.shape[1], -1, hd)
        attn = torch.einsum("bthd,bkhd->bhtk", q, k) / hd**0.5
        weight = attn.exp() * mask[:, None]
        weight = weight / weight.sum(dim=2, keepdim=True).clamp(min=1e-30)
        mixed = torch.einsum("bhtk,bkhd->bthd", weight, v).reshape(b, t, d)
        y = states + self.attention_gate.tanh() * self.out_proj(mixed)
        return y + self.ffw_gate.tanh() * self.ffw(y) * mask.any(-1)[..., None]


@GatedCrossAttention.mistake(
    "The mask is read the wrong way round: here True means *may look*. (`nn.MultiheadAttention` means "
    "the opposite.)"
)
class MaskInverted(GatedVariant):
    def weights(self, scores, mask):
        return super().weights(scores, ~mask) * mask.any(-1, keepdim=True)


@MaskInverted.again
class TrueHides(CrossAttentionParts):
    def __init__(self, hidden_size, vision_hidden_size, num_heads):
        super().__init__(hidden_size, vision_hidden_size, num_heads)
        self.attention_gate = nn.Parameter(torch.zeros(()))
        self.ffw_gate = nn.Parameter(torch.zeros(()))

    def forward(self, states, images, mask):
        sees = mask.any(-1, keepdim=True)
        everything = mask.all(-1, keepdim=True)
        n = self.num_heads
        q = self.q_proj(self.norm(states)).unflatten(-1, (n, -1)).movedim(2, 1)
        k = self.k_proj(images).unflatten(-1, (n, -1)).movedim(2, 1)
        v = self.v_proj(images).unflatten(-1, (n, -1)).movedim(2, 1)
        scores = q @ k.mT / math.sqrt(q.shape[-1])
        scores = scores.masked_fill((mask & ~everything)[:, None], -torch.inf)
        looked = (scores.softmax(-1) @ v).movedim(1, 2).flatten(2)
        looked = self.out_proj(looked) * sees * ~everything
        y = states + self.attention_gate.tanh() * looked
        return y + self.ffw_gate.tanh() * self.ffw(y) * sees


@GatedCrossAttention.mistake(
    "A large negative number stands for the mask: in a row in which everything is forbidden, all are "
    "equally large, and the token looks at every image instead of none."
)
class LooksEverywhere(GatedVariant):
    def weights(self, scores, mask):
        return scores.masked_fill(~mask, -1e9).softmax(-1)


@LooksEverywhere.again
class AddsMinusABillion(CrossAttentionParts):
    def __init__(self, hidden_size, vision_hidden_size, num_heads):
        super().__init__(hidden_size, vision_hidden_size, num_heads)
        self.attention_gate = nn.Parameter(torch.zeros(()))
        self.ffw_gate = nn.Parameter(torch.zeros(()))

    def forward(self, states, images, mask):
        b, t, d = states.shape
        h = self.num_heads
        q = self.q_proj(self.norm(states)).reshape(b, t, h, -1).permute(0, 2, 1, 3)
        k = self.k_proj(images).reshape(b, images.size(1), h, -1).permute(0, 2, 3, 1)
        v = self.v_proj(images).reshape(b, images.size(1), h, -1).permute(0, 2, 1, 3)
        bias = (1.0 - mask.float()) * torch.finfo(torch.float32).min
        probs = torch.where(mask[:, None], (q @ k) / math.sqrt(d / h), bias[:, None]).softmax(-1)
        out = self.out_proj((probs @ v).permute(0, 2, 1, 3).reshape(b, t, d))
        states = states + torch.tanh(self.attention_gate) * out
        seen = mask.sum(-1, keepdim=True) > 0
        return states + torch.tanh(self.ffw_gate) * self.ffw(states) * seen


@GatedCrossAttention.mistake(
    "Rows in which everything is forbidden become NaN: a softmax of nothing but -inf is 0/0. A token "
    "before the first image is such a row, and its NaN reaches every weight."
)
class NaNBeforeTheImage(GatedVariant):
    def weights(self, scores, mask):
        return scores.masked_fill(~mask, float("-inf")).softmax(-1)


@NaNBeforeTheImage.again
class MinusInfinity(CrossAttentionParts):
    def __init__(self, hidden_size, vision_hidden_size, num_heads):
        super().__init__(hidden_size, vision_hidden_size, num_heads)
        self.attention_gate = nn.Parameter(torch.zeros(()))
        self.ffw_gate = nn.Parameter(torch.zeros(()))

    def forward(self, states, images, mask):
        normed = self.norm(states)
        parts = []
        for h in range(self.num_heads):
            d = states.shape[-1] // self.num_heads
            rows = slice(h * d, (h + 1) * d)
            q = normed @ self.q_proj.weight[rows].T
            k, v = images @ self.k_proj.weight[rows].T, images @ self.v_proj.weight[rows].T
            s = q @ k.transpose(-1, -2) * d**-0.5
            s = torch.where(mask, s, torch.tensor(-torch.inf))
            e = (s - s.amax(-1, keepdim=True)).exp()
            parts.append((e / e.sum(-1, keepdim=True)) @ v)
        states = states + self.attention_gate.tanh() * self.out_proj(torch.cat(parts, -1))
        return states + self.ffw_gate.tanh() * self.ffw(states) * mask.any(-1, keepdim=True)


@GatedCrossAttention.mistake(
    "A mask of -inf is added, and the NaN of a row in which everything is forbidden is replaced "
    "afterwards: the value is right, and the gradient is NaN all the same."
)
class NaNReplaced(GatedVariant):
    def weights(self, scores, mask):
        bias = torch.zeros(mask.shape).masked_fill(~mask, float("-inf"))
        return (scores + bias).softmax(-1).nan_to_num(0.0)


@NaNReplaced.again
class PatchedWithWhere(CrossAttentionParts):
    def __init__(self, hidden_size, vision_hidden_size, num_heads):
        super().__init__(hidden_size, vision_hidden_size, num_heads)
        self.attention_gate = nn.Parameter(torch.zeros(()))
        self.ffw_gate = nn.Parameter(torch.zeros(()))

    def forward(self, states, images, mask):
        b, t, d = states.shape
        split = lambda x: x.view(b, -1, self.num_heads, d // self.num_heads).transpose(1, 2)  # noqa: E731
        q, k, v = split(self.q_proj(self.norm(states))), self.k_proj(images), self.v_proj(images)
        s = q @ split(k).transpose(2, 3) / (d // self.num_heads) ** 0.5
        p = torch.softmax(s + torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)[:, None], -1)
        p = torch.where(torch.isnan(p), 0.0, p)
        y = states + self.attention_gate.tanh() * self.out_proj(
            (p @ split(v)).transpose(1, 2).reshape(b, t, d)
        )
        return y + self.ffw_gate.tanh() * self.ffw(y) * mask.any(-1, keepdim=True)


@GatedCrossAttention.mistake(
    "Tokens that may look nowhere still go through the feed-forward block: they are to pass unchanged."
)
class FeedsTheBlind(GatedVariant):
    def feed(self, states, mask):
        return self.gate(self.ffw_gate) * self.ffw(states)


@FeedsTheBlind.again
class AttentionMaskedOnly(CrossAttentionParts):
    def __init__(self, hidden_size, vision_hidden_size, num_heads):
        super().__init__(hidden_size, vision_hidden_size, num_heads)
        self.attention_gate = nn.Parameter(torch.zeros(()))
        self.ffw_gate = nn.Parameter(torch.zeros(()))

    def forward(self, states, images, mask):
        b, t, d = states.shape
        h = self.num_heads
        text = mask.any(-1)
        q = self.q_proj(self.norm(states)).view(b, t, h, d // h).transpose(1, 2)
        k = self.k_proj(images).view(b, -1, h, d // h).transpose(1, 2)
        v = self.v_proj(images).view(b, -1, h, d // h).transpose(1, 2)
        allowed = mask.masked_fill(~text[..., None], True)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed[:, None])
        out = self.out_proj(out.transpose(1, 2).reshape(b, t, d)) * text[..., None]
        states = states + out * self.attention_gate.tanh()
        return states + self.ffw(states) * self.ffw_gate.tanh()


@GatedCrossAttention.mistake(
    "The scores are divided by the root of the whole width, not of one head's: the attention is too "
    "flat."
)
class ScaledByTheWholeWidth(GatedVariant):
    def scale(self, q):
        return (q.shape[-1] * self.num_heads) ** -0.5


@ScaledByTheWholeWidth.again
class RootOfHidden(CrossAttentionParts):
    def __init__(self, hidden_size, vision_hidden_size, num_heads):
        super().__init__(hidden_size, vision_hidden_size, num_heads)
        self.dim = hidden_size
        self.attention_gate = nn.Parameter(torch.zeros(()))
        self.ffw_gate = nn.Parameter(torch.zeros(()))

    def forward(self, states, images, mask):
        b, t, d = states.shape
        sees = mask.any(-1, keepdim=True)
        q = self.q_proj(self.norm(states)).view(b, t, self.num_heads, -1).transpose(1, 2)
        k = self.k_proj(images).view(b, -1, self.num_heads, q.shape[-1]).transpose(1, 2)
        v = self.v_proj(images).view(b, -1, self.num_heads, q.shape[-1]).transpose(1, 2)
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=(mask | ~sees)[:, None], scale=1 / math.sqrt(self.dim)
        )
        out = self.out_proj(out.transpose(1, 2).reshape(b, t, d))
        y = states + self.attention_gate.tanh() * out * sees
        return y + self.ffw_gate.tanh() * self.ffw(y) * sees
