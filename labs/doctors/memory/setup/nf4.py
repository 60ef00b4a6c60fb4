"""A linear layer that holds what QLoRA's NF4 layer holds, byte for byte, and computes like it.

4 bits a weight; for every 64 weights a scale, itself quantised to 8 bits in blocks of 256 with a
float32 scale each (double quantisation, Dettmers et al. 2023, arXiv:2305.14314, section 3); two
code tables and an offset. The product dequantises the weights to the input's dtype for its own
duration, forward and backward, and saves no input, since the weights get no gradient
(bitsandbytes/autograd/_functions.py, class MatMul4Bit).

Values are zero: it is for measuring memory. The book's QLoRA runs use bitsandbytes itself.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import torch
from torch import Tensor, nn

BLOCK, BLOCK_OF_SCALES = 64, 256


class NF4Linear(nn.Linear):
    """[..., in] -> [..., out] with `weight` packed as uint8 [out * in / 2, 1], frozen."""

    def __init__(self, in_features: int, out_features: int, bias: bool, dtype: torch.dtype):
        nn.Module.__init__(self)
        self.in_features, self.out_features = in_features, out_features
        n = in_features * out_features
        scales = math.ceil(n / BLOCK)
        packed = torch.zeros((n + 1) // 2, 1, dtype=torch.uint8)
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.register_buffer("absmax", torch.zeros(scales, dtype=torch.uint8))
        self.register_buffer("absmax2", torch.zeros(math.ceil(scales / BLOCK_OF_SCALES)))
        self.register_buffer("code", torch.zeros(16))
        self.register_buffer("code2", torch.zeros(256))
        self.register_buffer("offset", torch.zeros(()))
        self.bias = (
            nn.Parameter(torch.zeros(out_features, dtype=dtype), requires_grad=False)
            if bias
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        device = x.device.type
        if torch.is_autocast_enabled(device):
            x = x.to(torch.get_autocast_dtype(device))
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return _Product.apply(x, self.weight, bias, (self.out_features, self.in_features))


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, packed, bias, shape):
        ctx.shape = shape
        ctx.save_for_backward(packed)
        return nn.functional.linear(x, x.new_zeros(shape), bias)

    @staticmethod
    def backward(ctx, gradient):
        _ = ctx.saved_tensors
        return gradient @ gradient.new_zeros(ctx.shape), None, None, None


def quantise_linears(model: nn.Module, keep: Collection[str], dtype: torch.dtype) -> int:
    """Replace every nn.Linear but those named in `keep`; returns how many were replaced."""
    found = [
        (name, module)
        for name, module in model.named_modules()
        if type(module) is nn.Linear and name not in keep
    ]
    for name, module in found:
        parent, _, child = name.rpartition(".")
        new = NF4Linear(module.in_features, module.out_features, module.bias is not None, dtype)
        setattr(model.get_submodule(parent), child, new)
    return len(found)
