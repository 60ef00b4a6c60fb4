"""PolicyConfig: what reinforcement learning adds to TrainConfig, under TRL's names where it has one."""

from dataclasses import asdict, dataclass
from typing import Literal

from labs.errors import InputError


@dataclass
class PolicyConfig:
    """Rollouts, advantages, and how far the policy may move. Chapter 5.

    A step asks `prompts_per_step` prompts (on each process) for `num_generations` answers each, and
    learns from them `num_epochs` times, `minibatch_size` answers an update (None: all at once), in
    micro-batches of `TrainConfig.per_device_train_batch_size`.
    """

    algorithm: Literal["ppo", "grpo", "rloo"] = "grpo"
    # rollouts
    prompts_per_step: int = 16
    num_generations: int = 8
    max_prompt_length: int | None = None  # longer prompts are skipped and counted
    max_new_tokens: int = 128
    temperature: float = 1.0
    top_p: float = 1.0
    # reward
    reward_clip: float | None = None
    missing_eos_penalty: float | None = None  # subtracted where no end token came
    length_penalty: float = 0.0  # times tokens / max_new_tokens, subtracted
    # distance to the reference
    kl_coef: float = 0.05
    kl_kind: Literal["k1", "k2", "k3"] = "k1"
    kl_in: Literal["reward", "loss"] = "reward"
    kl_target: float | None = None  # per sequence, in nats: the coefficient follows it
    kl_horizon: int = 10_000  # completions
    target_kl: float | None = (
        None  # approximate KL to the rollout's policy that ends a step's updates
    )
    # advantages
    gamma: float = 1.0
    lam: float = 0.95
    whiten_rewards: bool = False
    whiten_advantages: bool = True
    scale_rewards: Literal["group", "none"] = "group"
    drop_no_signal: bool = False  # DAPO's dynamic sampling, without drawing anew
    # the update
    num_epochs: int = 1
    minibatch_size: int | None = None
    clip: float = 0.2
    clip_high: float | None = None
    clip_value: float | None = 0.2
    vf_coef: float = 0.1
    value_learning_rate: float | None = None  # of the value head; None: TrainConfig's
    ratio_level: Literal["token", "sequence"] = "token"
    aggregate: Literal["token", "sequence", "constant"] = "token"
    importance_cap: float | None = None  # truncated importance weights for rollout against trainer
    shared_prefix: bool | None = None  # a prompt's answers in one row; None: wherever it can be
    # watching
    sample_steps: int = 10

    def __post_init__(self):
        for name in (
            "prompts_per_step",
            "num_generations",
            "max_new_tokens",
            "num_epochs",
            "sample_steps",
            "minibatch_size",
            "max_prompt_length",
            "kl_horizon",
        ):
            value = getattr(self, name)
            if isinstance(value, int) and value < 1:
                raise ValueError(f"{name} must be at least 1")
        for name in ("temperature", "top_p", "clip", "kl_target", "target_kl", "importance_cap"):
            value = getattr(self, name)
            if isinstance(value, int | float) and value <= 0:
                raise ValueError(f"{name} must be above 0")
        for name in ("gamma", "lam", "top_p"):
            value = getattr(self, name)
            if isinstance(value, int | float) and not 0 <= value <= 1:
                raise ValueError(f"{name} must be between 0 and 1")
        if self.algorithm in ("grpo", "rloo") and self.num_generations < 2:
            raise ValueError(
                f"{self.algorithm} compares answers to one prompt: num_generations must be 2 or more"
            )

    def check_same(self, saved: dict) -> None:
        """Raise InputError where a checkpoint was written under other settings than these."""
        own = asdict(self)
        for name, value in saved.items():
            if name != "sample_steps" and own.get(name) != value:
                raise InputError(
                    f"The checkpoint was written with policy.{name} = {value}, not {own.get(name)}.",
                    "Resume with the settings of the run, or begin a new one from its model.",
                )
