"""Mixtures: weights by temperature, shares as asked for, the report true, and the order resumable."""

import collections
import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from labs.data import (
    MixtureDataset,
    MixtureReport,
    PackedStream,
    Skip,
    Skips,
    StreamingDataset,
    StreamingLoader,
    StreamingMixture,
    temperature_weights,
)
from labs.data.stream import Share
from labs.errors import InputError
from labs.train.loading import batches
from labs.train.sampler import StepSampler
from tests.data.stream_helpers import all_lists, consumers

# Weights.


def test_weights_by_hand():
    assert temperature_weights([100, 400], 1) == pytest.approx([0.2, 0.8])
    assert temperature_weights([100, 400], 2) == pytest.approx([1 / 3, 2 / 3])
    assert temperature_weights([100, 400, 0], math.inf) == [0.5, 0.5, 0]
    assert temperature_weights([3, 1, 1], 0.5) == pytest.approx([9 / 11, 1 / 11, 1 / 11])
    # mT5's alpha = 0.3 lifts a language of a thousandth of the data to about an eighth.
    assert temperature_weights([1000, 1], 1 / 0.3)[1] == pytest.approx(0.112, abs=1e-3)


@given(
    st.lists(st.integers(0, 10**12), min_size=1, max_size=6).filter(any),
    st.floats(0.05, 100),
)
def test_weights_sum_to_one_keep_the_order_and_flatten(sizes, temperature):
    weights = temperature_weights(sizes, temperature)
    assert sum(weights) == pytest.approx(1)
    for a, p in zip(sizes, weights, strict=True):
        assert (p == 0) == (a == 0) or temperature < 1
        for b, q in zip(sizes, weights, strict=True):
            assert (a >= b) <= (p >= q)
            if a and b and p and q:
                assert math.log(p / q) == pytest.approx(math.log(a / b) / temperature, abs=1e-6)
    assert max(temperature_weights(sizes, 2 * temperature)) <= max(weights) + 1e-12


@pytest.mark.parametrize(
    ("sizes", "temperature"),
    [([1, 2], 0), ([1], -1), ([1], math.nan), ([], 1), ([0, 0], 1), ([-1, 2], 1), ([math.inf], 1)],
)
def test_what_cannot_be_weighed(sizes, temperature):
    with pytest.raises(InputError):
        temperature_weights(sizes, temperature)


# Map-style. (Exact shares and fair rounds: test_dataset.py.)


class Named(torch.utils.data.Dataset):
    def __init__(self, name, n):
        self.items = [(name, i) for i in range(n)]

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def test_a_temperature_in_place_of_weights():
    parts = [Named("a", 90), Named("b", 10)]
    mixture = MixtureDataset(parts, temperature=2, size=100, names=["a", "b"])
    assert collections.Counter(mixture[i][0] for i in range(100)) == {"a": 75, "b": 25}
    assert mixture.report().expected == pytest.approx((0.75, 0.25))
    with pytest.raises(InputError, match="weights and a temperature"):
        MixtureDataset(parts, [1, 1], temperature=2)
    for names in (["a", "a"], ["a"]):
        with pytest.raises(InputError, match="do not name 2 data sets"):
            MixtureDataset(parts, names=names)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_report_tells_what_came_out(workers):
    parts = [Named("a", 10), Named("b", 40)]
    mixture = MixtureDataset(parts, [1, 3], size=80, names=["small", "large"])
    assert mixture.report().drawn == (0, 0) and mixture.report().realised == (0, 0)
    counted = collections.Counter()
    for batch in DataLoader(mixture, 4, collate_fn=all_lists, num_workers=workers):
        counted.update(name for name, _ in batch)
    report = mixture.report()
    assert report.drawn == (counted["a"], counted["b"]) == (20, 60)
    assert report.expected == (0.25, 0.75) == report.realised
    assert report.passes == (2, 1.5)
    assert report.scalars("mix") == {
        "mix/expected/small": 0.25, "mix/realised/small": 0.25, "mix/passes/small": 2.0,
        "mix/expected/large": 0.75, "mix/realised/large": 0.75, "mix/passes/large": 1.5,
    }  # fmt: skip
    assert str(report).splitlines() == [
        "small  expected  25.0%  realised  25.0%  20 samples, 2.00 passes",
        "large  expected  75.0%  realised  75.0%  60 samples, 1.50 passes",
    ]


