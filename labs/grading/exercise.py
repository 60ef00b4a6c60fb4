"""What an exercise is: one function in `solutions/`, its facts, other answers and mistakes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

KINDS = ("implement", "compute", "debug", "explain")
DIFFICULTIES = ("basic", "challenge")
# By the clock on the wall; a graded call needs milliseconds, so a busy machine has room to spare.
SECONDS = 30.0


class GraderError(Exception):
    """The exercise or its check is written wrongly: the author's fault, never the learner's."""


@dataclass(eq=False)
class Mistake:
    """A wrong answer that people really give, and the sentence that explains it."""

    exercise: Exercise
    answer: Callable
    says: str
    second: Callable | None = None

    @property
    def name(self) -> str:
        return self.answer.__name__

    def again(self, answer: Callable) -> Callable:
        """Register the same mistake in other names and another style (unaware of the check)."""
        self.second = answer
        return answer

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.answer(*args, **kwargs)


@dataclass(eq=False)
class Exercise:
    """One exercise. Made by the decorator `exercise`; calling it calls the reference answer."""

    answer: Callable
    kind: str
    points: int
    difficulty: str
    minutes: int
    section: str
    hints: tuple[str, ...] = ()
    forbid: tuple[str, ...] = ()
    seconds: float = SECONDS
    memory_mb: int = 2048
    diagnoses: dict[str, str] = field(default_factory=dict)
    log: str = ""
    broken: Callable | None = None
    alternatives: list[Callable] = field(default_factory=list)
    mistakes: list[Mistake] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.answer.__name__

    @property
    def graded(self) -> bool:
        return self.kind != "explain"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.answer(*args, **kwargs)

    def alternative(self, answer: Callable) -> Callable:
        """Register a different correct answer: another formula, a loop, a library call."""
        self.alternatives.append(answer)
        return answer

    def mistake(self, says: str) -> Callable[[Callable], Mistake]:
        """Register a named mistake; `says` is the sentence that the learner will read."""

        def register(answer: Callable) -> Mistake:
            self.mistakes.append(Mistake(self, answer, says))
            return self.mistakes[-1]

        return register

    def problems(self) -> list[str]:
        """What is missing for the exercise to be complete (the tests want an empty list)."""
        found = []
        if not (self.answer.__doc__ or "").strip():
            found.append("no statement: the docstring is empty")
        if not self.graded:
            return found
        if len(self.hints) != 3:
            found.append(f"{len(self.hints)} hints instead of three")
        if not self.alternatives:
            found.append("no other correct answer (@NAME.alternative)")
        if len(self.mistakes) < 3:
            found.append(f"{len(self.mistakes)} named mistakes, at least three are needed")
        for mistake in self.mistakes:
            if mistake.second is None:
                found.append(
                    f"the mistake {mistake.name} has no second writing (@{mistake.name}.again)"
                )
        if self.kind == "debug" and not (self.diagnoses and self.log and self.broken):
            found.append("a debug exercise needs diagnoses=, log= and broken=")
        return found


def exercise(
    *,
    kind: str,
    section: str,
    minutes: int,
    points: int = 0,
    difficulty: str = "basic",
    hints: tuple[str, ...] = (),
    **options: Any,
) -> Callable[[Callable], Exercise]:
    """Make the decorated function or class an exercise; its docstring is the statement.

    `section` is the heading of the page that teaches it. `forbid` names libraries that hold the
    answer. `seconds` (by the wall clock) and `memory_mb` limit one call. `diagnoses`, `log` and `broken` belong to
    debug exercises. Raises GraderError for an unknown kind or difficulty.
    """
    if kind not in KINDS:
        raise GraderError(f"kind={kind!r}: an exercise is one of {', '.join(KINDS)}.")
    if difficulty not in DIFFICULTIES:
        raise GraderError(f"difficulty={difficulty!r}: it is basic or challenge.")
    if (kind == "explain") != (points == 0):
        raise GraderError("Explain exercises are not graded and have no points; all others have.")

    def register(answer: Callable) -> Exercise:
        return Exercise(answer, kind, points, difficulty, minutes, section, tuple(hints), **options)

    return register
