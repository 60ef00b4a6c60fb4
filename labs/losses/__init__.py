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
from labs.losses.kto import kto_kl, kto_loss
from labs.losses.linear_generation import linear_generation_loss
from labs.losses.logprobs import entropy, linear_token_logprobs, token_logprobs
from labs.losses.matching import hard_negatives, itm_loss
from labs.losses.mdpo import ImagePreferenceLoss, anchored_loss, conditional_loss, mdpo_loss
from labs.losses.mixed import MixedLoss, mpo_loss
from labs.losses.policy import (
    PolicyLoss,
    ValueLoss,
    aggregate_tokens,
    explained_variance,
    ppo_policy_loss,
    ppo_value_loss,
)
from labs.losses.preference import PreferenceLoss, dpo_loss
from labs.losses.reference_free import orpo_loss, simpo_loss
from labs.losses.reward import reward_loss

__all__ = [
    "IGNORE",
    "ImagePreferenceLoss",
    "MixedLoss",
    "PolicyLoss",
    "PreferenceLoss",
    "ValueLoss",
    "aggregate_tokens",
    "anchored_loss",
    "chunked_info_nce",
    "conditional_loss",
    "dpo_loss",
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
    "kto_kl",
    "kto_loss",
    "leave_one_out_advantages",
    "linear_generation_loss",
    "linear_token_logprobs",
    "mdpo_loss",
    "mpo_loss",
    "orpo_loss",
    "ppo_policy_loss",
    "ppo_value_loss",
    "reward_loss",
    "sequence_logprobs",
    "siglip_loss",
    "simpo_loss",
    "token_logprobs",
    "whiten",
]
