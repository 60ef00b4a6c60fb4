"""Starts a training command with a recorder in every Python process of it, and waits.

The command, its arguments, its terminal and its environment stay as they are, but for PYTHONPATH,
which gains one folder that holds `sitecustomize.py` and its settings. What the recorders write lies
in the run's own folder and outlives them. When the command has ended badly, `death/` says why.
Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from labs.doctors.memory.bytesize import parse_size
from labs.doctors.memory.live import hostmem
from labs.doctors.memory.live.evidence import Evidence, collect
from labs.doctors.memory.live.library import prepare
from labs.doctors.memory.live.nvml import Nvml, NvmlError
from labs.errors import InputError

TICKS = (0.1, 0.2, 0.3, 0.5)  # seconds between the first looks; then TICK
TICK = 1.0
SERIES = 3600  # looks kept


def find_command(command: list[str]) -> None:
    """Raise InputError where the command cannot be started."""
    if not command:
        raise InputError(
            "There is no command to run.", "Write it after `--`: run -- python train.py"
        )
    if shutil.which(command[0]) is None:
        there = os.path.exists(command[0])
        raise InputError(
            f"The command `{command[0]}` "
            + ("cannot be executed." if there else "does not exist."),
            f"Start it with its interpreter: python {command[0]}"
            if there
            else "Check its spelling and that its environment is active.",
        )


class Watcher:
    """The doctor's own looks at the run, from outside: processes, host memory, groups, GPUs."""

    def __init__(self, pid: int, evidence: Evidence):
        self.pid, self.evidence = pid, evidence
        self.groups: dict[Path, tuple[hostmem.Group, int]] = {}
        try:
            self.nvml: Nvml | None = Nvml()
        except NvmlError:
            self.nvml = None
        self.pids = {pid}

    def look(self) -> None:
        tree = hostmem.tree(self.pid)
        now = time.time()
        processes: dict[int, int] = tree["processes"]  # type: ignore[assignment]
        self.pids |= set(processes)
        for pid in processes:
            self.evidence.seen[pid] = now
            self.note_group(pid)
        group = next(iter(self.groups.values()), (None, 0))[0]
        state = group.state() if group else {}
        entry = {
            "time": now,
            "processes": len(processes),
            "tree": tree["total"],
            "largest": sorted(processes.items(), key=lambda item: -item[1])[:8],
            "available": hostmem.machine()["available"],
            "group_used": state.get("used"),
            "shm": (hostmem.shared_memory() or {}).get("used"),
        }
        self.evidence.limit = state.get("limit") or self.evidence.limit
        self.evidence.series.append(entry)
        del self.evidence.series[:-SERIES]
        self.look_at_gpus()

    def look_at_gpus(self) -> None:
        if self.nvml is None:
            return
        try:
            gpus = self.nvml.gpus()
        except NvmlError:
            self.nvml = None
            return
        self.evidence.gpus = [
            {**vars(gpu), "ours": sorted(set(gpu.processes) & self.pids)} for gpu in gpus
        ]

    def note_group(self, pid: int) -> None:
        group = hostmem.group(pid)
        if group is not None and group.folder not in self.groups:
            self.groups[group.folder] = (group, group.kills())

    def finish(self) -> None:
        for group, before in self.groups.values():
            # Groups below one another count the same kill. One that is gone says nothing.
            self.evidence.kills = max(self.evidence.kills, group.kills() - before)
            limit = group.state()["limit"]
            if limit:
                self.evidence.limit = min(limit, self.evidence.limit or limit)
        self.evidence.kernel = hostmem.kernel_kills(self.pids)


def run(command: list[str], folder: Path, config: dict[str, Any]) -> Evidence:
    """Run the command to its end; what was seen. Ctrl-C and SIGTERM reach the command, not us."""
    environment = {**os.environ, **prepare(folder, **config)}
    evidence = Evidence(folder, command, time.time())
    (folder / "run.json").write_text(
        json.dumps({"command": command, "pid": os.getpid(), "started": evidence.started})
    )
    try:
        # Open files that a shell would hand on (make's job server, pipes) are handed on.
        process = subprocess.Popen(command, env=environment, close_fds=False)
    except OSError as error:
        raise InputError(
            f"The command `{command[0]}` cannot be started: {error.strerror}.",
            "Run it without the doctor to see whether it works by itself.",
        ) from None
    watcher = Watcher(process.pid, evidence)
    # The terminal sends Ctrl-C to the whole group, the command included.
    handlers = {signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN)}
    for name in ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"):
        number = getattr(signal, name, None)
        if number is not None:
            forward = lambda number, _: process.send_signal(number)  # noqa: E731
            handlers[number] = signal.signal(number, forward)
    try:
        waits = iter(TICKS)
        while True:
            watcher.look()
            with contextlib.suppress(subprocess.TimeoutExpired):
                evidence.code = process.wait(next(waits, TICK))
                break
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    evidence.ended = time.time()
    watcher.finish()
    return collect(evidence)


def exit_code(evidence: Evidence) -> int:
    """The command's own exit code as a shell gives it: 128 + n for a death by signal n."""
    code = evidence.code or 0
    return 128 - code if code < 0 else code


def budget_setting(text: str | None) -> str | None:
    """Check a --budget. Raises InputError."""
    if text is None or text == "none":
        return text
    try:
        parse_size(text)
    except ValueError as error:
        raise InputError(str(error), "Example: --budget '2 GiB'.") from None
    return text
