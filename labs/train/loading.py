"""From indices to batches, in this process or in workers; an InputError keeps its two sentences."""

from collections.abc import Callable, Iterator, Sequence

import torch

from labs.errors import InputError
from labs.train.objectives import Batch


def batches(
    dataset: Sequence,
    collate: Callable[[list], Batch],
    steps: list[list[list[int]]],
    workers: int = 0,
    seed: int = 0,
    pin_memory: bool = False,
) -> Iterator[list[Batch]]:
    """For each step (a list of micro-batches, each a list of indices) its batches, on the CPU."""
    if workers == 0:
        for micro_batches in steps:
            yield [collate([dataset[i] for i in m]) for m in micro_batches]
        return
    loader = torch.utils.data.DataLoader(
        _Carrying(dataset),
        batch_sampler=[indices for step in steps for indices in step],
        collate_fn=_CarryingCollate(collate),
        num_workers=workers,
        pin_memory=pin_memory,
        # an own generator: a loader would else draw its workers' seed from the global one
        generator=torch.Generator().manual_seed(seed),
    )
    made = iter(loader)
    for micro_batches in steps:
        yield [_raised(next(made)) for _ in micro_batches]


# A DataLoader re-raises a worker's exception as a traceback in a string. Bad input deserves better:
# it travels as a value and is raised where the loop runs.


class _Carrying:
    def __init__(self, dataset: Sequence):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int):
        try:
            return self.dataset[index]
        except InputError as error:
            return error


class _CarryingCollate:
    def __init__(self, collate: Callable[[list], Batch]):
        self.collate = collate

    def __call__(self, samples: list):
        for sample in samples:
            if isinstance(sample, InputError):
                return sample
        try:
            return self.collate(samples)
        except InputError as error:
            return error


def _raised(batch) -> Batch:
    if isinstance(batch, InputError):
        raise batch
    return batch
