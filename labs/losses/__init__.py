"""Losses as pure functions on tensors, one file a family."""

from labs.losses.contrastive import info_nce, siglip_loss
from labs.losses.generation import IGNORE, generation_loss, sequence_logprobs
from labs.losses.linear_generation import linear_generation_loss
from labs.losses.matching import hard_negatives, itm_loss

__all__ = [
    "IGNORE",
    "generation_loss",
    "hard_negatives",
    "info_nce",
    "itm_loss",
    "linear_generation_loss",
    "sequence_logprobs",
    "siglip_loss",
]
