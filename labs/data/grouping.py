"""Batches of samples of like length and one modality: less padding, and no step of two kinds."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from labs.errors import InputError

_SLICE = 50  # groups within which samples are sorted


def group_by_length(
    order: np.ndarray,
    lengths: Sequence[int],
    modalities: Sequence[Any],
    size: int,
    generator: np.random.Generator,
) -> np.ndarray:
    """Rearrange `order` (indices) so that every `size` in a row are of like length and one modality.

    Samples of a modality are sorted by length, the longest first, within slices of fifty groups: like
    lengths, yet another mix in each epoch, as `order` is another one. Whole groups are shuffled
    among each other; what is left of each modality, less than a group, stands at the end, where
    modalities may meet. (LLaVA's group_by_modality_length, in llava/train/llava_trainer.py.)
    """
    lengths, modalities = np.asarray(lengths), np.asarray(modalities)
    whole, rest = [], []
    for modality in np.unique(modalities):
        mine = order[modalities[order] == modality]
        slices = np.array_split(mine, max(1, -(-len(mine) // (_SLICE * size))))
        mine = np.concatenate([s[np.argsort(-lengths[s], kind="stable")] for s in slices])
        cut = len(mine) - len(mine) % size
        whole += list(mine[:cut].reshape(-1, size))
        rest.append(mine[cut:])
    shuffled = [whole[i] for i in generator.permutation(len(whole))]
    return np.concatenate([*shuffled, *rest])


class LengthGroupedSampler(Sampler):
    """Indices in which every `batch_size` in a row are of like length and one modality.

    lengths: of the samples, in tokens. modalities: what each sample is, any values that sort ("image",
    "text"); None: all alike, and then a negative length marks a text-only sample (LLaVA's way).
    batch_size: of an optimizer step, over ranks and accumulation, if steps are to be alike. The order
    is a function of seed and epoch; `set_epoch(n)` chooses. For a DataLoader with this batch_size:

        DataLoader(dataset, batch_size, sampler=LengthGroupedSampler(lengths, kinds, batch_size))

    The last samples of an epoch, less than a batch of each modality, may share a batch.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        modalities: Sequence[Any] | None = None,
        batch_size: int = 1,
        seed: int = 0,
    ):
        if modalities is not None and len(modalities) != len(lengths):
            raise InputError(
                f"There are {len(lengths)} lengths, but {len(modalities)} modalities.",
                "Give one of each a sample.",
            )
        if batch_size < 1 or not len(lengths):
            raise InputError(
                "There is nothing to group.", "Give lengths, and a batch of 1 or more."
            )
        signed = np.asarray(lengths)
        self.lengths = np.abs(signed)
        self.modalities = np.asarray(signed < 0 if modalities is None else modalities)
        self.batch_size, self.seed, self.epoch = batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of this epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = np.random.default_rng((self.seed, self.epoch))
        order = generator.permutation(len(self))
        grouped = group_by_length(order, self.lengths, self.modalities, self.batch_size, generator)
        return iter(grouped.tolist())
