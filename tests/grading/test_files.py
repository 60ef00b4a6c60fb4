"""Files: the wire, vacuous tests, generated files, starting, progress, the plugin, the commands."""

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections import namedtuple
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from labs.errors import InputError
from labs.grading import generate
from labs.grading.course import ROOT, Chapter, chapter
from labs.grading.progress import Progress
from labs.grading.start import start
from labs.grading.vacuous import vacuous
from labs.grading.wire import Handle, decode, encode

COURSE = Path(__file__).parent / "course"
Pair = namedtuple("Pair", "loss count")


@dataclass
class Loss:
    loss: torch.Tensor


def there_and_back(value):
    return decode(encode(value, lambda v: Handle(0, type(v).__name__)))


def test_values_travel():
    value = {
        "n": [1, 2.5, True, None, "x", float("inf")],
        3: (torch.ones(2, 3, dtype=torch.bfloat16).T, np.arange(3)),
        "r": Pair(torch.tensor(1.5, requires_grad=True), 2),
        "l": Loss(torch.zeros(())),
        "o": object(),
        "t": torch.float16,
    }
    back = there_and_back(value)
    assert back["n"] == value["n"]
    assert back[3][0].dtype == torch.bfloat16
    assert back[3][0].shape == (3, 2)
    assert back[3][1].tolist() == [0, 1, 2]
    assert back["r"].loss.was_differentiable
    assert back["r"].count == 2
    assert back["l"].loss.item() == 0
    assert back["o"] == Handle(0, "object")
    assert back["t"] is torch.float16


def test_a_pickle_is_never_read():
    with pytest.raises(ValueError, match="unreadable reply"):
        decode(pickle.dumps({"value": 1}))
    with pytest.raises(ValueError, match="unreadable reply"):
        decode((20).to_bytes(8, "little") + b'{"$": "dtype", "name": "save"}')


VACUOUS = """
import random
import numpy as np
import pytest
import torch

def test_bare():
    x = 1
    x == 1
    assert x

def test_nothing():
    print("ok")

def test_raising():
    with pytest.raises(ValueError):
        int("x")
        assert False

def test_after_return():
    assert 1 == 1
    return
    assert 2 == 3

def test_unseeded():
    assert torch.randn(3).shape == (3,)
    assert np.random.rand() < 1
    assert random.random() < 1
    assert np.random.default_rng().random() < 1

def test_always():
    assert (1, "message")
"""

SOUND = """
import numpy as np
import pytest
import torch

def holds(x):
    assert x

def test_helper():
    holds(1)

def test_raises():
    with pytest.raises(ValueError):
        int("x")

def test_seeded(check):
    g = torch.Generator().manual_seed(1)
    check.equal("same", torch.randn(3, generator=g), np.random.default_rng(3).random())

def test_seeded_globally():
    torch.manual_seed(0)
    assert torch.rand(1) < 1
"""


def test_vacuous_tests_are_found(tmp_path):
    path = tmp_path / "test_x.py"
    path.write_text(VACUOUS)
    lines = VACUOUS.splitlines()
    found = {(lines[v.line - 1].strip(), v.says.split(":")[0]) for v in vacuous(path)}
    assert found == {
        ("x == 1", "a bare comparison"),
        ("def test_nothing():", "test_nothing has no assertion"),
        ("assert False", "a second statement under `raises` may never run"),
        ("assert 2 == 3", "a line that never runs"),
        ("assert torch.randn(3).shape == (3,)", "torch.randn without a seed"),
        ("assert np.random.rand() < 1", "np.random.rand without a seed"),
        ("assert random.random() < 1", "random.random without a seed"),
        (
            "assert np.random.default_rng().random() < 1",
            "np.random.default_rng without a seed",
        ),
        ('assert (1, "message")', "an assertion that is always true"),
    }


def test_sound_tests_are_left_alone(tmp_path):
    path = tmp_path / "test_x.py"
    path.write_text(SOUND)
    assert vacuous(path) == []


@pytest.fixture
def course(tmp_path):
    """A copy of the small course, generated."""
    shutil.copytree(COURSE, tmp_path / "course", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "chapters" / "conftest.py", tmp_path / "course" / "chapters")
    found = chapter("ch98", tmp_path / "course")
    generate.generate(found)
    return found


def test_check_fails_on_a_difference_and_says_what_to_do(course, capsys):
    assert generate.main(["--check", "--root", str(course.root)]) == 0
    course.stubs.write_text(course.stubs.read_text() + "# edited\n")
    assert generate.main(["--check", "--root", str(course.root)]) == 1
    said = capsys.readouterr().out
    assert "chapters/ch98_kinds/exercises.py is not what its source gives" in said
    assert "python -m labs.grading.generate ch98" in said
    assert course.stubs.read_text().endswith("# edited\n")
    assert generate.main(["--root", str(course.root)]) == 0
    assert generate.main(["--check", "--root", str(course.root)]) == 0


SOLUTION = '''"""Chapter 97, areas: exercises."""

import math

import torch
from torch import Tensor

from labs.grading import exercise


def circle(radius: float) -> Tensor:
    return torch.tensor(math.pi * radius**2)


@exercise(kind="implement", points=1, minutes=1, section="Areas")
def ring(outer: Tensor, inner: Tensor) -> Tensor:
    """The area between two circles."""
    # --- answer
    return {answer}
    # --- end
'''


