"""What chapter 2's experiments share: a start, so many steps on so many rows, an exam."""

import argparse
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers.utils import logging

from labs.data import IGNORE, Collator, encode
from labs.evaluation import paired_bootstrap, wilson_ci
from labs.formats import parse_conversation
from labs.losses import generation_loss
from labs.models import build_tiny_llava, generate, user_message
from labs.recipes.assemble import copy_part
from labs.shapes import make_record
from labs.suites.world import ask, items, score
from labs.train import TrainConfig, train

SEEDS = (0, 1, 2)
EXAM = ("caption", "count", "colour", "position")
QUESTIONS = 1000  # a type and seed
STEPS, BATCH = 450, 16
PICTURES = STEPS * BATCH // 2  # with two rows each: a set of so many is seen once
HELD_OUT = 500  # pictures whose true rows are read for their loss
# What a record depends on: it is marked as older once any of these changes.
CODE = [
    "chapters/ch02_data/lessons.py", "labs/shapes", "labs/losses", "labs/train/loop.py",
    "labs/train/objectives.py", "labs/train/optim.py", "labs/data/encode.py",
    "labs/data/labels.py", "labs/data/template.py", "labs/data/collate.py",
    "labs/models/tiny.py", "labs/models/generation.py", "labs/recipes/assemble.py",
    "labs/suites/world.py", "labs/evaluation/intervals.py",
    "labs/zoo/weights/tiny-base", "labs/zoo/weights/tiny-lm",
]  # fmt: skip

torch.set_num_threads(1)
logging.disable_progress_bar()
logging.set_verbosity_error()
warnings.filterwarnings("ignore", category=FutureWarning)


def start(seed: int, language_model: str = "tiny-lm") -> tuple:
    """Parts that never met: tiny-base's tower, a language model, a new connector."""
    # Not seed 0: there tiny-base's own connector began, and its tower fits it.
    model, processor = build_tiny_llava(seed=seed + 1)
    copy_part(model, "language_model", language_model)
    copy_part(model, "vision_tower", "tiny-base")
    return model, processor


def encoded(rows: Sequence[dict], processor) -> list[dict]:
    """The rows as tensors, once."""
    return [encode(parse_conversation(row, row["id"]), processor) for row in rows]


def tokens(samples: Sequence[dict]) -> int:
    """Real tokens, those of the pictures among them; no padding."""
    return sum(len(s["input_ids"]) for s in samples)


