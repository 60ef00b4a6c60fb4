"""nanoVLM's training step as far as memory goes: SigLIP2-B/16-256, pixel shuffle, SmolLM2-135M.

Widths, depths, order of parameters and what a step saves follow models/*.py and measure_vram.py of
huggingface/nanoVLM at commit 91a3b93, the one whose README has the table of peaks (Apache-2.0).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

VISION, TOWER_BLOCKS, SIDE, PATCH = 768, 12, 256, 16
TEXT, DECODER_BLOCKS, INNER, HEADS, KV_HEADS, VOCABULARY = 576, 30, 1536, 9, 3, 49153
SHUFFLE = 2
IMAGE_TOKENS = (SIDE // PATCH // SHUFFLE) ** 2


def heads(x: Tensor, count: int) -> Tensor:
    return x.unflatten(-1, (count, -1)).transpose(1, 2)


class TowerBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1 = nn.LayerNorm(VISION)
        self.qkv, self.out = nn.Linear(VISION, 3 * VISION), nn.Linear(VISION, VISION)
        self.norm2 = nn.LayerNorm(VISION)
        self.up, self.down = nn.Linear(VISION, 4 * VISION), nn.Linear(4 * VISION, VISION)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (heads(part, 12) for part in self.qkv(self.norm1(x)).chunk(3, dim=-1))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.out(mixed)
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class Norm(nn.Module):
    """RMSNorm from single operators; each saves its part."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(TEXT))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(torch.mean(x**2, dim=-1, keepdim=True) + 1e-5) * self.weight


def turned(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cosine + torch.cat([-second, first], dim=-1) * sine


class DecoderBlock(nn.Module):
    def __init__(self):
        super().__init__()
        size = TEXT // HEADS * KV_HEADS
        self.gate, self.up = (nn.Linear(TEXT, INNER, bias=False) for _ in range(2))
        self.down = nn.Linear(INNER, TEXT, bias=False)
        self.q, self.k = nn.Linear(TEXT, TEXT, bias=False), nn.Linear(TEXT, size, bias=False)
        self.v, self.out = nn.Linear(TEXT, size, bias=False), nn.Linear(TEXT, TEXT, bias=False)
        self.norm1, self.norm2 = Norm(), Norm()

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor, mask: Tensor) -> Tensor:
        y = self.norm1(x)
        q = turned(heads(self.q(y), HEADS), cosine, sine)
        k = turned(heads(self.k(y), KV_HEADS), cosine, sine)
        k, v = (t.repeat_interleave(HEADS // KV_HEADS, 1) for t in (k, heads(self.v(y), KV_HEADS)))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class NanoVLM(nn.Module):
    """`blocks` = (tower, decoder); the published model has (12, 30)."""

    def __init__(self, blocks: tuple[int, int] = (TOWER_BLOCKS, DECODER_BLOCKS)):
        super().__init__()
        self.patches = nn.Conv2d(3, VISION, PATCH, stride=PATCH)
        self.positions = nn.Parameter(torch.zeros(1, (SIDE // PATCH) ** 2, VISION))
        self.tower = nn.ModuleList(TowerBlock() for _ in range(blocks[0]))
        self.tower_norm = nn.LayerNorm(VISION)
        self.embedding = nn.Embedding(VOCABULARY, TEXT)
        self.decoder = nn.ModuleList(DecoderBlock() for _ in range(blocks[1]))
        self.norm = Norm()
        self.projector = nn.Linear(VISION * SHUFFLE**2, TEXT, bias=False)

    def forward(self, pixels: Tensor, ids: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        batch, tokens = ids.shape
        x = self.patches(pixels).flatten(2).transpose(1, 2) + self.positions
        for block in self.tower:
            x = block(x)
        side = SIDE // PATCH // SHUFFLE
        x = self.tower_norm(x).reshape(batch, side, SHUFFLE, side, SHUFFLE, VISION)
        visual = self.projector(x.permute(0, 1, 3, 2, 4, 5).reshape(batch, side**2, -1))

        words = self.embedding(ids).clone()
        words[:, :IMAGE_TOKENS] = visual.to(words.dtype)
        angle = torch.zeros(batch, 1, tokens, TEXT // HEADS)
        cosine, sine = angle.cos(), angle.sin()
        for block in self.decoder:
            words = block(words, cosine, sine, mask)
        logits = F.linear(self.norm(words), self.embedding.weight)
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten())
