"""Batches are the same with and without workers, and bad input keeps its sentences in both."""

import pytest
import torch

from labs.errors import InputError
from labs.train.loading import batches


class Numbers:
    def __len__(self):
        return 10

    def __getitem__(self, index):
        if index == 7:
            raise InputError("Sample 7 has no image.", "Put it back.")
        return {"input_ids": torch.tensor([index])}


def collate(samples):
    return {"input_ids": torch.stack([s["input_ids"] for s in samples])}


def tight(samples):
    if len(samples) > 1:
        raise InputError("A batch of two.", "Use one.")
    return collate(samples)


def test_workers_change_nothing():
    steps = [[[0, 3], [5]], [[9], [1, 2]]]
    here, there = (
        [[b["input_ids"].flatten().tolist() for b in step]
         for step in batches(Numbers(), collate, steps, workers)]
        for workers in (0, 2)
    )  # fmt: skip
    assert here == there == steps


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_sample_keeps_its_sentences(workers):
    with pytest.raises(InputError) as caught:
        list(batches(Numbers(), collate, [[[1]], [[6, 7]]], workers))
    assert (caught.value.what, caught.value.do) == ("Sample 7 has no image.", "Put it back.")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_batch_too(workers):
    with pytest.raises(InputError, match="A batch of two"):
        list(batches(Numbers(), tight, [[[1]], [[2, 3]]], workers))
