"""Every grader of every chapter is graded: the six points of labs/grading/quality.py."""

import pytest

from labs.grading.course import chapters
from labs.grading.generate import COMMAND, stale
from labs.grading.quality import LEAST, grade_grader, vacuous_tests

CHAPTERS = chapters()
EXERCISES = [(c, e) for c in CHAPTERS for e in c.graded]


def test_there_are_chapters():
    assert "ch03_sft" in [c.name for c in CHAPTERS]


@pytest.mark.parametrize(("chapter", "exercise"), EXERCISES, ids=lambda x: x.name)
def test_grader(chapter, exercise, server):
    found = grade_grader(chapter, exercise, server)
    assert found.problems == []
    assert found.caught == found.named == found.second_named == found.mistakes >= 3
    assert found.alternatives >= 1
    assert found.lazy_caught == found.lazy >= LEAST


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda c: c.name)
def test_no_check_is_vacuous(chapter):
    assert vacuous_tests(chapter) == []


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda c: c.name)
def test_generated_files_are_current(chapter):
    assert stale(chapter) == [], f"run {COMMAND}"