def test_scalars_are_what_tensorboard_takes(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    report = MixtureReport(("web/zh", "vqa"), (0.6, 0.4), (59, 41), (None, 100))
    with SummaryWriter(tmp_path) as writer:
        for name, value in report.scalars().items():
            writer.add_scalar(name, value, 7)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert set(events.Tags()["scalars"]) == set(report.scalars())
    assert "mixture/passes/web/zh" not in report.scalars()  # its size is not known
    assert events.Scalars("mixture/realised/vqa")[0].value == pytest.approx(0.41)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_mixture_in_memory_resumes_by_epoch_and_step(workers):
    def steps(epoch, start=0):
        mixture = MixtureDataset([Named("a", 30), Named("b", 7)], [2, 1], seed=5)
        mixture.set_epoch(epoch)
        sampler = StepSampler(len(mixture), 4, seed=1)
        return list(batches(mixture, all_lists, sampler.epoch(epoch, start), workers))

    assert steps(3, 4) == steps(3)[4:]
    assert steps(3) != steps(2)


# Streams.


def named(name, n, buffer=0, **options):
    return StreamingDataset([(name, i) for i in range(n)], buffer=buffer, **options)


def names_of(stream, epoch=0):
    return [name for _, (name, _) in stream.walk(epoch, Share(0, 1), None)]


def test_shares_of_a_stream_are_those_asked_for():
    parts = [named("a", 4000), named("b", 300), named("c", 700)]
    mixture = StreamingMixture(parts, [5, 3, 2], names="abc", exhausted="restart", seed=1)
    counts = collections.Counter(name for name, _ in mixture)
    total = sum(counts.values())
    assert total > 7000
    for name, share in zip("abc", (0.5, 0.3, 0.2), strict=True):
        # Four standard errors.
        assert abs(counts[name] / total - share) < 4 * math.sqrt(share * (1 - share) / total)
    report = mixture.report()
    assert report.drawn == tuple(counts[name] for name in "abc")
    assert report.expected == (0.5, 0.3, 0.2) and sum(report.realised) == pytest.approx(1)
    assert report.passes == (None, None, None)
    sized = StreamingMixture(parts, temperature=2, sizes=[400, 100, 100], names="abc")
    assert sized.weights == pytest.approx([0.5, 0.25, 0.25])


@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=3), st.integers(1, 3), st.integers(1, 2),
    st.integers(0, 3),
)  # fmt: skip
def test_what_happens_when_a_stream_ends(sizes, ranks, workers, epoch):
    parts = [named(str(i), n, buffer=3) for i, n in enumerate(sizes)]
    weights = [1 + i for i in range(len(sizes))]
    everything = {(str(i), k) for i, n in enumerate(sizes) for k in range(n)}

    def given_by(exhausted):
        mixture = StreamingMixture(parts, weights, exhausted=exhausted, seed=2)
        each = consumers(mixture, ranks, workers, epoch)
        return [[sample for _, sample in pairs] for pairs in each.values()]

    dropped = [s for consumer in given_by("drop") for s in consumer]
    assert sorted(dropped) == sorted(everything)  # exactly once
    restarted = [s for consumer in given_by("restart") for s in consumer]
    assert set(restarted) == everything  # at least once
    # At most once: the draws are the same until the first stream ends, and there it stops.
    each = zip(given_by("stop"), given_by("drop"), strict=True)
    for consumer, going_on in each:
        assert consumer == going_on[: len(consumer)]
        counts = collections.Counter(name for name, _ in consumer)
        whole = collections.Counter(name for name, _ in going_on)
        if len(sizes) > 1 and consumer and len(consumer) < len(going_on):
            assert any(counts[str(i)] == whole[str(i)] for i in range(len(sizes)))
    # Restarting never goes on once all have ended: one of the streams has ended just once.
    if len(sizes) == 1 and ranks * workers == 1:
        assert len(restarted) == sizes[0]


def test_a_restarted_stream_comes_in_another_order():
    mixture = StreamingMixture([named("a", 30, buffer=30), named("b", 400)], [1, 1], seed=3)
    small = [i for _, (name, i) in mixture.walk(0, Share(0, 1), None) if name == "a"]
    rounds = [tuple(small[i : i + 30]) for i in range(0, len(small) - 30, 30)]
    assert len(rounds) >= 8 and len(set(rounds)) == len(rounds)
    assert all(sorted(r) == list(range(30)) for r in rounds)
    assert names_of(mixture) == names_of(mixture) != names_of(mixture, epoch=1)


def test_zero_weight_is_never_drawn():
    mixture = StreamingMixture([named("a", 5), named("b", 5)], [0, 1])
    assert set(names_of(mixture)) == {"b"}


def no_threes(sample):
    if sample[1] % 3 == 0:
        raise Skip("broken_image", "a three")
    return sample


def test_skips_of_the_parts_are_counted_by_the_mixture_and_show_in_the_report():
    parts = [named("a", 60, decode=no_threes), named("b", 60)]
    mixture = StreamingMixture(parts, [1, 1], exhausted="drop", skips=Skips(allow=True))
    assert len(list(mixture)) == 100
    assert mixture.skips.counts == {"broken_image": 20}
    assert mixture.report().drawn == (40, 60)  # realised is not what was expected, and it shows


@pytest.mark.parametrize("workers", [0, 2])
def test_a_mixture_of_streams_resumes_through_a_loader(workers):
    def make():
        parts = [named("a", 25, 4), named("b", 11, 3, decode=no_threes)]
        mixture = StreamingMixture(parts, [2, 1], seed=1, skips=Skips(allow=True))
        return StreamingLoader(mixture, 3, all_lists, num_workers=workers)

    whole = list(make())
    loader, begun = make(), []
    for batch in loader:
        begun.append(batch)
        if len(begun) == 5:
            break
    state = json.loads(json.dumps(loader.state_dict()))
    loader = make()
    loader.load_state_dict(state)
    assert begun + list(loader) == whole
    parts = [named("a", 25, 4), named("b", 11, 3)]
    other = StreamingLoader(StreamingMixture(parts, [1, 1], seed=1), 3, num_workers=workers)
    with pytest.raises(InputError, match="a stream with weights = "):
        other.load_state_dict(state)


def test_mistakes_of_mixing_streams():
    parts = [named("a", 5), named("b", 5)]
    with pytest.raises(InputError, match="A PackedStream gives rows"):
        StreamingMixture([PackedStream(parts[0], 10), parts[1]], [1, 1])
    for settings, sentence in [
        ({}, "neither weights nor"),
        ({"temperature": 2}, "neither weights nor"),
        ({"weights": [1]}, "2 data sets, but 1 weights"),
        ({"weights": [0, 0]}, "cannot be drawn"),
        ({"sizes": [1]}, "2 streams, but 1 sizes"),
        ({"weights": [1, 1], "exhausted": "repeat"}, "exhausted = 'repeat' is unknown"),
        ({"weights": [1, 1], "temperature": 2}, "weights and a temperature"),
    ]:
        with pytest.raises(InputError, match=sentence):
            StreamingMixture(parts, **settings)
