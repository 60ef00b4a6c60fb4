"""What a dual encoder knows: zero-shot naming and retrieval on unseen scenes."""

import torch

from labs.evaluation import wilson_ci
from labs.shapes import Object, Scene, caption, make_record, render, seeded
from labs.shapes.scene import split_of
from labs.shapes.vocabulary import CELLS, COLOURS, KINDS, SIZES


def retrieval_scores(model, processor, n: int = 2000, gallery: int = 100) -> dict[str, dict]:
    """Zero-shot kind and colour of a single object, and which of `gallery` captions is the picture's.

    Zero-shot: of the captions of all 648 single objects the nearest is taken, and its kind or colour
    compared with the truth.

    Each entry is a Score-like dict: n, accuracy, ci. Chance is 1/6 for kinds and colours and
    1/gallery for retrieval, whose pictures hold one to four objects.
    """
    out = {}
    classes = [
        Object(kind, colour, size, cell)
        for kind in KINDS for colour in COLOURS for size in SIZES for cell in range(len(CELLS))
    ]  # fmt: skip
    scenes = _single_objects(n)
    texts = embed_texts(model, processor, [caption(Scene((o,))) for o in classes])
    images = embed_images(model, processor, [render(s) for s in scenes])
    nearest = (images @ texts.T).argmax(-1).tolist()
    for attribute in ("kind", "colour"):
        right = sum(
            getattr(classes[i], attribute) == getattr(s.objects[0], attribute)
            for i, s in zip(nearest, scenes, strict=True)
        )
        out[f"zero_shot_{attribute}"] = _entry(right, n)
    records = [make_record("caption", i, "test") for i in range(n)]
    texts = embed_texts(model, processor, [r["conversations"][1]["value"] for r in records])
    images = embed_images(model, processor, [r["image"] for r in records])
    right = 0
    for start in range(0, n, gallery):
        block = slice(start, min(start + gallery, n))
        similarity = images[block] @ texts[block].T
        right += int((similarity.argmax(-1) == torch.arange(similarity.shape[0])).sum())
    out[f"image_to_text_of_{gallery}"] = _entry(right, n)
    return out


@torch.inference_mode()
def embed_images(model, processor, images, batch_size: int = 250) -> torch.Tensor:
    """Unit-length image features [N, D]."""
    parts = []
    for start in range(0, len(images), batch_size):
        batch = processor.image_processor(images[start : start + batch_size], return_tensors="pt")
        parts.append(model.get_image_features(**batch).pooler_output)
    return torch.nn.functional.normalize(torch.cat(parts), dim=-1)


@torch.inference_mode()
def embed_texts(model, processor, texts, batch_size: int = 250) -> torch.Tensor:
    """Unit-length text features [N, D]; every text ends with the end token that is pooled."""
    tokenizer = processor.tokenizer
    texts = [t + tokenizer.eos_token for t in texts]
    parts = []
    for start in range(0, len(texts), batch_size):
        batch = tokenizer(texts[start : start + batch_size], return_tensors="pt", padding=True)
        parts.append(
            model.get_text_features(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
            ).pooler_output
        )
    return torch.nn.functional.normalize(torch.cat(parts), dim=-1)


def _single_objects(n: int) -> list[Scene]:
    scenes, index = [], 0
    while len(scenes) < n:
        rng = seeded("zero-shot", index)
        index += 1
        obj = Object(rng.choice(KINDS), rng.choice(COLOURS), rng.choice(SIZES), rng.randrange(9))
        scene = Scene((obj,), noise=rng.randrange(2**31))
        if split_of(scene) == "test":
            scenes.append(scene)
    return scenes


def _entry(right: int, n: int) -> dict:
    return {
        "n": n, "correct": int(right), "accuracy": right / n, "ci": list(wilson_ci(right, n)),
        "unparsed": 0,
    }  # fmt: skip
