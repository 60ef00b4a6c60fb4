"""The pytest plugin: `pytest chapters/ch03_sft` grades work/ch03_sft, or the stubs without it.

Each `test_NAME(check)` grades the exercise NAME; the fixture `check` holds the answer in a guarded
child. `labs grade` runs the same plugin.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from labs.errors import InputError
from labs.grading.calls import CheckFailed
from labs.grading.check import Check
from labs.grading.course import Chapter
from labs.grading.feedback import feedback
from labs.grading.grade import Result, Run, name_mistake
from labs.grading.session import ChildSession, Server

RESULTS = pytest.StashKey[dict[str, Result]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("labs", "graded exercises")
    group.addoption("--answers", type=Path, metavar="PATH", help="grade this folder or file")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[RESULTS] = {}
    # Every chapter has a test_exercises.py: by default pytest would take them for one module.
    config.option.importmode = "importlib"
    if not config.option.collectonly:
        Server.shared()  # it imports PyTorch while this process collects


@pytest.fixture
def check(request: pytest.FixtureRequest):
    chapter = _chapter(request.path)
    exercise = chapter.exercise(request.node.name.removeprefix("test_"))
    try:
        path = chapter.answers(request.config.getoption("--answers"))
    except InputError as error:
        pytest.exit(str(error), returncode=2)
    session = ChildSession(
        exercise.name,
        str(path.resolve()),
        path.read_text(encoding="utf-8"),
        forbid=exercise.forbid,
        seconds=exercise.seconds,
        memory_mb=exercise.memory_mb,
    )
    check = Check(exercise, session)
    request.node.graded = (chapter, path, check)
    yield check
    session.close()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    outcome = yield
    report = outcome.get_result()
    if call.when != "call" or not hasattr(item, "graded"):
        return
    chapter, path, check = item.graded
    failed = call.excinfo is not None and isinstance(call.excinfo.value, CheckFailed)
    if call.excinfo is not None and not failed:
        return  # a fault of the check: pytest shows it in full
    failure = call.excinfo.value.failure if failed else None
    run = Run(check.records, failure, check.session.output, check.asserted)
    test = item.function
    result = Result(check.exercise, path, run, name_mistake(test, check.exercise, run))
    item.config.stash[RESULTS][f"{chapter.name}/{check.exercise.name}"] = result
    if failed:
        report.longrepr = feedback(result, chapter, item.config.getoption("verbose", 0) > 0)


def _chapter(path: Path) -> Chapter:
    return Chapter(path.parent.name, path.parents[2])
