"""`labs diary`: findings, first and last numbers, the report, and JSON for a program."""

import json
import math

import pytest

from labs.cli import main as entry
from labs.cli.main import main
from tests.train.policy.made_up import changed, healthy, write


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(entry.COMMANDS, "diary", ("labs.cli.diary", "A policy run's diary."))
    monkeypatch.setenv("COLUMNS", "100")


def test_a_sick_run(tmp_path, capsys):
    sick = changed(healthy(40), mismatch=lambda t: 0.3, grad_norm=lambda t: math.nan, entropy=None)
    folder = write(tmp_path / "run", sick)
    with open(folder / "diary.jsonl", "a") as file:
        file.write("{broken}\n")
    assert main(["diary", str(folder)]) == 0
    shown = capsys.readouterr().out
    for words in ("bad: Rollout and trainer disagree", "mean |difference| 0.3", "importance_cap",
                  "Cannot be told", "Entropy: entropy is in no entry", "task/count", "1 lines or",
                  "diary.jsonl, line 41"):  # fmt: skip
        assert words in shown
    assert (
        shown.index("NaN or infinite") < shown.index("Cannot be told") < shown.index("task/count")
    )
    assert (folder / "report.html").exists()

    target = tmp_path / "other.html"
    (folder / "report.html").unlink()
    assert main(["diary", str(folder), "--html", str(target), "--json"]) == 0
    told = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert told["report"] == str(target) and "Rollout and trainer" in target.read_text()
    assert not (folder / "report.html").exists()
    assert [f["rule"] for f in told["findings"]] == ["not_finite", "mismatch", "entropy_collapse"]
    assert told["entries"] == 40 and told["steps"] == [1, 40] and len(told["faults"]) == 1
    by_name = {q["name"]: q for q in told["quantities"]}
    assert by_name["mismatch"]["first"] == pytest.approx(0.3)
    assert by_name["grad_norm"]["first"] is None and by_name["grad_norm"]["broken"] == 40


def test_a_healthy_run_and_marks_that_a_terminal_would_obey(tmp_path, capsys):
    entries = changed(healthy(20), **{"task__[red]\x1b[31m": lambda t: 1.0})
    assert main(["diary", str(write(tmp_path, entries))]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("No finding.") and "Cannot be told" not in shown
    assert "[red]" in shown and "\x1b" not in shown


def test_bad_input_is_two_sentences(tmp_path, capsys):
    for folder, told in ((tmp_path, "no diary.jsonl"), (tmp_path / "x", "not there")):
        assert main(["diary", str(folder)]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and told in error and error.count("\n") == 2
    (tmp_path / "file").write_text("{}")
    assert main(["diary", str(tmp_path / "file"), "--json"]) == 2
    assert "no folder" in json.loads(capsys.readouterr().out)["error"]


def test_help_has_an_example(capsys):
    assert main(["diary", "--help"]) == 0
    assert "labs diary runs/grpo" in capsys.readouterr().out
