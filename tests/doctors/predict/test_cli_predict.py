"""`oom_doctor.py predict` as a person runs it, from another folder."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

from labs.doctors.memory.commands import predict as cli_predict
from labs.errors import InputError
from tests.doctors.predict.conftest import RAW

TOOL = Path(__file__).resolve().parents[3] / "tools" / "oom_doctor.py"


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    cli_predict.add_arguments(parser)
    return parser.parse_args(arguments)


@pytest.fixture
def model(tmp_path) -> str:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llava", **RAW["llava"]}))
    return str(folder)


def run(*arguments: str, cwd) -> subprocess.CompletedProcess:
    command = [sys.executable, str(TOOL), "predict", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_json_page_data_and_exit_code_in_one_run(model, tmp_path):
    records = [
        {"id": f"s{i}", "conversations": [{"from": "human", "value": "word " * (i + 1)}, {"from": "gpt", "value": "x"}]}
        for i in range(5)
    ]  # fmt: skip
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, records)))
    (tmp_path / "seen.json").write_text('{"allocated": "100 MiB"}')
    result = run(
        "model", "--data", "data.jsonl", "--batch", "2", "--fits", "100 MiB", "--no-remedies",
        "--html", "report.html", "--observed", "seen.json", "--json", cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 1, result.stderr  # the context alone does not fit
    made = json.loads(result.stdout)
    assert made["target"]["verdict"] == "no"
    assert [row["id"] for row in made["data"]["rows"]] == ["s4", "s3"]
    assert made["observed"][0]["observed"] == 100 * 2**20
    assert made["timeline"]["phases"]
    assert "<svg" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--image", "big"], "--image 'big' is no size"),
        (["--video", "3x4"], "--video '3x4' is no size"),
        (["--no-images", "--image", "3x4"], "both given"),
        (["--batch", "0"], "`batch` is 0"),
        (["--processor", "max_pixels"], "is no setting"),
    ],
)
def test_options_that_cannot_be_are_said(arguments, what):
    with pytest.raises(InputError, match=what):
        cli_predict.plan_of(parse("x", *arguments))


@pytest.mark.parametrize(
    ("arguments", "what"),
    [(["--observed", "none.json"], "no file none.json"), ([], "no file or folder")],
)
def test_files_that_are_not_there_are_said_at_once(arguments, what):
    with pytest.raises(InputError, match=what):
        cli_predict.main(parse("no/such/model/here", *arguments))


def test_options_become_the_plan():
    plan = cli_predict.plan_of(
        parse("x", "--method", "lora", "--image", "10x20", "--image", "30x40", "--checkpointing",
              "--no-train-tower", "--processor", "max_pixels=7", "--lora-targets", "q_proj, v_proj",
              "--no-padding")
    )  # fmt: skip
    assert (plan.method, plan.images, plan.checkpointing) == ("lora", ((10, 20), (30, 40)), "full")
    assert (plan.train_tower, plan.train_connector) == (False, None)
    assert (plan.processor, plan.lora_targets) == ({"max_pixels": 7}, ("q_proj", "v_proj"))
    assert not plan.padding
    assert cli_predict.plan_of(parse("x", "--video", "10x20x8")).images == ()