@pytest.mark.parametrize(
    ("answer", "excused"),
    [
        ("circle(outer) - circle(inner)", False),  # circle is given: the stub uses every import
        ("math.pi * torch.sub(outer**2, inner**2)", True),
    ],
)
def test_stubs_are_clean_for_ruff(tmp_path, answer, excused):
    (tmp_path / "solutions").mkdir()
    (tmp_path / "solutions" / "ch97_areas.py").write_text(SOLUTION.replace("{answer}", answer))
    found = chapter("ch97", tmp_path)
    generate.generate(found)
    assert ("# ruff: noqa: F401" in found.stubs.read_text()) is excused
    config = ["--config", str(ROOT / "pyproject.toml"), str(found.stubs)]
    for command in (["check", "--no-cache"], ["format", "--no-cache", "--check"]):
        ruff = [sys.executable, "-m", "ruff", *command, *config]
        done = subprocess.run(ruff, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout


def test_missing_stubs_are_told_in_two_sentences(course):
    course.stubs.unlink()
    done = pytest_in(course.root, "chapters/ch98_kinds")
    assert done.returncode == 2
    assert "exercises.py is missing. Run python -m labs.grading.generate ch98." in done.stdout
    assert "FileNotFoundError" not in done.stdout


def test_start_never_overwrites_an_edited_file(course):
    assert start(course).action == "copied"
    assert course.work.read_text() == course.stubs.read_text()
    assert start(course).action == "kept"
    newer = course.stubs.read_text() + "\n\ndef new_one():\n    raise NotImplementedError\n"
    course.stubs.write_text(newer)
    assert start(course).action == "updated"  # nobody had edited it
    assert course.work.read_text() == newer
    course.work.write_text("mine = 1\n")
    assert start(course).action == "kept"
    course.stubs.write_text(newer + "# again\n")
    started = start(course)
    assert (started.action, started.path.name) == ("beside", "exercises.py.new")
    assert "new_one" in started.added
    assert course.work.read_text() == "mine = 1\n"
    assert started.path.read_text() == newer + "# again\n"


def test_a_broken_progress_file_is_named(course):
    course.work.parent.mkdir(parents=True)
    (course.root / "work" / "progress.json").write_text("{")
    with pytest.raises(InputError, match=r"progress\.json cannot be read"):
        Progress(course.root)


def test_names_are_found_or_the_nearest_is_told(course):
    assert chapter("3").name == "ch03_sft"
    assert chapter("ch03_sft").short == "ch03"
    assert Chapter("project_search", ROOT).short == "project_search"
    with pytest.raises(InputError, match="Did you mean LowRank"):
        course.exercise("lowrank_")
    with pytest.raises(InputError, match="no chapter 'ch77'"):
        chapter("ch77")
    with pytest.raises(InputError, match=r"no exercises\.py"):
        course.answers(course.root / "nowhere")


def pytest_in(root, *arguments):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "--rootdir", str(root), *arguments]
    return subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, timeout=300)


RIGHT = "\n\ndef weights_gb():\n    return 14.0\n"


def test_pytest_grades_work_where_it_exists_and_the_stubs_otherwise(course):
    done = pytest_in(course.root, "chapters/ch98_kinds")
    assert done.returncode == 1
    headings = re.findall(r"^\w+: not started, 0 of", done.stdout, re.MULTILINE)
    assert len(headings) == 3  # pytest's summary repeats them under CI, after the test's id
    assert "Traceback" not in done.stdout
    start(course)
    course.work.write_text(course.work.read_text() + RIGHT)
    done = pytest_in(course.root, "chapters/ch98_kinds")
    assert "2 failed, 1 passed" in done.stdout
    assert "work/ch98_kinds/exercises.py" in done.stdout
    other = course.root / "other"
    other.mkdir()
    (other / "exercises.py").write_text("def weights_gb():\n    return 14e9 / 2**30\n")
    done = pytest_in(course.root, "chapters/ch98_kinds", "--answers", "other")
    assert "3 failed" in done.stdout
    assert "That is GiB: the question asks for GB of 1000³ bytes." in done.stdout
    assert "There is no `LowRank` in the file" in done.stdout


def labs(*arguments):
    command = [sys.executable, "-m", "labs.cli.main", *arguments]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)


def test_labs_grade_writes_json(tmp_path):
    (tmp_path / "exercises.py").write_text(
        "def generation_loss(logits, labels, num_items=None):\n"
        "    import torch.nn.functional as F\n"
        "    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())\n"
    )
    done = labs("grade", "ch03", "generation_loss", "--json", "--answers", str(tmp_path))
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    assert found["exercises"][0]["mistake"] == "ignores_num_items"
    assert (found["points"], found["of"]) == (2.0, 10)


def test_labs_grade_tells_bad_input_in_two_sentences(tmp_path):
    done = labs("grade", "ch03", "generation_los")
    assert done.returncode == 2
    assert "There is no exercise 'generation_los' in ch03_sft." in done.stderr
    assert "Did you mean generation_loss?" in done.stderr
    assert "Traceback" not in done.stderr
    done = labs("grade", "ch03", "--answers", str(tmp_path / "nothing"))
    assert done.returncode == 2
    assert "There is no exercises.py" in done.stderr
    done = labs("grade", "--all", "--answers", str(tmp_path))
    assert done.returncode == 2
    assert "There is no chapter's exercises.py" in done.stderr
