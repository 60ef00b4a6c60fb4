"""The frame of all benches: turns, order, medians, memory, and children that fail."""

import itertools
import json
import os
import time

import psutil
import pytest

from labs.bench.children import (
    Child,
    ChildFailed,
    interleave,
    medians,
    order,
    ratio,
    spread,
)

WORKERS = "tests.bench.workers"


def rounds_of(**columns):
    return [
        {way: {"x": value} for way, value in zip(columns, values, strict=True)}
        for values in zip(*columns.values(), strict=True)
    ]


def test_medians_and_ratios_are_taken_within_rounds():
    # The third round met a busy machine: both ways took ten times as long.
    rounds = rounds_of(ours=[1.0, 2.0, 10.0, 1.0], theirs=[2.0, 5.0, 20.0, 2.0])
    assert medians(rounds, "x") == {"ours": 1.5, "theirs": 3.5}
    assert ratio(rounds, "x", "theirs", "ours") == 2.0  # not 3.5 / 1.5
    assert ratio(rounds, "x", "ours", "theirs") == 0.5
    assert spread(rounds, "x", "theirs", "ours") == (2.0, 2.125)
    assert spread(rounds[:1], "x", "theirs", "ours") == (2.0, 2.0)


def test_each_round_another_way_begins():
    assert [order("abc", i) for i in range(4)] == [
        tuple("abc"),
        tuple("bca"),
        tuple("cab"),
        tuple("abc"),
    ]


def test_children_take_turns_and_never_work_at_once(tmp_path):
    log, said = tmp_path / "log", []
    setups, rounds = interleave(
        WORKERS, ["a", "b"], {"log": str(log)}, turns=3, first=1, name="test", progress=said.append
    )
    work = [json.loads(line) for line in log.read_text().splitlines()]
    assert [way for way, _, _ in work] == ["b", "a", "a", "b", "b", "a"]
    assert all(ends <= starts for (_, _, ends), (_, starts, _) in itertools.pairwise(work))
    assert len(rounds) == 3 and all(r.keys() == {"a", "b"} for r in rounds)
    assert rounds[0]["a"]["threads"] == "1"
    assert rounds[0]["a"]["niceness"] == os.nice(0)
    assert setups["a"]["pid"] != setups["b"]["pid"]
    assert said[-1] == "test: round 3 of 3, a"
    for setup in setups.values():
        assert not psutil.pid_exists(setup["pid"])


def test_peak_memory_is_what_the_child_allocated():
    _, [measured] = interleave(WORKERS, ["allocate", "free"], {"megabytes": 200})
    # 300 MB had been held and freed before the level was taken: they do not count.
    assert measured["allocate"]["peak_mb"] == pytest.approx(200, rel=0.1)
    assert measured["free"]["peak_mb"] < 10


def test_what_a_library_prints_does_not_disturb():
    assert interleave(WORKERS, ["chatter"])[1] == [{"chatter": {"value": 1}}]


def test_a_child_that_raises_is_named_with_its_last_words():
    with pytest.raises(
        ChildFailed, match=r"`raise` ended with exit code 1:(?s:.*)the model has no head"
    ):
        interleave(WORKERS, ["raise"])


def test_a_child_that_is_killed_is_told_from_one_that_fails():
    with pytest.raises(ChildFailed, match="`killed` was killed by signal 9"):
        interleave(WORKERS, ["killed"])


def test_a_child_that_ends_early_is_an_error():
    with pytest.raises(ChildFailed, match="`one turn only` ended with exit code 0"):
        interleave(WORKERS, ["one turn only"], turns=2)


def test_no_child_outlives_a_failure(tmp_path):
    with Child(WORKERS, "a", {"log": str(tmp_path / "log")}) as child:
        pid = child.read()["pid"]
        assert psutil.pid_exists(pid)
    deadline = time.monotonic() + 10
    while psutil.pid_exists(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not psutil.pid_exists(pid)
