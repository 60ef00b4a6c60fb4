"""Packing a stream: nothing lost, rows never too long, each as full as can be, and resumable."""

import itertools
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from labs.data import (
    IGNORE,
    PackedCollator,
    PackedDataset,
    PackedStream,
    Skips,
    StreamingDataset,
    StreamingLoader,
    first_fit_decreasing,
    knapsack_pack,
    packing_efficiency,
)
from labs.data.knapsack import fullest
from labs.data.stream import Share
from labs.errors import InputError
from tests.data.conftest import get_processor
from tests.data.stream_helpers import all_lists, consumers


@given(st.lists(st.integers(0, 40), max_size=11), st.integers(0, 120))
def test_the_fullest_is_that_of_all_subsets(lengths, room):
    chosen = fullest(lengths, room)
    assert len(set(chosen)) == len(chosen)
    best = max(
        sum(part)
        for k in range(len(lengths) + 1)
        for part in itertools.combinations(lengths, k)
        if sum(part) <= room
    )
    assert sum(lengths[i] for i in chosen) == best


@given(st.lists(st.integers(1, 50), max_size=80), st.integers(50, 130), st.integers(1, 30))
def test_nothing_is_lost_and_no_row_too_long(lengths, capacity, buffer):
    read = []
    stream = (read.append(i) or (i, n) for i, n in enumerate(lengths))
    out = []
    for row in knapsack_pack(stream, capacity, buffer, length=lambda item: item[1]):
        assert 0 < sum(n for _, n in row) <= capacity
        assert row == sorted(row)  # within a row in the order of the stream
        out += row
        assert len(read) - len(out) < buffer  # what is held
    assert sorted(out) == list(enumerate(lengths))


@given(st.lists(st.integers(1, 50), min_size=1, max_size=80), st.integers(1, 20))
def test_none_waits_for_long(lengths, buffer):
    rows = list(knapsack_pack(enumerate(lengths), 60, buffer, length=lambda item: item[1]))
    # A row takes the oldest: before row r at most r + buffer were read, and all before r are gone.
    for number, row in enumerate(rows):
        assert min(i for i, _ in row) >= 0
        waiting = {i for later in rows[number:] for i, _ in later}
        assert min(waiting) == row[0][0]


def test_words_of_a_list_and_what_cannot_be_packed():
    assert list(knapsack_pack(["aaa", "bb", "c"], 4, 3)) == [["aaa", "c"], ["bb"]]
    with pytest.raises(InputError, match="Sample 1 has 5 tokens and does not fit a row of 4"):
        list(knapsack_pack(["a", "bbbbb"], 4))
    for capacity, buffer in ((0, 1), (1, 0)):
        with pytest.raises(InputError, match="holds nothing"):
            list(knapsack_pack(["a"], capacity, buffer))


def test_lengths_that_lie_close_together():
    """Where every sample is a picture and a little text, first-fit decreasing is the worse."""
    generator = torch.Generator().manual_seed(0)
    lengths = (650 + 300 * torch.rand(3000, generator=generator)).int().tolist()
    streamed = list(knapsack_pack(lengths, 4096, 32, length=lambda n: n))
    ours = packing_efficiency(lengths, len(streamed), 4096)
    decreasing = packing_efficiency(lengths, len(first_fit_decreasing(lengths, 4096)), 4096)
    assert ours > 0.995 > 0.97 > decreasing


class Encoded(torch.utils.data.Dataset):
    """Samples of lengths that lie close together, each its own number."""

    def __len__(self):
        return 300

    def __getitem__(self, index):
        ids = torch.full((65 + index * 7 % 30,), index)
        return {"input_ids": ids, "labels": ids.clone()}


def test_a_data_set_in_memory_packs_that_way_too():
    plain = PackedDataset(Encoded(), 400)
    tight = PackedDataset(Encoded(), 400, packing="knapsack")
    assert tight.efficiency > 0.99 > 0.97 > plain.efficiency
    assert sorted(i for row in tight.bins for i in row) == list(range(300))
    row = tight[3]
    assert len(row["input_ids"]) == sum(row["lengths"]) <= 400 and len(row["lengths"]) > 3
    assert PackedDataset(Encoded(), 400, packing="knapsack").bins == tight.bins
    with pytest.raises(InputError, match="no packing `best`"):
        PackedDataset(Encoded(), 400, packing="best")
    for packing in ("knapsack", "first_fit_decreasing"):
        with pytest.raises(InputError, match="Sample 1 has 72 tokens and does not fit a row of 70"):
            PackedDataset(Encoded(), 70, packing=packing)


# As a stream.


def sample(number):
    """An encoded sample of its own length: its tokens are all its number."""
    length = 3 + number * number % 17
    ids = torch.full((length,), number + 1)
    return {"input_ids": ids, "labels": ids.clone(), "num_image_tokens": []}


