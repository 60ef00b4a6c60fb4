"""`snapshot FILE`: what it says of a snapshot, and that a hostile one runs nothing."""

import copy
import json
import os
import pickle

import pytest
from snapshots import FORWARD, MODEL, OPTIMIZER, Card

from labs.doctors.memory.snapshot import allocations
from labs.doctors.memory.snapshot import read as snapshot
from labs.errors import InputError

MIB = 2**20


@pytest.fixture
def save(tmp_path):
    def write(content, name="memory.pickle", protocol=pickle.HIGHEST_PROTOCOL):
        path = tmp_path / name
        path.write_bytes(pickle.dumps(content, protocol=protocol))
        return path

    return write


def training():
    """Weights 100 MiB, moments 200, activations up to 300, at the end 50 of them."""
    card = Card()
    big = card.segment(1024 * MIB)
    card.alloc(big, 100 * MIB, MODEL)
    card.alloc(big, 200 * MIB, OPTIMIZER)
    passing = [card.alloc(big, 50 * MIB, FORWARD) for _ in range(6)]
    for block in passing[1:]:
        card.free(block)
    return card


def test_the_levels_are_those_of_the_events():
    trace = allocations.Trace(training().snapshot(), 0)
    assert max(trace.levels) == 600 * MIB and trace.levels[-1] == 350 * MIB
    assert trace.levels[0] == 0
    live = trace.live_at(trace.peak())
    assert sum(size for size, _ in live) == 600 * MIB and len(live) == 8


def test_a_history_whose_beginning_was_lost_gives_the_same_levels():
    whole = training().snapshot()
    cut = copy.deepcopy(whole)
    cut["device_traces"][0] = cut["device_traces"][0][4:]
    full, part = (allocations.Trace(s, 0) for s in (whole, cut))
    assert part.levels == full.levels[4:]
    live = part.live_at(part.peak())
    assert sum(size for size, _ in live) == 600 * MIB, "also what was freed later, from before"


def test_the_peak_by_stack_and_category(save):
    (device,) = snapshot.analyse_file(save(training().snapshot()))
    assert device["moment"] == "the peak of the history" and device["live"] == 600 * MIB
    top = device["stacks"][0]
    assert (top["count"], top["bytes"]) == (6, 300 * MIB)
    assert top["stack"][1][:2] == ["/home/ada/model.py", 44]
    assert device["categories"] == {
        "activations": 300 * MIB, "optimizer": 200 * MIB, "weights": 100 * MIB,
    }  # fmt: skip
    pieces = device["fragmentation"]
    assert pieces["reserved"] == 1024 * MIB and pieces["in_use"] == 350 * MIB
    assert pieces["stranded"] == 674 * MIB and pieces["largest_free"] == (1024 - 600) * MIB


def test_true_need_names_the_fewest_places(save, doctor):
    card = training()
    card.oom(500 * MIB, 100 * MIB, FORWARD)
    # Nothing to be had between the blocks.
    card.segments[0]["total_size"] = 600 * MIB
    done = doctor("snapshot", save(card.snapshot()), "--json")
    assert done.code == 0
    (found,) = json.loads(done.out)["findings"]
    assert found["cause"] == "optimizer_states", "at the OOM most is the optimizer's"
    lines = [e["text"] for e in found["evidence"]]
    assert "500.00 MiB asked for with 100.00 MiB free" in lines[0]
    assert "model.py:44 in forward" in lines[1]
    # 400 MiB were missing: the moments and the weights and one activation hold 350 of them.
    assert lines[2].startswith("200.00 MiB in 1 at …/train.py:33")
    assert lines[-1].startswith("(these are 350.00 MiB of the 400.00 MiB")


def test_fragmentation_is_told_from_need(save, doctor):
    card = Card()
    for _ in range(10):
        segment = card.segment(20 * MIB)
        card.alloc(segment, 11 * MIB, FORWARD)
    card.oom(64 * MIB, 2 * MIB, FORWARD)
    done = doctor("snapshot", save(card.snapshot()), "--json", "--html", "out.html")
    (found,) = json.loads(done.out)["findings"]
    assert found["cause"] == "fragmentation"
    assert found["remedies"][0]["id"] == "expandable_segments"
    assert "90.00 MiB lie reserved and unused" in found["why"]
    assert any("largest free piece 9.00 MiB" in e["text"] for e in found["evidence"])
    page = (done.home.parent / "out.html").read_text()
    assert "<svg" in page and "train.py" in page and "/home/ada" not in page


@pytest.mark.parametrize("gib,code", [("0.5", 1), ("0.6", 0)])
def test_what_would_have_to_go_to_fit(save, doctor, gib, code):
    done = doctor("snapshot", save(training().snapshot()), "--fits", gib)
    assert done.code == code
    if code:
        assert "88.00 MiB have to go" in done.out, "600 - 512"
        assert "300.00 MiB in 6 at …/model.py:44 in forward" in done.out


def test_a_snapshot_without_history_says_what_is_missing(save, doctor):
    card = Card()
    segment = card.segment(64 * MIB, traced=False)
    card.alloc(segment, 40 * MIB, [], traced=False)
    done = doctor("snapshot", save(card.snapshot()))
    assert done.code == 0 and "they have no stacks" in done.out and "40.00 MiB" in done.out


