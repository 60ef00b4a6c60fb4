"""Chapter 2's reference answers are second implementations: equal to the library's own."""

import json
import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis.extra.numpy import arrays
from PIL import Image
from torch.utils.data import DataLoader

from labs.data import StreamingDataset, augment, knapsack_pack, temperature_weights
from labs.data.packing import join, segments
from labs.errors import InputError
from labs.formats import fingerprints, parse_conversation
from labs.grading.course import chapter
from labs.shapes import Mix, stream_record

CHAPTER = chapter("ch02")
ANSWERS, CHECKS = CHAPTER.solutions, CHAPTER.checks


@settings(max_examples=200, deadline=None)
@given(pixels=arrays(np.uint8, (8, 9)), height=st.integers(1, 3), width=st.integers(1, 3))
def test_dhash(pixels, height, width):
    """Of a thumbnail both give the same hash; a picture of flat cells has that of its thumbnail."""
    wanted = fingerprints.dhash(Image.fromarray(pixels))
    assert ANSWERS.dhash(pixels) == wanted
    assert ANSWERS.dhash(np.kron(pixels, np.ones((height, width), dtype=np.uint8))) == wanted


@settings(max_examples=150, deadline=None)
@given(data=st.data(), bits=st.integers(1, 130), distance=st.integers(0, 9))
def test_near_pairs(data, bits, distance):
    """Hashes with near copies among them, equal ones and unrelated ones."""
    number = st.integers(0, 2**bits - 1)
    hashes = data.draw(st.lists(number, max_size=12))
    for own in hashes[:6]:
        places = data.draw(st.lists(st.integers(0, bits - 1), max_size=distance + 2, unique=True))
        hashes.append(CHECKS.flipped(own, places))
    wanted = fingerprints.near_pairs(hashes, distance, bits)
    assert ANSWERS.near_pairs(hashes, distance, bits) == wanted
    assert CHECKS.slow_pairs(hashes, distance, bits) == wanted


def test_mixture():
    found = ANSWERS.mixture()
    sizes = (467_000, 158_000, 40_000)
    *_, text = temperature_weights(sizes, 2)
    *_, equal = temperature_weights(sizes, math.inf)
    assert found["text_percent"] == pytest.approx(100 * text)
    assert found["text_epochs"] == pytest.approx(text * 665_000 / 40_000)
    assert found["text_epochs_equal"] == pytest.approx(equal * 665_000 / 40_000)


@settings(max_examples=150, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 24), max_size=40),
    capacity=st.integers(18, 30),
    buffer=st.integers(1, 12),
)
@example(lengths=[5, 25, 3], capacity=24, buffer=2)
def test_pack_stream(lengths, capacity, buffer):
    """The same rows, with positions and segments as the collator of packed samples sees them; or
    both refuse."""
    try:
        rows = list(knapsack_pack(range(len(lengths)), capacity, buffer, lengths.__getitem__))
    except InputError:
        with pytest.raises(ValueError, match=f"a row {capacity}"):
            ANSWERS.pack_stream(lengths, capacity, buffer)
        return
    found = ANSWERS.pack_stream(lengths, capacity, buffer)
    assert [row["samples"] for row in found] == rows
    for own, row in zip(found, rows, strict=True):
        tokens = [torch.ones(lengths[i], dtype=torch.long) for i in row]
        joined = join([{"input_ids": ids, "labels": ids} for ids in tokens])
        padding = [0] * (capacity - len(joined["input_ids"]))
        assert own["positions"] == joined["position_ids"].tolist() + padding
        assert own["segments"] == segments(joined["lengths"], capacity).tolist()


def test_same_samples():
    """The patched loader and the library's stream, with two workers: every sample once."""
    patch = ANSWERS.same_samples()["patch"]
    stream = StreamingDataset(CHECKS.SHARDS, buffer=0)
    loader = DataLoader(stream, batch_size=None, num_workers=2, multiprocessing_context="fork")
    theirs = [number for shard in loader for number in shard]
    ours = [number for batch in patch(CHECKS.SHARDS, 2) for number in batch]
    assert sorted(ours) == sorted(theirs) == list(range(93))


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 17),
    buffer=st.integers(1, 20),
    prefetch=st.integers(0, 6),
    stop=st.integers(0, 60),
)
def test_ResumableStream(count, buffer, prefetch, stop):
    """Resumed is as if uninterrupted, for the reference and, in its own order, for the library."""
    (found,) = CHECKS.resumed(ANSWERS.ResumableStream, count, buffer, prefetch, 3, [stop], 25)
    assert found == CHECKS.uninterrupted(count, buffer, prefetch, 3, stop + 25)

    stop %= count
    stream, other = (StreamingDataset(list(range(count)), buffer=buffer, seed=3) for _ in "12")
    whole = list(StreamingDataset(list(range(count)), buffer=buffer, seed=3))
    running = iter(stream)
    head = [next(running) for _ in range(stop)]
    other.load_state_dict(json.loads(json.dumps(stream.state_dict())))
    assert head + list(other) == whole


def test_flip_record():
    """On records of the world both write the same turns and the same picture, or both refuse."""
    refused = 0
    for index in range(80):
        record = stream_record(Mix(), index)
        del record["meta"]
        plain = {**record, "image": np.asarray(record["image"])}
        conversation = parse_conversation(record)
        try:
            wanted = augment.flip_horizontal(conversation)
        except augment.Refused:
            refused += 1
            with pytest.raises(ValueError, match="text cannot be mirrored"):
                ANSWERS.flip_record(plain)
            continue
        found = ANSWERS.flip_record(plain)
        assert [t["value"] for t in found["conversations"]] == [t.text for t in wanted.turns]
        assert np.array_equal(found["image"], np.asarray(wanted.images[0]))
    assert 0 < refused < 40
