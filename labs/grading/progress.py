"""work/progress.json: points, hints seen, and which stubs a learner's file was copied from."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

from labs.errors import InputError
from labs.grading.course import ROOT
from labs.grading.generate import write
from labs.grading.grade import Result

VERSION = 1


class Progress:
    """A learner's progress. Read at once, written by `save`."""

    def __init__(self, root: Path = ROOT):
        self.path = root / "work" / "progress.json"
        self.data: dict[str, Any] = {"version": VERSION, "stubs": {}, "answers": {}}
        if not self.path.exists():
            return
        try:
            self.data |= json.loads(self.path.read_text(encoding="utf-8"))
        except (ValueError, TypeError) as error:
            raise InputError(
                f"{self.path} cannot be read ({error}).",
                "Delete it: it holds points and hints seen, never your answers.",
            ) from error

    def save(self) -> None:
        write(self.path, json.dumps(self.data, indent=2, sort_keys=True) + "\n")

    def answer(self, chapter: str, exercise: str) -> dict[str, Any]:
        return self.data["answers"].setdefault(chapter, {}).setdefault(exercise, {})

    def record(self, chapter: str, result: Result) -> None:
        """Keep the newest grade of an answer, and its best."""
        kept = self.answer(chapter, result.exercise.name)
        kept |= {
            "stage": result.stage,
            "points": result.points,
            "best": max(result.points, kept.get("best", 0)),
            "of": result.exercise.points,
            "graded": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }

    def hints_seen(self, chapter: str, exercise: str) -> int:
        return self.answer(chapter, exercise).get("hints", 0)

    def saw_hint(self, chapter: str, exercise: str, number: int) -> None:
        kept = self.answer(chapter, exercise)
        kept["hints"] = max(number, kept.get("hints", 0))
