"""`labs data show`: what it prints is what the model gets."""

import json
import re
import subprocess
import sys

import pytest
from rich.console import Console

from labs.cli.main import main
from labs.data import IGNORE, encode
from labs.data.show import as_html, as_text, describe, summary
from tests.data.conftest import picture, talk


def test_runs_are_the_sample(named_processor):
    _, processor = named_processor
    conversation = talk("<b>What?</b> 几个", "a 圆环", "again\x1b[2J?", "b", images=1)
    sample, described = encode(conversation, processor), describe(conversation, processor)
    assert [i for run in described["runs"] for i in run["ids"]] == sample["input_ids"].tolist()
    labelled = [i for run in described["runs"] if run["kind"] == "label" for i in run["ids"]]
    assert labelled == sample["labels"][sample["labels"] != IGNORE].tolist()
    assert described["labelled"] == len(labelled)
    images = [run for run in described["runs"] if run["kind"] == "image"]
    assert [len(run["ids"]) for run in images] == sample["num_image_tokens"] == described["images"]
    assert images[0]["text"] == f"{processor.image_token} x {described['image_tokens']}"
    assert f"{described['tokens']} tokens, {len(labelled)} carry loss" in summary(described)
    page = as_html([described])
    assert "<b>What" not in page and "&lt;b&gt;What" in page
    assert not re.search(r"(src|href)=|https?://|@import|url\(", page)
    console = Console(record=True, width=200, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(as_text(described))
    shown = console.export_text()
    assert shown.count("[[") == 2 and "圆环" in shown and "\x1b" not in shown and "\\x1b" in shown


@pytest.fixture
def data(tmp_path):
    picture(1).save(tmp_path / "a.png")
    records = [
        {"id": "zero", "conversations": ["first question", "first answer"]},
        {"id": "one", "image": "a.png", "conversations": ["<image>\nsecond?", "second answer"]},
    ]
    (tmp_path / "data.json").write_text(json.dumps(records))
    return tmp_path


def test_command(data, capsys):
    assert main(["data", "show", f"{data}/data.json:1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["id"] == "one" and found["images"] == [36]
    said = "".join(run["text"] for run in found["runs"] if run["kind"] == "label")
    assert said == "second answer<|im_end|>"
    page = data / "out" / "page.html"
    assert main(["data", "show", f"{data}/data.json", "--count", "2", "--html", str(page)]) == 0
    out = capsys.readouterr().out
    assert "zero: " in out and "one: " in out and "[[first answer<|im_end|>]]" in out
    assert "second answer" in page.read_text()


def test_command_inline_and_world(capsys):
    inline = json.dumps({"conversations": ["q?", "the answer"]})
    assert main(["data", "show", inline]) == 0
    assert "[[the answer<|im_end|>]]" in capsys.readouterr().out
    assert main(["data", "show", "count:3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == [36]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["{data}/data.json:9"], "has no sample number 9"),
        (["{data}/none.json"], "does not exist"),
        (['{{"conversations": ['], "is bad JSON"),
        (["{data}/data.json", "--model", "no-such"], "no model 'no-such'"),
        (["{data}/data.json", "--max-length", "3"], "no token carries a label"),
    ],
)
def test_command_mistakes(data, capsys, arguments, sentence):
    code = main(["data", "show", *(argument.format(data=data) for argument in arguments)])
    captured = capsys.readouterr()
    assert code == 2
    assert sentence in captured.err and "Traceback" not in captured.err


def test_command_as_a_process(data):
    """As a person runs it, piped: no colour codes, exit code 0."""
    done = subprocess.run(
        [sys.executable, "-m", "labs.cli.main", "data", "show", f"{data}/data.json:1"],
        capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "\x1b[" not in done.stdout and "<image> x 36" in done.stdout