def order(rows: int, wanted: int, seed: int) -> list[int]:
    """`wanted` of the indices: epochs in another order each, joined."""
    rng = np.random.default_rng(seed)
    epochs = [rng.permutation(rows) for _ in range(-(-wanted // rows))]
    return np.concatenate(epochs)[:wanted].tolist()


def fit(
    model, processor, samples: Sequence[dict], steps: int, batch: int, seed: int, rate: float = 2e-3
) -> list[float]:
    """Train for so many steps; the tower stays as it is. Returns the loss of each step."""
    taken = [samples[i] for i in order(len(samples), steps * batch, seed)]
    config = TrainConfig(
        max_steps=steps, per_device_train_batch_size=batch, learning_rate=rate,
        warmup_steps=min(10, steps // 5), shuffle=False, seed=seed,
        report_to="none", progress=False, logging_steps=1,
    )  # fmt: skip
    return train(model, processor, taken, None, config).losses()[1]


def smoothed(losses: Sequence[float], points: int = 50) -> list[float]:
    """Means of stretches of equal length, for a curve."""
    return [float(np.mean(part)) for part in np.array_split(losses, min(points, len(losses)))]


@torch.inference_mode()
def loss_on(model, processor, samples: Sequence[dict], batch: int = 50) -> float:
    """Mean loss of a token of an answer."""
    total, count, collate = 0.0, 0, Collator(processor)
    model.eval()
    for first in range(0, len(samples), batch):
        rows = collate(list(samples[first : first + batch]))
        labels = rows.pop("labels")
        labelled = int((labels[:, 1:] != IGNORE).sum())
        total += generation_loss(model(**rows).logits, labels).item() * labelled
        count += labelled
    return total / count


def exam(model, processor, n: int, seed: int, names: Sequence[str] = EXAM) -> dict[str, dict]:
    """`n` held-out questions of each type, others for each seed, answered greedily: a Score each,
    and under "right" whether each answer was."""
    found = {}
    for name in names:
        pairs = ask(model, processor, name, n=n, first=seed * n)
        found[name] = graded(name, pairs)
    return found


def sampled_captions(model, processor, n: int, seed: int) -> dict:
    """Captions drawn at temperature 1: what the model holds to be possible, not only likeliest."""
    records = [make_record("caption", i, "test") for i in range(seed * n, (seed + 1) * n)]
    said = generate(
        model, processor, [[user_message(r["meta"]["turns"][0].question, images=1)] for r in records],
        [[r["image"]] for r in records], max_new_tokens=64, temperature=1.0, seed=seed, batch_size=100,
    )  # fmt: skip
    return graded("caption", list(zip(records, said, strict=True)))


def measured(
    rows: Sequence[dict], held_out: Sequence[dict], seed: int, steps: int, questions: int
) -> dict:
    """One run from the start: its losses, the loss on rows that are true, and the exams."""
    model, processor = start(seed)
    losses = fit(model, processor, encoded(rows, processor), steps, BATCH, seed)
    return {
        "seed": seed,
        "rows": len(rows),
        "epochs": steps * BATCH / len(rows),
        "losses": smoothed(losses),
        "held_out": loss_on(model, processor, encoded(held_out, processor)),
        "exam": exam(model, processor, questions, seed),
        "sampled": sampled_captions(model, processor, questions, seed),
    }


def graded(name: str, pairs: list[tuple[dict, str]]) -> dict:
    """The Score of answered questions, and whether each answer was right."""
    return score(name, "en", pairs).to_dict() | {"right": [i.correct is True for i in items(pairs)]}


def difference(first: Sequence[dict], second: Sequence[dict]) -> dict:
    """Accuracy of the first minus the second: one entry a seed, in the same order.

    The interval is over questions, those of all seeds together, each answered by both models of its
    seed; how much the seeds differ is for the eye (`seeds`).
    """
    pooled = paired_bootstrap(*([r for e in side for r in e["right"]] for side in (first, second)))
    gaps = [a["accuracy"] - b["accuracy"] for a, b in zip(first, second, strict=True)]
    return pooled._asdict() | {"seeds": gaps}


def differences(
    runs: Sequence[dict], first: str, second: str, exams: str = "exam"
) -> dict[str, dict]:
    """`difference` of two arms for each question type; `runs` have arm, seed and exams."""
    sides = [[r[exams] for r in runs if r["arm"] == arm] for arm in (first, second)]
    return {name: difference(*([e[name] for e in side] for side in sides)) for name in sides[0][0]}


def summary(runs: Sequence[dict], exams: str = "exam") -> dict[str, dict]:
    """For each arm and question type: the answers of all seeds together, with their interval."""
    out: dict[str, dict] = {}
    for arm in dict.fromkeys(r["arm"] for r in runs):
        found = [r[exams] for r in runs if r["arm"] == arm]
        out[arm] = {}
        for name in found[0]:
            correct, n = (sum(e[name][key] for e in found) for key in ("correct", "n"))
            out[arm][name] = {"n": n, "accuracy": correct / n, "ci": list(wilson_ci(correct, n))}
    return out


def without_answers(found):
    """The same without the lists under "right", which would make a record long."""
    if isinstance(found, dict):
        return {k: without_answers(v) for k, v in found.items() if k != "right"}
    return [without_answers(v) for v in found] if isinstance(found, list) else found


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    steps: int = STEPS
    pictures: int = PICTURES
    questions: int = QUESTIONS
    held_out: int = HELD_OUT
    seeds: tuple[int, ...] = SEEDS


def size() -> Size:
    """The full size; with --tiny on the command line the same code in seconds, for a look at it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tiny", action="store_true")
    return Size(6, 60, 8, 8, SEEDS[:2]) if parser.parse_args().tiny else Size()


def brief(run: dict) -> str:
    """The run in a line."""
    right = ", ".join(f"{name} {entry['accuracy']:.3f}" for name, entry in run["exam"].items())
    return f"seed {run['seed']}, {run['rows']} rows, loss {run['held_out']:.3f}; {right}"


def say_progress(text: str) -> None:
    """One line on standard error; standard output is for the record."""
    print(text, file=sys.stderr, flush=True)
