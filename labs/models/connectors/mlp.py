"""Each patch by itself: one matrix, or two with a GELU between."""

from jaxtyping import Float
from torch import Tensor, nn
from transformers.activations import ACT2FN

from labs.models.connectors.base import Connector


class LinearConnector(Connector):
    """One matrix for all patches (LLaVA's first form).

        y_p = W x_p + b            D·Dv + D parameters, Q = P

    `features` [B, P, Dv] -> [B, P, D].

    Liu et al. 2023 (LLaVA), arXiv:2304.08485, equation 1. Chapter 1.
    """

    def __init__(self, vision_hidden_size: int, hidden_size: int, num_patches: int):
        super().__init__(vision_hidden_size, hidden_size, num_patches, num_patches)
        self.linear = nn.Linear(vision_hidden_size, hidden_size)

    def forward(
        self, features: Float[Tensor, "batch patches vision"]
    ) -> Float[Tensor, "batch patches hidden"]:
        return self.linear(features)


class MLPConnector(Connector):
    """Two matrices with a GELU between them (LLaVA-1.5's `mlp2x_gelu`).

        y_p = W2 gelu(W1 x_p + b1) + b2            D·Dv + D² + 2D parameters, Q = P

    `features` [B, P, Dv] -> [B, P, D]. Names and order are those of Transformers' LLaVA.

    Liu et al. 2023 (LLaVA-1.5), arXiv:2310.03744, section 3.3. Chapter 1.
    """

    def __init__(
        self,
        vision_hidden_size: int,
        hidden_size: int,
        num_patches: int,
        bias: bool = True,
        hidden_act: str = "gelu",
    ):
        super().__init__(vision_hidden_size, hidden_size, num_patches, num_patches)
        self.linear_1 = nn.Linear(vision_hidden_size, hidden_size, bias=bias)
        self.act = ACT2FN[hidden_act]
        self.linear_2 = nn.Linear(hidden_size, hidden_size, bias=bias)

    def forward(
        self, features: Float[Tensor, "batch patches vision"]
    ) -> Float[Tensor, "batch patches hidden"]:
        return self.linear_2(self.act(self.linear_1(features)))
