"""A model of PyTorch's CUDA caching allocator: from what a program asks for to what the GPU gives.

Follows c10/cuda/CUDACachingAllocator.cpp with its defaults:

- sizes are rounded up to 512 bytes;
- up to 1 MiB comes from the small pool, in segments of 2 MiB; the rest from the large pool, in
  segments of 20 MiB for less than 10 MiB, and of its own size rounded up to 2 MiB above;
- the smallest free block that fits is taken, the lowest address among equals, and split where at
  least 512 bytes (small pool) or more than 1 MiB (large pool) are left over;
- a freed block merges with its free neighbours and stays reserved;
- where the device has no room for a new segment, segments that are wholly free are given back and
  the request is tried again, once; then it is out of memory;
- expandable segments: one growing range of addresses a pool, mapped 2 MiB or 20 MiB at a time, so
  that a request may use the free end of what is mapped and map only the rest.

One stream; no memory pools, no CUDA graphs. Sizes and addresses in bytes. Standard library only.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass, field

KIB, MIB = 1 << 10, 1 << 20
SMALLEST_BLOCK = 512
SMALL_REQUEST = MIB  # at most this comes from the small pool
SMALL_SEGMENT, LARGE_SEGMENT = 2 * MIB, 20 * MIB
OWN_SEGMENT = 10 * MIB  # from here on a request gets a segment of its own size
ROUND_LARGE = 2 * MIB
_RANGE = 1 << 46  # of addresses for each expandable segment


class DeviceFull(Exception):
    """The request that no reuse and no new segment could meet: `bytes` as asked for."""

    def __init__(self, size: int):
        super().__init__(f"no room for {size} bytes")
        self.bytes = size


@dataclass(eq=False)
class Block:
    """A piece of a segment."""

    address: int
    size: int
    pool: Pool
    used: bool = False
    previous: Block | None = None
    next: Block | None = None

    def __lt__(self, other: Block) -> bool:
        return (self.size, self.address) < (other.size, other.address)


@dataclass(eq=False)
class Pool:
    """The small or the large pool: its free blocks, by size and then by address.

    For expandable segments: `end`, where what is mapped ends, and the block that ends there.
    """

    small: bool
    end: int
    free: list[Block] = field(default_factory=list)
    last: Block | None = None

    @property
    def granule(self) -> int:
        return SMALL_SEGMENT if self.small else LARGE_SEGMENT

    def take(self, size: int) -> Block | None:
        """The best fit, removed from the free blocks."""
        at = bisect_left(self.free, (size, 0), key=lambda block: (block.size, block.address))
        return self.free.pop(at) if at < len(self.free) else None

    def add(self, block: Block) -> None:
        insort(self.free, block)

    def remove(self, block: Block) -> None:
        self.free.pop(bisect_left(self.free, block))


@dataclass(frozen=True)
class Moment:
    """The allocator after an event, in bytes."""

    requested: int  # what tensors asked for
    allocated: int  # with rounding: torch.cuda.memory_allocated
    reserved: int  # torch.cuda.memory_reserved

    @property
    def unused(self) -> int:
        """Reserved and not allocated: cache that can be reused, and splinters that cannot."""
        return self.reserved - self.allocated


class CachingAllocator:
    """`malloc` and `free` as the CUDA caching allocator would do them on `capacity` bytes.

    capacity: what the device has for this allocator, None for no limit.
    """

    def __init__(self, capacity: int | None = None, expandable: bool = False):
        self.capacity = capacity
        self.expandable = expandable
        self.requested = self.allocated = self.reserved = 0
        self.peak_requested = self.peak_allocated = self.peak_reserved = 0
        self.segments: dict[int, Block] = {}  # the first block of each, by its address
        self.given_back = 0  # how often cached segments were returned to make room
        self._pools = Pool(True, 0), Pool(False, _RANGE)
        self._next_address = 2 * _RANGE
        self._asked: dict[int, int] = {}

    # -- what a program does -------------------------------------------------------------------

    def malloc(self, size: int) -> Block:
        """A block of at least `size` bytes. Raises DeviceFull."""
        rounded = round_size(size)
        pool = self._pools[rounded > SMALL_REQUEST]
        block = pool.take(rounded) or self._grow(pool, rounded)
        if block is None and self.release_cached():
            self.given_back += 1
            block = self._grow(pool, rounded)
        if block is None:
            raise DeviceFull(size)
        self._split(block, rounded)
        block.used = True
        self._asked[id(block)] = size
        self.requested += size
        self.allocated += block.size
        self.peak_requested = max(self.peak_requested, self.requested)
        self.peak_allocated = max(self.peak_allocated, self.allocated)
        self.peak_reserved = max(self.peak_reserved, self.reserved)
        return block

    def free(self, block: Block) -> None:
        """Give a block back to its pool. Raises ValueError if it was free already."""
        if not block.used:
            raise ValueError("the block is free already")
        block.used = False
        self.requested -= self._asked.pop(id(block))
        self.allocated -= block.size
        for neighbour in (block.previous, block.next):
            if neighbour is not None and not neighbour.used:
                block.pool.remove(neighbour)
                self._merge(block, neighbour)
        block.pool.add(block)

    def release_cached(self) -> int:
        """Give wholly free segments back to the device: empty_cache(). Returns the bytes."""
        before = self.reserved
        for pool in self._pools:
            for block in list(pool.free):
                if self.expandable:
                    self._unmap(block)
                elif block.previous is None and block.next is None:
                    pool.remove(block)
                    del self.segments[block.address]
                    self.reserved -= block.size
        return before - self.reserved

    def blocks(self) -> list[Block]:
        """All blocks, used and free, by address."""
        found = []
        for block in self.segments.values():
            while block is not None:
                found.append(block)
                block = block.next
        return sorted(found, key=lambda block: block.address)

    @property
    def moment(self) -> Moment:
        return Moment(self.requested, self.allocated, self.reserved)

    # -- segments and blocks -------------------------------------------------------------------

    def _grow(self, pool: Pool, size: int) -> Block | None:
        """A free block from new memory; None where the device has too little."""
        if self.expandable:
            return self._map(pool, size)
        needed = segment_size(size)
        if not self._room(needed):
            return None
        block = Block(self._next_address, needed, pool)
        self._next_address += needed
        self.segments[block.address] = block
        self.reserved += needed
        return block

    def _map(self, pool: Pool, size: int) -> Block | None:
        """More of the expandable segment: the free end of what is mapped, and the rest new.

        A hole that `release_cached` has left in the middle is not mapped again, as the real allocator
        may do; that costs addresses, not memory.
        """
        tail = pool.last if pool.last is not None and not pool.last.used else None
        missing = size - (tail.size if tail is not None else 0)
        missing = -(-missing // pool.granule) * pool.granule
        if not self._room(missing):
            return None
        self.reserved += missing
        block = tail
        if tail is not None:
            pool.remove(tail)
            tail.size += missing
        else:
            block = Block(pool.end, missing, pool, previous=pool.last)
            if pool.last is None:
                self.segments[block.address] = block
            else:
                pool.last.next = block
            pool.last = block
        pool.end += missing
        return block

    def _unmap(self, block: Block) -> None:
        """Give back the whole granules inside a free block; what is around them stays."""
        pool, start, end = block.pool, block.address, block.address + block.size
        base = 0 if pool.small else _RANGE
        low = base + -(-(start - base) // pool.granule) * pool.granule
        high = base + (end - base) // pool.granule * pool.granule
        if high <= low:
            return
        pool.remove(block)
        self.reserved -= high - low
        if block.previous is None:
            del self.segments[start]
        before = after = None
        if start < low:
            before = Block(start, low - start, pool, previous=block.previous)
            pool.add(before)
            if block.previous is None:
                self.segments[start] = before
        if block.previous is not None:
            block.previous.next = before
        if high < end:
            after = Block(high, end - high, pool, next=block.next)
            pool.add(after)
        if block.next is not None:
            block.next.previous = after
        head = after or block.next
        if head is not None:
            self.segments[head.address] = head
        if pool.last is block:
            pool.last, pool.end = before or block.previous, low

    def _room(self, size: int) -> bool:
        return self.capacity is None or self.reserved + size <= self.capacity

    def _split(self, block: Block, size: int) -> None:
        rest = block.size - size
        splits = (
            rest >= SMALLEST_BLOCK if block.pool.small or self.expandable else rest > SMALL_REQUEST
        )
        if not splits:
            return
        left = Block(block.address + size, rest, block.pool, previous=block, next=block.next)
        if block.next is not None:
            block.next.previous = left
        block.next, block.size = left, size
        if block.pool.last is block:
            block.pool.last = left
        block.pool.add(left)

    def _merge(self, block: Block, free: Block) -> None:
        """Let `block` swallow a free neighbour."""
        if free is block.previous:
            block.address, block.previous = free.address, free.previous
            if free.previous is not None:
                free.previous.next = block
            else:
                self.segments[block.address] = block
        else:
            block.next = free.next
            if free.next is not None:
                free.next.previous = block
        if block.pool.last is free:
            block.pool.last = block
        block.size += free.size


def round_size(size: int) -> int:
    """What a request of `size` bytes takes."""
    return max(SMALLEST_BLOCK, -(-size // SMALLEST_BLOCK) * SMALLEST_BLOCK)


def segment_size(rounded: int) -> int:
    """The segment that is asked of the device for a request, already rounded, that none fits."""
    if rounded <= SMALL_REQUEST:
        return SMALL_SEGMENT
    if rounded < OWN_SEGMENT:
        return LARGE_SEGMENT
    return -(-rounded // ROUND_LARGE) * ROUND_LARGE
