"""All that is known of a run once it has ended, and the folder that it lies in.

Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from labs.doctors.memory.live import diary
from labs.errors import InputError

KEPT = 20  # runs


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

    def pages_of(self, pid: int) -> diary.Pages | None:
        """The diary of one process; None where it kept none."""
        return next((page for page in self.diaries if page.pid == pid), None)


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
