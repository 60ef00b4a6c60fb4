"""Starts a training command with a recorder in every Python process of it, and waits.

The command, its arguments, its terminal and its environment stay as they are, but for PYTHONPATH,
which gains one folder that holds `sitecustomize.py` and its settings. What the recorders write lies
in the run's own folder and outlives them. When the command has ended badly, `death.py` says why.
Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import pkgutil
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from labs.doctors.memory import diary, hostmem, recorder
from labs.doctors.memory.bytesize import parse_size
from labs.doctors.memory.nvml import Nvml, NvmlError
from labs.errors import InputError

# Loaded into the observed processes: these files and no others, so they import only each other.
LIBRARY = (
    "allocations.py",
    "budget.py",
    "bytesize.py",
    "diary.py",
    "follow.py",
    "holders.py",
    "hostmem.py",
    "phases.py",
    "recorder.py",
)
KEPT = 20  # runs
TICKS = (0.1, 0.2, 0.3, 0.5)  # seconds between the first looks; then TICK
TICK = 1.0
SERIES = 3600  # looks kept


@dataclass
class Evidence:
    """All that is known of a run once it has ended (or of one whose doctor was killed: `read`)."""

    folder: Path
    command: list[str]
    started: float
    ended: float | None = None
    code: int | None = None  # as Popen gives it: negative for a signal
    series: list[dict[str, Any]] = field(default_factory=list)
    kills: int = 0  # by the kernel, in the command's memory group, during the run
    limit: int | None = None  # of that group
    kernel: list[str] = field(default_factory=list)
    gpus: list[dict[str, Any]] = field(default_factory=list)
    diaries: list[diary.Pages] = field(default_factory=list)
    deaths: list[dict[str, Any]] = field(default_factory=list)
    hellos: int = 0
    errors: list[str] = field(default_factory=list)
    seen: dict[int, float] = field(default_factory=dict)  # process -> when it was last alive


def home() -> Path:
    """Where runs are kept: OOM_DOCTOR_HOME, else the user's cache folder."""
    if os.environ.get("OOM_DOCTOR_HOME"):
        return Path(os.environ["OOM_DOCTOR_HOME"])
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(cache) / "oom_doctor"


def new_folder() -> Path:
    """A folder for this run, newest last by name; all but the last KEPT are removed."""
    name = time.strftime("%Y%m%d-%H%M%S-") + str(os.getpid())
    for parent in (home() / "runs", Path(tempfile.gettempdir()) / f"oom_doctor-{os.getuid()}"):
        try:
            folder = parent / name
            folder.mkdir(parents=True, mode=0o700)
        except OSError:
            continue
        for old in sorted(p for p in parent.iterdir() if p.is_dir())[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)
        return folder
    raise InputError(
        f"No folder can be made for the run in {home()}.",
        "Set OOM_DOCTOR_HOME to a folder that can be written.",
    )


def prepare(folder: Path, **config: Any) -> dict[str, str]:
    """Lay the hook and its library into `folder`; the environment for the command."""
    site, library = folder / "site", folder / "lib" / "_oom_doctor"
    site.mkdir()
    library.mkdir(parents=True)
    package = "labs.doctors.memory"
    source = pkgutil.get_data(package, "hook/sitecustomize.py")
    (site / "sitecustomize.py").write_bytes(source)
    for name in LIBRARY:
        (library / name).write_bytes(pkgutil.get_data(package, name))
    (library / "__init__.py").write_text('"""What `oom_doctor run` loads into a process."""\n')
    settings = {
        "folder": str(folder),
        "lib": str(library),
        "modules": list(recorder.WRAPPED),
        **config,
    }
    (site / "oom_doctor.json").write_text(json.dumps(settings))
    before = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": f"{site}{os.pathsep}{before}" if before else str(site)}


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


def collect(evidence: Evidence) -> Evidence:
    """Add what the recorders have left in the run's folder."""
    folder = evidence.folder
    for path in sorted(folder.glob("diary-*.bin")):
        with contextlib.suppress(ValueError, OSError):
            evidence.diaries.append(diary.read(str(path)))
    for path in sorted(folder.glob("death-*.json")):
        with contextlib.suppress(ValueError, OSError):
            evidence.deaths.append(json.loads(path.read_text()))
    evidence.deaths.sort(key=lambda death: death["time"])
    evidence.hellos = len(list(folder.glob("hello-*")))
    evidence.errors = [path.read_text()[-2000:] for path in sorted(folder.glob("error-*.txt"))]
    return evidence


def read(folder: Path) -> Evidence:
    """The evidence of a run whose doctor was killed, from its folder. Raises InputError."""
    try:
        about = json.loads((folder / "run.json").read_text())
        evidence = Evidence(folder, about["command"], about["started"])
    except (OSError, ValueError, KeyError):
        raise InputError(
            f"{folder} is not the folder of a run.",
            f"Runs are kept in {home() / 'runs'}, unless OOM_DOCTOR_HOME says otherwise.",
        ) from None
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
