"""Attention from one sequence to another, and the feed-forward block after it."""

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from labs.errors import InputError


class CrossAttention(nn.Module):
    """Multi-head attention whose queries come from one sequence, keys and values from another.

        softmax(Q Kᵀ / sqrt(d)) V,   Q = x Wq, K = y Wk, V = y Wv, then Wo

    `states` [B, Q, D], `context` [B, K, Dc] -> [B, Q, D]. `mask` [B, Q, K]: True where a query may
    look. A query that may look nowhere gets zeros (plus the output bias), never NaN.

    Parameters: 2D² + 2·Dc·D, and 4D with bias. Vaswani et al. 2017, arXiv:1706.03762. Chapter 1.
    """

    def __init__(self, hidden_size: int, context_size: int, num_heads: int, bias: bool = False):
        super().__init__()
        if hidden_size % num_heads:
            raise InputError(
                f"A width of {hidden_size} cannot be split into {num_heads} heads.",
                "Choose a number of heads that divides it.",
            )
        self.num_heads = num_heads
        self.q_proj = nn.Linear(hidden_size, hidden_size, bias=bias)
        self.k_proj = nn.Linear(context_size, hidden_size, bias=bias)
        self.v_proj = nn.Linear(context_size, hidden_size, bias=bias)
        self.out_proj = nn.Linear(hidden_size, hidden_size, bias=bias)

    def forward(
        self,
        states: Float[Tensor, "batch queries hidden"],
        context: Float[Tensor, "batch keys context"],
        mask: Bool[Tensor, "batch queries keys"] | None = None,
    ) -> Float[Tensor, "batch queries hidden"]:
        q, k, v = (
            projected.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projected in (self.q_proj(states), self.k_proj(context), self.v_proj(context))
        )
        if mask is None:
            mixed = F.scaled_dot_product_attention(q, k, v)
        else:
            sees = mask.any(dim=-1, keepdim=True)  # [batch, queries, 1]
            # Softmax over nothing is 0/0: such a row looks everywhere, and its result is dropped.
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=(mask | ~sees)[:, None])
            mixed = mixed * sees[:, None]
        return self.out_proj(mixed.transpose(1, 2).flatten(2))


def feed_forward(hidden_size: int, expansion: int = 4) -> nn.Sequential:
    """Flamingo's feed-forward block: LayerNorm, widen, GELU, narrow, without biases.

    2D + 2·e·D² parameters. (The paper's resampler squares a ReLU; the public reimplementations use
    a GELU, and so do we.)
    """
    return nn.Sequential(
        nn.LayerNorm(hidden_size),
        nn.Linear(hidden_size, expansion * hidden_size, bias=False),
        nn.GELU(),
        nn.Linear(expansion * hidden_size, hidden_size, bias=False),
    )
