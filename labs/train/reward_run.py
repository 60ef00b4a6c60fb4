"""Training a reward model: from preference pairs to a RewardModel with normalised rewards. Chapter 5.

model, processor = load_vlm("tiny-base")
rated, result = train_reward(model, processor, pairs, held_out, config, base_model="tiny-base")
rated.save("tiny-rm")
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from labs.errors import InputError
from labs.evaluation import Interval, wilson_ci
from labs.formats import Preference
from labs.models.lora import lora_layers
from labs.models.parts import part_of
from labs.models.scalar_head import RewardEnsemble, RewardModel
from labs.train.config import TrainConfig
from labs.train.loop import Trainer, TrainResult
from labs.train.methods import apply_method
from labs.train.reward import RewardCollator, RewardObjective, RewardPairDataset
from labs.train.rng import seed_all
from labs.train.setup import enable_checkpointing

METHODS = ("full", "lora", "rslora")
HEAD = "scalar_head"


class PairScores(NamedTuple):
    """How a reward model orders pairs.

    differences: reward(chosen) - reward(rejected) a pair, before normalisation, so that its sigmoid is
    the probability that the chosen one wins. accuracy: the share above 0 (a tie is half), with
    Wilson's 95 % interval. margin: the mean difference.
    """

    differences: list[float]
    accuracy: float
    interval: Interval
    margin: float


def pair_scores(differences: Sequence[float] | Tensor) -> PairScores:
    """Accuracy with its interval and mean margin of `differences`; InputError for none."""
    values = torch.as_tensor(differences, dtype=torch.float64)
    if not len(values):
        raise InputError("There are no pairs to score.", "Give at least one.")
    right = float((values > 0).sum() + 0.5 * (values == 0).sum())
    interval = wilson_ci(int(right), len(values))  # half a pair is dropped: on the safe side
    return PairScores(values.tolist(), right / len(values), interval, float(values.mean()))


class RewardTrainer(Trainer):
    """The common loop, with two additions: the head always trains, and validation gives accuracy.

    By its name the head would belong to the language model, which stays frozen under LoRA. Its
    learning rate is that of the part `language_model` (`learning_rates`), else the general one.
    """

    def _names_that_ever_train(self) -> set[str]:
        heads = {n for n, _ in self.model.named_parameters() if HEAD in n.split(".")}
        return super()._names_that_ever_train() | heads

    def _set_phase(self, step: int) -> None:
        super()._set_phase(step)
        for name, parameter in self.model.named_parameters():
            if HEAD in name.split("."):
                parameter.requires_grad_(True)
        if self.ranks > 1:  # wrapped before the head was free: DDP would not exchange its gradient
            self.accelerator._models.clear()
            self.wrapped = self.accelerator.prepare(
                self.accelerator.unwrap_model(self.wrapped, keep_fp32_wrapper=False)
            )

    def _log(self, entry: dict, progress, board) -> None:
        if "eval_loss" in entry:
            found = torch.cat(self.objective.differences)
            right = (found > 0).float().sum() + 0.5 * (found == 0).float().sum()
            sums = torch.stack([right, found.sum(), torch.tensor(float(len(found))).to(right)])
            if self.ranks > 1:
                sums = self.accelerator.reduce(sums, "sum")
            right, margin, pairs = sums.tolist()
            entry |= {"eval_accuracy": right / pairs, "eval_margin": margin / pairs}
            self.objective.differences.clear()
        super()._log(entry, progress, board)


def train_reward(
    model: RewardModel | RewardEnsemble | torch.nn.Module,
    processor,
    train_pairs: Sequence[Preference],
    eval_pairs: Sequence[Preference] | None = None,
    config: TrainConfig | None = None,
    *,
    margin: float = 0.0,
    centring: float = 0.01,
    facts: bool = False,
    max_length: int | None = None,
    keep: bool = False,
    base_model: str | None = None,
    resume: bool | str | Path | None = None,
    on_log: Callable[[dict], None] | None = None,
) -> tuple[RewardModel | RewardEnsemble, TrainResult]:
    """Train a reward model on pairs; returns it, in eval mode, with the run's history.

    model: a vision-language model, which gets a head (drawn with `config.seed`), or a RewardModel or
    an ensemble of heads on one trunk. Changed in place. config: `method` full, lora or rsLoRA;
    `trainable` as everywhere; validation entries of the history carry eval_accuracy and eval_margin.
    margin, centring: see `RewardObjective`. facts: see `labs.train.facts`. keep: hold encoded pairs
    in memory (`RewardPairDataset`).

    Afterwards rewards are normalised on the answers of the validation pairs (of the first thousand
    training pairs, where there are none), chosen and rejected alike. With an `output_dir` the
    reward model is written to OUTPUT/reward_model.

    Raises InputError for another method, no pairs, more than 1 % of them unusable, and whatever the
    loop refuses.
    """
    config = (config or TrainConfig()).checked()
    if config.method not in METHODS or config.lora.implementation != "own":
        raise InputError(
            f"A reward model cannot be trained by `{config.method}` "
            f"({config.lora.implementation}) and loaded again.",
            f"Use one of {', '.join(METHODS)} in the own implementation.",
        )
    seed_all(config.seed)
    if not isinstance(model, RewardModel | RewardEnsemble):
        model = RewardModel(model, processor, base_model)
    members = list(model.members) if isinstance(model, RewardEnsemble) else [model]
    trunk = members[0].vlm
    if any(member.vlm is not trunk for member in members):
        raise InputError(
            "The ensemble's members have trunks of their own.", "Train them one by one."
        )
    if config.method != "full" and lora_layers(trunk):  # go on with the LoRA that it carries
        policies = dict.fromkeys({part_of(n) for n, _ in trunk.named_parameters()}, "frozen")
        policies["lora"] = "all"
    else:
        policies = apply_method(trunk, config).policies
    if config.gradient_checkpointing:  # the loop would look for the switch on the whole model
        enable_checkpointing(trunk)
        config = replace(config, gradient_checkpointing=False)
    data = RewardPairDataset(train_pairs, processor, max_length, facts, keep=keep)
    held_out = None
    if eval_pairs is not None:
        held_out = RewardPairDataset(eval_pairs, processor, max_length, facts, keep=keep)
    objective = RewardObjective(model, margin, centring)
    trainer = RewardTrainer(
        objective,
        data,
        config,
        RewardCollator(processor),
        held_out,
        policies | config.trainable,
        on_log,
    )
    result = trainer.train(resume)
    own = {name.split("vlm.", 1)[1] for name in trainer.names if "vlm." in name}
    trained = {name.replace(".base.", ".") for name in own if ".lora_" not in name}
    for member in members:
        member.trained = member.trained | trained
    model.eval()
    reference = held_out
    if reference is None:
        reference = torch.utils.data.Subset(data, range(min(1000, len(data))))
    normalise_on(model, processor, reference, config.per_device_eval_batch_size)
    if config.output_dir and config.save_final and trainer.main:
        folder = Path(config.output_dir) / "reward_model"
        for number, member in enumerate(members):
            member.save(folder if len(members) == 1 else folder / f"member-{number}")
    trainer.accelerator.wait_for_everyone()
    return model, result


@torch.no_grad()
def raw_rewards(
    model: RewardModel | RewardEnsemble, processor, pairs: Sequence[dict], batch_size: int = 32
) -> tuple[Tensor, Tensor]:
    """Raw rewards of encoded pairs, chosen and rejected: [N] each, of an ensemble [members, N]."""
    collate, device = RewardCollator(processor), next(model.parameters()).device
    chosen, rejected = [], []
    for start in range(0, len(pairs), batch_size):
        batch = collate([pairs[i] for i in range(start, min(start + batch_size, len(pairs)))])
        batch = {k: v.to(device) for k, v in batch.items() if k != "margins"}
        found = model.raw(**batch).cpu()
        half = found.shape[-1] // 2
        chosen.append(found[..., :half])
        rejected.append(found[..., half:])
    return torch.cat(chosen, -1), torch.cat(rejected, -1)


def normalise_on(model, processor, pairs: Sequence[dict], batch_size: int = 32) -> None:
    """Set each member's normalisation from the rewards of both answers of encoded `pairs`."""
    found = torch.cat(raw_rewards(model, processor, pairs, batch_size), -1).double()
    members = model.members if isinstance(model, RewardEnsemble) else [model]
    for member, rewards in zip(members, found.reshape(len(members), -1), strict=True):
        member.normalise(float(rewards.mean()), float(rewards.std()))


def score_pairs(
    model: RewardModel | RewardEnsemble,
    processor,
    pairs: Sequence[Preference],
    *,
    facts: bool = False,
    max_length: int | None = None,
    batch_size: int = 32,
) -> PairScores:
    """How the model orders `pairs`; of an ensemble, the mean of its members.

    Raises Skip for a pair that cannot be encoded: drop it, or say so, rather than score fewer.
    """
    from labs.train.reward import encode_pair

    model.eval()
    encoded = [encode_pair(pair, processor, max_length, facts) for pair in pairs]
    chosen, rejected = raw_rewards(model, processor, encoded, batch_size)
    differences = chosen - rejected
    return pair_scores(differences.mean(0) if differences.ndim == 2 else differences)
