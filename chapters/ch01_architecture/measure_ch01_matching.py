"""What matching adds: one tiny BLIP, retrieval by contrast alone and re-ranked by its ITM head.

The model is trained by `labs/recipes/tiny_blip.yaml`. For every unseen picture the K captions (and
for every caption the K pictures) nearest by cosine are asked about one by one; the K keep their
places or change them, the others stay behind. Both answers are to the same question, so their
difference is given with a paired interval. Zero-shot: of the captions of all 648 single objects.
Two cores: about six minutes, nearly all of it training.
"""

import json
from collections.abc import Callable, Sequence

import torch
from dual import script, tiny
from torch import Tensor

from labs.evaluation import paired_bootstrap, wilson_ci
from labs.recipes import load
from labs.recipes.run import run_recipe
from labs.shapes import Object, Scene, caption, make_record, render, seeded, split_of
from labs.shapes.vocabulary import CELLS, COLOURS, KINDS, SIZES
from labs.suites.retrieval import embed_images, embed_texts

SEED = 0
PICTURES, GALLERY, TOP = 1000, 100, 8
CODE = [
    "labs/losses", "labs/models", "labs/train", "labs/shapes", "labs/recipes/tiny_blip.yaml",
    "labs/suites/retrieval.py", "labs/zoo/weights/tiny-base",
]  # fmt: skip
PAIRS_AT_ONCE = 256


class Judge:
    """The fused encoder on pairs of numbered pictures and texts."""

    def __init__(self, model, processor, images: Sequence, texts: Sequence[str]):
        self.model = model
        tokenizer = processor.tokenizer
        batch = tokenizer(
            [t + tokenizer.eos_token for t in texts], return_tensors="pt", padding=True
        )
        self.ids, self.mask = batch["input_ids"], batch["attention_mask"]
        pixels = processor.image_processor(list(images), return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            self.states = torch.cat([model.image_states(part) for part in pixels.split(256)])
        self.cosines = (
            embed_images(model, processor, images) @ embed_texts(model, processor, texts).T
        )

    @torch.inference_mode()
    def matches(self, images: Tensor, texts: Tensor) -> Tensor:
        """Log-odds of each pair belonging together."""
        found = []
        for i, t in zip(images.split(PAIRS_AT_ONCE), texts.split(PAIRS_AT_ONCE), strict=True):
            logits = self.model.match(self.ids[t], self.mask[t], self.states[i])
            found.append(logits[:, 1] - logits[:, 0])
        return torch.cat(found)

    def rank(
        self, by_image: bool, rows: Tensor, columns: Tensor, top: int
    ) -> tuple[Tensor, Tensor]:
        """The first column of each row, by cosine alone and after asking about the nearest `top`."""
        cosines = self.cosines if by_image else self.cosines.T
        near = columns[cosines[rows][:, columns].topk(min(top, len(columns)), dim=1).indices]
        asked = rows[:, None].expand_as(near)
        pair = (asked, near) if by_image else (near, asked)
        odds = self.matches(*(x.flatten() for x in pair)).view(near.shape)
        return near[:, 0], near.gather(1, odds.argmax(1, keepdim=True)).squeeze(1)


def compare(contrastive: list[bool], matching: list[bool]) -> dict:
    """Both shares with their intervals, and the paired difference."""
    out = {"n": len(contrastive)}
    for name, hits in (("contrastive", contrastive), ("re_ranked", matching)):
        out[name] = {"accuracy": sum(hits) / len(hits), "ci": list(wilson_ci(sum(hits), len(hits)))}
    return out | {"difference": paired_bootstrap(matching, contrastive)._asdict()}


def retrieval(model, processor, pictures: int) -> dict:
    """Recall at 1 in galleries of 100 unseen scenes of one to four objects, both directions."""
    records = [make_record("caption", i, "test") for i in range(pictures)]
    judge = Judge(
        model,
        processor,
        [r["image"] for r in records],
        [r["conversations"][1]["value"] for r in records],
    )
    out = {}
    for name, by_image in (("image_to_text", True), ("text_to_image", False)):
        hits = [], []
        for start in range(0, pictures, GALLERY):
            own = torch.arange(start, min(start + GALLERY, pictures))
            for found, first in zip(hits, judge.rank(by_image, own, own, TOP), strict=True):
                found += (first == own).tolist()
        out[name] = compare(*hits)
    return out


def zero_shot(model, processor, pictures: int) -> dict:
    """Kind and colour of one object, by the nearest of the captions of all single objects."""
    classes = [
        Object(kind, colour, size, cell)
        for kind in KINDS for colour in COLOURS for size in SIZES for cell in range(len(CELLS))
    ]  # fmt: skip
    scenes = single_objects(pictures)
    texts = [caption(Scene((o,))) for o in classes]
    judge = Judge(model, processor, [render(s) for s in scenes], texts)
    # As far as the cosine errs about the kind: the six kinds at one place must be among the asked.
    top = TOP * len(KINDS)
    firsts = judge.rank(True, torch.arange(pictures), torch.arange(len(classes)), top)
    attributes: dict[str, Callable] = {
        "kind": lambda o: o.kind, "colour": lambda o: o.colour,
        "all": lambda o: (o.kind, o.colour, o.size, o.cell),
    }  # fmt: skip
    out = {"asked": top, "classes": len(classes)}
    for name, of in attributes.items():
        hits = [
            [
                of(classes[c]) == of(s.objects[0])
                for c, s in zip(first.tolist(), scenes, strict=True)
            ]
            for first in firsts
        ]
        out[name] = compare(*hits)
    return out


def single_objects(count: int) -> list[Scene]:
    """Scenes of the test split with one object each."""
    scenes, index = [], 0
    while len(scenes) < count:
        rng, index = seeded("matching", index), index + 1
        thing = Object(rng.choice(KINDS), rng.choice(COLOURS), rng.choice(SIZES), rng.randrange(9))
        scene = Scene((thing,), noise=rng.randrange(2**31))
        if split_of(scene) == "test":
            scenes.append(scene)
    return scenes


def main() -> None:
    small, pictures = tiny(), PICTURES
    overrides = ["progress=false", "report_to=none", f"seed={SEED}"]
    if small:
        overrides += ["max_steps=2", "warmup_steps=1", "per_device_train_batch_size=8"]
        pictures = 20
    model, processor, result = run_recipe(load("tiny_blip", overrides))
    model.eval()
    last = [entry for entry in result.history if "loss" in entry][-1]
    results = {
        "steps": result.steps,
        "losses": {k: v for k, v in last.items() if k.endswith("_loss")},
        "gallery": GALLERY,
        "top": TOP,
        "retrieval": retrieval(model, processor, pictures),
        "zero_shot": zero_shot(model, processor, pictures // 2),
    }
    code = [*CODE, script(__file__)]
    print(json.dumps({"seed": SEED, "code": code, "results": results}))


if __name__ == "__main__":
    main()
