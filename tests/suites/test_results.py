"""Results folders are files, and files may be cut, changed or hostile: a sentence, never a traceback."""

import json

import pytest

from labs.errors import InputError
from labs.suites.folder import CONFIG, ITEMS, SCORES
from labs.suites.results import find_runs, read_run
from labs.suites.runner import Interrupted, run
from tests.suites.sums import Calculator, Sums, finished


def test_what_was_written_is_read(tmp_path):
    done = finished(tmp_path / "run", name="abacus")
    again = read_run(tmp_path / "run")
    assert again == done
    assert (again.model, again.suite, again.headline) == ("abacus", "sums", "accuracy")
    assert again.measures["accuracy"].n == 40


def test_the_fingerprint_is_of_the_questions_and_not_of_the_model(tmp_path):
    one, two = finished(tmp_path / "a"), finished(tmp_path / "b", name="other", wrong=3)
    assert one.fingerprint == two.fingerprint
    assert one.fingerprint != finished(tmp_path / "c", n=39).fingerprint
    assert one.fingerprint != finished(tmp_path / "d", groups=2).fingerprint


def test_an_unfinished_run_says_how_far_it_is(tmp_path):
    with pytest.raises(Interrupted):
        run(Calculator(fails=[2], error=KeyboardInterrupt()), Sums(12), tmp_path, batch_size=4)
    with pytest.raises(InputError, match="not finished: 8 of 12"):
        read_run(tmp_path)


def test_no_folder_and_another_folder(tmp_path):
    with pytest.raises(InputError, match="There is no results folder"):
        read_run(tmp_path / "nothing")
    with pytest.raises(InputError, match="is no results folder"):
        read_run(tmp_path)


DEEP = b"[" * 100_000
HOSTILE = {
    "empty": b"",
    "cut": b'{"suite": {"name": "su',
    "deep": DEEP,
    "no object": b"[1, 2]\n",
    "no number": b'{"measures": NaN}\n',
    "bytes": b"\xff\xfe\x00\n",
    "digits": b'{"n": ' + b"9" * 5_000 + b"}\n",
    "page": b"<!doctype html><html></html>",
}


@pytest.mark.parametrize("file", [CONFIG, ITEMS, SCORES])
@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_file_is_named(tmp_path, file, content):
    finished(tmp_path, n=8)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(InputError) as refused:
        read_run(tmp_path)
    assert file in refused.value.what


def test_an_answer_that_was_changed_by_hand_is_noticed(tmp_path):
    finished(tmp_path, n=8)
    text = (tmp_path / ITEMS).read_text()
    assert '"said": "12"' in text
    (tmp_path / ITEMS).write_text(text.replace('"said": "12"', '"said": "21"'))
    with pytest.raises(InputError, match="not what scores"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    "field, value",
    [
        ("id", 3), ("score", 1.5), ("score", "1"), ("score", True), ("status", "fine"), ("tokens", -1),
        ("finished", "yes"), ("about", []), ("thoughts", [1]), ("said", None), ("group", 1),
        ("prompt", None),
    ],
)  # fmt: skip
def test_a_field_that_no_row_has_is_named_with_its_line(tmp_path, field, value):
    finished(tmp_path, n=8)
    rows = [json.loads(line) for line in (tmp_path / ITEMS).read_text().splitlines()]
    rows[4][field] = value
    (tmp_path / ITEMS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match=f"line 5: `{field}`"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s | {"headline": "beauty"},
        lambda s: s | {"measures": {}},
        lambda s: s | {"measures": {"accuracy": {"value": "high", "low": 0, "high": 1, "n": 8}}},
        lambda s: s | {"measures": {"accuracy": {"value": 0.5}}},
        lambda s: s | {"measures": [1]},
    ],
)
def test_scores_of_another_shape_are_refused(tmp_path, change):
    finished(tmp_path, n=8)
    scores = json.loads((tmp_path / SCORES).read_text())
    (tmp_path / SCORES).write_text(json.dumps(change(scores)))
    with pytest.raises(InputError, match="does not hold the scores"):
        read_run(tmp_path)


def test_runs_are_found_below_a_models_folder(tmp_path):
    for place in ("eval/m/sums", "eval/m/more", "eval/k/sums"):
        finished(tmp_path / place, n=4)
    (tmp_path / "eval/m/sums/vlmevalkit").mkdir()
    assert find_runs([tmp_path / "eval/m"]) == [tmp_path / "eval/m/more", tmp_path / "eval/m/sums"]
    assert len(find_runs([tmp_path / "eval"])) == 3
    assert find_runs([tmp_path / "eval/m/sums", tmp_path / "eval/m"])[0] == tmp_path / "eval/m/sums"
    assert len(find_runs([tmp_path / "eval/m/sums", tmp_path / "eval/m"])) == 2
    (tmp_path / "bare").mkdir()
    for bad in (tmp_path / "bare", tmp_path / "nowhere"):
        with pytest.raises(InputError, match="no results"):
            find_runs([bad])
