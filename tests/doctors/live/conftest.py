"""The doctor as a user starts it: the file in tools/, from another folder, a home of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for live_helpers, whatever pytest's import mode

from live_helpers import DOCTOR, PROGRAM, Done, environment


@pytest.fixture
def doctor(tmp_path):
    """Run the doctor with these arguments; what it returned, printed and saved."""

    def call(*arguments, stdin=None, python=sys.executable, **variables) -> Done:
        done = subprocess.run(
            [python, str(DOCTOR), *map(str, arguments)],
            cwd=tmp_path,
            env=environment(tmp_path, **variables),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=600,
        )
        return Done(done.returncode, done.stdout, done.stderr, tmp_path / "home")

    return call


@pytest.fixture
def program(tmp_path):
    """Write a training program (the tiny model, then `text`) and give its path."""

    def write(text, name="train.py"):
        path = tmp_path / name
        path.write_text(PROGRAM + text)
        return path

    return write
