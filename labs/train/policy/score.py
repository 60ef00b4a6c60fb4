"""Rewards of a step's answers: what was said of them, and what is learnt from. Chapter 5."""

from collections.abc import Sequence
from dataclasses import dataclass

from labs.train.policy.completion import Completion
from labs.train.policy.config import PolicyConfig
from labs.train.policy.prompts import Prompt
from labs.train.policy.rewards import MixedReward, shape_rewards


@dataclass(frozen=True)
class Scored:
    """values: the reward of each answer, None where there is none. shaped: after clipping and the
    costs of length and of a missing end. parts: the scores by reward."""

    values: list[float | None]
    shaped: list[float | None]
    parts: dict[str, list[float | None]]


def score(
    reward: MixedReward,
    prompts: Sequence[Prompt],
    completions: Sequence[Completion],
    policy: PolicyConfig,
) -> Scored:
    """Asks the reward; raises InputError where it fails, or where too many answers have none."""
    mixed = reward.score(prompts, completions)
    shaped = shape_rewards(
        mixed.values,
        completions,
        clip=policy.reward_clip,
        missing_eos_penalty=policy.missing_eos_penalty,
        length_penalty=policy.length_penalty,
        max_new_tokens=policy.max_new_tokens,
    )
    return Scored(mixed.values, shaped, mixed.parts)
