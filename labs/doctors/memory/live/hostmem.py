"""The host's side: memory of a tree of processes, container limits, kills by the kernel, /dev/shm.

Linux tells all of it under /proc and /sys; elsewhere every question is answered with None.
Standard library only. Sizes in bytes.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
NO_LIMIT = 1 << 60  # cgroup v1 writes "no limit" as a number near 2^63


def _read(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return None


def _number(path: Path) -> int | None:
    text = (_read(path) or "").strip()
    return int(text) if text.isdigit() and int(text) < NO_LIMIT else None


def _counter(path: Path, name: str) -> int | None:
    found = re.search(rf"^{name} (\d+)$", _read(path) or "", re.M)
    return int(found[1]) if found else None


def resident(pid: int | str = "self") -> int | None:
    """Resident memory of a process; None where it cannot be told (gone, not Linux)."""
    found = (_read(PROC / str(pid) / "statm") or "").split()
    return int(found[1]) * os.sysconf("SC_PAGE_SIZE") if len(found) > 1 else None


def children(pid: int) -> list[int]:
    """Ids of all processes below `pid`, at any depth."""
    parents: dict[int, list[int]] = {}
    for folder in PROC.glob("[0-9]*"):
        stat = _read(folder / "stat")
        if stat:  # pid (name, which may hold anything) state parent …
            parents.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(folder.name))
    found, waiting = [], [pid]
    while waiting:
        below = parents.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def command(pid: int) -> str | None:
    """The command line of a process, None where there is no such process or no permission."""
    text = _read(PROC / str(pid) / "cmdline")
    return text.replace("\0", " ").strip() if text is not None else None


def machine() -> dict[str, int | None]:
    """Total and available memory of the machine."""
    text = _read(PROC / "meminfo") or ""
    found = {name: int(kib) * 1024 for name, kib in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.M)}
    return {"total": found.get("MemTotal"), "available": found.get("MemAvailable")}


def shared_memory(path: str = "/dev/shm") -> dict[str, int] | None:
    """Size and use of /dev/shm, through which DataLoader workers hand over batches."""
    try:
        stat = os.statvfs(path)
    except (OSError, AttributeError):
        return None
    total = stat.f_frsize * stat.f_blocks
    return {"total": total, "used": total - stat.f_frsize * stat.f_bfree}


@dataclass(frozen=True)
class Group:
    """The memory control group a process is in: its folder, version 1 or 2."""

    folder: Path
    version: int

    def state(self) -> dict[str, int | None]:
        """The tightest limit on the way up, with use, peak and kills of the group that has it.

        A container's limit often stands on a parent group, hence the way up. Without any limit:
        the process's own group.
        """
        groups = [self._numbers(folder) for folder in self._upwards()]
        limited = [g for g in groups if g["limit"]]
        return min(limited, key=lambda g: g["limit"] or 0) if limited else groups[0]

    def kills(self) -> int:
        """Processes that the kernel has killed for memory in this group or in one above it."""
        return max(
            (self._numbers(folder)["oom_kill"] or 0 for folder in self._upwards()), default=0
        )

    def _upwards(self) -> list[Path]:
        folders = (self.folder, *self.folder.parents)
        return [f for f in folders if self._is_group(f)] or [self.folder]

    def _numbers(self, folder: Path) -> dict[str, int | None]:
        second = self.version == 2
        names = (
            ("memory.max", "memory.current", "memory.peak", "memory.events")
            if second
            else (
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
                "memory.max_usage_in_bytes",
                "memory.oom_control",
            )
        )
        limit, used, peak = (_number(folder / name) for name in names[:3])
        kills = _counter(folder / names[3], "oom_kill")
        return {"limit": limit, "used": used, "peak": peak, "oom_kill": kills}

    def _is_group(self, folder: Path) -> bool:
        return (folder / ("memory.events" if self.version == 2 else "memory.oom_control")).exists()


def group(pid: int | str = "self", proc: Path = PROC, cgroups: Path = CGROUPS) -> Group | None:
    """The memory group of a process, None where there is none to be read.

    In a container the path in /proc is the host's, while the mount shows the container's own
    folder as the root: so the root is tried where the path does not exist.
    """
    text = _read(proc / str(pid) / "cgroup") or ""
    first = re.search(r"^\d+:[^:]*\bmemory\b[^:]*:(.*)$", text, re.M)
    second = re.search(r"^0::(.*)$", text, re.M)
    candidates = []
    if first:
        candidates.append((cgroups / "memory", first[1], 1))
    if second:
        candidates += [(cgroups, second[1], 2), (cgroups / "unified", second[1], 2)]
    for mount, path, version in candidates:
        for folder in (mount / path.lstrip("/"), mount):
            found = Group(folder, version)
            if found._is_group(folder):
                return found
    return None


def kernel_kills(pids: set[int], log: Path = Path("/dev/kmsg")) -> list[str]:
    """Lines of the kernel's log that say it killed one of `pids` for memory; [] if unreadable."""
    try:
        descriptor = os.open(log, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except OSError:
        return []
    found = []
    try:
        while True:
            try:
                record = os.read(descriptor, 8192)
            except BrokenPipeError:  # the record was overwritten before it was read
                continue
            except OSError:
                break
            if not record:
                break
            for line in record.decode(errors="replace").splitlines():
                killed = re.search(r"Killed process (\d+)", line)
                if killed and int(killed[1]) in pids:
                    found.append(line.partition(";")[2] or line)
    finally:
        os.close(descriptor)
    return found


def tree(pid: int) -> dict[str, Any]:
    """Resident memory of `pid` and of everything below it: {"processes": {pid: bytes}, "total"}."""
    processes = {p: resident(p) for p in [pid, *children(pid)]}
    known = {p: r for p, r in processes.items() if r is not None}
    return {"processes": known, "total": sum(known.values())}
