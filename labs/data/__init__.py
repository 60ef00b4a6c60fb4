"""From samples to batches: label mask, collation, packing, mixing, streams, caches, and a look at it all."""

from labs.data.cache import CachedImages
from labs.data.collate import Collator
from labs.data.dataset import ConversationDataset
from labs.data.encode import encode, process_images
from labs.data.grouping import LengthGroupedSampler, group_by_length
from labs.data.knapsack import knapsack_pack
from labs.data.labels import IGNORE, Tokens, build_labels
from labs.data.mixing import MixtureDataset, MixtureReport, temperature_weights
from labs.data.packed_stream import PackedStream
from labs.data.packing import (
    PackedCollator,
    PackedDataset,
    block_causal_mask,
    first_fit_decreasing,
    pack,
    packing_efficiency,
    padding_efficiency,
)
from labs.data.prefetch import prefetch
from labs.data.skips import Skip, Skips
from labs.data.stream import Stream
from labs.data.stream_conversations import ConversationEncoder, stream_conversations
from labs.data.stream_loader import StreamingLoader
from labs.data.streaming import StreamingDataset
from labs.data.streaming_mixture import StreamingMixture
from labs.data.template import ChatFormat

__all__ = [
    "IGNORE",
    "CachedImages",
    "ChatFormat",
    "Collator",
    "ConversationDataset",
    "ConversationEncoder",
    "LengthGroupedSampler",
    "MixtureDataset",
    "MixtureReport",
    "PackedCollator",
    "PackedDataset",
    "PackedStream",
    "Skip",
    "Skips",
    "Stream",
    "StreamingDataset",
    "StreamingLoader",
    "StreamingMixture",
    "Tokens",
    "block_causal_mask",
    "build_labels",
    "encode",
    "first_fit_decreasing",
    "group_by_length",
    "knapsack_pack",
    "pack",
    "packing_efficiency",
    "padding_efficiency",
    "prefetch",
    "process_images",
    "stream_conversations",
    "temperature_weights",
]
