"""What `run` lays into a run's folder for the processes it observes: the hook and its library.

The repository never stands on their path; they load copies of a few files, as the package
`_oom_doctor`, laid out as here. Standard library only.
"""

from __future__ import annotations

import json
import os
import pkgutil
from pathlib import Path
from typing import Any

from labs.doctors.memory.live.wrapping import WRAPPED

PACKAGE = "labs.doctors.memory"
# These files and no others, so they import only each other, with dots.
LIBRARY = (
    "bytesize.py",
    "phases.py",
    "follow/__init__.py",
    "follow/budget.py",
    "follow/follower.py",
    "follow/holders.py",
    "follow/ledger.py",
    "follow/modules.py",
    "follow/storages.py",
    "live/__init__.py",
    "live/diary.py",
    "live/hostmem.py",
    "live/last_words.py",
    "live/memory_error.py",
    "live/recorder.py",
    "live/stacks.py",
    "live/wrapping.py",
    "snapshot/__init__.py",
    "snapshot/allocations.py",
)


def prepare(folder: Path, **config: Any) -> dict[str, str]:
    """Lay the hook and its library into `folder`; the environment for the command."""
    site, library = folder / "site", folder / "lib" / "_oom_doctor"
    site.mkdir()
    library.mkdir(parents=True)
    source = pkgutil.get_data(PACKAGE, "live/hook/sitecustomize.py")
    (site / "sitecustomize.py").write_bytes(source)
    for name in LIBRARY:
        (library / name).parent.mkdir(exist_ok=True)
        (library / name).write_bytes(pkgutil.get_data(PACKAGE, name))
    (library / "__init__.py").write_text('"""What `oom_doctor run` loads into a process."""\n')
    settings = {
        "folder": str(folder),
        "lib": str(library),
        "modules": list(WRAPPED),
        **config,
    }
    (site / "oom_doctor.json").write_text(json.dumps(settings))
    before = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": f"{site}{os.pathsep}{before}" if before else str(site)}
