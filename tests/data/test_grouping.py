"""Length grouping: every sample once, batches of like length and one modality, another mix each epoch."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from labs.data import LengthGroupedSampler, padding_efficiency
from labs.errors import InputError
from labs.train.sampler import StepSampler


def lengths_of(n, seed=0):
    rng = np.random.default_rng(seed)
    kinds = rng.choice(["image", "text", "video"], n, p=[0.6, 0.3, 0.1])
    return rng.integers(1, 500, n).tolist(), kinds.tolist()


@given(st.integers(1, 300), st.integers(1, 9), st.integers(0, 3), st.integers(0, 2))
def test_every_sample_once_and_batches_of_one_modality(n, batch, seed, epoch):
    lengths, kinds = lengths_of(n, seed)
    sampler = LengthGroupedSampler(lengths, kinds, batch, seed)
    sampler.set_epoch(epoch)
    order = list(sampler)
    assert sorted(order) == list(range(n)) and len(sampler) == n
    whole = sum(kinds.count(kind) // batch for kind in set(kinds))
    groups = [order[i : i + batch] for i in range(0, n, batch)]
    for group in groups[:whole]:
        assert len({kinds[i] for i in group}) == 1
    assert list(sampler) == order


def test_batches_are_alike_and_mixed_anew_each_epoch():
    lengths, kinds = lengths_of(2000)
    sampler = LengthGroupedSampler(lengths, kinds, 8)
    order = list(sampler)
    grouped = padding_efficiency([lengths[i] for i in order], 8)
    plain = padding_efficiency(lengths, 8)
    assert plain < 0.65 and grouped > 0.95
    # Long batches do not all come first: the halves of the epoch are about as long.
    first, second = np.array_split(np.array(lengths)[order], 2)
    assert abs(first.mean() - second.mean()) < 40
    sampler.set_epoch(1)
    batches = [{frozenset(o[i : i + 8]) for i in range(0, 2000, 8)} for o in (order, list(sampler))]
    assert len(batches[0] & batches[1]) < 25


def test_a_negative_length_marks_text():
    lengths, kinds = lengths_of(100)
    signed = [-n if kind == "text" else n for n, kind in zip(lengths, kinds, strict=True)]
    text = [kind == "text" for kind in kinds]
    assert list(LengthGroupedSampler(signed, None, 4)) == list(
        LengthGroupedSampler(lengths, text, 4)
    )
    # And the trainer's sampler makes the same steps.
    steps = StepSampler(100, 4, lengths=signed).epoch(0)
    flat = [i for step in steps for micro in step for i in micro]
    assert flat == list(LengthGroupedSampler(signed, None, 4))


def test_in_a_dataloader():
    lengths, kinds = lengths_of(64)
    sampler = LengthGroupedSampler(lengths, kinds, 8, seed=1)
    order = list(sampler)
    loader = DataLoader(list(range(64)), batch_size=8, sampler=sampler)
    assert [batch.tolist() for batch in loader] == [order[i : i + 8] for i in range(0, 64, 8)]


def test_mistakes():
    with pytest.raises(InputError, match="3 lengths, but 2 modalities"):
        LengthGroupedSampler([1, 2, 3], ["a", "b"])
    with pytest.raises(InputError, match="nothing to group"):
        LengthGroupedSampler([])
    with pytest.raises(InputError, match="nothing to group"):
        LengthGroupedSampler([1], None, 0)
