"""Real pixels: the 1,797 handwritten digits (8x8, 17 levels) that ship inside scikit-learn.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998.
"""

import functools
import random

import numpy as np


@functools.cache
def _load() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return bunch.images / 16.0, bunch.target


@functools.cache
def _indices(split: str) -> dict[int, tuple[int, ...]]:
    """Image numbers of each digit in the split: 1 of 5 to test, 1 of 10 to val, the rest to train."""
    _, targets = _load()
    chosen: dict[int, list[int]] = {d: [] for d in range(10)}
    for digit in range(10):
        for rank, index in enumerate(np.flatnonzero(targets == digit)):
            home = {0: "test", 5: "test", 3: "val"}.get(rank % 10, "train")
            if home == split:
                chosen[digit].append(int(index))
    return {digit: tuple(indices) for digit, indices in chosen.items()}


def sample_digits(rng: random.Random, split: str, count: int) -> list[int]:
    """`count` image numbers of the split, every digit value equally likely."""
    pool = _indices(split)
    return [rng.choice(pool[rng.randrange(10)]) for _ in range(count)]


def digit_image(index: int) -> np.ndarray:
    """The ink of one image, [8, 8] in 0..1."""
    return _load()[0][index]


def digit_value(index: int) -> int:
    """What the writer was asked to write, 0 to 9."""
    return int(_load()[1][index])
