"""What is done to a reward before it is learnt from, apart from the KL. Pure functions. Chapter 5.

LLaVA-RLHF (llava-rlhf/LLaVA-RLHF, RLHF/models/ppo_trainer.py) adds to the reward model's score what a
missing stop token and the length cost; it bounds nothing. Here a bound comes first, so that it cannot
hide a penalty.
"""

from collections.abc import Sequence

from labs.train.policy.completion import Completion


def clip_rewards(values: Sequence[float | None], bound: float) -> list[float | None]:
    """Each value within [-bound, bound]; None stays None. Raises ValueError for bound <= 0."""
    if bound <= 0:
        raise ValueError("bound must be above 0")
    return [None if v is None else max(-bound, min(bound, v)) for v in values]


def missing_eos(completions: Sequence[Completion], penalty: float) -> list[float]:
    """-penalty for each completion that did not end by itself, else 0.

    LLaVA-RLHF takes 8 (`penalty_reward_value`), TRL's PPO has it as `missing_eos_penalty`.
    """
    return [0.0 if c.finished else -float(penalty) for c in completions]


def length_costs(
    completions: Sequence[Completion], penalty: float, max_new_tokens: int
) -> list[float]:
    """-penalty · tokens / max_new_tokens for each completion.

    LLaVA-RLHF takes 10 for a full-length answer (`length_bonus`, despite its name a penalty).
    """
    if max_new_tokens < 1:
        raise ValueError("max_new_tokens must be at least 1")
    return [-penalty * c.tokens / max_new_tokens for c in completions]


def shape_rewards(
    values: Sequence[float | None],
    completions: Sequence[Completion],
    *,
    clip: float | None = None,
    missing_eos_penalty: float | None = None,
    length_penalty: float = 0.0,
    max_new_tokens: int = 128,
) -> list[float | None]:
    """`values` clipped, then less what a missing end and the length cost.

        r' = clip(r, -clip, clip) - missing_eos_penalty · [no end] - length_penalty · tokens / max_new_tokens

    The names are those of `PolicyConfig` (reward_clip is `clip`). None stays None.
    """
    shaped = list(values) if clip is None else clip_rewards(values, clip)
    costs = [missing_eos(completions, missing_eos_penalty or 0.0)]
    costs.append(length_costs(completions, length_penalty, max_new_tokens))
    return [None if v is None else v + sum(cost) for v, *cost in zip(shaped, *costs, strict=True)]
