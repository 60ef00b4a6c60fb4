"""TrainConfig: everything the loop can be told, under Hugging Face's field names where it has one."""

from dataclasses import asdict, dataclass, field
from typing import Literal

from labs.errors import InputError
from labs.settings import fill

STAGES = ("contrastive", "fused", "align", "sft", "reward", "ppo", "grpo")
OWN_TRAINERS = {
    "reward": "labs.train.reward_run.train_reward",
    "ppo": "labs.train.policy.trainer.PolicyTrainer",
    "grpo": "labs.train.policy.trainer.PolicyTrainer",
}
Method = Literal["full", "lora", "qlora", "dora", "rslora", "adalora", "bottleneck"]


@dataclass
class LoraSettings:
    """The low-rank update (or the bottleneck, whose width is then `r`). Chapter 3.

    `target_modules`: "all-linear", or suffixes of module names. Either way only inside `parts`, and
    never the output head, as LLaVA does (find_all_linear_names in llava/train/train.py).
    """

    r: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    target_modules: str | list[str] = "all-linear"
    parts: list[str] = field(default_factory=lambda: ["language_model"])
    implementation: Literal["own", "peft"] = "own"  # only plain LoRA and rsLoRA have both
    # AdaLoRA (arXiv:2303.10512): ranks start at init_r and are pruned to r on average.
    init_r: int = 12
    tinit: int = 0
    tfinal: int = 0
    delta_t: int = 1
    orth_reg_weight: float = 0.5


@dataclass
class Unfreeze:
    """From optimizer step `step` on, these parts train as said (see `TrainConfig.trainable`)."""

    step: int
    trainable: dict[str, str]


@dataclass
class TrainConfig:
    """One training run. Sizes are per process; `None` means "not used"."""

    # where to and how long
    output_dir: str | None = None  # None: nothing is written
    seed: int = 0
    num_train_epochs: float = 1.0
    max_steps: int | None = None  # optimizer steps; overrides num_train_epochs
    # batches
    per_device_train_batch_size: int = 8
    per_device_eval_batch_size: int = 8
    gradient_accumulation_steps: int = 1
    auto_batch: bool = False  # out of memory: half the micro-batch, twice the accumulation
    group_by_length: bool = (
        False  # batches of like length (dataset.lengths), images apart from text
    )
    shuffle: bool = True
    dataloader_num_workers: int = 0
    # optimiser
    learning_rate: float = 1e-4
    learning_rates: dict[str, float] = field(default_factory=dict)  # by part
    weight_decay: float = 0.0  # never on norms and biases
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    max_grad_norm: float | None = 1.0
    lr_scheduler_type: str = "cosine"
    lr_scheduler_kwargs: dict[str, float] = field(default_factory=dict)
    warmup_ratio: float = 0.0
    warmup_steps: int | None = None  # overrides warmup_ratio
    # what trains: part -> frozen | all | last:N | first:N, joined by +
    trainable: dict[str, str] = field(default_factory=dict)
    unfreeze: list[Unfreeze] = field(default_factory=list)
    method: Method = "full"
    lora: LoraSettings = field(default_factory=LoraSettings)
    # numbers and speed
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    gradient_checkpointing: bool = False
    torch_compile: bool = False
    loss: Literal["chunked", "plain"] = "chunked"
    contrastive_loss: Literal["info_nce", "siglip"] = "info_nce"
    # watching
    logging_steps: int = 10
    eval_steps: int | None = None  # None: at the end of each epoch
    early_stopping_patience: int | None = None  # evaluations without improvement
    early_stopping_threshold: float = 0.0
    load_best_model_at_end: bool = False
    report_to: Literal["tensorboard", "none"] = "tensorboard"
    progress: bool | None = None  # None: where there is a terminal
    # checkpoints
    save_steps: int | None = None  # None: only when interrupted
    save_total_limit: int | None = 2
    save_final: bool = True

    def __post_init__(self):
        positive = (
            "per_device_train_batch_size per_device_eval_batch_size logging_steps num_train_epochs"
        )
        for name in (positive + " gradient_accumulation_steps learning_rate").split():
            value = getattr(self, name)  # a wrong type is found, and named, by `checked`
            if isinstance(value, int | float) and value <= 0:
                raise ValueError(f"{name} must be above 0")
        for (
            name
        ) in "max_steps eval_steps save_steps save_total_limit early_stopping_patience".split():
            value = getattr(self, name)
            if isinstance(value, int) and value < 1:
                raise ValueError(f"{name} must be at least 1, or null")
        if isinstance(self.warmup_ratio, float) and not 0 <= self.warmup_ratio <= 1:
            raise ValueError("warmup_ratio must be between 0 and 1")

    def checked(self) -> "TrainConfig":
        """This configuration with its types checked too (Python itself checks none)."""
        return fill(TrainConfig, asdict(self), "TrainConfig")


def check_stage(stage: str) -> None:
    """Raise InputError where `stage` is none that `labs.train.train` runs."""
    if stage in OWN_TRAINERS:
        raise InputError(
            f"The stage `{stage}` has a trainer of its own: {OWN_TRAINERS[stage]}.",
            f"Use that, or `labs train {stage}`.",
        )
    if stage not in STAGES:
        raise InputError(f"Unknown stage `{stage}`.", f"Stages: {', '.join(STAGES)}.")
