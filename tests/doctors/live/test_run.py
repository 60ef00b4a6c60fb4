"""`run -- COMMAND`: real programs that die of memory, or not, each in its own way."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from live_helpers import DOCTOR, environment

from labs.doctors.memory.live import hostmem

PY = sys.executable


# -- under a budget ------------------------------------------------------------------------------


def test_a_leak_is_named_with_the_line_that_grows(doctor, program):
    text = (
        "kept = []\nfor _ in range(400):\n    step()\n    kept.append(model(torch.randn(8, 64)))\n"
    )
    path = program(text)
    done = doctor("run", "--budget", "4 MiB", "--", PY, path)
    assert done.code == 1
    assert "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate" in done.err
    assert done.cause["cause"] == "memory_grows" and done.cause["confidence"] == "certain"
    line = path.read_text().splitlines().index("    kept.append(model(torch.randn(8, 64)))") + 1
    grown = [e["text"] for e in done.cause["evidence"] if e["text"].startswith("+")]
    assert grown and all(f"train.py:{line} in <module>" in text for text in grown)
    # Kept for every step: the hidden layer's output twice (ReLU's result is saved), and the last.
    per_step = re.search(r"rose by ([\d.]+) KiB a step", done.evidence)
    assert 8 * (256 + 64 + 64) * 4 / 1024 <= float(per_step[1]) <= 8 * (512 + 128) * 4 / 1024
    assert done.cause["remedies"][0]["id"] == "detach_losses"
    assert done.cause["remedies"][0]["saves_bytes"] > 2**20
    assert (done.folder / "report.html").read_text().startswith("<!doctype html>")


def test_a_larger_batch_is_told_from_a_leak(doctor, program):
    path = program("for i in range(9):\n    step(2000 if i == 7 else 16)\n")
    done = doctor("run", "--budget", "4 MiB", "--json", "out.json", "--", PY, path)
    assert done.code == 1 and done.cause["cause"] == "length_outlier"
    measured = done.report["facts"]["measured"]
    assert measured["step"] == 7 and measured["phase"] in ("forward", "backward")
    assert measured["allocated"] + measured["tried"] > measured["limit"] == 4 * 2**20
    assert sum(measured["categories"].values()) == measured["allocated"]
    assert (done.home.parent / "out.json").exists()
    assert "train.py" in done.evidence
    assert str(done.home.parent) not in json.dumps(done.report), "paths are redacted"


def test_the_optimizer_step_is_told_from_the_passes(doctor, program):
    # Weights and gradients fit, Adam's two moments of a first step do not.
    text = "model = nn.Linear(512, 512)\noptimizer = torch.optim.AdamW(model.parameters())\n"
    text += "model(torch.randn(1, 512)).sum().backward()\noptimizer.step()\n"
    done = doctor("run", "--budget", "2500 KiB", "--", PY, program(text))
    assert done.cause["cause"] == "optimizer_states"
    assert done.report["facts"]["measured"]["phase"] == "optimizer step"


def test_evaluation_is_told_by_its_stack(doctor, program):
    text = "def evaluate():\n    return [model(torch.randn(64, 64)) for _ in range(500)]\n"
    done = doctor("run", "--budget", "4 MiB", "--", PY, program(text + "step()\nevaluate()\n"))
    assert done.cause["cause"] == "evaluation"
    assert done.report["facts"]["measured"]["phase"] == "evaluation"


def test_an_oom_that_is_caught_is_only_noted(doctor, program):
    text = "step()\ntry:\n    step(100000)\nexcept torch.OutOfMemoryError:\n    pass\nstep()\n"
    done = doctor("run", "--budget", "8 MiB", "--", PY, program(text))
    assert done.code == 0
    assert "met 1 or more out-of-memory errors and went on" in done.err


def test_two_ranks_under_torchrun(doctor, program):
    text = """
import os, torch.distributed as dist
dist.init_process_group("gloo")
rank = dist.get_rank()
model = nn.parallel.DistributedDataParallel(model)
optimizer = torch.optim.AdamW(model.parameters())
for i in range(6):
    step(4000 if rank == 1 and i == 4 else 16)