def stream_of(count, capacity=40, buffer=5, **options):
    return PackedStream(
        StreamingDataset(range(count), sample, **{"buffer": 6, **options}), capacity, buffer
    )


def test_rows_keep_samples_apart_and_restart_positions():
    stream = stream_of(50)
    found = []
    for row in stream:
        assert len(row["input_ids"]) == sum(row["lengths"]) <= 40
        pieces = row["input_ids"].split(row["lengths"])
        for piece, positions, labels in zip(
            pieces,
            row["position_ids"].split(row["lengths"]),
            row["labels"].split(row["lengths"]),
            strict=True,
        ):
            assert positions.tolist() == list(range(len(piece)))
            assert labels[0] == IGNORE and torch.equal(labels[1:], piece[1:])
            assert len(piece) == len(sample(int(piece[0]) - 1)["input_ids"])
            found.append(int(piece[0]) - 1)
    assert sorted(found) == list(range(50))
    rows = list(stream)
    tokens = sum(len(row["input_ids"]) for row in rows)
    assert stream.efficiency == pytest.approx(tokens / (40 * len(rows)))
    assert 0.9 < stream.efficiency <= 1


def test_batches_of_rows_have_a_mask_that_keeps_samples_apart():
    processor = get_processor("chatml")
    loader = StreamingLoader(stream_of(30), 2, PackedCollator(processor))
    for batch in loader:
        mask, ids = batch["attention_mask"][:, 0], batch["input_ids"]
        same = ids[:, :, None] == ids[:, None, :]
        real = (batch["position_ids"] > 0) | (batch["position_ids"].roll(-1, 1) == 1)
        there = real[:, :, None] & real[:, None, :]
        causal = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
        assert torch.equal(mask & there, same & causal & there)


@given(st.data())
def test_interrupted_and_resumed_is_uninterrupted(data):
    count, buffer = data.draw(st.integers(0, 40)), data.draw(st.integers(1, 9))
    stream = stream_of(count, buffer=buffer, skips=Skips(allow=True))
    share = Share(data.draw(st.integers(0, 1)), 2)
    whole = list(stream.walk(1, share, None))
    if not whole:
        return
    at = data.draw(st.integers(0, len(whole) - 1))
    opened = []
    stream.stream.decode = lambda n: opened.append(n) or sample(n)
    state = json.loads(json.dumps(whole[at][0]))
    rest = list(stream.walk(1, share, state))
    assert [s for s, _ in rest] == [s for s, _ in whole[at + 1 :]]
    for (_, one), (_, other) in zip(rest, whole[at + 1 :], strict=True):
        assert torch.equal(one["input_ids"], other["input_ids"])
    # Encoded again: those that had been held, and no sample that was in a row already.
    gone = {int(n) - 1 for _, row in whole[: at + 1] for n in row["input_ids"]}
    assert not gone & set(opened) and len(opened) == len(set(opened))


@pytest.mark.parametrize("workers", [0, 2])
def test_it_resumes_and_counts_through_a_loader(workers):
    def make():
        return StreamingLoader(stream_of(60), 2, all_lists, num_workers=workers)

    whole = [[row["input_ids"].tolist() for row in batch] for batch in make()]
    loader = make()
    for _ in itertools.islice(loader, 3):
        pass
    state = json.loads(json.dumps(loader.state_dict()))
    loader = make()
    loader.load_state_dict(state)
    rest = [[row["input_ids"].tolist() for row in batch] for batch in loader]
    assert rest == whole[3:]
    tokens = sum(len(row) for batch in rest for row in batch)
    rows = sum(map(len, rest))
    assert loader.stream.efficiency == pytest.approx(tokens / (40 * rows))


def test_every_sample_once_over_ranks_and_workers():
    given_rows = consumers(stream_of(70), 2, 2)
    found = [
        int(piece[0]) - 1
        for pairs in given_rows.values()
        for _, row in pairs
        for piece in row["input_ids"].split(row["lengths"])
    ]
    assert sorted(found) == list(range(70))


def test_a_sample_longer_than_a_row_is_skipped_and_counted():
    stream = stream_of(40, capacity=18, skips=Skips(allow=True))
    kept = sum(len(row["lengths"]) for row in stream)
    overlong = sum(len(sample(i)["input_ids"]) > 18 for i in range(40))
    assert kept == 40 - overlong and overlong > 0
    assert stream.skips.counts == {"overlong": overlong}
    assert "tokens, more than a row of 18" in stream.example("overlong")
    stream.skips.allow = False
    with pytest.raises(InputError, match=r"the limit is 1 %. For example: A sample has"):
        stream.check(final=True)


def test_positions_in_three_dimensions_are_refused():
    def grid(number):
        return {**sample(number), "image_grid_thw": torch.ones(1, 3)}

    with pytest.raises(InputError, match="image_grid_thw cannot be packed"):
        list(PackedStream(StreamingDataset(range(3), grid), 40))
