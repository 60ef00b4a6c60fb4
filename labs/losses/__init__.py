"""Losses as pure functions on tensors, one file a family."""

from labs.losses.contrastive import info_nce, siglip_loss
from labs.losses.contrastive_chunked import chunked_info_nce
from labs.losses.contrastive_gather import gather_features
from labs.losses.contrastive_ranks import gathered_info_nce
from labs.losses.generation import IGNORE, generation_loss, sequence_logprobs
from labs.losses.linear_generation import linear_generation_loss
from labs.losses.matching import hard_negatives, itm_loss

__all__ = [
    "IGNORE",
    "chunked_info_nce",
    "gather_features",
    "gathered_info_nce",
    "generation_loss",
    "hard_negatives",
    "info_nce",
    "itm_loss",
    "linear_generation_loss",
    "sequence_logprobs",
    "siglip_loss",
]
