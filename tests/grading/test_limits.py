"""Answers that would take the machine with them end with a sentence."""

import os
import textwrap
import time
from pathlib import Path

import psutil
import pytest
import torch

from labs.grading.session import ChildSession, Server
from labs.grading.wire import Handle
from labs.grading.worker import Request


@pytest.fixture
def answer(server):
    """Start a session on the text of an answer `f`."""
    opened = []

    def start(text, *, path="/answers/exercises.py", **limits):
        text = textwrap.dedent(text)
        opened.append(ChildSession("f", path, text, server=server, **limits))
        return opened[-1]

    yield start
    for session in opened:
        session.close()


def call(session, *args, **kwargs):
    return session.ask(Request(args=args, kwargs=kwargs))


def test_a_value_comes_back_and_objects_stay(answer):
    session = answer("def f(x, n=1):\n    return {'y': [x * n, (n, None)], 'g': lambda v: v + n}")
    value = call(session, torch.arange(3), n=2).value
    assert value["y"][0].tolist() == [0, 2, 4]
    assert value["y"][1] == (2, None)
    assert isinstance(value["g"], Handle)
    assert session.ask(Request(target=value["g"], args=(5,))).value == 7


def test_an_endless_loop_is_stopped(answer):
    session = answer("def f():\n    while True: pass", seconds=0.5)
    pid = session.pid
    started = time.monotonic()
    ended = call(session).ended
    assert "still running after 0.5 seconds" in ended
    assert time.monotonic() - started < 10
    assert not psutil.pid_exists(pid)
    assert call(session).ended == ended  # it stays ended


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs one processor to share")
def test_an_answer_that_hardly_gets_the_processor_has_the_same_limit(answer):
    text = """
        import os
        def f():
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
            for _ in range(4):
                if os.fork() == 0:
                    while True: pass
            os.nice(19)
            while True: pass
    """
    session = answer(text, seconds=2)
    started = time.monotonic()
    assert "still running after 2 seconds" in call(session).ended
    assert time.monotonic() - started < 8


def test_an_endless_loop_while_loading_is_stopped(answer, monkeypatch):
    monkeypatch.setattr("labs.grading.session.LOAD_SECONDS", 0.5)
    assert "still running" in call(answer("while True: pass")).ended


@pytest.mark.parametrize(
    "body",
    [
        "torch.zeros(25_000_000_000)",  # 100 GB at once
        "np.ones(12_500_000_000)",
        "[bytearray(20_000_000) for _ in range(10_000)]",  # 200 GB little by little
        "[torch.ones(5_000_000) for _ in range(10_000)]",
    ],
)
def test_too_much_memory_is_stopped(answer, body):
    text = f"import numpy as np\nimport torch\ndef f():\n    return len({body})"
    assert "asked for more memory than the 0.25 GB" in call(answer(text, memory_mb=256)).ended


def test_memory_of_its_children_counts(answer):
    text = """
        import os, time
        def f():
            if os.fork() == 0:
                hold = []
                while True:
                    hold.append(bytearray(b"x") * 10_000_000)
                    time.sleep(0.005)
            time.sleep(60)
    """
    session = answer(text, memory_mb=256, seconds=30)
    assert "asked for more memory" in call(session).ended


def test_the_whole_process_group_dies(answer, tmp_path):
    text = """
        import os, subprocess
        def f():
            print(subprocess.Popen(["sleep", "1000"]).pid, flush=True)
            while True: pass
    """
    session = answer(text, seconds=1)
    assert "still running" in call(session).ended
    pid = int(session.output)
    for _ in range(100):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie":
            break
        time.sleep(0.02)
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie"


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("os._exit(3)", "ended the Python process (exit code 3)"),
        ("ctypes.string_at(0)", "crashed the Python process (SIGSEGV)"),
        ("os.kill(os.getpid(), 9)", "crashed the Python process (SIGKILL)"),
    ],
)
def test_a_crash_is_told(answer, body, sentence):
    session = answer(f"import ctypes, os\ndef f():\n    {body}")
    assert sentence in call(session).ended


