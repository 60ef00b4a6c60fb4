"""Overfitting on forty samples, and what each remedy does to the validation loss; three seeds."""

import json

import numpy as np
from lessons import CODE, dataset, fresh, list_the_colours, run, say_progress, script
from PIL import Image

from labs.data import encode
from labs.formats import parse_conversation
from labs.train import LoraSettings

SEEDS = (0, 1, 2)
STEPS, EVERY = 100, 10
REMEDIES = {
    "none": {},
    "weight decay 0.1": {"weight_decay": 0.1},
    "dropout 0.2": {"lora": LoraSettings(r=16, dropout=0.2)},
    "augmentation": {},
}
TURNS = (
    Image.Transpose.FLIP_LEFT_RIGHT,
    Image.Transpose.FLIP_TOP_BOTTOM,
    Image.Transpose.ROTATE_90,
    Image.Transpose.ROTATE_180,
    Image.Transpose.ROTATE_270,
)


class Turned:
    """Each time another way up: the list of colours stays true (the word "left" would not)."""

    def __init__(self, records, processor, seed: int):
        self.records, self.processor = records, processor
        self.rng = np.random.default_rng(seed)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict:
        record = self.records[index]
        turn = self.rng.integers(len(TURNS) + 1)
        image = record["image"] if turn == len(TURNS) else record["image"].transpose(TURNS[turn])
        conversation = parse_conversation({**record, "image": image}, where=record["id"])
        return encode(conversation, self.processor)


def main() -> None:
    results = {name: [] for name in REMEDIES}
    for seed in SEEDS:
        for name, settings in REMEDIES.items():
            model, processor = fresh()
            records = [list_the_colours(100 * seed + i, "train") for i in range(40)]
            few = Turned(records, processor, seed) if name == "augmentation" else None
            validation = dataset([list_the_colours(i, "val") for i in range(80)], processor)
            fit = run(
                model,
                processor,
                few or dataset(records, processor),
                validation,
                **(
                    {
                        "method": "lora",
                        "lora": LoraSettings(r=16),
                        "learning_rate": 1e-2,
                        "lr_scheduler_type": "constant_with_warmup",
                        "warmup_steps": 3,
                        "max_steps": STEPS,
                        "eval_steps": EVERY,
                        "per_device_train_batch_size": 10,
                        "per_device_eval_batch_size": 80,
                        "seed": seed,
                    }
                    | settings
                ),
            )
            steps, losses = fit.losses("eval_loss")
            results[name].append({"steps": steps, "eval": losses, "train": fit.losses()[1][-1]})
            say_progress(f"seed {seed} {name}: {min(losses):.3f} best, {losses[-1]:.3f} last")
    code = [*CODE, script(__file__), "chapters/ch03_sft/lessons.py"]
    print(json.dumps({"seed": list(SEEDS), "code": code, "results": results}))


if __name__ == "__main__":
    main()
