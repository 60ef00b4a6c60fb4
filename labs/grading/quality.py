"""How a grader is graded: six points, for every exercise of every chapter.

1. the stub is reported as not started; 2. the reference passes; 3. a different correct answer
passes; 4. named mistakes fail and are named, and so are their second writings; 5. lazy answers
fail, or are proven equal to the reference on every graded call; 6. no test can pass vacuously.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from labs.grading import source
from labs.grading.compare import same
from labs.grading.course import Chapter
from labs.grading.exercise import Exercise, GraderError
from labs.grading.generate import stubs_text
from labs.grading.grade import Run, name_mistake, run_text
from labs.grading.lazy import LEAST, NAME, battery
from labs.grading.session import Server
from labs.grading.vacuous import vacuous


@dataclass
class Quality:
    """What one exercise's grader is worth; `problems` is empty where it is complete."""

    chapter: str
    exercise: str
    kind: str
    alternatives: int = 0
    mistakes: int = 0
    caught: int = 0
    named: int = 0
    second_caught: int = 0
    second_named: int = 0
    lazy: int = 0  # that count: unequal to the reference somewhere
    lazy_caught: int = 0
    runs: int = 0
    calls: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)


def grade_grader(chapter: Chapter, exercise: Exercise, server: Server | None = None) -> Quality:
    """Run the five points that run (the sixth is read: `vacuous_tests`) on one exercise's check."""
    started = time.monotonic()
    found = Quality(chapter.name, exercise.name, exercise.kind, problems=exercise.problems())
    found.mistakes = len(exercise.mistakes)
    try:
        _Grading(chapter, exercise, found, server).all()
    except GraderError as error:
        found.problems.append(str(error))
    found.seconds = time.monotonic() - started
    return found


def grade_chapter(
    chapter: Chapter, server: Server | None = None, tell: Callable[[str], None] = lambda _: None
) -> list[Quality]:
    """The quality of every graded exercise of a chapter; `tell` hears each name as it starts."""
    rows = []
    for exercise in chapter.graded:
        tell(f"{chapter.short} {exercise.name}")
        rows.append(grade_grader(chapter, exercise, server))
    return rows


def vacuous_tests(chapter: Chapter) -> list[str]:
    """Point six: the lines of test_exercises.py that prove nothing."""
    return [str(v) for v in vacuous(chapter.folder / "test_exercises.py")]


class _Grading:
    def __init__(self, chapter: Chapter, exercise: Exercise, found: Quality, server):
        self.chapter, self.exercise, self.found, self.server = chapter, exercise, found, server
        self.test = chapter.check(exercise)

    def all(self) -> None:
        self.stub()
        self.reference()
        self.others()
        self.mistakes()
        self.lazy()

    def run(self, text: str, name: str) -> Run:
        done = run_text(self.test, self.exercise, text, name=name, server=self.server)
        self.found.runs += 1
        self.found.calls += len(done.records)
        return done

    def problem(self, text: str) -> None:
        self.found.problems.append(text)

    def stub(self) -> None:
        failure = self.run(stubs_text(self.chapter), self.exercise.name).failure
        if failure is None or not failure.not_started:
            self.problem("the stub is not reported as not started")

    def reference(self) -> None:
        answer = self.exercise.answer
        self.right = self.run(source.standalone(answer), answer.__name__)
        if self.right.failure:
            self.problem(f"the reference fails: {_why(self.right)}")

    def others(self) -> None:
        for answer in self.exercise.alternatives:
            done = self.run(source.standalone(answer), answer.__name__)
            if done.failure:
                self.problem(f"the correct answer {answer.__name__} fails: {_why(done)}")
            else:
                self.found.alternatives += 1

    def mistakes(self) -> None:
        for mistake in self.exercise.mistakes:
            caught, named = self._mistake(mistake, mistake.answer)
            self.found.caught += caught
            self.found.named += named
            if mistake.second is not None:
                caught, named = self._mistake(mistake, mistake.second)
                self.found.second_caught += caught
                self.found.second_named += named

    def _mistake(self, mistake, answer) -> tuple[bool, bool]:
        done = self.run(source.standalone(answer), answer.__name__)
        if done.failure is None:
            self.problem(f"the mistake {answer.__name__} passes")
            return False, False
        name = name_mistake(self.test, self.exercise, done)
        if name is not mistake:
            called = f"is taken for {name.name}" if name else "is not named"
            self.problem(f"the mistake {answer.__name__} {called}: {_why(done)}")
        return True, name is mistake

    def lazy(self) -> None:
        for item in battery(self.exercise):
            done = self.run(item.text, NAME)
            if done.failure is None and _equal(done, self.right):
                continue  # proven equal to the reference on every graded call: it does not count
            self.found.lazy += 1
            if done.failure is None:
                self.problem(f"a lazy answer passes: {item.label}")
            elif done.failure.stage == "found":
                self.problem(f"the lazy answer {item.label} did not run: {_why(done)}")
            else:
                self.found.lazy_caught += 1
        if self.found.lazy < LEAST:
            self.problem(f"only {self.found.lazy} lazy answers count, {LEAST} are needed")


def _equal(a: Run, b: Run) -> bool:
    return len(a.records) == len(b.records) and all(
        x.outcome.mutated == y.outcome.mutated and same(x.outcome.value, y.outcome.value, rtol=0)
        for x, y in zip(a.records, b.records, strict=True)
    )


def _why(done: Run) -> str:
    failure = done.failure
    return f"[{failure.stage}] {failure.sentence} wanted {failure.wanted}, got {failure.got}"