def test_sys_exit_and_interrupt_are_errors_of_the_answer(answer):
    session = answer("import sys\ndef f():\n    sys.exit('done')")
    assert call(session).error["type"] == "SystemExit"
    assert call(session).error["line"] == 3


def test_garbage_on_the_wire_is_no_reply(answer):
    text = """
        import os, stat
        def f():
            for fd in range(3, 64):
                try:
                    if stat.S_ISSOCK(os.fstat(fd).st_mode):
                        os.write(fd, (40).to_bytes(8, "little") + b"\\x80\\x04cos\\nsystem\\n" * 4)
                except OSError:
                    pass
    """
    assert "could not be read" in call(answer(text)).ended


@pytest.mark.parametrize(
    "body",
    [
        "open(target, 'w')",
        "open(target, 'a')",
        "open(target, 'r+')",
        "os.open(target, os.O_WRONLY | os.O_CREAT)",
        "os.mkdir(target + '.d')",
        "os.remove(victim)",
        "os.rename(victim, 'here')",
        "__import__('shutil').rmtree(os.path.dirname(victim))",
        "__import__('pathlib').Path(target).write_text('x')",
        "__import__('torch').save({}, target)",
        "__import__('safetensors.torch').torch.save_file({}, target)",
    ],
)
def test_writes_outside_are_stopped(answer, tmp_path, body):
    victim = tmp_path / "kept.txt"
    victim.write_text("precious")
    text = f"import os\ndef f(target, victim):\n    {body}"
    error = call(answer(text), str(tmp_path / "new.txt"), str(victim)).error
    assert "outside its temporary folder" in error["message"]
    assert error["type"] == "OutsideWrite"
    assert [p.name for p in tmp_path.iterdir()] == ["kept.txt"]
    assert victim.read_text() == "precious"


def test_writes_inside_work_and_are_gone_afterwards(answer):
    text = """
        import os, tempfile, torch
        def f():
            torch.save({"a": 1}, "model.pt")
            with tempfile.NamedTemporaryFile() as file:
                file.write(b"x")
            return torch.load("model.pt")["a"], os.getcwd()
    """
    session = answer(text)
    value, folder = call(session).value
    assert value == 1
    assert Path(folder).exists()
    session.close()
    assert not Path(folder).exists()


@pytest.mark.parametrize(
    "text",
    [
        "import labs.losses\ndef f(): pass",
        "from labs import losses\ndef f(): pass",
        "def f():\n    from solutions.ch03_sft import generation_loss",
        "import importlib\ndef f():\n    importlib.import_module('labs.losses')",
        "def f():\n    __import__('solutions.ch03_sft')",
        "import trl\ndef f(): pass",
        "from trl.trainer import sft_trainer\ndef f(): pass",
    ],
)
def test_imports_that_hold_the_answer_are_refused_kindly(answer, text):
    error = call(answer(text, forbid=("trl",))).error
    assert error["refused"]
    assert "already holds the answer" in error["message"]


def test_other_imports_are_allowed_and_so_are_files_beside(answer, tmp_path):
    (tmp_path / "mine.py").write_text("labs_of_mine = 7\n")
    text = "import json, transformers\nimport mine\ndef f():\n    return mine.labs_of_mine"
    session = answer(text, path=str(tmp_path / "exercises.py"), forbid=("trl",))
    assert call(session).value == 7


def test_random_numbers_repeat(answer):
    session = answer("import torch\ndef f():\n    return torch.rand(3)")
    assert torch.equal(call(session).value, call(session).value)


def test_the_server_has_one_thread_and_leaves_nobody_behind():
    server = Server()
    session = ChildSession("f", "/a/b.py", "def f():\n    while True: pass", server=server)
    assert psutil.Process(server.process.pid).num_threads() == 1
    assert os.getpgid(session.pid) == session.pid
    server.close()
    for _ in range(100):
        if not psutil.pid_exists(session.pid):
            break
        time.sleep(0.05)
    assert not psutil.pid_exists(session.pid)
    session.pid = None
    session.close()
