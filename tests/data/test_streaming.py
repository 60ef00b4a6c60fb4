"""Streams: every sample once, and interrupted then resumed equals uninterrupted, even after kill -9."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from labs.data import (
    ConversationDataset,
    PackedStream,
    Skip,
    Skips,
    StreamingDataset,
    StreamingLoader,
    StreamingMixture,
    stream_conversations,
)
from labs.data.stream import Share
from labs.data.streaming import shuffled
from labs.errors import InputError
from labs.formats import Conversation, write_llava
from labs.formats.webdataset import write_shards
from labs.train.loading import batches
from labs.train.sampler import StepSampler
from tests.data.conftest import get_processor, picture, talk
from tests.data.stream_helpers import (
    all_lists,
    consumers,
    lines,
    loader_of,
    number,
    shards,
)


def values(pairs):
    return [value for _, value in pairs]


def flat(batches):
    return [sample for batch in batches for sample in batch]


# Shares.

sizes = st.lists(st.integers(1, 9), min_size=1, max_size=6)
splits = st.sampled_from(["auto", "shards", "samples"])


@given(sizes, st.integers(1, 3), st.integers(1, 3), splits, st.sampled_from([0, 1, 4, 50]))
def test_every_sample_once_an_epoch(tmp_path_factory, sizes, ranks, workers, split, buffer):
    paths = lines(tmp_path_factory.mktemp("lines"), sizes)
    total = sum(sizes)
    stream = StreamingDataset(paths, number, buffer=buffer, split=split)
    for epoch in (0, 1):
        given = consumers(stream, ranks, workers, epoch)
        assert sorted(v for pairs in given.values() for v in values(pairs)) == list(range(total))
        by_rank = [
            sum(len(given[rank, worker]) for worker in range(workers)) for rank in range(ranks)
        ]
        if split == "samples" or (split == "auto" and len(paths) < ranks * workers):
            assert max(by_rank) - min(by_rank) <= 1  # ranks stay in step
        elif len(paths) >= ranks * workers:
            together = [set(range(sum(sizes[:i]), sum(sizes[: i + 1]))) for i in range(len(sizes))]
            for pairs in given.values():  # whole files
                mine = set(values(pairs))
                assert all(part <= mine or part.isdisjoint(mine) for part in together)


def test_order_is_of_the_seed_and_the_epoch(tmp_path):
    paths = lines(tmp_path, [30] * 5)

    def order(epoch, **settings):
        stream = StreamingDataset(paths, number, **{"buffer": 40, **settings})
        stream.set_epoch(epoch)
        return list(stream)

    first = order(0)
    assert sorted(first) == list(range(150)) and first != list(range(150))
    assert first == order(0)
    assert len({tuple(first), tuple(order(1)), tuple(order(0, seed=1))}) == 3
    assert order(3, buffer=0) == list(range(150))
    # A buffer of one moves nothing within a file, but the files come in another order each epoch.
    files = [tuple(i // 30 for i in order(epoch, buffer=1)[::30]) for epoch in range(4)]
    assert order(0, buffer=1)[:30] == list(range(30 * files[0][0], 30 * files[0][0] + 30))
    assert len(set(files)) > 2 and all(sorted(f) == [0, 1, 2, 3, 4] for f in files)


@given(st.integers(0, 200), st.integers(0, 60), st.integers(0, 5))
def test_the_shuffle_buffer_holds_as_many_as_it_says(count, size, seed):
    import random

    read = []
    source = (read.append(i) or i for i in range(count))
    out = []
    for item in shuffled(source, size, random.Random(seed)):
        out.append(item)
        assert len(read) - len(out) <= size
        assert item in read
    assert sorted(out) == list(range(count))
    if size == 0:
        assert out == list(range(count))


def test_a_large_buffer_shuffles_well():
    import random

    orders = [list(shuffled(range(50), 50, random.Random(seed))) for seed in range(200)]
    # Where item 0 ends up is uniform: mean 24.5, standard error about 1.
    assert 20 < sum(order.index(0) for order in orders) / 200 < 29


# Kinds of sources.


def test_sources_give_the_same(tmp_path):
    [path] = lines(tmp_path, [25])
    (tmp_path / "list.json").write_text(json.dumps([{"i": i} for i in range(25)], indent=1))
    (tmp_path / "tars").mkdir()
    tars = shards(tmp_path / "tars", 25, 10)
    sources = [
        path, str(path), [path], tmp_path / "list.json", tmp_path / "tars", tars,
        str(tmp_path / "tars" / "s-{0000..0002}.tar"), [{"i": i} for i in range(25)],
        lambda: ({"i": i} for i in range(25)), tuple({"i": i} for i in range(25)),
    ]  # fmt: skip
    for source in sources:
        stream = StreamingDataset(source, number, buffer=0)
        assert list(stream) == list(stream) == list(range(25))
        assert sorted(StreamingDataset(source, number, seed=1)) == list(range(25))


def test_without_decode_it_gives_what_the_source_holds(tmp_path):
    [path] = shards(tmp_path, 2, 10)
    first, _ = StreamingDataset(path, buffer=0)
    assert first == {"__key__": "000000", "__url__": str(path), "json": b'{"i": 0}'}


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (iter([1]), "only once"),
        ((i for i in range(3)), "only once"),
        (3, "cannot be made of a int"),
        ("data.parquet", "neither a shard nor a JSON file"),
        (["a.tar", "b.json"], "cannot be one stream"),
        ("https://host/a.tar", "not files of this machine"),
        ("gone.jsonl", "does not exist"),
        ("gone-{0..3}.tar", "4 of 4 shards are not there"),
    ],
)
def test_sources_that_are_none(source, sentence):
    with pytest.raises(InputError, match=sentence):
        StreamingDataset(source)


def test_bad_settings():
    for settings_, sentence in [
        ({"split": "files"}, "split = 'files' is unknown"),
        ({"buffer": -1}, "A buffer of -1"),
        ({"rank": 2, "ranks": 2}, "no rank 2 of 2"),
    ]:
        with pytest.raises(InputError, match=sentence):
            StreamingDataset([1], **settings_)
    stream = StreamingDataset([1])
    for settings_, sentence in [
        ({"batch_size": 0}, "A batch of 0"),
        ({"shuffle": True}, "`shuffle` cannot be given"),
        ({"in_order": False}, "`in_order` cannot be given"),
    ]:
        with pytest.raises(InputError, match=sentence):
            StreamingLoader(stream, **settings_)


# Samples that cannot be used.


def odd_only(value):
    if value == 4:
        raise InputError("Four is no number.", "Take another.")
    if value % 2 == 0:
        raise Skip("broken_image", f"{value} is even")
    return value


@pytest.mark.parametrize("workers", [0, 2])
def test_skips_are_counted_by_reason_over_workers(workers):
    stream = StreamingDataset(range(10), odd_only, buffer=0, skips=Skips(allow=True))
    loader = StreamingLoader(stream, 2, all_lists, num_workers=workers)
    assert sorted(flat(loader)) == [1, 3, 5, 7, 9]
    assert stream.skips.counts == {"broken_image": 4, "broken_record": 1}
    assert stream.skips.total == 10
    assert stream.example("broken_record") == "Four is no number."
    assert stream.example("broken_image") == "0 is even" and stream.example("overlong") == ""


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_skips_stop_the_run_with_an_example(tmp_path, workers):
    path = tmp_path / "a.jsonl"
    rows = [
        f'{{"i": {i}}}' if i != 150 and i != 151 and i < 198 else '{"i": 问' for i in range(300)
    ]
    path.write_text("\n".join(rows))
    stream = StreamingDataset(path, number, buffer=0)
    loader = StreamingLoader(stream, 5, all_lists, num_workers=workers)
    with pytest.raises(
        InputError, match=r"the limit is 1 %. For example: .*a\.jsonl, line 1\d\d: bad"
    ):
        list(loader)
    assert 2 <= stream.skips.counts["broken_record"] < 20  # it did not wait for the end


def test_one_bad_line_of_many_is_left_out(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"i": 0}\n\n{"i": \xff}\n' + b"".join(b'{"i": 1}\n' for _ in range(150)))
    stream = StreamingDataset(path, number, buffer=0)
    assert list(stream) == [0] + [1] * 150
    assert stream.skips.counts == {"broken_record": 1}
    assert "line 3: bad JSON" in stream.example("broken_record")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_hostile_sample_is_skipped_and_a_damaged_shard_stops(tmp_path, workers):
    tars = shards(tmp_path, 40, 20)
    data = bytearray(tars[0].read_bytes())
    data[156] = ord("Z")  # the first member becomes something else than a file
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    tars[0].write_bytes(data)
    stream = StreamingDataset(tars, number, skips=Skips(allow=True))
    found = flat(StreamingLoader(stream, 4, all_lists, num_workers=workers))
    assert sorted(found) == list(range(1, 40))
    assert stream.skips.counts == {"broken_record": 1}
    assert "neither a file nor a folder" in stream.example("broken_record")
    tars[1].write_bytes(tars[1].read_bytes()[:3000])
    with pytest.raises(InputError, match=r"s-0001\.tar is cut off"):
        list(StreamingLoader(stream, 4, all_lists, num_workers=workers))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_epoch_of_nothing_says_so(workers):
    loader = StreamingLoader(StreamingDataset([2, 4], odd_only), num_workers=workers)
    with pytest.raises(InputError, match=r"Skipped 2 of 2"):
        list(loader)
    with pytest.raises(InputError, match="Rank 0 was given no batch"):
        list(StreamingLoader(StreamingDataset([]), num_workers=workers))


# Where it stands, in one process.


def streams(folder):
    """One of each kind, small."""
    paths = lines(folder, [13, 5, 8])
    (folder / "tars").mkdir()
    tars = shards(folder / "tars", 21, 4)
    yield StreamingDataset(paths, number, buffer=6, seed=2)
    yield StreamingDataset(paths, number, buffer=6, seed=2, split="samples")
    yield StreamingDataset(tars, number, buffer=5)
    yield StreamingDataset(range(17), odd_only, buffer=0, skips=Skips(allow=True))
    parts = [StreamingDataset(paths, number, buffer=4), StreamingDataset(tars, number, buffer=3)]
    for exhausted in ("restart", "stop", "drop"):
        yield StreamingMixture(parts, [0.7, 0.3], exhausted=exhausted, seed=4)


@pytest.fixture(scope="module")
def each_stream(tmp_path_factory):
    return list(streams(tmp_path_factory.mktemp("streams")))


@given(st.data())
def test_interrupted_and_resumed_is_uninterrupted(each_stream, data):
    stream = data.draw(st.sampled_from(each_stream))
    ranks, workers = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 3))
    epoch = data.draw(st.integers(0, 2))
    index = data.draw(st.integers(0, ranks * workers - 1))
    share = Share(index, ranks * workers)
    whole = list(stream.walk(epoch, share, None))
    if not whole:
        return
    at = data.draw(st.integers(0, len(whole) - 1))
    state = json.loads(json.dumps(whole[at][0]))
    assert list(stream.walk(epoch, share, state)) == whole[at + 1 :]


def test_the_state_of_a_process_is_about_what_was_handed_out(each_stream):
    for stream in each_stream:
        stream.set_epoch(1)
        whole = list(stream)
        iterator = iter(stream)
        begun = [next(iterator) for _ in range(4)]
        state = json.loads(json.dumps(stream.state_dict()))
        iterator.close()
        stream.set_epoch(0)
        assert list(stream) != whole or getattr(stream, "buffer", 1) == 0
        stream.load_state_dict(state)
        stream.set_epoch(1)
        assert stream.state_dict()["states"] == [None]  # an epoch begins at its beginning
        stream.load_state_dict(state)
        assert stream.state_dict() == state  # nothing was handed out since
        assert begun + list(stream) == whole
        assert list(stream) == whole  # the next pass begins at the beginning
        stream.set_epoch(1)
        assert list(stream) == whole


def test_passing_over_reads_no_bytes_but_those_still_held(tmp_path, monkeypatch):
    tars = shards(tmp_path, 200, 50)
    stream = StreamingDataset(tars, number, buffer=10)
    whole = list(stream.walk(0, Share(0, 1), None))
    import labs.formats.webdataset as module

    read = []
    really = module.read_member
    monkeypatch.setattr(module, "read_member", lambda *a: read.append(a[1].name) or really(*a))
    rest = list(stream.walk(0, Share(0, 1), whole[149][0]))
    assert rest == whole[150:]
    assert len(read) == len(rest) == 50


def test_striding_reads_only_its_own(tmp_path, monkeypatch):
    tars = shards(tmp_path, 60, 30)
    import labs.formats.webdataset as module

    read = []
    really = module.read_member
    monkeypatch.setattr(module, "read_member", lambda *a: read.append(a[1].name) or really(*a))
    stream = StreamingDataset(tars, number, buffer=4, split="samples")
    assert len(list(stream.walk(0, Share(1, 4), None))) == 15 == len(read)


# Through loaders.


@settings(max_examples=12)
@given(st.data())
def test_a_loader_resumes_what_workers_would_have_given(tmp_path_factory, data):
    paths = lines(
        tmp_path_factory.mktemp("l"), data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    )
    workers, batch = data.draw(st.integers(0, 2)), data.draw(st.integers(1, 4))
    ranks = data.draw(st.integers(1, 2))
    drop = data.draw(st.booleans())

    def make():
        stream = StreamingDataset(paths, number, buffer=3, seed=1, rank=ranks - 1, ranks=ranks)
        return StreamingLoader(
            stream, batch, all_lists, num_workers=workers, drop_last=drop
        ), stream

    loader, stream = make()
    # By hand: each worker's batches, and of those the first ones of all workers, then the second, ….
    each = {
        worker: values(pairs)
        for (rank, worker), pairs in consumers(stream, ranks, max(workers, 1)).items()
        if rank == ranks - 1
    }
    each = {w: [v[i : i + batch] for i in range(0, len(v), batch)] for w, v in each.items()}
    if drop:
        each = {w: [b for b in v if len(b) == batch] for w, v in each.items()}
    expected = [
        part[k]
        for k in range(max(map(len, each.values())))
        for part in each.values()
        if k < len(part)
    ]
    if not expected:
        with pytest.raises(InputError):
            list(loader)
        return
    assert list(loader) == expected
    at = data.draw(st.integers(1, len(expected)))
    loader, _ = make()
    begun, state = [], None
    for got in loader:
        begun.append(got)
        if len(begun) == at:
            state = json.loads(json.dumps(loader.state_dict()))
            break
    again, stream = make()
    again.load_state_dict(state)
    assert begun + list(again) == expected
    assert again.epoch == stream.epoch == 1


def test_the_state_is_of_what_the_loop_consumed_not_of_what_workers_prepared(tmp_path):
    lines(tmp_path, [30, 30])
    loader = loader_of(tmp_path, workers=2, prefetch_factor=5)
    iterator = iter(loader)
    next(iterator)
    time.sleep(0.3)  # the workers fill their queues
    state = loader.state_dict()
    assert state["turn"] == 1 and state["states"] == [{"position": 3}, None]
    assert state["signature"]["workers"] == 2 and state["signature"]["batch_size"] == 3
    torch.save(state, tmp_path / "state.pt")
    assert torch.load(tmp_path / "state.pt", weights_only=True) == state


def test_each_pass_is_another_epoch_and_a_left_one_begins_anew(tmp_path):
    lines(tmp_path, [20, 20])
    for options in ({}, {"persistent_workers": True}):
        loader = loader_of(tmp_path, workers=2, **options)
        first, second = list(loader), list(loader)
        assert loader.epoch == 2 and first != second
        assert sorted(flat(first)) == sorted(flat(second)) == list(range(40))
        for _ in loader:
            break
        assert loader.epoch == 2
        third = list(loader)
        assert loader.epoch == 3 and third not in (first, second)
        loader.set_epoch(1)
        assert list(loader) == second
        # A state puts persistent workers elsewhere too.
        iterator = iter(loader)
        begun = [next(iterator) for _ in range(5)]
        assert begun == third[:5]
        state = loader.state_dict()
        loader.set_epoch(0)
        assert list(loader) == first
        loader.load_state_dict(state)
        assert list(loader) == third[5:]
        loader.set_epoch(2)
        assert list(loader) == third


@pytest.mark.parametrize("context", ["spawn"])
def test_workers_that_inherit_nothing(tmp_path, context):
    lines(tmp_path, [9, 9])
    expected = list(loader_of(tmp_path, workers=1))
    loader = loader_of(tmp_path, workers=1, multiprocessing_context=context)
    loader.load_state_dict(_state_after(loader_of(tmp_path, workers=1), 2))
    assert list(loader) == expected[2:]
    assert loader.stream.skips.total == 18 - 6


def _state_after(loader, count):
    for n, _ in enumerate(loader, 1):
        if n == count:
            return loader.state_dict()
    raise AssertionError("too few batches")


def test_a_thread_in_place_of_workers(tmp_path):
    lines(tmp_path, [9, 9])
    expected = list(loader_of(tmp_path, workers=0))
    ahead = loader_of(tmp_path, workers=0, prefetch_factor=3)
    state = _state_after(ahead, 2)
    assert state["states"] == [{"position": 6}]  # though three more were prepared
    ahead.load_state_dict(state)
    assert list(ahead) == expected[2:]


def test_states_that_do_not_fit_say_what_differs(tmp_path):
    lines(tmp_path, [9, 9])
    state = _state_after(loader_of(tmp_path, workers=2), 1)
    with pytest.raises(InputError, match="workers = 2, but here workers is 1"):
        loader_of(tmp_path, workers=1).load_state_dict(state)
    paths = sorted(tmp_path.glob("*.jsonl"))

    def made(batch=3, **options):
        stream = StreamingDataset(paths, number, **{"buffer": 7, "seed": 3, **options})
        return StreamingLoader(stream, batch, all_lists, num_workers=2)

    made().load_state_dict(state)
    for loader, key in [
        (made(seed=4), "seed"), (made(buffer=8), "buffer"), (made(batch=2), "batch_size"),
        (made(rank=1, ranks=2), "rank"), (made(split="samples"), "split"),
    ]:  # fmt: skip
        with pytest.raises(InputError, match=f"a stream with {key} = "):
            loader.load_state_dict(state)
    for wrong in ({}, {"signature": 3}, None):
        with pytest.raises(InputError, match="no state of a stream"):
            made().load_state_dict(wrong)
    paths[0].write_text('{"i": 0}\n')  # the data is not what it was
    paths[1].write_text('{"i": 0}\n')
    loader = made()
    loader.load_state_dict(state)
    with pytest.raises(InputError, match="its data ends at 1"):
        list(loader)


def test_a_plain_dataloader_works_but_cannot_say_where_it_is(tmp_path):
    stream = StreamingDataset(lines(tmp_path, [9, 9]), number)
    assert sorted(DataLoader(stream, batch_size=None, num_workers=2)) == list(range(18))
    with pytest.raises(InputError, match="only they know where they are"):
        stream.state_dict()


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_in_the_middle_of_an_epoch(tmp_path, workers):
    lines(tmp_path, [40, 30, 50])
    expected = list(loader_of(tmp_path, workers))
    command = [sys.executable, "-m", "tests.data.stream_helpers", str(tmp_path), str(workers)]
    child = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": os.getcwd()})
    log = tmp_path / "log.json"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if log.exists() and len(json.loads(log.read_text())["seen"]) >= 9:
            break
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    content = json.loads(log.read_text())
    assert 9 <= len(content["seen"]) < len(expected)
    loader = loader_of(tmp_path, workers)
    loader.load_state_dict(content["state"])
    assert content["seen"] + list(loader) == expected


class Numbers:
    """Map-style."""

    def __len__(self):
        return 50

    def __getitem__(self, index):
        return index


@pytest.mark.parametrize("workers", [0, 2])
def test_map_style_resumes_by_its_sampler(workers):
    sampler = StepSampler(50, 4, seed=1, lengths=[1 + i % 9 for i in range(50)])
    whole = list(batches(Numbers(), all_lists, sampler.epoch(2), workers))
    rest = list(batches(Numbers(), all_lists, sampler.epoch(2, start=5), workers))
    assert sorted(i for step in whole for batch in step for i in batch) == list(range(50))
    assert rest == whole[5:]


# Conversations.


@pytest.fixture(scope="module")
def conversations():
    return [
        talk("Is there a ring?", "yes", images=1, id="a"),
        talk("没有图片。", "是的。", id="b"),
        talk("Two pictures.", "compared", images=2, id="c"),
    ]


def same(one, other):
    assert set(one) == set(other)
    for key in one:
        assert torch.equal(torch.as_tensor(one[key]), torch.as_tensor(other[key])), key


def test_conversations_of_files_and_of_shards_are_those_of_the_map_style(tmp_path, conversations):
    processor = get_processor("chatml")
    expected = list(ConversationDataset(conversations, processor))
    write_llava(conversations, tmp_path / "data.jsonl")
    write_llava(conversations, tmp_path / "data.json")

    def png(image):
        path = tmp_path / "x.png"
        image.save(path)
        return path.read_bytes()

    records = [json.loads(line) for line in (tmp_path / "data.jsonl").read_text().splitlines()]
    samples = [
        {
            "__key__": f"{i:03d}",
            "json": record,
            **{f"{at}.png" if at else "png": png(image) for at, image in enumerate(c.images)},
        }
        for i, (record, c) in enumerate(zip(records, conversations, strict=True))
    ]
    write_shards(samples, tmp_path / "s-%d.tar")
    for source in (
        tmp_path / "data.jsonl",
        tmp_path / "data.json",
        tmp_path / "s-0.tar",
        conversations,
    ):
        found = list(stream_conversations(source, processor, buffer=0))
        assert len(found) == 3, source
        for one, other in zip(found, expected, strict=True):
            same(one, other)


def test_captions_and_what_is_wrong_with_a_sample(tmp_path):
    processor = get_processor("chatml")
    picture(1).save(tmp_path / "p.png")
    data = (tmp_path / "p.png").read_bytes()
    samples = [
        {"__key__": "caption", "png": data, "txt": " a red ring\n"},
        {"__key__": "nothing", "png": data},
        {"__key__": "broken", "png": data[:60], "txt": "a"},
        {"__key__": "two", "0.png": data, "1.png": data, "txt": "a"},
        {"__key__": "list", "json": [1]},
    ]
    write_shards(samples, tmp_path / "s-%d.tar")
    stream = stream_conversations(
        tmp_path / "s-0.tar", processor, buffer=0, skips=Skips(allow=True)
    )
    [found] = stream
    pair = Conversation("caption", (picture(1),), talk("<image>", "a red ring").turns)
    same(found, ConversationDataset([pair], processor)[0])
    assert stream.skips.counts == {"broken_image": 1, "broken_record": 3}


def test_paths_of_records_stay_in_their_folder(tmp_path):
    processor = get_processor("chatml")
    (tmp_path / "in").mkdir()
    picture(1).save(tmp_path / "secret.png")
    record = {"id": "x", "image": "../secret.png", "conversations": ["<image>\nq", "a"]}
    (tmp_path / "in" / "a.jsonl").write_text(json.dumps(record) + "\n")
    stream = stream_conversations(tmp_path / "in" / "a.jsonl", processor, skips=Skips(allow=True))
    assert list(stream) == [] and "leaves the data folder" in stream.example("broken_record")
    stream = stream_conversations([record], processor, skips=Skips(allow=True))
    assert list(stream) == [] and "it is not said where" in stream.example("broken_record")
    allowed = stream_conversations([record], processor, image_root=tmp_path / "in" / "..")
    assert list(allowed) == [] and "leaves" in allowed.example("broken_record")


def test_a_packed_stream_of_conversations_resumes(tmp_path, conversations):
    processor = get_processor("chatml")
    many = [talk("q " * (1 + i % 7), "a ring " * (1 + i * i % 11), id=str(i)) for i in range(30)]

    def make():
        stream = stream_conversations([*many, *conversations], processor, buffer=8, seed=1)
        return StreamingLoader(PackedStream(stream, 130, buffer=6), 1, all_lists, num_workers=2)

    whole = [row for [row] in make()]
    assert sum(len(row["lengths"]) for row in whole) == 33
    loader = make()
    state = json.loads(json.dumps(_state_after(loader, 3)))
    assert any(part["held"] for part in state["states"] if part)
    loader.load_state_dict(state)
    rest = [row for [row] in loader]
    assert len(rest) == len(whole) - 3
    for one, other in zip(rest, whole[3:], strict=True):
        same(one, other)
