"""A recorded measurement carries where it comes from, and knows when its code has changed."""

import json

import pytest

from book.measure import RECORDS, ROOT, find_scripts, is_current, record, state
from labs.errors import InputError

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


def test_a_file_added_beside_leaves_the_record_current(repository):
    path = measure(repository, SCRIPT)
    assert json.loads(path.read_text())["code"] == ["labs/loss.py"]
    (repository / "labs" / "reward.py").write_text("b = 1\n")
    assert is_current(path, repository) and state(path, repository) == "current"
    # Only where a file that was measured uses the new one can a number change.
    (repository / "labs" / "loss.py").write_text("from labs.reward import b as a\n")
    assert not is_current(path, repository) and state(path, repository) == "older"


def test_a_file_that_is_gone_ages_the_record_and_is_named(repository):
    (repository / "labs" / "other.py").write_text("c = 1\n")
    path = measure(repository, SCRIPT)
    assert state(path, repository) == "current"
    (repository / "labs" / "other.py").unlink()
    assert not is_current(path, repository)
    assert state(path, repository) == "older (labs/other.py no longer there)"
    assert state(path.with_name("absent.json"), repository) == "missing"


def test_code_that_is_not_there_leaves_no_record(repository):
    with pytest.raises(InputError, match="no code to measure at labs/absent"):
        measure(repository, SCRIPT.replace('["labs"]', '["labs", "labs/absent.py"]'))
    assert not (repository / "records").exists()


def test_a_record_of_the_book_that_is_current_lists_files():
    records = sorted(RECORDS.glob("*.json"))
    assert records
    for path in records:
        code = json.loads(path.read_text())["code"]
        assert code, path
        assert not is_current(path) or all((ROOT / name).is_file() for name in code), path


@pytest.mark.parametrize("text", ["print('fast')", "print('{\"seed\": 1}')", "print('[1]')"])
def test_a_script_that_prints_something_else_leaves_no_record(repository, text):
    with pytest.raises(ValueError, match=r"measure_steps\.py did not print"):
        measure(repository, text)
    assert not (repository / "records").exists()
