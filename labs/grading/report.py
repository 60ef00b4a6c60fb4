"""What `labs grade` prints: feedback on answers, the table of chapters, the quality of graders."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from labs.errors import InputError
from labs.grading.course import ROOT, Chapter, chapters
from labs.grading.course import chapter as find_chapter
from labs.grading.exercise import GraderError
from labs.grading.feedback import feedback
from labs.grading.grade import Result
from labs.grading.plugin import RESULTS
from labs.grading.progress import Progress
from labs.grading.quality import Quality, grade_chapter, vacuous_tests


class _Collector:
    """A pytest plugin that hands each result on as soon as it is there."""

    def __init__(self, tell: Callable[[Result], None]):
        self.tell, self.results, self.faults = tell, [], []

    def pytest_runtest_logfinish(self) -> None:
        for result in list(self.stash.values())[len(self.results) :]:
            self.results.append(result)
            self.tell(result)

    def pytest_configure(self, config: pytest.Config) -> None:
        self.stash = config.stash[RESULTS]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not isinstance(report.longrepr, str):
            self.faults.append(str(report.longrepr))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.faults.append(str(report.longrepr))


def grade(
    chapter: Chapter, name: str | None, answers: Path | None, tell: Callable[[Result], None]
) -> list[Result]:
    """Grade a chapter's answers with pytest, in the order of the exercises' file.

    Raises InputError for an unknown exercise or path, GraderError where a check is at fault.
    """
    chapter.answers(answers)
    test = str(chapter.folder / "test_exercises.py")
    if name is not None:
        if not chapter.exercise(name).graded:
            raise InputError(
                f"{name} is a question for discussion and is not graded.",
                f"Compare your answer with the model answer in {chapter.title}.",
            )
        test += f"::test_{name}"
    collector = _Collector(tell)
    options = ["-p", "labs.grading.plugin", "-p", "no:terminal", "-p", "no:cacheprovider"]
    options += ["-o", "addopts=", "--rootdir", str(chapter.root)]
    if answers is not None:
        options += ["--answers", str(answers.resolve())]
    pytest.main([test, *options], plugins=[collector])
    if collector.faults or not collector.results:
        raise GraderError("\n".join(collector.faults) or f"{test} holds no tests.")
    return collector.results


def chapter(
    key: str, name: str | None, answers: Path | None, *, as_json: bool, verbose: bool
) -> int:
    """Print the feedback on a chapter's answers; 0 where all are right."""
    found = find_chapter(key)

    def tell(result: Result) -> None:
        if not as_json:
            print(feedback(result, found, verbose), end="\n\n", flush=True)

    results = grade(found, name, answers, tell)
    if answers is None:
        _remember(found, results)
    points, most = sum(r.points for r in results), sum(r.exercise.points for r in results)
    if as_json:
        head = {"version": 1, "chapter": found.name, "points": points, "of": most}
        print(json.dumps(head | {"exercises": [r.as_json() for r in results]}, indent=2))
    else:
        right = sum(r.passed for r in results)
        print(f"{right} of {len(results)} right, {points:g} of {most} points")
    return 0 if all(r.passed for r in results) else 1


def everything(answers: Path | None, *, as_json: bool) -> int:
    """Print the table of chapters, points and time; 0 where every answer is right."""
    found = [c for c in chapters() if c.graded and (answers is None or _has(c, answers))]
    if answers is not None and not found:
        raise InputError(
            f"There is no chapter's exercises.py in {answers}.",
            "Give --answers a folder such as work/, with a folder for each chapter.",
        )
    rows: list[dict[str, Any]] = []
    console = Console(stderr=True)
    with console.status("grading") as status:
        for c in found:
            status.update(f"grading {c.name}")
            results = grade(c, None, answers, lambda _: None)
            if answers is None:
                _remember(c, results)
            rows.append(
                {
                    "chapter": c.name,
                    "right": sum(r.passed for r in results),
                    "exercises": len(results),
                    "points": sum(r.points for r in results),
                    "of": sum(r.exercise.points for r in results),
                    "minutes_left": sum(r.exercise.minutes for r in results if not r.passed),
                    "minutes": sum(r.exercise.minutes for r in results),
                }
            )
    total = {k: sum(r[k] for r in rows) for k in rows[0] if k != "chapter"} if rows else {}
    if as_json:
        print(json.dumps({"version": 1, "chapters": rows, "total": total}, indent=2))
    else:
        table = Table("chapter", title="Exercises")
        for column in ("right", "points", "time left", "time in all"):
            table.add_column(column, justify="right")
        for row in [*rows, {"chapter": "all", **total}] if rows else []:
            table.add_row(
                row["chapter"],
                f"{row['right']} of {row['exercises']}",
                f"{row['points']:g} of {row['of']}",
                f"{row['minutes_left']} min",
                f"{row['minutes']} min",
            )
        Console().print(table)
    return 0 if all(r["right"] == r["exercises"] for r in rows) else 1


SHORT = ("exercise", "kind", "others", "caught", "named", "caught²", "named²", "lazy")  # 80 columns
COLUMNS = (
    "exercise",
    "kind",
    "other answers pass",
    "mistakes caught",
    "named",
    "second writings caught",
    "named",
    "lazy answers caught",
)


def quality(key: str | None, *, as_json: bool, markdown: bool) -> int:
    """Grade the graders and print the table; 0 where nothing is missing."""
    console = Console(stderr=True)
    rows: list[Quality] = []
    faults: list[str] = []
    with console.status("grading the graders") as status:
        for c in [find_chapter(key)] if key else chapters():
            rows += grade_chapter(c, tell=lambda text: status.update(f"grading {text}"))
            faults += vacuous_tests(c)
    problems = [f"{q.chapter}.{q.exercise}: {p}" for q in rows for p in q.problems] + faults
    if as_json:
        print(
            json.dumps(
                {
                    "version": 1,
                    "exercises": [dataclasses.asdict(q) for q in rows],
                    "vacuous": faults,
                },
                indent=2,
            )
        )
    elif markdown:
        print(quality_markdown(rows))
    else:
        table = Table(*SHORT, title="How the graders are graded")
        for row in _quality_rows(rows):
            table.add_row(*row)
        Console().print(table)
        runs, calls = sum(q.runs for q in rows), sum(q.calls for q in rows)
        print(f"{runs} answers, {calls} calls, {sum(q.seconds for q in rows):.1f} s")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def quality_markdown(rows: list[Quality]) -> str:
    """The table of graders as Markdown, for the book."""
    lines = [COLUMNS, ["---"] * 2 + ["--:"] * (len(COLUMNS) - 2), *_quality_rows(rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _quality_rows(rows: list[Quality]) -> list[list[str]]:
    return [
        [
            f"{q.chapter.split('_')[0]} {q.exercise}",
            q.kind,
            str(q.alternatives),
            f"{q.caught}/{q.mistakes}",
            f"{q.named}/{q.mistakes}",
            f"{q.second_caught}/{q.mistakes}",
            f"{q.second_named}/{q.mistakes}",
            f"{q.lazy_caught}/{q.lazy}",
        ]
        for q in rows
    ]


def _has(c: Chapter, answers: Path) -> bool:
    return (answers / c.name / "exercises.py").is_file()


def _remember(c: Chapter, results: list[Result]) -> None:
    if not (ROOT / "work").exists():
        return  # nothing was started: grading the stubs leaves no trace
    progress = Progress(c.root)
    for result in results:
        progress.record(c.name, result)
    progress.save()
