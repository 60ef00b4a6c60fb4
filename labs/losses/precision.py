"""Half precision stores; it does not sum. Every loss here is computed in float32 or wider."""

import torch
from torch import Tensor


def upcast(x: Tensor) -> Tensor:
    """`x` in float32 where it is narrower (float16, bfloat16); float32 and float64 unchanged."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
