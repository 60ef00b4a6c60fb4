"""What every connector is: features of a vision tower in, vectors for a language model out."""

from jaxtyping import Float
from torch import Tensor, nn


class Connector(nn.Module):
    """Between a vision tower of width Dv and a language model of width D.

        [B, P, Dv] -> [B, Q, D]

    B images, P patches each, Q vectors that stand for an image. Chapter 1 compares them.

    num_visual_tokens: Q.
    num_placeholders: how many tokens of the sequence an image takes. For connectors whose output is
        put into the sequence this is Q; cross-attention leaves one marker there (`gated.py`).
    in_sequence: whether the output replaces placeholders in the sequence.
    """

    in_sequence = True

    def __init__(
        self, vision_hidden_size: int, hidden_size: int, num_patches: int, num_visual_tokens: int
    ):
        super().__init__()
        self.vision_hidden_size, self.hidden_size = vision_hidden_size, hidden_size
        self.num_patches, self.num_visual_tokens = num_patches, num_visual_tokens

    @property
    def num_placeholders(self) -> int:
        return self.num_visual_tokens

    def forward(
        self, features: Float[Tensor, "batch patches vision"]
    ) -> Float[Tensor, "batch visual hidden"]:
        raise NotImplementedError

    def extra_repr(self) -> str:
        return (
            f"[{self.num_patches}, {self.vision_hidden_size}] -> "
            f"[{self.num_visual_tokens}, {self.hidden_size}]"
        )
