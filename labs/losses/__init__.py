"""Losses as pure functions on tensors, one file a family."""

from labs.losses.advantages import (
    gae,
    group_advantages,
    kl_estimate,
    leave_one_out_advantages,
    whiten,
)
from labs.losses.contrastive import info_nce, siglip_loss
from labs.losses.contrastive_chunked import chunked_info_nce
from labs.losses.contrastive_gather import gather_features
from labs.losses.contrastive_ranks import gathered_info_nce
from labs.losses.generation import IGNORE, generation_loss, sequence_logprobs
from labs.losses.linear_generation import linear_generation_loss
from labs.losses.logprobs import entropy, linear_token_logprobs, token_logprobs
from labs.losses.matching import hard_negatives, itm_loss
from labs.losses.policy import (
    PolicyLoss,
    ValueLoss,
    aggregate_tokens,
    explained_variance,
    ppo_policy_loss,
    ppo_value_loss,
)
from labs.losses.reward import reward_loss

__all__ = [
    "IGNORE",
    "PolicyLoss",
    "ValueLoss",
    "aggregate_tokens",
    "chunked_info_nce",
    "entropy",
    "explained_variance",
    "gae",
    "gather_features",
    "gathered_info_nce",
    "generation_loss",
    "group_advantages",
    "hard_negatives",
    "info_nce",
    "itm_loss",
    "kl_estimate",
    "leave_one_out_advantages",
    "linear_generation_loss",
    "linear_token_logprobs",
    "ppo_policy_loss",
    "ppo_value_loss",
    "reward_loss",
    "sequence_logprobs",
    "siglip_loss",
    "token_logprobs",
    "whiten",
]
