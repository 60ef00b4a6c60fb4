"""`data_doctor.py check` as a person runs it: another folder, a bare Python, one zipapp, Ctrl-C."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from labs.cli.main import main as labs_main
from labs.doctors import zipapp_build
from labs.doctors.data.commands.arguments import options_of, parser
from labs.doctors.data.commands.progress import Progress
from labs.doctors.data.options import Options
from labs.errors import InputError
from tests.doctors.explain.test_command import pythons

ROOT = Path(__file__).resolve().parents[3]
TOOL = ROOT / "tools" / "data_doctor.py"
BARE = (sys.executable, "-I", "-S")  # no installed package and no environment variable can help


def run(*arguments, program=TOOL, python=(sys.executable,), cwd, **options):
    return subprocess.run(
        [*python, str(program), *map(str, arguments)],
        cwd=cwd, capture_output=True, text=True, timeout=120, **options,
    )  # fmt: skip


def record(number: int, **fields) -> dict:
    turns = [
        {"from": "human", "value": f"<image>\nHow many rings are in picture {number}?"},
        {"from": "gpt", "value": f"There are {number}."},
    ]
    return {"id": f"{number:04d}", "image": f"{number}.png", "conversations": turns, **fields}


def write_lines(path: Path, records) -> Path:
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), "utf-8")
    return path


@pytest.fixture
def broken(tmp_path) -> Path:
    """A file with one fault in line 3, that needs no image to be seen."""
    records = [record(i) for i in range(5)]
    records[2]["conversations"].pop()
    return write_lines(tmp_path / "train.jsonl", records)
