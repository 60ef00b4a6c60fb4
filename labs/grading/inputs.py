"""Inputs that hide nothing: distinct prime sizes, ragged padding, a masked row, seeded numbers.

Equal sizes hide a swapped axis, a full batch hides a wrong count, zeros hide a missing term.
"""

from __future__ import annotations

import torch
from torch import Tensor

IGNORE = -100


def generator(seed: int) -> torch.Generator:
    """A seeded source of random numbers, to be handed on."""
    return torch.Generator().manual_seed(seed)


def normal(
    *shape: int, seed: int, scale: float = 1.0, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Normal numbers of the given shape."""
    return (scale * torch.randn(*shape, generator=generator(seed), dtype=torch.float64)).to(dtype)


def integers(*shape: int, below: int, seed: int, start: int = 0) -> Tensor:
    """Whole numbers from `start` up to, not including, `below`."""
    return torch.randint(start, below, shape, generator=generator(seed))


def ragged_lengths(batch: int, longest: int) -> list[int]:
    """Distinct lengths, the longest first, so that no two rows weigh the same."""
    return [max(1, longest - 2 * row - (row > 1)) for row in range(batch)]


def padding_mask(batch: int, tokens: int, side: str = "right") -> Tensor:
    """[batch, tokens], True where a token is; rows of distinct lengths, padded on one side."""
    mask = torch.zeros(batch, tokens, dtype=torch.bool)
    for row, length in enumerate(ragged_lengths(batch, tokens)):
        mask[row, slice(0, length) if side == "right" else slice(tokens - length, None)] = True
    return mask


def language_batch(
    batch: int = 5,
    tokens: int = 13,
    vocab: int = 17,
    *,
    seed: int,
    side: str = "right",
    prompt: int = 3,
    empty_row: bool = True,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """(logits [batch, tokens, vocab], labels [batch, tokens]) of a supervised batch.

    Rows have distinct lengths and are padded on `side`; the first `prompt` tokens of each carry no
    label; with `empty_row`, one row in the middle carries none at all. No label equals its
    neighbour, and the logits favour none.
    """
    logits = normal(batch, tokens, vocab, seed=seed, scale=2.0, dtype=dtype)
    labels = integers(batch, tokens, below=vocab, seed=seed + 1)
    mask = padding_mask(batch, tokens, side)
    for row in range(batch):
        first = int(mask[row].nonzero()[0])
        mask[row, first : first + prompt] = False
    if empty_row:
        mask[batch // 2] = False
    return logits, labels.masked_fill(~mask, IGNORE)
