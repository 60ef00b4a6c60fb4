"""A recorded measurement carries where it comes from, and knows when its code has changed."""

import json

import pytest

from book.measure import find_scripts, is_current, record

SCRIPT = """\
import json
print(json.dumps({"seed": 7, "code": ["labs"], "results": {"seconds": [1.5, 1.25]}}))
"""


@pytest.fixture
def repository(tmp_path):
    (tmp_path / "labs").mkdir()
    (tmp_path / "labs" / "loss.py").write_text("a = 1\n")
    (tmp_path / "chapters" / "ch03_sft").mkdir(parents=True)
    return tmp_path


def measure(repository, text):
    (repository / "chapters" / "ch03_sft" / "measure_steps.py").write_text(text)
    [(name, script)] = find_scripts(repository).items()
    return record(name, script, repository, repository / "records")


def test_record_says_where_it_comes_from(repository):
    path = measure(repository, SCRIPT)
    content = json.loads(path.read_text())
    assert path.name == "steps.json"
    assert content["results"] == {"seconds": [1.5, 1.25]} and content["seed"] == 7
    assert content["command"] == "python chapters/ch03_sft/measure_steps.py"
    assert content["hardware"]["cores"] >= 1 and content["versions"]["torch"]
    assert len(content["date"]) == 10


def test_record_is_older_once_the_code_changes(repository):
    path = measure(repository, SCRIPT)
    assert is_current(path, repository)
    (repository / "labs" / "loss.py").write_text("a = 2\n")
    assert not is_current(path, repository)


@pytest.mark.parametrize("text", ["print('fast')", "print('{\"seed\": 1}')", "print('[1]')"])
def test_a_script_that_prints_something_else_leaves_no_record(repository, text):
    with pytest.raises(ValueError, match=r"measure_steps\.py did not print"):
        measure(repository, text)
    assert not (repository / "records").exists()
