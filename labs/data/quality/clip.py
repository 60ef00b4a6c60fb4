"""CLIP score: how well a text fits its picture, by a dual encoder; and what to keep by it."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from PIL import Image

from labs.errors import InputError
from labs.formats import load_image

Pair = tuple[str | Image.Image, str]


@torch.inference_mode()
def clip_scores(
    model,
    processor,
    pairs: Iterable[Pair],
    batch_size: int = 64,
    progress: Callable[[int], None] | None = None,
) -> list[float]:
    """Cosine of the picture's and the text's embedding for each (image, text) pair, in [-1, 1].

        score = <image_features, text_features> / (|image_features| |text_features|)

    model, processor: any Transformers CLIP or SigLIP with `get_image_features` and
    `get_text_features`, the zoo's tiny-clip among them. image: a path or a PIL image. Texts beyond
    the encoder's length are cut (CLIP reads 77 tokens). Pairs are taken as a stream, `batch_size` at a time;
    `progress` is called with the number done.

    Scores of two models do not compare: 0.28 with ViT-B/32 is not 0.28 with ViT-L/14, and a SigLIP's
    lie elsewhere again. Raises InputError for a picture that cannot be read and for
    a model that is no dual encoder.

    CLIPScore: Hessel et al., arXiv:2104.08718 (who scale it by 2.5 and clip it at 0). Chapter 2.
    """
    _check_dual_encoder(model)
    was_training = model.training
    model.eval()
    scores: list[float] = []
    stream = iter(pairs)
    try:
        while batch := list(islice(stream, batch_size)):
            images = _unit(_features(model, "image", _pixels(model, processor, batch)))
            texts = _unit(_features(model, "text", _tokens(model, processor, batch)))
            scores += (images * texts).sum(-1).tolist()
            if progress:
                progress(len(scores))
    finally:
        model.train(was_training)
    return scores


def _pixels(model, processor, batch: Sequence[Pair]) -> dict:
    images = [load_image(image) for image, _ in batch]
    inputs = processor.image_processor(images, return_tensors="pt")
    return {
        k: v.to(model.device, model.dtype if v.is_floating_point() else None)
        for k, v in inputs.items()
    }


def _tokens(model, processor, batch: Sequence[Pair]) -> dict:
    texts = [text for _, text in batch]
    tokenizer = processor.tokenizer
    length = model.config.text_config.max_position_embeddings
    if model.config.model_type.startswith("siglip"):
        # SigLIP was trained on texts padded to one length, without a mask, and pools the last place.
        padded = tokenizer(
            texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        )
        return {"input_ids": padded["input_ids"].to(model.device)}
    # CLIP pools the first end-of-text token. Its own tokenizer writes one; others leave it to us.
    end = tokenizer.eos_token_id
    rows = tokenizer(texts, truncation=True, max_length=length)["input_ids"]
    rows = [row if row and row[-1] == end else [*row[: length - 1], end] for row in rows]
    padded = tokenizer.pad({"input_ids": rows}, padding=True, return_tensors="pt")
    return {k: padded[k].to(model.device) for k in ("input_ids", "attention_mask")}


def _check_dual_encoder(model) -> None:
    for kind in ("image", "text"):
        if not hasattr(model, f"get_{kind}_features"):
            raise InputError(
                f"{type(model).__name__} has no get_{kind}_features: it is no dual encoder.",
                "Use a CLIP or SigLIP model, such as the zoo's tiny-clip.",
            )


def _features(model, kind: str, inputs: dict) -> torch.Tensor:
    output = getattr(model, f"get_{kind}_features")(**inputs)
    # Transformers before version 5 returned the tensor itself.
    return output if isinstance(output, torch.Tensor) else output.pooler_output


def _unit(features: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(features.float(), dim=-1)


@dataclass(frozen=True)
class Kept:
    """What a filter by score keeps: `indices` in the order of the data, `dropped` worst first.

    threshold: the lowest score that is kept. share: of all samples, how many are kept.
    """

    indices: tuple[int, ...]
    dropped: tuple[int, ...]
    threshold: float

    @property
    def share(self) -> float:
        total = len(self.indices) + len(self.dropped)
        return len(self.indices) / total if total else 0.0


def keep_best(
    scores: Sequence[float], *, threshold: float | None = None, share: float | None = None
) -> Kept:
    """Keep what scores at least `threshold`, or the best `share` of all (0.3: DataComp's top 30 %).

    Of equal scores at the border of a share the earlier samples are kept; a score that is NaN is
    never kept. Raises InputError unless exactly one of the two is given and 0 < share <= 1.
    """
    if (threshold is None) == (share is None):
        raise InputError(
            "A filter needs a threshold or a share, and not both.",
            "Give threshold=0.28, or share=0.3.",
        )
    ranked = sorted(range(len(scores)), key=lambda i: (math.isnan(scores[i]), -scores[i], i))
    if threshold is not None:
        count = sum(score >= threshold for score in scores)
    elif 0 < share <= 1:
        usable = sum(not math.isnan(score) for score in scores)
        count = min(usable, round(share * len(scores)))
    else:
        raise InputError(f"The share {share} is not between 0 and 1.", "Give share=0.3 for 30 %.")
    kept, dropped = ranked[:count], ranked[count:]
    lowest = scores[kept[-1]] if kept else math.inf
    return Kept(tuple(sorted(kept)), tuple(reversed(dropped)), lowest)
