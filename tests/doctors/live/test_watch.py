"""`watch`: a run as its diaries tell it, any process as the system and the driver tell it."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from labs.doctors.memory.live import nvml, watch
from labs.doctors.memory.live.diary import Diary, Step
from labs.doctors.memory.live.nvml import Nvml, NvmlError

MIB, GIB = 2**20, 2**30


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A run that has just been started, by this very process."""
    monkeypatch.setenv("OOM_DOCTOR_HOME", str(tmp_path / "home"))
    path = tmp_path / "home" / "runs" / "20260101-000000-1"
    path.mkdir(parents=True)
    about = {"command": ["python", "train.py"], "pid": os.getpid(), "started": 0.0}
    (path / "run.json").write_text(json.dumps(about))
    return path


def leaking(folder, steps=40):
    book = Diary(str(folder / f"diary-{os.getpid()}.bin"), {"rank": 1, "role": "program"})
    book.phase("backward")
    for i in range(1, steps + 1):
        book.step(Step(i, 100.0 + 2 * i, 10 * MIB * i, 500 * MIB, 10 * MIB * i, GIB, GIB))
    return book


def test_a_run_that_leaks_and_when_it_will_die(folder):
    leaking(folder)
    view = watch.look(watch.find(None))
    (row,) = view.rows
    assert (row.who, row.phase, row.step, row.alive) == ("rank 1", "backward", 40, True)
    assert (row.allocated, row.reserved, row.limit) == (400 * MIB, 500 * MIB, GIB)
    assert row.growth == 10 * MIB and row.full_at == 103, "1024 MiB / 10 MiB, the step after 102"
    assert row.full_in == pytest.approx(63 * 2.0), "63 steps at two seconds"
    assert not view.over and view.title == "python train.py"


def test_the_thread_s_sample_is_newer_than_the_last_step(folder):
    book = leaking(folder)
    book.text(
        "sample", {"phase": "evaluation", "allocated": 7, "reserved": 8, "peak": 9, "limit": 10}
    )
    (row,) = watch.look(folder).rows
    assert (row.phase, row.allocated, row.reserved) == ("evaluation", 7, 8)


def test_an_ended_process_and_a_killed_one(folder):
    leaking(folder).goodbye()
    gone = subprocess.Popen(["true"])
    gone.wait()
    Diary(str(folder / f"diary-{gone.pid}.bin"), {}).pid = gone.pid
    content = bytearray((folder / f"diary-{gone.pid}.bin").read_bytes())
    content[16:24] = gone.pid.to_bytes(8, "little")
    (folder / f"diary-{gone.pid}.bin").write_bytes(content)
    rows = {row.pid: row for row in watch.look(folder).rows}
    assert rows[os.getpid()].phase == "ended" and rows[gone.pid].phase == "killed"


def test_by_the_command_line(folder, doctor):
    leaking(folder)
    done = doctor("watch", "--once")
    assert done.code == 0 and "rank 1" in done.out and "step 103, in 00:02:06" in done.out
    done = doctor("watch", folder, "--once", "--json")
    assert json.loads(done.out)["rows"][0]["full_at"] == 103
    done = doctor("watch", str(os.getpid()), "--once")
    assert "rank 1" in done.out, "a process of a run is shown as that run"


def test_another_process_is_seen_from_outside(doctor):
    process = subprocess.Popen(["sleep", "60"])
    try:
        done = doctor("watch", process.pid, "--once", "--json")
        view = json.loads(done.out)
    finally:
        process.kill()
        process.wait()
    assert view["rows"][0]["pid"] == process.pid and view["rows"][0]["host"] > 0
    assert "not started by `oom_doctor.py run`" in view["notes"][0]


def test_what_cannot_be_watched(doctor, tmp_path):
    for target, said in ((999_999_999, "There is no process"), ("here", "is neither a process id")):
        done = doctor("watch", target, "--once")
        assert done.code == 2 and said in done.err and len(done.err.splitlines()) == 2
    assert doctor("watch", "--once").code == 2, "no run yet"


# -- the driver: a library compiled here answers as NVML does --------------------------------------


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    def build(**defines):
        path = tmp_path_factory.mktemp("nvml") / "libnvidia-ml.so.1"
        options = [f"-D{name}={value}" for name, value in defines.items()]
        source = Path(__file__).parent / "fake_nvml.c"
        subprocess.run(["cc", "-shared", "-fPIC", "-w", *options, "-o", path, source], check=True)
        return str(path)

    return build


def test_gpu_memory_by_process(library):
    (gpu,) = Nvml(library(PID=os.getpid())).gpus()
    assert (gpu.name, gpu.total, gpu.used) == ("Test GPU", 24 * GIB, 5 * GIB)
    assert gpu.processes == {os.getpid(): 3 * GIB, 999999: None}, "None: the driver does not tell"


def test_a_process_on_the_gpu(library):
    view = watch.of_process(os.getpid(), library(PID=os.getpid()))
    row = next(row for row in view.rows if row.pid == os.getpid())
    assert (row.allocated, row.limit) == (3 * GIB, 24 * GIB)


@pytest.mark.parametrize(
    "code,said", [(4, "denies this user permission"), (9, "Driver Not Loaded")]
)
def test_a_driver_that_refuses(library, code, said):
    with pytest.raises(NvmlError, match=said):
        Nvml(library(PID=1, CODE=code))


def test_no_driver_at_all(tmp_path):
    with pytest.raises(NvmlError, match="There is no NVML on this machine"):
        Nvml(str(tmp_path / "none.so"))
    assert nvml.NOT_AVAILABLE == 2**64 - 1
