"""The folder of `labs bench memory_gpu`: one file a case for what was predicted, one for what was measured.

Files are written whole or not at all, and say by what code they were made. So the bench may be stopped
anywhere, and go on later, on another machine, with the files of the first beside its own.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from labs.bench.children import ROOT
from labs.bench.memory_gpu_cases import CONFIGS, Case
from labs.bench.record import digest
from labs.errors import InputError
from labs.formats.files import atomic_write

KINDS = ("predicted", "measured")
FINAL = ("done", "out of memory")  # other outcomes are tried again
# What a prediction and what a measurement depends on, beside the case itself.
CODE = {
    "predicted": ("labs/doctors/memory", "labs/bench/memory_gpu_predict.py"),
    "measured": (
        "labs/bench/memory_gpu_child.py",
        "labs/bench/memory_gpu_meter.py",
        "labs/bench/memory_gpu_model.py",
        "labs/doctors/memory/setup",
    ),
}


class Results:
    """The files of one folder. `models` is where the cases' configurations lie."""

    def __init__(self, folder: Path, models: Path = CONFIGS):
        self.folder, self.models = folder, models
        self.digests = {kind: digest(ROOT / path for path in CODE[kind])[:16] for kind in KINDS}

    def file(self, kind: str, case: Case) -> Path:
        return self.folder / f"{case.name}.{kind}.json"

    def read(self, kind: str, case: Case) -> dict | None:
        """What a file says, if it is of this very case; raises InputError for a damaged one."""
        path = self.file(kind, case)
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            same = case.is_run(found["identity"], self.models)
        except FileNotFoundError:
            return None
        except (KeyError, TypeError, ValueError, OSError) as error:
            raise InputError(
                f"{path} is no result of this bench ({type(error).__name__}).",
                "Delete it: that case is then done again.",
            ) from None
        return found if same else None

    def current(self, kind: str, case: Case, found: dict | None) -> bool:
        """Whether a result is final and was made by the code as it is."""
        if found is None or found["code"] != self.digests[kind]:
            return False
        return kind == "predicted" or found["outcome"] in FINAL

    def write(self, kind: str, case: Case, content: dict) -> dict:
        """Write a case's result, with what it was made by; returns it as it will be read."""
        marked = {
            "case": case.name,
            "split": case.split,
            "identity": case.identity(self.models),
            "code": self.digests[kind],
            **content,
        }
        with atomic_write(self.file(kind, case)) as file:
            json.dump(marked, file, indent=1)
            file.write("\n")
        return marked

    def left(self, kind: str, cases: Iterable[Case]) -> list[Case]:
        """The cases still to do: first those that have nothing, then those that are out of date."""
        found = [(case, self.read(kind, case)) for case in cases]
        missing = [case for case, result in found if result is None]
        stale = [c for c, result in found if result and not self.current(kind, c, result)]
        return missing + stale
