"""What a memory snapshot of PyTorch says: who holds the memory, at the end, at the peak, at an OOM.

Works on the plain containers that `torch.cuda.memory._snapshot()` returns (its docstring documents
them): segments, each a list of blocks, and one trace of events for each device. Versions differ in
what a block or an event has, so everything is read as if it might be missing. Standard library
only; sizes in bytes; a stack is a tuple of (file, line, function), innermost first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from .. import phases

Stack = tuple
LIVE = ("active_allocated", "active_awaiting_free", "active_pending_free")
ENDS = ("free_completed", "free")  # "free" was its name in early versions
BEFORE = (("(allocated before the history begins)", 0, ""),)


def stack_of(frames: Any) -> Stack:
    """Frames as written -> a stack; C++ frames are left out where there are Python ones."""
    stack = tuple(
        (str(f.get("filename", "?")), int(f.get("line", 0) or 0), str(f.get("name", "?")))
        for f in frames or ()
        if isinstance(f, dict)
    )
    python = tuple(f for f in stack if f[0].endswith(".py") or f[0].startswith("<"))
    return python or stack


def _block_size(block: dict) -> int:
    return int(block.get("requested_size") or block.get("size") or 0)


def _block_stack(block: dict) -> Stack:
    history = block.get("history")  # up to PyTorch 2.0
    if "frames" not in block and isinstance(history, list) and history:
        return stack_of(history[0].get("frames"))
    return stack_of(block.get("frames"))


def _blocks(segment: dict) -> Iterator[tuple[int, dict]]:
    """Blocks with their addresses, which early versions leave to be counted up."""
    address = int(segment.get("address", 0))
    for block in segment.get("blocks", ()):
        yield int(block.get("address", address)), block
        address += int(block.get("size", 0))


def live_blocks(snapshot: dict, device: int | None = None) -> Iterator[tuple[int, Stack]]:
    """(bytes, stack) of every allocation alive at the end."""
    for segment in _segments(snapshot, device):
        for _, block in _blocks(segment):
            if block.get("state") in LIVE:
                yield _block_size(block), _block_stack(block)


def _segments(snapshot: dict, device: int | None) -> Iterator[dict]:
    for segment in snapshot.get("segments", ()):
        if device is None or segment.get("device", 0) == device:
            yield segment


def fragmentation(snapshot: dict, device: int | None = None) -> dict[str, Any]:
    """How the reserved memory is used, and what of its rest could serve a request.

    `unused` = reserved - in use. Of that, `releasable` lies in segments with nothing in use (the
    allocator gives them back before it fails), the rest is `stranded` between blocks in use.
    `rounding` is what blocks hold beyond what was asked for. `largest_free` is the largest request
    that needs no new segment.
    """
    found = dict.fromkeys(
        ("reserved", "in_use", "requested", "unused", "releasable", "stranded", "rounding"), 0
    )
    largest, stranded, counts = 0, [], {"segments": 0, "expandable": 0}
    for segment in _segments(snapshot, device):
        total = int(segment.get("total_size", 0))
        in_use = requested = free = 0
        for _, block in _blocks(segment):
            size = int(block.get("size", 0))
            if block.get("state") in LIVE:
                in_use += size
                requested += min(_block_size(block), size)
            else:
                free = max(free, size)
        counts["segments"] += 1
        counts["expandable"] += bool(segment.get("is_expandable"))
        unused = total - in_use
        for name, value in (("reserved", total), ("in_use", in_use), ("unused", unused),
                            ("requested", requested), ("rounding", in_use - requested),
                            ("releasable" if not in_use else "stranded", unused)):  # fmt: skip
            found[name] += value
        largest = max(largest, free)
        if in_use and unused:
            stranded.append(
                {
                    "address": int(segment.get("address", 0)),
                    "type": segment.get("segment_type", "?"),
                    "total": total,
                    "unused": unused,
                    "largest_free": free,
                    "blocks": len(segment.get("blocks", ())),
                }
            )
    stranded.sort(key=lambda s: -s["unused"])
    return {**found, "largest_free": largest, **counts, "worst_segments": stranded[:8]}


def grouped(blocks: Iterable[tuple[int, Stack]], most: int | None = None) -> list[dict[str, Any]]:
    """Allocations by stack: [{"stack", "count", "bytes"}], largest first."""
    found: dict[Stack, list[int]] = defaultdict(lambda: [0, 0])
    for size, stack in blocks:
        found[stack][0] += 1
        found[stack][1] += size
    rows = [{"stack": list(s), "count": n, "bytes": b} for s, (n, b) in found.items()]
    return sorted(rows, key=lambda row: -row["bytes"])[:most]


CATEGORY = {
    "load": "weights",
    "optimizer step": "optimizer",
    "backward": "gradients",
    "forward": "activations",
    "evaluation": "evaluation",
    "generation": "generation (KV cache)",
    "checkpoint": "checkpoint",
}


def category(stack: Stack) -> str:
    """What an allocation is for, told from the stack that made it: a guess, and labelled so."""
    return CATEGORY.get(phases.of_stack(stack) or "", "not told by the stack")


def categories(blocks: Iterable[tuple[int, Stack]]) -> dict[str, int]:
    """Bytes by category of the allocating stack, largest first."""
    found: dict[str, int] = defaultdict(int)
    for size, stack in blocks:
        found[category(stack)] += size
    return dict(sorted(found.items(), key=lambda item: -item[1]))


class Trace:
    """One device's events, walked backwards from what is alive at the end.

    The history is a ring: its beginning may be lost. So the level at its end is taken from the
    segments, and every earlier level follows by undoing events: exact, whatever came before.
    """

    def __init__(self, snapshot: dict, device: int):
        traces = snapshot.get("device_traces") or []
        self.events = traces[device] if device < len(traces) else []
        self.at_end = {
            address: (_block_size(block), _block_stack(block))
            for segment in _segments(snapshot, device)
            for address, block in _blocks(segment)
            if block.get("state") in LIVE
        }
        present = {event.get("action") for event in self.events}
        self.ends = ENDS if present & set(ENDS) else ("free_requested",)
        self.levels = self._levels()

    def _levels(self) -> list[int]:
        """Bytes alive before each event, and after the last one."""
        level = sum(size for size, _ in self.at_end.values())
        levels = [level]
        for event in reversed(self.events):
            level -= self._change(event)
            levels.append(level)
        return levels[::-1]

    def _change(self, event: dict) -> int:
        action, size = event.get("action"), int(event.get("size", 0) or 0)
        return size if action == "alloc" else -size if action in self.ends else 0

    def peak(self) -> int:
        """The position (as in `levels`) at which most was alive."""
        return max(range(len(self.levels)), key=self.levels.__getitem__)

    def ooms(self) -> list[int]:
        """Positions of the out-of-memory events."""
        return [i for i, event in enumerate(self.events) if event.get("action") == "oom"]

    def live_at(self, position: int) -> list[tuple[int, Stack]]:
        """(bytes, stack) of what was alive before event `position`."""
        opened: dict[int, Stack] = {}
        made: dict[int, Stack] = {}  # of each end event: the stack of its allocation
        for i, event in enumerate(self.events):
            address = event.get("addr")
            if event.get("action") == "alloc":
                opened[address] = stack_of(event.get("frames"))
            elif event.get("action") in self.ends:
                made[i] = opened.pop(address, BEFORE)
        live = dict(self.at_end)
        for i in range(len(self.events) - 1, position - 1, -1):
            event = self.events[i]
            if event.get("action") == "alloc":
                live.pop(event.get("addr"), None)
            elif event.get("action") in self.ends:
                live[event.get("addr")] = (int(event.get("size", 0) or 0), made[i])
        return list(live.values())


def devices(snapshot: dict) -> list[int]:
    """The devices that hold memory or have a history."""
    held = {segment.get("device", 0) for segment in snapshot.get("segments", ())}
    traced = {i for i, trace in enumerate(snapshot.get("device_traces") or ()) if trace}
    return sorted(held | traced)


def timeline(levels: list[int], points: int = 240) -> list[int]:
    """At most `points` levels: the highest of each stretch of equal length."""
    count = min(len(levels), points)
    edges = [len(levels) * i // count for i in range(count + 1)] if count else []
    return [max(levels[a:b]) for a, b in zip(edges, edges[1:])]  # noqa: B905, RUF007  (Python 3.9)


def analyse(snapshot: dict, device: int, most: int = 12) -> dict[str, Any]:
    """Everything above for one device, at its decisive moment: the last OOM, else the peak."""
    trace = Trace(snapshot, device)
    ooms = trace.ooms()
    moment = ooms[-1] if ooms else trace.peak()
    live = trace.live_at(moment)
    event = trace.events[ooms[-1]] if ooms else {}
    return {
        "device": device,
        "moment": "the out-of-memory" if ooms else "the peak of the history" if trace.events
        else "the snapshot",
        "live": sum(size for size, _ in live),
        "allocations": len(live),
        "peak": trace.levels[trace.peak()],
        "events": len(trace.events),
        "ooms": len(ooms),
        "tried": event.get("size"),
        "free": event.get("device_free"),
        "tried_stack": list(stack_of(event.get("frames"))),
        "stacks": grouped(live, most),
        "categories": categories(live),
        "with_stacks": sum(size for size, stack in live if stack and stack != BEFORE),
        "fragmentation": fragmentation(snapshot, device),
        "timeline": timeline(trace.levels),
    }  # fmt: skip
