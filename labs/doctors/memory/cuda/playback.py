"""A program's allocations and frees, played through the model of the allocator. Standard library only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from labs.doctors.memory.cuda.allocator import Block, CachingAllocator, DeviceFull, Moment


@dataclass
class Playback:
    """What the allocator did with a step's events.

    line: the allocator after each event. failed_at: index of the event that found no room.
    """

    line: list[Moment]
    failed_at: int | None = None
    given_back: int = 0

    @property
    def peak_reserved(self) -> int:
        return max((moment.reserved for moment in self.line), default=0)

    @property
    def peak_allocated(self) -> int:
        return max((moment.allocated for moment in self.line), default=0)

    @property
    def fragmentation(self) -> int:
        """Reserved beyond what was ever allocated at once: what rounding and splinters cost."""
        return self.peak_reserved - self.peak_allocated


def play(events: Iterable[Any], capacity: int | None = None, expandable: bool = False) -> Playback:
    """Play a trace's events (with kind, bytes, storage_id and place) through the allocator.

    Stops at the first request that does not fit.
    """
    allocator = CachingAllocator(capacity, expandable)
    held: dict[int, Block] = {}
    line: list[Moment] = []
    for index, event in enumerate(events):
        if event.place == "device":
            if event.kind == "alloc":
                try:
                    held[event.storage_id] = allocator.malloc(event.bytes)
                except DeviceFull:
                    return Playback(line, index, allocator.given_back)
            elif event.storage_id in held:
                allocator.free(held.pop(event.storage_id))
        line.append(allocator.moment)
    return Playback(line, None, allocator.given_back)
