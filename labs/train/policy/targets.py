"""From a step's rewards to what the update pulls towards: advantages, and returns for the values.

ppo    token rewards -coef * kl_t, the answer's reward on its last token; GAE            Chapter 5
grpo   the answer's reward against its group's mean, in the group's spread
rloo   the answer's reward less the mean of the *other* answers' of its group
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from labs.losses.advantages import (
    gae,
    group_advantages,
    kl_estimate,
    leave_one_out_advantages,
    whiten,
)
from labs.train.policy.config import PolicyConfig
from labs.train.policy.sequences import Sequences


@dataclass
class Targets:
    """advantages [N] or [N, T]; returns [N, T] for the value loss, None without values. kl [N, T]:
    the estimate against the reference, None without one. total [N]: reward as it is optimised."""

    advantages: Tensor
    returns: Tensor | None
    kl: Tensor | None
    total: Float[Tensor, " rows"]


def make_targets(
    config: PolicyConfig,
    rewards: Float[Tensor, " rows"],
    rows: Sequences,
    logprobs: Float[Tensor, "rows tokens"] | None,
    reference: Float[Tensor, "rows tokens"] | None,
    values: Float[Tensor, "rows tokens"] | None,
    coef: float,
) -> Targets:
    """The targets of one rollout. logprobs: of the policy that made it, as the trainer computes them."""
    mask, kl = rows.mask, None
    if reference is not None and logprobs is not None:
        kl = kl_estimate(logprobs, reference, config.kl_kind) * mask
    in_reward = kl is not None and config.kl_in == "reward"
    total = rewards - coef * kl.sum(1) if in_reward else rewards
    if config.algorithm == "grpo":
        advantages = group_advantages(total, config.num_generations, config.scale_rewards)
        return Targets(advantages, None, kl, total)
    if config.algorithm == "rloo":
        advantages = leave_one_out_advantages(total, config.num_generations)
        return Targets(advantages, None, kl, total)
    tokens = -coef * kl if in_reward else torch.zeros_like(values)
    last = mask.sum(1, keepdim=True) - 1
    tokens = tokens.scatter_add(1, last.clamp(min=0), rewards[:, None].to(tokens.dtype))
    if config.whiten_rewards:
        tokens = whiten(tokens, mask, shift_mean=False) * mask
    advantages, returns = gae(tokens, values, mask, config.gamma, config.lam)
    if config.whiten_advantages:
        advantages = whiten(advantages, mask) * mask
    return Targets(advantages, returns, kl, total)
