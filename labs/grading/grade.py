"""Grade one answer: run the check, name the mistake, give points by stage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from labs.grading.calls import CREDIT, CheckFailed, Failure, Record
from labs.grading.check import Check
from labs.grading.compare import same
from labs.grading.course import chapter as find_chapter
from labs.grading.exercise import Exercise, GraderError, Mistake
from labs.grading.session import ChildSession, LocalSession, Server

Test = Callable[[Check], None]


@dataclass
class Run:
    """What a check made of an answer: the calls, and the failure if there is one."""

    records: list[Record]
    failure: Failure | None
    output: str = ""
    asserted: int = 0


@dataclass
class Result:
    """A graded answer."""

    exercise: Exercise
    path: Path
    run: Run
    mistake: Mistake | None = None

    @property
    def passed(self) -> bool:
        return self.run.failure is None

    @property
    def stage(self) -> str:
        if self.run.failure is None:
            return "done"
        return "not started" if self.run.failure.not_started else self.run.failure.stage

    @property
    def points(self) -> float:
        if self.run.failure is None:
            return self.exercise.points
        return round(self.exercise.points * CREDIT[self.run.failure.stage], 1)

    def as_json(self) -> dict[str, Any]:
        failure = self.run.failure
        return {
            "exercise": self.exercise.name,
            "passed": self.passed,
            "stage": self.stage,
            "points": self.points,
            "of": self.exercise.points,
            "problem": failure.sentence if failure else None,
            "wanted": failure.wanted or None if failure else None,
            "got": failure.got or None if failure else None,
            "mistake": self.mistake.name if self.mistake else None,
            "explanation": self.mistake.says if self.mistake else None,
        }


def run(test: Test, exercise: Exercise, session: ChildSession | LocalSession) -> Run:
    """Run a check on an answer. Raises GraderError where the check itself is at fault."""
    check = Check(exercise, session)
    try:
        test(check)
        failure = None
    except CheckFailed as failed:
        failure = failed.failure
    finally:
        output = session.output
        session.close()
    if failure is None and not check.asserted:
        raise GraderError(f"test_{exercise.name} asserts nothing.")
    return Run(check.records, failure, output, check.asserted)


def run_text(
    test: Test,
    exercise: Exercise,
    text: str,
    *,
    path: str = "/answers/exercises.py",
    name: str | None = None,
    server: Server | None = None,
) -> Run:
    """Run a check, in a guarded child, on the answer that a file's text holds."""
    session = ChildSession(
        name or exercise.name,
        path,
        text,
        forbid=exercise.forbid,
        seconds=exercise.seconds,
        memory_mb=exercise.memory_mb,
        server=server,
    )
    return run(test, exercise, session)


def grade_file(test: Test, exercise: Exercise, path: Path, server: Server | None = None) -> Result:
    """Grade the answer to one exercise in a learner's file."""
    text = path.read_text(encoding="utf-8")
    found = run_text(test, exercise, text, path=str(path.resolve()), server=server)
    return Result(exercise, path, found, name_mistake(test, exercise, found))


def name_mistake(test: Test, exercise: Exercise, answer: Run) -> Mistake | None:
    """The known mistake that gives the same results on the same calls, or None.

    The wrong answers run in this process; of the learner's only the recorded results are used.
    """
    if answer.failure is None or answer.failure.stage == "found":
        return None
    for mistake in exercise.mistakes:
        known = _run_mistake(test, mistake)
        if known.failure and _same(known, answer):
            return mistake
    return None


def inputs_of(chapter: str, name: str, call: int) -> tuple[tuple, dict[str, Any]]:
    """The arguments of the grader's call number `call`: (args, kwargs), to repeat it by hand."""
    found = find_chapter(chapter)
    exercise = found.exercise(name)
    records = run(found.check(exercise), exercise, LocalSession(exercise.answer)).records
    return records[call].request.args, records[call].request.kwargs


@cache
def _run_mistake(test: Test, mistake: Mistake) -> Run:
    return run(test, mistake.exercise, LocalSession(mistake.answer))


def _same(known: Run, answer: Run) -> bool:
    if known.failure.stage != answer.failure.stage or len(known.records) != len(answer.records):
        return False
    if known.failure.stage == "cost" and known.failure.sentence != answer.failure.sentence:
        return False
    return all(_same_outcome(a, b) for a, b in zip(answer.records, known.records, strict=True))


def _same_outcome(a: Record, b: Record) -> bool:
    if a.outcome.ended or b.outcome.ended:
        return False
    if a.outcome.error or b.outcome.error:
        types = [(o.error or {}).get("type") for o in (a.outcome, b.outcome)]
        return types[0] == types[1]
    if a.request.measure:
        return True  # the counts of one mistake differ from writing to writing
    return a.outcome.mutated == b.outcome.mutated and same(a.outcome.value, b.outcome.value)
