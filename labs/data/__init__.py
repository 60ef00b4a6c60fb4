"""From conversations to batches: label mask, collation, packing, mixing, and a look at it all."""

from labs.data.collate import Collator
from labs.data.dataset import ConversationDataset, MixtureDataset
from labs.data.encode import encode, process_images
from labs.data.labels import IGNORE, Tokens, build_labels
from labs.data.packing import (
    PackedCollator,
    PackedDataset,
    block_causal_mask,
    first_fit_decreasing,
    pack,
    packing_efficiency,
    padding_efficiency,
)
from labs.data.skips import Skip, Skips
from labs.data.template import ChatFormat

__all__ = [
    "IGNORE",
    "ChatFormat",
    "Collator",
    "ConversationDataset",
    "MixtureDataset",
    "PackedCollator",
    "PackedDataset",
    "Skip",
    "Skips",
    "Tokens",
    "block_causal_mask",
    "build_labels",
    "encode",
    "first_fit_decreasing",
    "pack",
    "packing_efficiency",
    "padding_efficiency",
    "process_images",
]