def test_versions_before_two(save):
    """A list of segments, blocks without addresses, stacks under `history`."""
    content = training().snapshot()["segments"]
    for segment in content:
        for block in segment["blocks"]:
            history = {"addr": block.pop("address"), "real_size": block.pop("requested_size"),
                       "frames": block.pop("frames")}  # fmt: skip
            if block["state"] == "active_allocated":
                block["history"] = [history]
    (device,) = snapshot.analyse_file(save(content))
    assert device["live"] == 350 * MIB and device["moment"] == "the snapshot"
    assert device["stacks"][0]["stack"][-1][:2] == ["/home/ada/train.py", 33]


def test_two_devices(save):
    content = training().snapshot()
    other = copy.deepcopy(content["segments"])
    for segment in other:
        segment["device"] = 1
    content["segments"] += other
    content["device_traces"].append([])
    first, second = snapshot.analyse_file(save(content))
    assert (first["live"], second["live"]) == (600 * MIB, 350 * MIB)


class Shell:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


class Builds:
    def __reduce__(self):
        return (type("T", (), {}).__class__.__call__, (int,))


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("hidden", [False, True], ids=["bare", "in a good snapshot"])
def test_a_hostile_pickle_runs_nothing(save, tmp_path, protocol, hidden):
    mark = tmp_path / "ran"
    content = training().snapshot() | {"external_annotations": [Shell(mark)]}
    path = save(content if hidden else Shell(mark), protocol=protocol)
    with pytest.raises(InputError, match=r"import \w+\.system; nothing was run"):
        snapshot.analyse_file(path)
    assert not mark.exists()
    pickle.loads(path.read_bytes())
    assert mark.exists(), "the file is as hostile as it looks"


OPCODES = {
    "INST": b"(S'touch %s'\nios\nsystem\n.",
    "OBJ": b"(cos\nsystem\nS'touch %s'\no.",
    "GLOBAL": b"cos\nsystem\n(S'touch %s'\ntR.",
    "persistent": b"\x80\x02X\x01\x00\x00\x00aQ.",
    "extension": b"\x80\x02\x82\x01.",
}


@pytest.mark.parametrize("kind", OPCODES)
def test_other_ways_to_run_something(tmp_path, kind):
    mark, path = tmp_path / "ran", tmp_path / "memory.pickle"
    code = OPCODES[kind]
    path.write_bytes(code.replace(b"%s", str(mark).encode()))
    with pytest.raises(InputError):
        snapshot.analyse_file(path)
    assert not mark.exists()


def test_a_bomb_meets_the_memory_limit(tmp_path):
    path = tmp_path / "memory.pickle"
    # A list that doubles with each turn: 2 ** 40 entries of eight bytes, in a few hundred bytes.
    path.write_bytes(b"\x80\x04" + b"r" + (2**31 - 1).to_bytes(4, "little") + b".")
    with pytest.raises(InputError):
        snapshot.analyse_file(path)
    path.write_bytes(b"\x80\x04\x8e" + (2**40).to_bytes(8, "little") + b"abc")
    with pytest.raises(InputError, match=r"truncated or damaged|needs more than"):
        snapshot.analyse_file(path)


def test_a_large_one_needs_more_memory_than_given(save):
    card = Card()
    segment = card.segment(1024 * MIB)
    for i in range(40_000):
        card.alloc(segment, 512, [{"filename": f"f{i}.py", "line": i, "name": f"g{i}"}])
    path = save(card.snapshot())
    with pytest.raises(InputError, match=r"needs more than 64\.00 MiB"):
        snapshot.analyse_file(path, memory=64 * MIB)
    (device,) = snapshot.analyse_file(path)
    assert device["allocations"] == 40_000 and len(device["stacks"]) == 12


def test_truncated_everywhere(save):
    path = save(training().snapshot())
    whole = path.read_bytes()
    for part in (1, 2, 5, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:part])
        with pytest.raises(InputError, match="truncated or damaged"):
            snapshot.analyse_file(path)


@pytest.mark.parametrize(
    "content,said",
    [
        (b"", "is empty"),
        (b"PK\x03\x04rest", "is a zip file"),
        (b"\x1f\x8brest", "is compressed"),
        (b"hello, I am a log", "is not a pickle"),
        (pickle.dumps({"a": 1}), "not a memory snapshot of any PyTorch version"),
        (pickle.dumps([1, 2]), "not a memory snapshot of any PyTorch version"),
        (pickle.dumps({"segments": [3]}), "not a memory snapshot of any PyTorch version"),
        (pickle.dumps({"segments": [{"blocks": [3]}]}), "not a memory snapshot of any PyTorch"),
        (pickle.dumps({"segments": [], "device_traces": []}), "of no allocation at all"),
    ],
)
def test_what_is_no_snapshot(tmp_path, content, said):
    path = tmp_path / "memory.pickle"
    path.write_bytes(content)
    with pytest.raises(InputError, match=said):
        snapshot.analyse_file(path)


def test_what_is_not_there_or_too_large(tmp_path, doctor):
    huge = tmp_path / "huge.pickle"
    with huge.open("wb") as file:
        file.write(pickle.dumps({"segments": []}))
        file.truncate(2 * 2**30)  # sparse: two gigabytes that take no room
    for path, said in ((tmp_path / "none", "There is no file"), (tmp_path, "is not a file"),
                       (huge, "2.00 GiB, above the 512.00 MiB that are read")):  # fmt: skip
        done = doctor("snapshot", path)
        assert done.code == 2 and said in done.err and len(done.err.splitlines()) == 2
