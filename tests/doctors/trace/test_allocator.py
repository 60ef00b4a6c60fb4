"""The model of the caching allocator: its promises under any program, and PyTorch's documented sizes."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labs.doctors.memory.cuda.allocator import (
    KIB,
    MIB,
    CachingAllocator,
    DeviceFull,
    round_size,
    segment_size,
)
from labs.doctors.memory.cuda.playback import play
from labs.doctors.memory.trace.record import Event

sizes = st.one_of(
    st.integers(1, 4 * KIB), st.integers(4 * KIB, 2 * MIB), st.integers(2 * MIB, 90 * MIB)
)
# A program: positive = allocate so many bytes, otherwise free one of the live blocks by its place.
programs = st.lists(st.one_of(sizes, st.integers(-50, 0)), max_size=70)


def run(program, allocator, check=lambda: None):
    live = []
    for step in program:
        if step > 0:
            try:
                live.append((allocator.malloc(step), step))
            except DeviceFull:
                continue
        elif live:
            allocator.free(live.pop(step % len(live))[0])
        check()
    return live


@pytest.mark.parametrize("expandable", [False, True])
@pytest.mark.parametrize("capacity", [None, 120 * MIB])
@given(program=programs)
@settings(max_examples=60, deadline=None)
def test_promises_hold_after_every_step(program, expandable, capacity):
    allocator = CachingAllocator(capacity, expandable)

    def check():
        blocks = allocator.blocks()
        for one, other in pairwise(blocks):
            assert one.address + one.size <= other.address, "two blocks overlap"
        assert allocator.requested <= allocator.allocated <= allocator.reserved
        assert sum(block.size for block in blocks) == allocator.reserved
        assert sum(block.size for block in blocks if block.used) == allocator.allocated
        free = [block for pool in allocator._pools for block in pool.free]
        assert sorted(map(id, free)) == sorted(id(block) for block in blocks if not block.used)
        for block in blocks:
            if block.next is not None:
                assert block.next.previous is block
                assert block.address + block.size == block.next.address
                assert block.used or block.next.used, "free neighbours were not merged"
        if capacity is not None:
            assert allocator.reserved <= capacity

    live = run(program, allocator, check)
    for block, size in live:
        assert block.size >= size
        allocator.free(block)
    assert allocator.allocated == allocator.requested == 0
    allocator.release_cached()
    assert allocator.reserved == 0 and allocator.blocks() == []


@given(program=programs)
@settings(max_examples=80, deadline=None)
def test_expandable_segments_hold_at_most_a_granule_more_of_each_pool(program):
    """They take new memory only for what the free end cannot hold, so they never fragment more."""
    fixed, grown = CachingAllocator(), CachingAllocator(expandable=True)
    run(program, fixed)
    run(program, grown)
    assert grown.allocated <= fixed.allocated
    # A granule for each pool, and what large blocks round to: 20 MiB against 2 MiB.
    assert grown.peak_reserved <= fixed.peak_reserved + 22 * MIB + _holes(program)


def _holes(program) -> int:
    """Best fit may place blocks differently; no more than the largest request can come of it."""
    return 2 * max((step for step in program if step > 0), default=0)


@pytest.mark.parametrize(
    ("asked", "taken", "segment"),
    [
        (1, 512, 2 * MIB),
        (513, 1024, 2 * MIB),
        (MIB, MIB, 2 * MIB),
        (MIB + 1, MIB + 512, 20 * MIB),
        (10 * MIB - 512, 10 * MIB - 512, 20 * MIB),
        (10 * MIB, 10 * MIB, 10 * MIB),
        (11 * MIB, 11 * MIB, 12 * MIB),
        (100 * MIB + 1, 100 * MIB + 512, 102 * MIB),
    ],
)
def test_sizes_are_those_of_the_documentation(asked, taken, segment):
    assert round_size(asked) == taken
    assert segment_size(taken) == segment


def test_a_freed_block_is_reused_before_the_device_is_asked():
    allocator = CachingAllocator()
    first = allocator.malloc(30 * MIB)
    allocator.free(first)
    second = allocator.malloc(25 * MIB)
    assert allocator.reserved == 30 * MIB
    assert second.address == first.address


def test_a_splinter_of_a_megabyte_stays_with_its_block():
    allocator = CachingAllocator()
    allocator.free(allocator.malloc(20 * MIB))
    block = allocator.malloc(19 * MIB)
    assert block.size == 20 * MIB, "1 MiB left over is not split off"
    allocator.free(block)
    assert allocator.malloc(19 * MIB - 512).size == 19 * MIB - 512


def test_cached_segments_are_given_back_before_the_device_is_full():
    allocator = CachingAllocator(capacity=100 * MIB)
    small = [allocator.malloc(30 * MIB) for _ in range(3)]
    for block in small:
        allocator.free(block)
    allocator.malloc(60 * MIB)
    assert allocator.given_back == 1
    assert allocator.reserved == 60 * MIB


def test_fragmentation_that_expandable_segments_avoid():
    """40 MiB blocks freed between live ones: 120 MiB are free, and no 60 MiB in one piece."""
    program = [100 * MIB, *[40 * MIB] * 5]

    def with_holes(expandable):
        allocator = CachingAllocator(capacity=300 * MIB, expandable=expandable)
        blocks = [allocator.malloc(size) for size in program]
        for block in blocks[1::2]:
            allocator.free(block)
        return allocator

    fixed = with_holes(False)
    fixed.malloc(60 * MIB)  # wholly free segments go back
    assert fixed.given_back == 1
    pinned = CachingAllocator(capacity=200 * MIB)
    one = pinned.malloc(150 * MIB)
    pinned.free(one)
    pinned.malloc(100 * MIB)  # splits the 150 MiB segment, whose rest cannot go back
    with pytest.raises(DeviceFull) as full:
        pinned.malloc(60 * MIB)
    assert full.value.bytes == 60 * MIB
    grown = CachingAllocator(capacity=200 * MIB, expandable=True)
    grown.free(grown.malloc(150 * MIB))
    grown.malloc(100 * MIB)
    grown.malloc(60 * MIB)
    assert grown.reserved <= 200 * MIB


def test_a_block_cannot_be_freed_twice():
    allocator = CachingAllocator()
    block = allocator.malloc(1)
    allocator.free(block)
    with pytest.raises(ValueError, match="free already"):
        allocator.free(block)


def _event(kind, size, number, place="device"):
    return Event(kind, size, number, "activations", "", "forward", "op", place)


def test_playing_events_gives_the_line_and_the_event_that_failed():
    events = [
        _event("alloc", 30 * MIB, 1),
        _event("alloc", 500 * MIB, 2, "host"),
        _event("alloc", 30 * MIB, 3),
        _event("free", 30 * MIB, 1),
        _event("alloc", 35 * MIB, 4),
    ]
    easy = play(events)  # 35 MiB take a segment of 36, of which 1 MiB is too little to split off
    assert [moment.allocated // MIB for moment in easy.line] == [30, 30, 60, 30, 66]
    assert easy.failed_at is None
    assert easy.peak_reserved == 96 * MIB and easy.fragmentation == 30 * MIB
    tight = play(events, capacity=66 * MIB)
    assert tight.failed_at is None and tight.given_back == 1
    assert play(events, capacity=60 * MIB).failed_at == 4
