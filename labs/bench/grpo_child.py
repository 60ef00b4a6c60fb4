"""One child of `labs bench grpo`: GRPO by our trainer or by TRL's, stopping at the end of each turn.

Both log after every step, and that log is where a child waits: what a turn's clock covers is whole
steps, each with its reading of images, rollout, scoring, update and log. Before that each puts the
same given answers through its own code, and writes what came out to a file.
"""

import json
import sys
import tempfile
import time

from labs.bench import grpo_models as shared
from labs.bench.children import Turns
from labs.bench.grpo_check import check_ours, check_trl, identity
from labs.bench.memory import peak, reset_peak

# What both log at every step: our name -> TRL's.
TRL_NAMES = {
    "loss": "loss",
    "reward": "reward",
    "kl_loss": "kl",
    "entropy": "entropy",
    "clip_fraction": "clip_ratio/region_mean",
    "response_length": "completions/mean_length",
    "no_signal": "frac_reward_zero_std",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
}


class Clock:
    """Counts steps; every `steps` of them it reports a turn and waits for the next."""

    def __init__(self, turns: Turns, settings: dict, level: int):
        self.turns, self.steps, self.level = turns, settings["steps"], level
        self.completions = self.steps * settings["prompts"] * settings["generations"]

    def start(self) -> None:
        self.turns.wait()
        self.logged: list[dict] = []
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def step(self, logged: dict) -> None:
        """Called by the trainer's own log after each step, with what both log, under our names."""
        self.logged.append(logged)
        if len(self.logged) < self.steps:
            return
        wall, cpu = time.perf_counter() - self.wall, time.process_time() - self.cpu
        self.turns.report(
            {
                "seconds_per_completion": wall / self.completions,
                "cpu_seconds_per_completion": cpu / self.completions,
                "peak_mb": (peak() - self.level) / 2**20,
                "logged": {
                    name: sum(entry[name] for entry in self.logged) / self.steps
                    for name in self.logged[0]
                },
            }
        )
        self.start()


class Prompts:
    """The rows as our prompts; pictures are read when a prompt is asked for, as `datasets` does."""

    def __init__(self, rows: list[dict]):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int):
        from PIL import Image

        from labs.models import user_message
        from labs.train.policy.prompts import Prompt

        row = self.rows[index]
        with Image.open(row["image"]) as image:
            image.load()
        message = user_message(row["question"], images=1)
        return Prompt(row["id"], (message,), (image,), row["task"], row["answer"])


def ours(settings: dict) -> None:
    """labs.train.policy's trainer, with our LoRA."""
    import accelerate  # noqa: F401  what the trainer imports when it is built, imported before the level
    import transformers.optimization
    import transformers.trainer_utils  # noqa: F401

    from labs.train import TrainConfig
    from labs.train.config import LoraSettings
    from labs.train.policy.config import PolicyConfig
    from labs.train.policy.trainer import PolicyTrainer

    def f1(prompts, completions):
        return [
            shared.score(said.text, prompt.answer)
            for prompt, said in zip(prompts, completions, strict=True)
        ]

    turns, level = Turns(), reset_peak()
    model, processor = shared.start(settings["model"])
    rows = shared.read_prompts(settings["data"])
    trainer = PolicyTrainer(
        model,
        processor,
        Prompts(rows),
        f1,
        TrainConfig(
            seed=0,
            max_steps=settings["max_steps"],
            per_device_train_batch_size=settings["micro_batch"],
            shuffle=False,
            method="lora",
            lora=LoraSettings(r=shared.RANK, alpha=shared.ALPHA),
            logging_steps=1,
            progress=False,
            report_to="none",
            save_final=False,
            **settings["optimizer"],
        ),
        PolicyConfig(
            algorithm="grpo",
            prompts_per_step=settings["prompts"],
            num_generations=settings["generations"],
            max_new_tokens=settings["max_new_tokens"],
            temperature=settings["grpo"]["temperature"],
            kl_coef=settings["grpo"]["beta"],
            kl_kind="k3",
            kl_in="loss",
            clip=settings["grpo"]["epsilon"],
            scale_rewards=settings["grpo"]["scale_rewards"],
            aggregate="token",  # TRL's loss_type "dapo"
        ),
        on_log=lambda entry: clock.step({name: entry[name] for name in TRL_NAMES}),
    )
    check = check_ours(trainer, rows, settings)
    shared.fill_adapter(model)
    clock = Clock(turns, settings, level)
    turns.ready(identity(model) | {"check": check})
    clock.start()
    trainer.train()


def trl(settings: dict) -> None:
    """TRL's GRPOTrainer on a `datasets` data set of the same prompts, with PEFT's LoRA."""
    import datasets
    import transformers
    from peft import LoraConfig
    from trl import GRPOConfig, GRPOTrainer

    class Report(transformers.TrainerCallback):
        def on_log(self, args, state, control, logs=None, **named):
            if "loss" in logs:
                clock.step({ours: logs[theirs] for ours, theirs in TRL_NAMES.items()})

    def f1(completions, answer, **named):
        return [
            shared.score(said[0]["content"], right)
            for said, right in zip(completions, answer, strict=True)
        ]

    turns, level = Turns(), reset_peak()
    model, processor = shared.start(settings["model"])
    rows = shared.read_prompts(settings["data"])
    dataset = datasets.Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": row["question"]}],
                "image": row["image"],
                "answer": row["answer"],
            }
            for row in rows
        ]
    ).cast_column("image", datasets.Image())
    # As it comes: recomputed activations, and the KL's gradient corrected for stale samples.
    defaults = settings["way"] == "trl as it comes"
    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder,
            seed=0,
            max_steps=settings["max_steps"],
            per_device_train_batch_size=settings["micro_batch"],
            gradient_accumulation_steps=settings["prompts"]
            * settings["generations"]
            // settings["micro_batch"],
            num_generations=settings["generations"],
            max_completion_length=settings["max_new_tokens"],
            shuffle_dataset=False,
            logging_steps=1,
            disable_tqdm=True,
            report_to="none",
            save_strategy="no",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=defaults,
            use_bias_correction_kl=defaults,
            **settings["grpo"],
            **settings["optimizer"],
        )
        trainer = GRPOTrainer(
            model,
            f1,
            config,
            train_dataset=dataset,
            processing_class=processor,
            callbacks=[Report()],
            peft_config=LoraConfig(
                r=shared.RANK,
                lora_alpha=shared.ALPHA,
                lora_dropout=0.0,
                target_modules=shared.adapted_layers(model),
            ),
        )
        # Its log is printed with every step; printing is not what is measured.
        trainer.remove_callback(transformers.PrinterCallback)
        check = check_trl(trainer, dataset, rows, settings)
        shared.fill_adapter(trainer.model)
        clock = Clock(turns, settings, level)
        turns.ready(identity(trainer.model) | {"check": check})
        clock.start()
        trainer.train()


def main() -> None:
    import torch

    torch.set_num_threads(1)
    settings = json.loads(sys.argv[1])
    (ours if settings["way"] == "labs" else trl)(settings)


if __name__ == "__main__":
    main()
