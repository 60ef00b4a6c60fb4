"""`labs env`: what it finds is what the machine has, and the verdict follows from it."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from labs.cli.env import Gpu, compare, look
from labs.recipes import Needs, recipe_names

RECIPE = """\
name: huge
stage: sft
description: needs what no machine here has
model: {name: tiny-sft}
data: {path: data.json}
needs: {gpus: 2, gpu_memory_gb: 4000, disk_gb: 1.0e+9, packages: [no-such-package]}
"""


def labs(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "labs.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture(scope="module")
def machine():
    return look(Path("."))


def test_machine_is_this_one(machine):
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        kib = int(meminfo.read_text().split("MemTotal:")[1].split()[0])
        assert machine.memory_gb == pytest.approx(kib / 2**20, rel=1e-3)
    assert machine.torch.split("+")[0] == torch.__version__.split("+")[0]
    assert len(machine.gpus) == torch.cuda.device_count()
    assert 0 < machine.memory_free_gb <= machine.memory_gb
    assert machine.packages["trl"] is not None, "the tests' own set-up installs it"


def with_gpus(machine, *gigabytes: float):
    gpus = tuple(Gpu("a GPU", size, "9.0") for size in gigabytes)
    return dataclasses.replace(machine, gpus=gpus, cuda="13.0", disk_free_gb=100.0)


@pytest.mark.parametrize(
    ("gpus", "needs", "words"),
    [
        ((), Needs(), []),
        ((79.2,), Needs(gpus=1, gpu_memory_gb=80), []),  # what a card sold as 80 GB reports
        ((39.4, 39.4), Needs(gpus=1, gpu_memory_gb=80), ["1 GPU with 80 GB"]),
        ((79.2,), Needs(gpus=2, gpu_memory_gb=80), ["2 GPUs with 80 GB"]),
        ((79.2, 23.6), Needs(gpus=2, gpu_memory_gb=80), ["2 GPUs with 80 GB"]),
        ((), Needs(gpu_memory_gb=16), ["1 GPU with 16 GB"]),
        ((), Needs(disk_gb=101), ["101 GB of disk"]),
        ((), Needs(packages=["trl", "no-such-package"]), ["the package no-such-package"]),
    ],
)
def test_verdict(machine, gpus, needs, words):
    verdict = compare("some", needs, with_gpus(machine, *gpus))
    assert verdict.enough == (not words)
    assert len(verdict.missing) == len(words)
    assert all(word in said for word, said in zip(words, verdict.missing, strict=True))


def test_command_says_what_is_missing_and_exits_1(tmp_path):
    recipe = tmp_path / "huge.yaml"
    recipe.write_text(RECIPE)
    result = labs("env", "--recipe", str(recipe))
    said = " ".join(result.stdout.split())
    assert result.returncode == 1
    assert "Not enough" in said and "2 GPUs with 4000 GB" in said and "no-such-package" in said

    result = labs("env", "--recipe", str(recipe), "--json")
    verdict = json.loads(result.stdout)["verdict"]
    assert result.returncode == 1
    assert not verdict["enough"] and len(verdict["missing"]) >= 3


def test_unknown_recipe_is_one_sentence_and_exit_2():
    name = recipe_names()[0]
    result = labs("env", "--recipe", name + "x")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr and name in result.stderr


def test_plain_command_succeeds():
    result = labs("env")
    assert result.returncode == 0 and torch.__version__.split("+")[0] in result.stdout
