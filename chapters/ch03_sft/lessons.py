"""The new instruction of chapter 3 ("List the colours."), for its recorded measurements."""

import sys
import warnings
from pathlib import Path

import torch
from transformers.utils import logging

from labs.bench.record import ENCODING
from labs.data import ConversationDataset
from labs.models import generate, load_vlm, user_message
from labs.shapes import render, sample_scene, seeded
from labs.shapes.vocabulary import say
from labs.train import TrainConfig, train

INSTRUCTION = {"en": "List the colours.", "zh": "列出颜色。"}
# What a record depends on: it is marked as older once any of these changes.
CODE = [
    "labs/train",
    *ENCODING,
    "labs/models",
    "labs/shapes",
    "labs/losses",
    "labs/zoo/weights",
]

torch.set_num_threads(1)
logging.disable_progress_bar()
logging.set_verbosity_error()
warnings.filterwarnings("ignore", category=FutureWarning)


def list_the_colours(index: int, split: str) -> dict:
    """The colours of a scene in alphabetical order; every fourth record in Chinese."""
    rng = seeded("colours", split, index)
    scene, language = sample_scene(rng, split), "zh" if index % 4 == 3 else "en"
    colours = sorted({o.colour for o in scene.objects})
    answer = ("、" if language == "zh" else ", ").join(say(c, language) for c in colours)
    turns = [
        {"from": "human", "value": f"<image>\n{INSTRUCTION[language]}"},
        {"from": "gpt", "value": answer},
    ]
    return {"id": f"{split}-{index}", "image": render(scene), "conversations": turns}


def dataset(records, processor) -> list[dict]:
    """The records, encoded once."""
    data = ConversationDataset(records, processor)
    return [data[i] for i in range(len(data))]


def accuracy(model, processor, records) -> float:
    """Share of greedy answers that are exactly right."""
    asked = [r["conversations"][0]["value"].removeprefix("<image>\n") for r in records]
    said = generate(
        model,
        processor,
        [[user_message(q, images=1)] for q in asked],
        [[r["image"]] for r in records],
        max_new_tokens=16,
        batch_size=len(records),
    )
    wanted = [r["conversations"][1]["value"] for r in records]
    return sum(s.strip() == w for s, w in zip(said, wanted, strict=True)) / len(records)


def fresh() -> tuple:
    """tiny-base and its processor."""
    return load_vlm("tiny-base")


def run(model, processor, data, eval_data=None, **settings):
    """`train` without files and progress bars."""
    quiet = {"report_to": "none", "progress": False, "logging_steps": 1}
    return train(model, processor, data, eval_data, TrainConfig(**(quiet | settings)))


def script(file: str) -> str:
    """The script's own path from the repository's root, for the record's list of code."""
    root = Path(__file__).resolve().parents[2]
    return Path(file).resolve().relative_to(root).as_posix()


def say_progress(text: str) -> None:
    """One line on standard error; standard output is for the record."""
    print(text, file=sys.stderr, flush=True)
