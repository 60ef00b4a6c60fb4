"""Bottleneck adapters: a small network in series behind each feed-forward layer. Chapter 3.

    h' = h + U · gelu(D h + d) + u,   D [r, width],  U [width, r],  U = 0 and u = 0 at the start

Houlsby et al. 2019, arXiv:1902.00751, in the one-per-block placement of Pfeiffer et al. 2021,
arXiv:2005.00247. Unlike LoRA it cannot be merged (the gelu is in the way), so it costs time at
inference; unlike LoRA it can bend a function that no low-rank change of weights would.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from labs.errors import InputError
from labs.models.parts import part_of

FEED_FORWARD = ("mlp", "feed_forward", "ffn")


class BottleneckAdapter(nn.Module):
    """`base` followed by a residual bottleneck of width `r`."""

    def __init__(self, base: nn.Module, width: int, r: int):
        super().__init__()
        if r < 1:
            raise InputError(f"An adapter width of {r} is none.", "Give 1 or more.")
        weight = next(base.parameters())
        # Quantised weights are integers; the adapter then lives in float32.
        dtype = weight.dtype if weight.is_floating_point() else torch.float32
        like = {"device": weight.device, "dtype": dtype}
        self.base = base
        self.adapter_down = nn.Linear(width, r, **like)
        self.adapter_up = nn.Linear(r, width, **like)
        nn.init.zeros_(self.adapter_up.weight)
        nn.init.zeros_(self.adapter_up.bias)
        base.requires_grad_(False)

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        h = self.base(x)
        return h + self.adapter_up(F.gelu(self.adapter_down(h)))


def add_adapters(
    model: nn.Module, r: int = 16, parts: Iterable[str] = ("language_model",)
) -> list[str]:
    """Put an adapter behind every feed-forward layer of `parts`, in place; returns their names.

    Raises InputError where there is no such layer.
    """
    parts = list(parts)
    names = [
        name
        for name, _ in model.named_modules()
        if name.rpartition(".")[2] in FEED_FORWARD and part_of(name) in parts
    ]
    if not names:
        raise InputError(
            f"No feed-forward layer ({', '.join(FEED_FORWARD)}) in {', '.join(parts)}.",
            "Name a part that has transformer blocks.",
        )
    for name in names:
        parent, _, child = name.rpartition(".")
        owner = model.get_submodule(parent)
        base = getattr(owner, child)
        linears = [m for m in base.modules() if isinstance(m, nn.Linear)]
        setattr(owner, child, BottleneckAdapter(base, linears[-1].out_features, r))
    return names


def adapter_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The adapters' own tensors by name."""
    return {
        name: tensor
        for name, tensor in model.state_dict().items()
        if ".adapter_down." in name or ".adapter_up." in name
    }
