"""One child of `labs bench sft`: trains by our loop or by TRL's, and stops at the end of each turn.

Both log the loss after every step, and that log is where a child waits: what a turn's clock covers
is whole steps, each with its reading of images, tokenising, collation, update and log.
"""

import hashlib
import json
import sys
import tempfile
import time
from pathlib import Path

from labs.bench.children import Turns
from labs.bench.memory import peak, reset_peak


class Clock:
    """Counts steps; every `steps` of them it reports a turn and waits for the next."""

    def __init__(self, turns: Turns, steps: int, samples: int, level: int):
        self.turns, self.steps, self.samples, self.level = turns, steps, samples, level
        self.losses: list[float] = []

    def start(self) -> None:
        self.turns.wait()
        self.losses = []
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def step(self, loss: float) -> None:
        """Called by the loop's own log after each optimizer step."""
        self.losses.append(loss)
        if len(self.losses) < self.steps:
            return
        wall, cpu = time.perf_counter() - self.wall, time.process_time() - self.cpu
        self.turns.report(
            {
                "losses": self.losses,
                "seconds_per_sample": wall / (self.steps * self.samples),
                "cpu_seconds_per_sample": cpu / (self.steps * self.samples),
                "peak_mb": (peak() - self.level) / 2**20,
            }
        )
        self.start()


def ours(settings: dict) -> None:
    """labs.train's loop on labs.data's samples."""
    import accelerate  # noqa: F401  what the loop imports when it is built, imported before the level
    import transformers.optimization
    import transformers.trainer_utils  # noqa: F401

    from labs.bench.sft_models import build
    from labs.data import ConversationDataset
    from labs.train import TrainConfig
    from labs.train.stages import prepare

    turns, level = Turns(), reset_peak()
    model, processor = build(settings["size"])
    dataset = ConversationDataset(
        Path(settings["data"]), processor, max_length=settings["max_length"]
    )
    config = TrainConfig(
        seed=0,
        max_steps=settings["max_steps"],
        per_device_train_batch_size=settings["batch"],
        shuffle=False,
        logging_steps=1,
        progress=False,
        report_to="none",
        save_final=False,
        **settings["optimizer"],
    )
    trainer, _ = prepare(model, processor, dataset, config=config, stage="sft")
    clock = Clock(turns, settings["steps"], settings["batch"], level)
    trainer.on_log = lambda entry: clock.step(entry["loss"])
    first = [dataset[i] for i in range(settings["batch"])]
    turns.ready(identity(model, trainer.collate(first)))
    clock.start()
    trainer.train()


def trl(settings: dict) -> None:
    """TRL's SFTTrainer on a `datasets` data set of the same files, its defaults but for what we set."""
    import datasets
    import transformers
    from trl import SFTConfig, SFTTrainer
    from trl.trainer.utils import add_fused_lm_head

    from labs.bench.sft_models import build

    class WithoutMetrics(SFTTrainer):
        """TRL less the entropy, token accuracy and token count of each step, which it cannot switch off.

        Our loop logs none of them. This is its `compute_loss` with those lines left out.
        """

        def __init__(self, *arguments, **named):
            super().__init__(*arguments, **named)
            # Wraps the head once more; the outer one runs the backbone, the inner is passed by.
            add_fused_lm_head(self.model, outputs=("log_probs",))

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            outputs = model(**inputs, use_cache=False, fused_lm_head=True)
            return -outputs.log_probs.sum() / num_items_in_batch

    class Report(transformers.TrainerCallback):
        def on_log(self, args, state, control, logs=None, **named):
            if "loss" in logs:
                clock.step(logs["loss"])

    turns, level = Turns(), reset_peak()
    model, processor = build(settings["size"])
    model.model.vision_tower.requires_grad_(False)  # as our sft stage does
    dataset = datasets.Dataset.from_list(messages(Path(settings["data"])))
    dataset = dataset.cast_column("images", datasets.List(datasets.Image()))
    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            output_dir=folder,
            seed=0,
            max_steps=settings["max_steps"],
            per_device_train_batch_size=settings["batch"],
            train_sampling_strategy="sequential",
            max_length=settings["max_length"],
            assistant_only_loss=True,
            logging_steps=1,
            disable_tqdm=True,
            report_to="none",
            save_strategy="no",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            **settings["optimizer"],
        )
        kind = SFTTrainer if settings["way"] == "trl with metrics" else WithoutMetrics
        trainer = kind(
            model, config, train_dataset=dataset, processing_class=processor, callbacks=[Report()]
        )
        # Its log is printed with every step; printing is not what is measured.
        trainer.remove_callback(transformers.PrinterCallback)
        clock = Clock(turns, settings["steps"], settings["batch"], level)
        first = [dataset[i] for i in range(settings["batch"])]
        turns.ready(identity(model, trainer.data_collator(first)))
        clock.start()
        trainer.train()


def messages(path: Path) -> list[dict]:
    """LLaVA records as the conversational rows that TRL reads; it puts the image before the text."""
    roles = {"human": "user", "gpt": "assistant"}
    return [
        {
            "images": [str(path.parent / record["image"])],
            "messages": [
                {"role": roles[turn["from"]], "content": turn["value"].removeprefix("<image>\n")}
                for turn in record["conversations"]
            ],
        }
        for record in json.loads(path.read_text())
    ]


def identity(model, batch: dict) -> dict:
    """Hashes of the weights, of what of them trains, and of each tensor of a batch."""
    weights = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        weights.update(name.encode() + bytes([parameter.requires_grad]))
        weights.update(parameter.detach().numpy().tobytes())
    tensors = {
        name: hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()
        for name, tensor in batch.items()
    }
    return {
        "weights": weights.hexdigest(),
        "batch": dict(sorted(tensors.items())),
        "parameters": sum(p.numel() for p in model.parameters()),
        "shape": list(batch["input_ids"].shape),
        "labelled": int((batch["labels"] != -100).sum()),
    }


def main() -> None:
    import torch

    torch.set_num_threads(1)
    settings = json.loads(sys.argv[1])
    (ours if settings["way"] == "labs" else trl)(settings)


if __name__ == "__main__":
    main()
