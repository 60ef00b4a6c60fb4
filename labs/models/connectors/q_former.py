"""Q-Former: a small BERT whose inputs are learned queries, and which looks at the picture."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from labs.models.connectors.attention import CrossAttention
from labs.models.connectors.base import Connector


class QFormerBlock(nn.Module):
    """Self-attention among the queries, cross-attention to the patches (in every other block), MLP.

    BERT's order: each result is added to its input and then normalised,
    z = LN(z + attention(z)), z = LN(z + attention(z, x)), z = LN(z + W2 gelu(W1 z)).
    """

    def __init__(
        self, width: int, vision_hidden_size: int, num_heads: int, looks: bool, expansion: int = 4
    ):
        super().__init__()
        self.self_attention = CrossAttention(width, width, num_heads, bias=True)
        self.self_norm = nn.LayerNorm(width, eps=1e-12)
        self.cross_attention = None
        if looks:
            self.cross_attention = CrossAttention(width, vision_hidden_size, num_heads, bias=True)
            self.cross_norm = nn.LayerNorm(width, eps=1e-12)
        self.mlp = nn.Sequential(
            nn.Linear(width, expansion * width), nn.GELU(), nn.Linear(expansion * width, width)
        )
        self.mlp_norm = nn.LayerNorm(width, eps=1e-12)

    def forward(
        self,
        queries: Float[Tensor, "batch queries width"],
        features: Float[Tensor, "batch patches vision"],
    ) -> Float[Tensor, "batch queries width"]:
        queries = self.self_norm(queries + self.self_attention(queries, queries))
        if self.cross_attention is not None:
            queries = self.cross_norm(queries + self.cross_attention(queries, features))
        return self.mlp_norm(queries + self.mlp(queries))


class QFormer(Connector):
    """BLIP-2's querying transformer, without its text half, and the projection to the language model.

        z_0 = LN(learned queries [Q, W]);  depth x QFormerBlock;  y = W z + b

    `features` [B, P, Dv] -> [B, Q, D] for any P. Blocks 0, 2, 4, … look at the picture. Like the
    resampler it does not care for the order of the patches. BLIP-2 trains it first with three
    losses against text (contrast, matching, captions); here it learns from the language model's
    loss alone, which is the harder start.

    Parameters: Q·W + 2W + depth·(4W² + 4W + 2·e·W² + (e + 1)·W + 4W) + looking blocks·(2W² + 2·Dv·W
    + 4W + 2W) + W·D + D, e = 4 the expansion.

    Li et al. 2023 (BLIP-2), arXiv:2301.12597, section 3.1 and figure 2. Chapter 1.
    """

    def __init__(
        self,
        vision_hidden_size: int,
        hidden_size: int,
        num_patches: int,
        num_queries: int = 32,
        depth: int = 2,
        num_heads: int = 4,
        width: int | None = None,
    ):
        super().__init__(vision_hidden_size, hidden_size, num_patches, num_queries)
        width = width or vision_hidden_size
        self.queries = nn.Parameter(0.02 * torch.randn(num_queries, width))
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.blocks = nn.ModuleList(
            QFormerBlock(width, vision_hidden_size, num_heads, looks=number % 2 == 0)
            for number in range(depth)
        )
        self.proj = nn.Linear(width, hidden_size)

    def forward(
        self, features: Float[Tensor, "batch patches vision"]
    ) -> Float[Tensor, "batch visual hidden"]:
        queries = self.norm(self.queries).expand(len(features), -1, -1)
        for block in self.blocks:
            queries = block(queries, features)
        return self.proj(queries)
