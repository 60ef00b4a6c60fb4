"""Killed from outside: by the kernel, or by a limit of the command's memory group.

Standard library only.
"""

from __future__ import annotations

from typing import Any

from labs.doctors.finding import Finding, size
from labs.doctors.memory import phases
from labs.doctors.memory.death.finding import finding
from labs.doctors.memory.live import hostmem
from labs.doctors.memory.live.diary import Pages
from labs.doctors.memory.live.evidence import Evidence

KILLED = (-9, 137)
NEARLY_FULL = 0.9
SCARCE = 0.05  # of the machine's memory still available


def unfinished(evidence: Evidence) -> list[Pages]:
    """Diaries of processes that never said goodbye, the first to fall silent first."""
    silent = [p for p in evidence.diaries if p.ended is None]
    return sorted(silent, key=lambda p: p.sample.get("time") or p.phase_time)


def kill_finding(evidence: Evidence) -> Finding | None:
    """A kill for memory by the kernel or a limit; None where nothing speaks for one."""
    silent = unfinished(evidence)
    if not (evidence.code in KILLED or (evidence.code and silent) or evidence.kills):
        if not (evidence.kernel and evidence.code):
            return None
    last = evidence.series[-1] if evidence.series else {}
    where = standing(silent[0]) if silent else []
    where += tree_lines(last)
    limit, used = evidence.limit, last.get("group_used")
    peak = max((e.get("group_used") or 0 for e in evidence.series), default=0)
    if evidence.kills:
        lines = [
            f"memory group: oom_kill rose by {evidence.kills} during the run"
            + (f", limit {size(limit)}" if limit else "")
            + (f", use last seen {size(used)}" if used else ""),
            *evidence.kernel,
        ]
        return finding(
            "container_memory_limit",
            "certain",
            lines + where,
            "The kernel counts its kills in the memory group of the command, and that count rose. "
            "GPU memory is not part of it: this is the host's memory of all its processes.",
        )
    if evidence.kernel:
        limited = any("Memory cgroup" in line for line in evidence.kernel)
        return finding(
            "container_memory_limit" if limited else "host_memory",
            "certain",
            evidence.kernel + where,
            "The kernel's log names a process of this run as the one it killed for memory.",
        )
    if evidence.code not in KILLED:
        return None
    available, total = last.get("available"), hostmem.machine()["total"]
    if limit and peak >= NEARLY_FULL * limit:
        return finding(
            "container_memory_limit",
            "likely",
            [f"{size(peak)} of the group's limit of {size(limit)} in use", *where],
            "It was killed (SIGKILL) while its memory group was nearly full.",
        )
    if available is not None and total and available < SCARCE * total:
        return finding(
            "host_memory",
            "likely",
            [f"{size(available)} of {size(total)} were available when last seen", *where],
            "It was killed (SIGKILL) while the machine had hardly any memory left.",
        )
    return None


def tree_lines(last: dict[str, Any]) -> list[str]:
    if not last.get("tree"):
        return []
    largest = last["largest"][0][1] if last["largest"] else 0
    return [
        f"{last['processes']} processes held {size(last['tree'])} when last seen, "
        f"the largest {size(largest)}"
    ]


def standing(page: Pages) -> list[str]:
    """Where a process stood when it fell silent."""
    sample = page.sample
    phase = sample.get("phase") or page.phase
    line = f"process {page.pid} fell silent in {phase}, step {page.step}"
    if sample.get("host"):
        line += f", holding {size(sample['host'])} of host memory"
    lines = [line]
    if sample.get("stack"):
        lines.append(f"it stood at {phases.show_stack(sample['stack'], 3)}")
    return lines
