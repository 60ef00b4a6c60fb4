"""Stages from parts that never met: tiny-base's tower, tiny-lm and a new connector.

Same number of steps on captions for each plan; what differs is what trains when. Measured too: what
is left of the language model's old skill.
"""

import json

import torch
from lessons import CODE, dataset, run, say_progress, script

from labs.data import Collator
from labs.models import build_tiny_llava
from labs.recipes.assemble import copy_part
from labs.shapes import make_record
from labs.suites import evaluate

ALIGN, TUNE = 120, 240
SHARED = {"per_device_train_batch_size": 16, "warmup_steps": 5, "seed": 0}
FROZEN = {"vision_tower": "frozen", "connector": "all", "language_model": "frozen"}
PLANS = {
    "align, then SFT": [(ALIGN, 5e-3, FROZEN), (TUNE, 2e-3, {"vision_tower": "frozen"})],
    "SFT from the first step": [(ALIGN + TUNE, 2e-3, {"vision_tower": "frozen"})],
    "align only": [(ALIGN + TUNE, 5e-3, FROZEN)],
    "align, then SFT with the tower": [
        (ALIGN, 5e-3, FROZEN),
        (TUNE, 2e-3, {"vision_tower": "all"}),
    ],
}


def assembled():
    """Parts that never met."""
    model, processor = build_tiny_llava(seed=0)
    copy_part(model, "language_model", "tiny-lm")
    copy_part(model, "vision_tower", "tiny-base")
    return model, processor


@torch.no_grad()
def image_gap(model, batch) -> float:
    """How much worse the loss gets with another sample's image."""
    model.eval()
    other = {**batch, "pixel_values": batch["pixel_values"].roll(1, dims=0)}
    return (model(**other).loss - model(**batch).loss).item()


def main() -> None:
    results = {}
    for name, stages in PLANS.items():
        model, processor = assembled()
        captions = dataset([make_record("caption", i, "train") for i in range(3200)], processor)
        held_out = Collator(processor)(
            dataset([make_record("caption", i, "val") for i in range(64)], processor)
        )
        losses, gaps = [], [(0, image_gap(model, held_out))]
        for steps, rate, trainable in stages:
            fit = run(
                model,
                processor,
                captions,
                max_steps=steps,
                learning_rate=rate,
                trainable=trainable,
                **SHARED,
            )
            losses += fit.losses()[1]
            gaps.append((len(losses), image_gap(model, held_out)))
        score = evaluate(model, processor, ("caption",), n=200)["caption"].to_dict()
        # What tiny-lm could do before: answer about a scene described in words, without a picture.
        text = evaluate(model, processor, ("existence",), n=200, described=True)["existence"]
        results[name] = {
            "loss": losses,
            "gaps": gaps,
            "caption": score,
            "text": text.to_dict(),
        }
        say_progress(f"{name}: loss {losses[-1]:.3f}, {gaps}, {score}, text {text.accuracy}")
    code = [*CODE, "labs/recipes/assemble.py", "labs/suites", script(__file__)]
    model, processor = assembled()
    start = evaluate(model, processor, ("existence",), n=200, described=True)["existence"].to_dict()
    results = {"plans": results, "text_before": start}
    print(json.dumps({"seed": 0, "code": code, "results": results}))


if __name__ == "__main__":
    main()
