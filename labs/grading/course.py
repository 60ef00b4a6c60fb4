"""Where chapters, their exercises, their checks and a learner's work lie."""

from __future__ import annotations

import difflib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType

from labs.errors import InputError
from labs.grading.exercise import Exercise, GraderError

ROOT = Path(__file__).resolve().parents[2]


@dataclass(eq=False)
class Chapter:
    """A chapter that has exercises: `solutions/NAME.py` and `chapters/NAME/`."""

    name: str
    root: Path

    @property
    def folder(self) -> Path:
        return self.root / "chapters" / self.name

    @property
    def source(self) -> Path:
        return self.root / "solutions" / f"{self.name}.py"

    @property
    def stubs(self) -> Path:
        return self.folder / "exercises.py"

    @property
    def work(self) -> Path:
        return self.root / "work" / self.name / "exercises.py"

    @property
    def short(self) -> str:
        """ch03 for ch03_sft; the whole name for a project."""
        head = self.name.split("_")[0]
        return head if head.startswith("ch") and head[2:].isdigit() else self.name

    @property
    def title(self) -> str:
        return f"chapter {int(self.short[2:])}" if self.short != self.name else self.name

    @cached_property
    def solutions(self) -> ModuleType:
        return _load(f"solutions.{self.name}", self.source)

    @cached_property
    def exercises(self) -> list[Exercise]:
        """All exercises in the order of the file, explain exercises included."""
        return [v for v in vars(self.solutions).values() if isinstance(v, Exercise)]

    @property
    def graded(self) -> list[Exercise]:
        return [e for e in self.exercises if e.graded]

    @cached_property
    def checks(self) -> ModuleType:
        return _load(f"checks.{self.name}", self.folder / "test_exercises.py")

    def check(self, exercise: Exercise) -> Callable:
        """The function test_NAME of test_exercises.py."""
        function = getattr(self.checks, f"test_{exercise.name}", None)
        if function is None:
            raise GraderError(f"{self.folder}/test_exercises.py has no test_{exercise.name}.")
        return function

    def exercise(self, name: str) -> Exercise:
        """The exercise of that name. Raises InputError with the nearest one."""
        for exercise in self.exercises:
            if exercise.name == name:
                return exercise
        names = [e.name for e in self.exercises]
        raise InputError(
            f"There is no exercise {name!r} in {self.name}.", _nearest(name, names, "exercises")
        )

    def need_stubs(self) -> None:
        """Raises InputError where the stubs have not been generated."""
        if not self.stubs.exists():
            raise InputError(
                f"{self.stubs} is missing.",
                f"Run python -m labs.grading.generate {self.short}.",
            )

    def answers(self, override: Path | None = None) -> Path:
        """The file to grade: under `override`, else work/ where it exists, else the stubs."""
        if override is None:
            if not self.work.exists():
                self.need_stubs()
                return self.stubs
            return self.work
        for path in (override, override / "exercises.py", override / self.name / "exercises.py"):
            if path.is_file():
                return path
        raise InputError(
            f"There is no exercises.py in {override}.",
            "Give --answers the folder that holds it, or the file.",
        )


def chapters(root: Path = ROOT) -> list[Chapter]:
    """Every chapter with a solutions module, in order."""
    found = sorted((root / "solutions").glob("*.py"))
    return [Chapter(path.stem, root) for path in found if not path.stem.startswith("_")]


def chapter(key: str, root: Path = ROOT) -> Chapter:
    """A chapter by its folder's name, `ch03`, or `3`. Raises InputError with the nearest one."""
    known = chapters(root)
    for c in known:
        if key in (c.name, c.short) or (key.isdigit() and c.short == f"ch{int(key):02d}"):
            return c
    shorts = [c.short for c in known]
    raise InputError(
        f"There is no chapter {key!r} with exercises.", _nearest(key, shorts, "chapters")
    )


def _nearest(name: str, names: list[str], what: str) -> str:
    close = difflib.get_close_matches(name, names, 1)
    return f"Did you mean {close[0]}?" if close else f"The {what} are {', '.join(names)}."


def _load(name: str, path: Path) -> ModuleType:
    if not path.exists():
        raise GraderError(f"{path} is missing.")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and inspect look modules up by name
    spec.loader.exec_module(module)
    return module
