"""From a rollout and its rewards to what the update learns from. Chapter 5."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from labs.data.collate import pad_id
from labs.errors import InputError
from labs.train.policy.config import PolicyConfig
from labs.train.policy.forward import Pictures
from labs.train.policy.prompts import Prompt
from labs.train.policy.score import Scored
from labs.train.policy.sequences import Sequences, sequences_of
from labs.train.policy.targets import make_targets
from labs.train.policy.update import Experience, micro_batches


@torch.no_grad()
def make_experience(
    trainer, prompts: Sequence[Prompt], rollout, scored: Scored
) -> tuple[Experience, Int[Tensor, " kept"]]:
    """The experience, and the numbers of the completions that are in it.

    The policy's own log-probabilities are computed only where something needs them: more than one
    update, values, or a KL in the reward. One update by itself has them from its own forward.
    """
    policy = trainer.policy
    rows = sequences_of(rollout, pad_id(trainer.processor))
    pictures = trainer.forward.pictures(trainer.processor, prompts, rollout)
    kept = kept_rows(scored, policy)
    if not len(kept):
        raise InputError(
            f"No answer of step {trainer.position.step + 1} got a reward that can be used.",
            "Look at the reward function: it said None or NaN to every answer, or to one of every "
            "group.",
        )
    rows, logprobs = rows.select(kept), rollout.logprobs[kept]
    logprobs = logprobs[:, : rows.mask.shape[1]]
    rewards = torch.tensor(
        [scored.shaped[i] for i in kept.tolist()], dtype=torch.float32, device=trainer.device
    )
    pieces = math.ceil(len(rows) / (policy.minibatch_size or len(rows)))
    if trainer.ranks > 1:  # ranks that skipped other answers still update as often as the others
        count = torch.tensor([pieces], device=trainer.device)
        pieces = int(trainer.accelerator.gather(count).max())
    old = values = reference = None
    in_reward = trainer.reference is not None and policy.kl_in == "reward"
    if policy.num_epochs * pieces > 1 or policy.algorithm == "ppo" or in_reward:
        old, values = score_rows(trainer, rows, pictures)
    if trainer.reference is not None:
        with trainer.reference():
            reference, _ = score_rows(trainer, rows, pictures)
    targets = make_targets(policy, rewards, rows, old, reference, values, trainer.controller.coef)
    experience = Experience(rows, pictures, targets, logprobs, old, reference, values, pieces)
    return experience, kept


def kept_rows(scored: Scored, policy: PolicyConfig) -> Int[Tensor, " kept"]:
    """Numbers of the completions to learn from.

    PPO leaves out single answers without a reward. Where answers are compared, a group is kept whole
    or not at all; with `drop_no_signal` only groups whose rewards differ, or all where none do: a
    step needs something, and its gradient is then 0 but for a KL in the loss.
    """
    if policy.algorithm == "ppo":
        return torch.tensor([i for i, v in enumerate(scored.values) if v is not None]).long()
    size = policy.num_generations
    groups = [range(i, i + size) for i in range(0, len(scored.values), size)]
    kept = [g for g in groups if all(scored.values[i] is not None for i in g)]
    if policy.drop_no_signal:
        kept = [g for g in kept if len({scored.shaped[i] for i in g}) > 1] or kept
    return torch.tensor([i for g in kept for i in g]).long()


@torch.no_grad()
def score_rows(
    trainer, rows: Sequences, pictures: Pictures
) -> tuple[Float[Tensor, "rows tokens"], Float[Tensor, "rows tokens"] | None]:
    """Log-probabilities, and values, of all rows under the weights as they stand."""
    forward, size = trainer.forward, trainer.config.per_device_train_batch_size
    logprobs = torch.zeros(rows.mask.shape, device=trainer.device)
    values = torch.zeros_like(logprobs) if forward.value_head is not None else None
    for chosen in micro_batches(rows, torch.arange(len(rows)), size):
        part = rows.select(chosen)
        out = forward(part, **pictures.of(part, forward.packs))
        tokens = part.mask.shape[1]
        logprobs[chosen, :tokens] = out.logprobs.float()
        if values is not None:
            values[chosen, :tokens] = out.values.float()
    return logprobs * rows.mask, values
