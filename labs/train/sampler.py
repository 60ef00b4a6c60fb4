"""Which samples make up which optimizer step: a pure function of seed, epoch and step.

Because the order is computed and never drawn on the way, a resumed run knows it without replaying
anything, and the number of ranks or the split into micro-batches does not change a step's samples.
"""

from collections.abc import Sequence

import numpy as np

from labs.data.grouping import group_by_length


class StepSampler:
    """Sample indices for each optimizer step of each epoch, shared out over ranks and micro-batches.

    `lengths`: sample lengths, for steps of like length (a negative length marks a text-only sample;
    those share a step with images only where an epoch ends, as in LLaVA's
    group_by_modality_length). The last step of an epoch may be smaller; if it has fewer samples than
    ranks it is dropped. `even`: ranks get equally many samples, for losses that gather over ranks; up
    to ranks - 1 samples an epoch are left out.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        accumulation: int = 1,
        ranks: int = 1,
        rank: int = 0,
        seed: int = 0,
        shuffle: bool = True,
        lengths: Sequence[int] | None = None,
        even: bool = False,
    ):
        self.size, self.batch_size, self.ranks, self.rank = size, batch_size, ranks, rank
        self.seed, self.shuffle, self.lengths = seed, shuffle, lengths
        self.step_size = batch_size * accumulation * ranks
        self.used = size - size % ranks if even else size
        tail = self.used % self.step_size
        self.steps = self.used // self.step_size + (tail >= ranks and tail > 0)

    def order(self, epoch: int) -> np.ndarray:
        """The order of all samples in this epoch."""
        if not self.shuffle:
            return np.arange(self.size)
        generator = np.random.default_rng((self.seed, epoch))
        order = generator.permutation(self.size)
        if self.lengths is None:
            return order
        lengths = np.asarray(self.lengths)
        return group_by_length(order, np.abs(lengths), lengths < 0, self.step_size, generator)

    def epoch(self, epoch: int, start: int = 0) -> list[list[list[int]]]:
        """For each step of the epoch from `start` on: this rank's micro-batches of indices."""
        order = self.order(epoch)[: self.used]
        steps = []
        for step in range(start, self.steps):
            samples = order[step * self.step_size : (step + 1) * self.step_size]
            # Equal shares (to one sample), so that every rank has something to do in every step.
            mine = np.array_split(samples, self.ranks)[self.rank].tolist()
            steps.append(
                [mine[i : i + self.batch_size] for i in range(0, len(mine), self.batch_size)]
            )
        return steps
