"""The accounts of a follower: what was allocated and freed, when, where, and what is alive now.

Nothing here knows a tensor: the follower says what happens, the ledger counts it. Standard library
only; the hook loads this very file into the process it observes.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

CATEGORIES = (
    "weights",
    "gradients",
    "optimizer",
    "activations",
    "logits",
    "kv_cache",
    "inputs",
    "temporary",
    "workspace",
    "buffers",
)


@dataclass
class Event:
    """One allocation or one free, in bytes; `storage_id` pairs the two."""

    kind: str  # "alloc" | "free"
    bytes: int
    storage_id: int
    category: str
    module: str
    phase: str
    op: str
    place: str = "device"  # or "host", for what is offloaded


@dataclass
class Block:
    """A storage that is or was alive."""

    id: int
    bytes: int
    module: str
    phase: str
    op: str
    place: str
    section: int  # which forward or backward section it was made in
    forward: bool  # made by a forward pass or a recomputation of one
    shape: tuple[int, ...]
    dtype: str
    category: str | None = None  # once it is certain
    dead: bool = False
    stack: list[tuple[str, int, str]] = field(default_factory=list)


class Ledger:
    """Books allocations and frees, on the device and on the host.

    `on_alloc(bytes, ledger)` is called before a device allocation counts and may raise. `history`
    bounds the number of entries kept (None = all). Frees may come from any thread.
    """

    phase = ""  # a follower knows

    def __init__(self, on_alloc: Callable[[int, Any], None] | None, history: int | None):
        self.on_alloc = on_alloc
        self.live_bytes = 0
        self.peak_bytes = 0
        self.host_bytes = 0
        self.host_peak_bytes = 0
        self.blocks: dict[int, Block] = {}  # the live ones, by address of their storage
        # (kind, block, bytes, phase, place), in order
        self.log: deque[tuple[str, Block, int, str, str]] = deque(maxlen=history)
        self._lock = threading.RLock()

    def category(self, block: Block) -> str:
        """What a block is, as far as is known by now."""
        return block.category or "temporary"

    @property
    def events(self) -> list[Event]:
        """All allocations and frees so far, each with the category that is known by now."""
        return [
            Event(
                kind,
                size,
                block.id,
                self.category(block),
                block.module,
                phase,
                block.op,
                place,
            )
            for kind, block, size, phase, place in self.log
        ]

    def live(self, place: str = "device") -> dict[str, int]:
        """Bytes now alive by category."""
        total = dict.fromkeys(CATEGORIES, 0)
        for block in list(self.blocks.values()):
            if block.place == place:
                total[self.category(block)] += block.bytes
        return total

    def allocated(self, block: Block, asks: bool = True) -> None:
        """Book an allocation; `asks`: whether `on_alloc` may refuse it."""
        if block.place == "device" and asks and self.on_alloc is not None:
            self.on_alloc(block.bytes, self)
        with self._lock:
            self._count("alloc", block)

    def freed(self, block: Block) -> None:
        """Book the end of a block; its category stays what it is now."""
        block.category = self.category(block)
        block.dead = True
        with self._lock:
            self._count("free", block)

    def resized(self, block: Block, size: int) -> None:
        """Book a storage that has changed its size in place."""
        with self._lock:
            self._count("free", block)
        grows, block.bytes = size > block.bytes, size
        self.allocated(block, asks=grows)

    def moved(self, block: Block, place: str) -> None:
        """Book a block that lies on the "host" or the "device" from now on."""
        with self._lock:
            self._count("free", block)
        block.place = place
        self.allocated(block)

    def _count(self, kind: str, block: Block) -> None:
        change = block.bytes if kind == "alloc" else -block.bytes
        if block.place == "host":
            self.host_bytes += change
            self.host_peak_bytes = max(self.host_peak_bytes, self.host_bytes)
        else:
            self.live_bytes += change
            self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        self.log.append((kind, block, block.bytes, self.phase, block.place))
