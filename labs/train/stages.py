"""The stages: which objective, which parts train by default, which batch.

contrastive   a dual encoder on image-text pairs                            Chapter 1
fused         a BLIP on image-text pairs: contrastive, matching, generation Chapter 1
align         the connector alone: the language model learns to read images Chapter 3
sft           instruction tuning: everything but the vision tower           Chapter 3
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import nn

from labs.errors import InputError
from labs.models.parts import part_of
from labs.train.config import TrainConfig, check_stage
from labs.train.loop import Trainer, TrainResult
from labs.train.methods import apply_method, connect_adalora
from labs.train.objectives import ContrastiveObjective, GenerationObjective, Objective
from labs.train.rng import seed_all
from labs.train.save import save_result

# LLaVA's two stages (arXiv:2304.08485, section 4.2); a recipe's `trainable` overrides them by part.
DEFAULT_POLICIES = {
    "contrastive": {},
    "fused": {},
    "align": {"vision_tower": "frozen", "connector": "all", "language_model": "frozen"},
    "sft": {"vision_tower": "frozen", "connector": "all", "language_model": "all"},
}


def build_objective(model: nn.Module, stage: str, config: TrainConfig) -> Objective:
    """The stage's loss around `model`."""
    check_stage(stage)
    if stage == "contrastive":
        if not hasattr(model, "logit_scale"):
            raise InputError(
                f"The contrastive stage needs a dual encoder; {type(model).__name__} is none.",
                "Train a CLIP or SigLIP model with it.",
            )
        return ContrastiveObjective(model, config.contrastive_loss)
    if stage == "fused":
        from labs.train.fused import FusedObjective

        if not hasattr(model, "itm_head"):
            raise InputError(
                f"The fused stage needs a model that matches; {type(model).__name__} cannot.",
                "Train a tiny BLIP with it (labs.models.fused).",
            )
        return FusedObjective(model)
    return GenerationObjective(model, config.loss)


def policies_for(
    model: nn.Module, stage: str, config: TrainConfig, method: dict[str, str]
) -> dict[str, str]:
    """What trains: the stage's default, then the method's, then what the configuration says."""
    present = {part_of(name) for name, _ in model.named_parameters()}
    default = {k: v for k, v in DEFAULT_POLICIES[stage].items() if k in present}
    if stage == "align" and "connector" not in present:
        default = {}  # a language model by itself has nothing to align: all of it trains
    return default | method | config.trainable


def prepare(
    model: nn.Module,
    processor,
    train_dataset: Sequence,
    eval_dataset: Sequence | None = None,
    config: TrainConfig | None = None,
    *,
    stage: str = "sft",
    collate: Callable | None = None,
    objective: Objective | None = None,
    on_log: Callable[[dict], None] | None = None,
) -> tuple[Trainer, nn.Module | None]:
    """A Trainer ready to run, and PEFT's wrapper where the method uses it. Changes `model`."""
    check_stage(stage)
    config = (config or TrainConfig()).checked()
    seed_all(config.seed)
    applied = apply_method(model, config)
    if objective is None:
        objective = build_objective(model, stage, config)
    trainer = Trainer(
        objective,
        train_dataset,
        config,
        collate or default_collate(processor, stage),
        eval_dataset,
        policies_for(model, stage, config, applied.policies),
        on_log,
    )
    if config.method == "adalora":
        connect_adalora(trainer, applied.peft_model)
    return trainer, applied.peft_model


def train(
    model: nn.Module,
    processor,
    train_dataset: Sequence,
    eval_dataset: Sequence | None = None,
    config: TrainConfig | None = None,
    *,
    stage: str = "sft",
    collate: Callable | None = None,
    objective: Objective | None = None,
    resume: bool | str | Path | None = None,
    on_log: Callable[[dict], None] | None = None,
    base_model: str | None = None,
) -> TrainResult:
    """Train `model` in place and return the history.

    `train_dataset`: `len` and integer indices, each item an encoded sample (input_ids, labels,
    pixel_values) for the stages align and sft, or {"image", "text"} for contrastive and fused; `collate`
    makes a batch of a list of them (by default `labs.data.Collator`, with padding). With
    `config.output_dir=None` nothing is written. `resume=True` goes on from the newest checkpoint
    of the output folder, a path from that one, to the same bits.

    Raises InputError for bad input, TrainingInterrupted (a KeyboardInterrupt) after Ctrl-C.
    """
    trainer, peft_model = prepare(
        model,
        processor,
        train_dataset,
        eval_dataset,
        config,
        stage=stage,
        collate=collate,
        objective=objective,
        on_log=on_log,
    )
    result = trainer.train(resume)
    finish(trainer, processor, peft_model, base_model)
    return result


def finish(trainer: Trainer, processor, peft_model=None, base_model: str | None = None) -> None:
    """Write the trained model, where the run has an output folder; all ranks wait for it."""
    config = trainer.config
    if config.output_dir and config.save_final and trainer.main:
        save_result(trainer.model, processor, config, peft_model, trainer.names, base_model)
    trainer.accelerator.wait_for_everyone()


def default_collate(processor, stage: str) -> Callable:
    """`labs.data.Collator` for language, `PairCollator` for pairs."""
    if processor is None:
        raise InputError("Without a processor a collator is needed.", "Pass collate=.")
    if stage in ("contrastive", "fused"):
        return PairCollator(processor)
    from labs.data import Collator

    return Collator(processor)


class PairCollator:
    """Image-text pairs `{"image": PIL image, "text": str}` to a dual encoder's batch."""

    def __init__(self, processor, max_length: int | None = None):
        self.tokenizer, self.images = processor.tokenizer, processor.image_processor
        self.max_length = max_length

    def __call__(self, samples: list[dict]) -> dict:
        end = self.tokenizer.eos_token or ""
        # The text encoder's feature is that of the end token: it has to be there.
        texts = [s["text"] if s["text"].endswith(end) else s["text"] + end for s in samples]
        batch = self.tokenizer(
            texts,
            padding=True,
            truncation=self.max_length is not None,
            max_length=self.max_length,
            return_tensors="pt",
        )
        pixels = self.images([s["image"] for s in samples], return_tensors="pt")
        return {
            "input_ids": batch["input_ids"],
            "attention_mask": batch["attention_mask"],
            "pixel_values": pixels["pixel_values"],
        }