"""
    torchrun = Path(sys.executable).parent / "torchrun"
    done = doctor("run", "--budget", "6 MiB", "--", torchrun, "--nproc-per-node=2",
                  "--standalone", program(text))  # fmt: skip
    assert done.code == 1
    assert "on rank 1" in done.evidence
    assert done.report["facts"]["measured"]["rank"] == 1
    assert done.report["facts"]["measured"]["step"] == 4
    assert "rank 0: 4" in done.report["facts"]["steps"]


# -- the host ------------------------------------------------------------------------------------


def test_a_killed_process_is_not_called_out_of_memory_without_a_sign(doctor, program):
    text = "for i in range(5):\n    step()\ntime.sleep(1.2)\nimport os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n"
    done = doctor("run", "--", PY, program(text))
    assert done.code == 128 + signal.SIGKILL
    assert done.report["verdict"] == "cannot_tell"
    assert "fell silent" in done.err and "step 5" in done.err and "train.py:13" in done.err


def test_a_limit_on_the_address_space(doctor, program):
    text = "import resource\nresource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33))\n"
    text += "def load():\n    return torch.ones(2**31)\n" + "load()\n"
    done = doctor("run", "--", PY, program(text))
    available = hostmem.machine()["available"]
    assert done.code == 1
    expected = "memory_limit" if available > 2**33 else "host_memory"
    assert done.cause["cause"] == expected
    assert "tried to allocate 8589934592 bytes" in done.evidence


def own_group():
    """A memory group below our own where this user may make one; None elsewhere."""
    group = hostmem.group()
    if group is None:
        return None
    folder = group.folder / f"oom-doctor-test-{os.getpid()}"
    name = "memory.limit_in_bytes" if group.version == 1 else "memory.max"
    try:
        folder.mkdir()
    except OSError:
        return None
    try:
        # Room for torch's import, pages of its files included: the kill is to come in a step.
        (folder / name).write_text(str(1200 * 2**20))
    except OSError:
        folder.rmdir()
        return None
    return folder


def test_a_kill_by_the_memory_groups_limit(doctor, program):
    folder = own_group()
    if folder is None:
        pytest.skip("this user may not make a memory group here (see test_hostmem for the reading)")
    text = "step()\nheld = []\nwhile True:\n    held.append(torch.ones(2**22))\n    step()\n"
    try:
        shell = f"echo $$ > {folder}/cgroup.procs && exec {PY} {program(text)}"
        done = doctor("run", "--", "sh", "-c", shell)
    finally:
        for _ in range(50):
            with contextlib.suppress(OSError):
                folder.rmdir()
                break
            time.sleep(0.1)
    assert done.code == 137
    assert done.cause["cause"] == "container_memory_limit"
    assert done.cause["confidence"] == "certain"
    assert "oom_kill rose by 1" in done.evidence and "limit 1.17 GiB" in done.evidence
    assert "fell silent" in done.evidence and "train.py" in done.evidence


def test_a_full_dev_shm(doctor, program):
    text = (
        'raise RuntimeError("unable to write to file </torch_1_2_3>: No space left on device (28)")'
    )
    done = doctor("run", "--", PY, program(text))
    assert done.cause["cause"] == "shared_memory" and "/dev/shm:" in done.evidence


# -- the doctor itself ----------------------------------------------------------------------------


def test_the_diary_outlives_the_doctor(doctor, program, tmp_path):
    path = program("for i in range(5):\n    step()\nopen('ready', 'w').close()\ntime.sleep(60)\n")
    process = subprocess.Popen(
        [PY, str(DOCTOR), "run", "--", PY, str(path)], cwd=tmp_path, env=environment(tmp_path)
    )
    try:
        for _ in range(600):
            if (tmp_path / "ready").exists():
                break
            time.sleep(0.1)
        (folder,) = (tmp_path / "home" / "runs").iterdir()
        (diary,) = folder.glob("diary-*.bin")
    finally:
        process.kill()
        process.wait()
    child = int(re.search(r"diary-(\d+)", diary.name)[1])
    seen = doctor("watch", folder, "--once")
    assert f"{child}" in seen.out and " 5 " in seen.out, "the program goes on, and is still seen"
    os.kill(child, signal.SIGKILL)
    done = doctor("run", "--read", folder)
    assert done.code in (3, 4) and "the doctor was killed" in done.err and "steps" in done.err


def test_everything_passes_through(doctor, tmp_path):
    shell = 'read line; echo "got $line"; echo "to err" >&2; exit 7'
    done = doctor("run", "--", "sh", "-c", shell, stdin="hello\n")
    assert (done.code, done.out) == (7, "got hello\n") and "to err" in done.err
    assert doctor("run", "--", "sh", "-c", "kill -TERM $$").code == 128 + signal.SIGTERM


def test_the_next_sitecustomize_and_the_path_stay(doctor, tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "sitecustomize.py").write_text("import builtins; builtins.MINE = 42\n")
    code = "import sys, sitecustomize; print(MINE, sitecustomize.__file__); print(sys.path)"
    done = doctor("run", "--", PY, "-c", code, PYTHONPATH=str(tmp_path / "own"))
    assert done.code == 0 and done.out.startswith(f"42 {tmp_path}/own/sitecustomize.py")
    assert "oom_doctor" not in done.out and str(DOCTOR.parents[1]) + "'" not in done.out
    assert "imported torch" in done.err


def test_asking_for_a_module_is_not_importing_it(doctor, tmp_path):
    # transformers asks whether there is a torch before it imports it. A torch of two lines will do:
    # what counts is that the recorder is called for after the import, and not before.
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("print('imported')\n")
    code = "import importlib.util as u; print(bool(u.find_spec('torch'))); import torch"
    done = doctor("run", "--keep", "--", PY, "-c", code, PYTHONPATH=str(tmp_path))
    assert done.out == "True\nimported\n" and done.code == 0
    assert "recorder had an error" in done.err, "it was armed, and stumbles over this torch"


@pytest.mark.parametrize("flag", ["-I", "-S"])
def test_a_child_that_cannot_report_is_said(doctor, flag):
    done = doctor("run", "--", PY, flag, "-c", "pass")
    assert done.code == 0 and f"started with {flag}" in done.err and "from outside" in done.err


def test_a_command_that_is_no_python_is_said(doctor):
    done = doctor("run", "--", "true")
    assert done.code == 0 and "No process of this command reported" in done.err


@pytest.mark.parametrize(
    "command,said",
    [
        (["no-such-trainer"], "does not exist"),
        (["/dev/null"], "cannot be executed"),
        ([], "no command"),
        (["--budget", "much", "--", "true"], "is not a size"),
    ],
)
def test_bad_input_is_one_sentence(doctor, command, said):
    arguments = command if command[:1] == ["--budget"] else ["--", *command]
    done = doctor("run", *arguments)
    assert done.code == 2 and said in done.err and "Traceback" not in done.err
    assert len(done.err.strip().splitlines()) == 2


def test_an_old_run_that_is_none(doctor, tmp_path):
    done = doctor("run", "--read", tmp_path)
    assert done.code == 2 and "is not the folder of a run" in done.err
