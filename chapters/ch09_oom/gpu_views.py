"""What a GPU's tools would show of followed storages: a snapshot, `memory_summary`, `nvidia-smi`.

There is no GPU behind it: a followed step is played through the model of the CUDA caching
allocator, and what comes out is written in the formats of PyTorch and NVIDIA, so that you learn to
read them. `memory_summary` is PyTorch's own function over the model's statistics.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest import mock

import torch

from labs.doctors.memory.cuda.allocator import CachingAllocator, DeviceFull
from labs.doctors.memory.follow.follower import Follower
from labs.doctors.memory.follow.ledger import Event

MIB = 2**20


def scaled(events: list[Event], factor: int) -> list[Event]:
    """The same step of a model whose every tensor is `factor` times as large."""
    return [replace(event, bytes=event.bytes * factor) for event in events]


class Played:
    """A followed run on a modelled GPU: statistics and a snapshot in PyTorch's own layout."""

    def __init__(self, follower: Follower, factor: int = 1, capacity: int | None = None):
        self.allocator = CachingAllocator(capacity)
        self.counters: dict[str, list[int]] = {}  # name.pool -> current, peak, allocated, freed
        self.trace: list[dict[str, Any]] = []
        self.frames: dict[int, list[dict[str, Any]]] = {}
        self.failed: int | None = None
        held: dict[int, Any] = {}
        for time_us, (kind, block, size, _, place) in enumerate(follower.log):
            if place != "device":
                continue
            size *= factor
            if kind == "alloc":
                try:
                    held[block.id] = self.allocator.malloc(size)
                except DeviceFull:
                    self.failed = size
                    free = (capacity or 0) - self.allocator.reserved
                    self._event("oom", free, size, time_us, block.stack)
                    break
                got = held[block.id]
                self.frames[got.address] = frames(block.stack)
                self._count(got, size, +1)
                self._event("alloc", got.address, size, time_us, block.stack)
            elif block.id in held:
                got = held.pop(block.id)
                self._count(got, size, -1)
                for action in ("free_requested", "free_completed"):
                    self._event(action, got.address, size, time_us, [])
                self.allocator.free(got)

    def _event(self, action: str, address: int, size: int, time_us: int, stack: list) -> None:
        name = "device_free" if action == "oom" else "addr"
        event = {"action": action, name: address, "size": size, "stream": 0, "time_us": time_us}
        self.trace.append(event | {"frames": frames(stack)})

    def _count(self, block, size: int, sign: int) -> None:
        self._counted(block.pool, sign, block.size, size)

    def _counted(self, pool, sign: int, size: int, asked: int) -> None:
        amounts = {
            "allocated_bytes": size,
            "active_bytes": size,
            "requested_bytes": asked,
            "allocation": 1,
            "active": 1,
        }
        for name, amount in amounts.items():
            for where in ("all", "small_pool" if pool.small else "large_pool"):
                row = self.counters.setdefault(f"{name}.{where}", [0, 0, 0, 0])
                row[0] += sign * amount
                row[1] = max(row[1], row[0])
                row[2 if sign > 0 else 3] += amount

    def stats(self) -> dict[str, int]:
        """torch.cuda.memory_stats() of the modelled GPU."""
        found = {"num_alloc_retries": self.allocator.given_back, "num_ooms": int(bool(self.failed))}
        kinds = ("current", "peak", "allocated", "freed")
        for name, row in self.counters.items():
            found |= {f"{name}.{kind}": value for kind, value in zip(kinds, row, strict=True)}
        unused = {"all": 0, "small_pool": 0, "large_pool": 0}
        held = dict(unused)
        for block in self.allocator.blocks():
            where = "small_pool" if block.pool.small else "large_pool"
            alone = block.previous is None and block.next is None
            for name in ("all", where):
                held[name] += block.size
                unused[name] += 0 if block.used or alone else block.size
        for where, size in held.items():
            found[f"reserved_bytes.{where}.current"] = size
            found[f"inactive_split_bytes.{where}.current"] = unused[where]
        found["reserved_bytes.all.peak"] = self.allocator.peak_reserved
        return found

    def summary(self) -> str:
        """PyTorch's `torch.cuda.memory_summary(abbreviated=True)`."""
        with mock.patch("torch.cuda.memory.memory_stats", lambda device=None: _Zeros(self.stats())):
            return torch.cuda.memory_summary(0, abbreviated=True)

    def snapshot(self) -> dict[str, Any]:
        """What torch.cuda.memory._snapshot() returns: segments with their blocks, and the history."""
        segments: dict[int, dict[str, Any]] = {}
        for first in self.allocator.segments.values():
            blocks, block = [], first
            while block is not None:
                state = "active_allocated" if block.used else "inactive"
                row = {"address": block.address, "size": block.size, "state": state}
                row["requested_size"] = self.allocator._asked.get(id(block), 0)
                row["frames"] = self.frames.get(block.address, []) if block.used else []
                blocks.append(row)
                block = block.next
            total = sum(row["size"] for row in blocks)
            used = sum(row["size"] for row in blocks if row["state"] != "inactive")
            segments[first.address] = {
                "device": 0,
                "address": first.address,
                "total_size": total,
                "allocated_size": used,
                "active_size": used,
                "stream": 0,
                "segment_type": "small" if first.pool.small else "large",
                "is_expandable": False,
                "blocks": blocks,
            }
        return {"segments": list(segments.values()), "device_traces": [self.trace]}


class _Zeros(dict):
    """What the model does not count is zero."""

    def __missing__(self, name: str) -> int:
        return 0

    def get(self, name: str, default: int = 0) -> int:
        return super().get(name, default)


def frames(stack: list[tuple[str, int, str]]) -> list[dict[str, Any]]:
    return [{"filename": file, "line": line, "name": name} for file, line, name in stack]


def nvidia_smi(processes: dict[int, tuple[str, int]], total: int) -> str:
    """A table in the layout of nvidia-smi for one GPU. processes: pid -> (name, bytes)."""
    used = sum(size for _, size in processes.values()) // MIB
    edge = "+" + "-" * 77 + "+"
    head = [
        " NVIDIA-SMI 550.54.15     Driver Version: 550.54.15     CUDA Version: 12.4",
        " GPU  Name                 Persistence-M | Memory-Usage          | GPU-Util",
        f"   0  A GPU of {total // 2**30} GB              On   | {used:>7}MiB / {total // MIB:>6}MiB |   99%",
    ]
    table = [
        " Processes:",
        "  GPU   GI   CI        PID   Type   Process name                  GPU Memory",
    ]
    rows = [
        f"    0   N/A  N/A  {pid:>9}      C   {name:<29} {size // MIB:>6}MiB"
        for pid, (name, size) in processes.items()
    ]
    lines = [edge, *map(_row, head), edge, _row(""), edge, *map(_row, table), "|" + "=" * 77 + "|"]
    return "\n".join([*lines, *map(_row, rows), edge])


def _row(text: str) -> str:
    return f"|{text:<77}|"
