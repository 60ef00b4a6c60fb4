"""What a live view shows: the processes of a run, or of a process id, as they are now.

A run started by `run` is read from its diaries: phase, step, allocated, reserved, and the step at
which memory will be full if it goes on growing. Any other process is asked of the driver (NVML) and
of the system, which know neither phase nor step. Standard library only.
"""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from labs.doctors.finding import size
from labs.doctors.memory.live import diary, evidence, growth, hostmem
from labs.doctors.memory.live.nvml import Nvml, NvmlError
from labs.errors import InputError


@dataclass
class Row:
    """One process. Bytes; None where it is not known."""

    pid: int
    who: str
    alive: bool
    phase: str = ""
    phase_seconds: float | None = None
    step: int | None = None
    allocated: int | None = None
    reserved: int | None = None
    peak: int | None = None
    limit: int | None = None
    host: int | None = None
    growth: float | None = None  # bytes a step
    full_at: int | None = None  # step
    full_in: float | None = None  # seconds


@dataclass
class View:
    """One look: a row for each process, and sentences on what could not be seen."""

    title: str
    rows: list[Row]
    notes: list[str] = field(default_factory=list)
    over: bool = False

    def to_dict(self) -> dict[str, Any]:
        return {"schema": "oom-doctor/1", "command": "watch", **asdict(self)}


def alive(pid: int) -> bool:
    """Whether a process exists (a zombie does not count)."""
    if hostmem.PROC.is_dir():
        stat = hostmem._read(hostmem.PROC / str(pid) / "stat")
        return stat is not None and stat.rpartition(")")[2].split()[0] != "Z"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def newest() -> Path:
    """The folder of the run that was started last. Raises InputError."""
    runs = sorted(p for p in (evidence.home() / "runs").glob("*") if (p / "run.json").exists())
    if not runs:
        raise InputError(
            f"There is no run in {evidence.home() / 'runs'}.",
            "Start one with `oom_doctor.py run -- COMMAND…`, or give the id of a process.",
        )
    return runs[-1]


def find(target: str | None) -> Path | int:
    """The folder of a run, or a process id that no run knows. Raises InputError."""
    if target is None:
        return newest()
    if not target.isdigit():
        if (Path(target) / "run.json").exists():
            return Path(target)
        raise InputError(
            f"`{target}` is neither a process id nor the folder of a run.",
            f"Give a number, or a folder below {evidence.home() / 'runs'}.",
        )
    pid = int(target)
    for folder in (evidence.home() / "runs").glob("*"):
        if (folder / f"diary-{pid}.bin").exists() and alive(pid):
            return folder
    if not alive(pid):
        raise InputError(f"There is no process {pid}.", "`ps -u $USER` lists yours.")
    return pid


def known(number: int | None) -> int | None:
    return None if number is None or number < 0 else number


def row_of(pages: diary.Pages) -> Row:
    """A process of a run, from its diary."""
    sample, now = pages.sample, time.time()
    rank = pages.meta.get("rank")
    lives = pages.ended is None and alive(pages.pid)
    last = pages.steps[-1] if pages.steps else None
    row = Row(
        pages.pid,
        f"rank {rank}" if rank is not None else str(pages.meta.get("role", "")),
        lives,
        (sample.get("phase") or pages.phase) if lives else "ended" if pages.ended else "killed",
        now - pages.phase_time if lives else None,
        pages.step or None,
        known(sample.get("allocated", last.allocated if last else None)),
        known(sample.get("reserved", last.reserved if last else None)),
        known(sample.get("peak", last.peak if last else None)),
        known(sample.get("limit", last.limit if last else None)),
        known(sample.get("host", last.host if last else None)),
    )
    trend = growth.trend(pages.steps, "allocated")
    if trend is not None and trend.leaks:
        row.growth, row.full_at = trend.per_step, trend.fills_at
        steps = pages.steps[-50:]
        pace = (steps[-1].time - steps[0].time) / max(1, steps[-1].step - steps[0].step)
        if trend.fills_at:
            row.full_in = max(0.0, (trend.fills_at - pages.step) * pace)
    return row


def of_run(folder: Path) -> View:
    """The processes of a run that train or may: launchers that took no step come last."""
    pages = []
    for path in folder.glob("diary-*.bin"):
        try:
            pages.append(diary.read(str(path)))
        except (ValueError, OSError):
            continue  # being made, or the run has been removed
    pages.sort(key=lambda p: (not p.step, p.meta.get("rank") or 0, p.pid))
    about = evidence.read(folder)
    rows = [row_of(p) for p in pages]
    notes = [] if rows else ["No process of this run has imported torch yet."]
    doctor = run_pid(folder)
    over = not any(row.alive for row in rows) and (doctor is None or not alive(doctor))
    return View(" ".join(about.command)[:80], rows, notes, over)


def run_pid(folder: Path) -> int | None:
    import json

    try:
        return json.loads((folder / "run.json").read_text())["pid"]
    except (OSError, ValueError, KeyError):
        return None


def of_process(pid: int, library: str | None = None) -> View:
    """A process and those below it, by the system and by the driver."""
    tree = hostmem.tree(pid)
    notes = [
        "This process was not started by `oom_doctor.py run`: its phase and steps are not known."
    ]
    gpu: dict[int, int] = {}
    totals: dict[int, int] = {}
    try:
        for device in Nvml(library).gpus():
            for other, used in device.processes.items():
                if other in tree["processes"]:
                    gpu[other] = gpu.get(other, 0) + (used or 0)
                    totals[other] = totals.get(other, 0) + device.total
            if device.used and not device.processes:
                notes.append(
                    f"GPU {device.index}: {size(device.used)} of {size(device.total)} in use, but "
                    "the driver does not tell by whom (container, WSL, MIG or missing permission)."
                )
    except NvmlError as error:
        notes.append(str(error))
    commands = {p: hostmem.command(p) for p in tree["processes"]}
    if commands.get(pid) == "":
        notes.append(f"No permission to read the command line of process {pid}.")
    rows = [
        Row(
            p,
            (commands[p] or "?").split("/")[-1][:40],
            True,
            allocated=gpu.get(p),
            limit=totals.get(p),
            host=resident,
        )
        for p, resident in tree["processes"].items()
    ]
    return View(f"process {pid}", rows, notes, over=not alive(pid))


def look(target: Path | int) -> View:
    """The view of a run (its folder) or of a process (its id) now."""
    return of_run(target) if isinstance(target, Path) else of_process(target)
