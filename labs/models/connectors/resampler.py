"""Perceiver resampler: a fixed number of learned latents read the patches, however many."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from labs.models.connectors.attention import CrossAttention, feed_forward
from labs.models.connectors.base import Connector


class ResamplerBlock(nn.Module):
    """One round of reading: the latents look at the patches *and* at themselves, then think.

    z = z + attention(q = LN(z), kv = [LN(x); LN(z)]);  z = z + ffw(z)
    """

    def __init__(self, vision_hidden_size: int, num_heads: int, expansion: int = 4):
        super().__init__()
        self.norm_features = nn.LayerNorm(vision_hidden_size)
        self.norm_latents = nn.LayerNorm(vision_hidden_size)
        self.attention = CrossAttention(vision_hidden_size, vision_hidden_size, num_heads)
        self.ffw = feed_forward(vision_hidden_size, expansion)

    def forward(
        self,
        latents: Float[Tensor, "batch latents vision"],
        features: Float[Tensor, "batch patches vision"],
    ) -> Float[Tensor, "batch latents vision"]:
        queries = self.norm_latents(latents)
        context = torch.cat([self.norm_features(features), queries], dim=1)
        latents = latents + self.attention(queries, context)
        return latents + self.ffw(latents)


class PerceiverResampler(Connector):
    """Flamingo's resampler, and a projection to the language model's width.

        z_0 = learned latents [Q, Dv];  depth x ResamplerBlock;  y = W LN(z) + b

    `features` [B, P, Dv] -> [B, Q, D] for any P. Without `positions` the order of the patches does
    not matter: where a patch lies it knows only from what the tower wrote into its features. With
    them a learned vector is added to each of the `num_patches` places.

    Parameters: Q·Dv + depth·(4Dv² + 4Dv + 2Dv + 2·e·Dv²) + 2Dv + Dv·D + D (and P·Dv for positions),
    e = 4 the expansion.

    Alayrac et al. 2022 (Flamingo), arXiv:2204.14198, section 3.1.1 and figure 5. Chapter 1.
    """

    def __init__(
        self,
        vision_hidden_size: int,
        hidden_size: int,
        num_patches: int,
        num_latents: int = 64,
        depth: int = 2,
        num_heads: int = 4,
        positions: bool = False,
    ):
        super().__init__(vision_hidden_size, hidden_size, num_patches, num_latents)
        self.latents = nn.Parameter(torch.randn(num_latents, vision_hidden_size))
        self.positions = None
        if positions:
            self.positions = nn.Parameter(0.02 * torch.randn(num_patches, vision_hidden_size))
        self.blocks = nn.ModuleList(
            ResamplerBlock(vision_hidden_size, num_heads) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(vision_hidden_size)
        self.proj = nn.Linear(vision_hidden_size, hidden_size)

    def forward(
        self, features: Float[Tensor, "batch patches vision"]
    ) -> Float[Tensor, "batch visual hidden"]:
        if self.positions is not None:
            features = features + self.positions
        latents = self.latents.expand(len(features), -1, -1)
        for block in self.blocks:
            latents = block(latents, features)
        return self.proj(self.norm(latents))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, positions={self.positions is not None}"
