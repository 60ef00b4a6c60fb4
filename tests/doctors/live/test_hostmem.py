"""Memory groups of both versions, the kernel's log, the process tree."""

import os
import subprocess
import sys

import pytest

from labs.doctors.memory.live import hostmem

MIB = 2**20


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


@pytest.fixture
def machine(tmp_path):
    """A /proc and a /sys/fs/cgroup with process 7 in them."""

    def make(line):
        (tmp_path / "proc" / "7").mkdir(parents=True, exist_ok=True)
        (tmp_path / "proc" / "7" / "cgroup").write_text(line)
        return {"proc": tmp_path / "proc", "cgroups": tmp_path / "cg"}

    return make


def second(limit, used, kills):
    return {
        "memory__max": f"{limit}\n",
        "memory__current": f"{used}\n",
        "memory__events": f"low 0\nhigh 0\nmax 9\noom 2\noom_kill {kills}\n",
    }


def test_version_two_takes_the_tightest_limit_above(machine, tmp_path):
    where = machine("0::/pod/train\n")
    write(tmp_path / "cg" / "pod", **second(64 * MIB, 60 * MIB, 3))
    write(tmp_path / "cg" / "pod" / "train", **second("max", 50 * MIB, 1))
    write(tmp_path / "cg", **second("max", 900 * MIB, 0))
    group = hostmem.group(7, **where)
    assert group.version == 2 and group.folder.name == "train"
    assert group.state() == {"limit": 64 * MIB, "used": 60 * MIB, "peak": None, "oom_kill": 3}
    assert group.kills() == 3


def test_version_one(machine, tmp_path):
    where = machine("9:cpuset:/\n4:memory:/docker/abc\n0::/\n")
    write(
        tmp_path / "cg" / "memory" / "docker" / "abc",
        memory__limit_in_bytes=f"{100 * MIB}",
        memory__usage_in_bytes=f"{99 * MIB}",
        memory__max_usage_in_bytes=f"{100 * MIB}",
        memory__oom_control="oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
    )
    state = hostmem.group(7, **where).state()
    assert state == {"limit": 100 * MIB, "used": 99 * MIB, "peak": 100 * MIB, "oom_kill": 2}


def test_in_a_container_the_mount_is_the_group(machine, tmp_path):
    where = machine("0::/system.slice/docker-abc.scope\n")
    write(tmp_path / "cg", **second(32 * MIB, MIB, 0))
    assert hostmem.group(7, **where).state()["limit"] == 32 * MIB


def test_version_ones_word_for_no_limit(machine, tmp_path):
    where = machine("4:memory:/\n")
    write(
        tmp_path / "cg" / "memory",
        memory__limit_in_bytes="9223372036854771712",
        memory__usage_in_bytes="5",
        memory__oom_control="oom_kill 0\n",
    )
    assert hostmem.group(7, **where).state()["limit"] is None


def test_no_group_at_all(machine):
    assert hostmem.group(7, **machine("")) is None
    assert hostmem.group(8, **machine("")) is None


def test_the_kernels_log_names_the_killed(tmp_path):
    log = tmp_path / "kmsg"
    log.write_text(
        "6,1,1,-;something else 4242\n"
        "3,2,2,-;Memory cgroup out of memory: Killed process 4242 (python) total-vm:9kB\n"
        "3,3,3,-;Out of memory: Killed process 9 (python)\n"
    )
    (line,) = hostmem.kernel_kills({4242}, log)
    assert line.startswith("Memory cgroup out of memory: Killed process 4242")
    assert hostmem.kernel_kills({1}, log) == [] == hostmem.kernel_kills({9}, tmp_path / "none")


def test_the_tree_of_processes_and_what_it_holds():
    code = "import subprocess, sys; x = bytearray(30 << 20); x[::4096] = b'1' * len(x[::4096]); "
    code += "subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        process.stdout.readline()
        tree = hostmem.tree(process.pid)
        assert len(tree["processes"]) == 2 and process.pid in tree["processes"]
        assert tree["processes"][process.pid] > 30 * MIB
        assert tree["total"] == sum(tree["processes"].values())
        assert process.pid in hostmem.children(os.getpid())
        assert "subprocess" in hostmem.command(process.pid)
    finally:
        process.communicate(b"\n")
    assert hostmem.tree(process.pid)["total"] == 0 and hostmem.command(process.pid) is None
