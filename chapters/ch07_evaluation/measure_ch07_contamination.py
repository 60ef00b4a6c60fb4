"""What a leaked test set is worth: half of an exam is trained on, the other half is not.

tiny-base reads two handwritten digits. 400 questions of the test split are the exam; every second
one is mixed, in some copies, into training data from the train split. The gap between the two
halves is what the leak added to the score: the same model, the same kind of question. A run without
a leak, of as many steps, shows what the training alone does. Three seeds, one thread: about eight
minutes.
"""

import argparse
import json
import sys
import warnings

import torch
from transformers.utils import logging

from labs.bench.record import ENCODING
from labs.data import ConversationDataset
from labs.evaluation import paired_bootstrap, wilson_ci
from labs.models import generate, load_vlm, user_message
from labs.shapes import make_record
from labs.train import TrainConfig, train

CODE = [
    "chapters/ch07_evaluation/measure_ch07_contamination.py", "labs/shapes", *ENCODING,
    "labs/train/loop.py", "labs/train/objectives.py", "labs/train/optim.py",
    "labs/losses/generation.py", "labs/models/generation.py", "labs/evaluation/intervals.py",
    "labs/zoo/weights/tiny-base",
]  # fmt: skip
SEEDS = (0, 1, 2)
QUESTIONS = 400  # of the exam; every second one leaks
TRAINING = 1600  # honest records of the train split
COPIES = (0, 1, 4, 16)  # of the leaked half in the data
STEPS, BATCH = 200, 16

torch.set_num_threads(1)
logging.disable_progress_bar()
logging.set_verbosity_error()
warnings.filterwarnings("ignore", category=FutureWarning)


def records(split: str, first: int, n: int) -> list[dict]:
    return [make_record("ocr", i, split, digits=2) for i in range(first, first + n)]


def fine_tune(model, processor, rows: list[dict], steps: int, seed: int) -> None:
    """`steps` steps on the rows, in an order of the seed; all weights train."""
    data = ConversationDataset(rows, processor)
    samples = [data[i] for i in range(len(data))]
    generator = torch.Generator().manual_seed(seed)
    order: list[int] = []
    while len(order) < steps * BATCH:
        order += torch.randperm(len(samples), generator=generator).tolist()
    taken = [samples[i] for i in order[: steps * BATCH]]
    config = TrainConfig(
        max_steps=steps, per_device_train_batch_size=BATCH, learning_rate=5e-4, shuffle=False,
        seed=seed, report_to="none", progress=False,
    )  # fmt: skip
    train(model, processor, taken, None, config)


def right(model, processor, rows: list[dict]) -> list[bool]:
    """Whether each greedy answer is exactly the number shown."""
    turns = [row["meta"]["turns"][0] for row in rows]
    said = generate(
        model, processor, [[user_message(t.question, images=1)] for t in turns],
        [[row["image"]] for row in rows], max_new_tokens=8, batch_size=100,
    )  # fmt: skip
    return [s.strip() == t.answer for s, t in zip(said, turns, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="the same code in seconds, for a look")
    tiny = parser.parse_args().tiny
    questions, steps, seeds = (16, 3, (0,)) if tiny else (QUESTIONS, STEPS, SEEDS)
    exam = records("test", 0, questions)
    runs = []
    for seed in seeds:
        honest = records("train", seed * TRAINING, questions * TRAINING // QUESTIONS)
        for copies in COPIES:
            model, processor = load_vlm("tiny-base")
            rows = honest + copies * exam[::2]
            # As many steps whatever leaks: a leak replaces honest samples, it adds no training.
            fine_tune(model, processor, rows, steps, seed)
            marks = right(model, processor, exam)
            leaked, fresh = marks[::2], marks[1::2]
            runs.append({
                "seed": seed, "copies": copies, "marks": marks,
                "seen": copies * steps * BATCH / len(rows),  # times that each leaked one is seen
                "leaked": sum(leaked) / len(leaked), "fresh": sum(fresh) / len(fresh),
                "reported": sum(marks) / len(marks),
            })  # fmt: skip
            print({k: v for k, v in runs[-1].items() if k != "marks"}, file=sys.stderr, flush=True)
    summary = []
    for copies in COPIES:
        chosen = [r for r in runs if r["copies"] == copies]
        clean = [r for r in runs if r["copies"] == 0]
        halves = {
            name: [m for r in chosen for m in r["marks"][start::2]]
            for name, start in (("leaked", 0), ("fresh", 1))
        }
        gain = paired_bootstrap(
            halves["leaked"], [m for r in clean for m in r["marks"][0::2]]
        )._asdict()
        summary.append({
            "copies": copies, "seen": chosen[0]["seen"], "gain_of_leaked": gain,
            **{name: {"accuracy": sum(m) / len(m), "ci": list(wilson_ci(sum(m), len(m)))}
               for name, m in halves.items()},
        })  # fmt: skip
    for r in runs:
        del r["marks"]
    results = {
        "questions": questions, "steps": steps, "batch": BATCH, "training": TRAINING,
        "runs": runs, "summary": summary,
    }  # fmt: skip
    print(json.dumps({"seed": list(seeds), "code": CODE, "results": results}))


if __name__ == "__main__":
    main()
