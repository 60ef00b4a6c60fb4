"""A small course with one exercise of each kind, for the graders' own tests."""

from pathlib import Path

import pytest

from labs.grading.course import Chapter, chapter
from labs.grading.session import Server

collect_ignore = ["course"]  # its checks grade answers; they are run by the tests beside it
COURSE = Path(__file__).parent / "course"


@pytest.fixture(scope="session")
def server() -> Server:
    return Server.shared()


@pytest.fixture(scope="session")
def kinds() -> Chapter:
    return chapter("ch98", COURSE)
