"""Connectors: how features of a vision tower reach a language model. Chapter 1 compares them."""

from labs.models.connectors.base import Connector
from labs.models.connectors.gated import (
    FlamingoLayer,
    GatedCrossAttention,
    GatedCrossAttentionBlock,
    look_at_images,
    looking_at,
)
from labs.models.connectors.mlp import LinearConnector, MLPConnector
from labs.models.connectors.pixel_shuffle import (
    PixelShuffleConnector,
    pixel_shuffle,
    pixel_unshuffle,
)
from labs.models.connectors.q_former import QFormer
from labs.models.connectors.resampler import PerceiverResampler

# Each is made as CONNECTORS[name](vision_hidden_size, hidden_size, num_patches, **its own options).
CONNECTORS: dict[str, type[Connector]] = {
    "linear": LinearConnector,
    "mlp": MLPConnector,
    "pixel_shuffle": PixelShuffleConnector,
    "resampler": PerceiverResampler,
    "q_former": QFormer,
    "gated_cross_attention": GatedCrossAttention,
}

__all__ = [
    "CONNECTORS",
    "Connector",
    "FlamingoLayer",
    "GatedCrossAttention",
    "GatedCrossAttentionBlock",
    "LinearConnector",
    "MLPConnector",
    "PerceiverResampler",
    "PixelShuffleConnector",
    "QFormer",
    "look_at_images",
    "looking_at",
    "pixel_shuffle",
    "pixel_unshuffle",
]
