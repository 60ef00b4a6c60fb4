"""One answer, ready to be called: in a guarded child, or (our own code) in this process."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import pickle
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from labs.grading.exercise import SECONDS
from labs.grading.wire import decode, receive, send
from labs.grading.worker import Request, Worker

LOAD_SECONDS = 60.0  # a learner's file may import libraries that the server has not
ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Outcome:
    """What one call came to: a value, an error of the learner's code, or a process that ended."""

    value: Any = None
    error: dict[str, Any] | None = None
    mutated: list[str] = field(default_factory=list)
    ended: str | None = None  # a sentence: time, memory, crash


class LocalSession:
    """Calls our own code in this process, through the same worker as a child."""

    def __init__(self, answer: Callable):
        self.worker = Worker(answer)
        self.output = ""

    def ask(self, request: Request) -> Outcome:
        # The pickle copies the arguments, as the way to a child does.
        return Outcome(**decode(self.worker.handle(pickle.loads(pickle.dumps(request)))))

    def close(self) -> None:
        self.worker.kept.clear()


class Server:
    """The fork server's handle. `Server.shared()` starts one a process, at first use."""

    _shared: Server | None = None

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        single = {f"{k}_NUM_THREADS": "1" for k in ("OMP", "OPENBLAS", "MKL", "NUMEXPR")}
        paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
        env = {
            **os.environ,
            **single,
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
        }
        command = [sys.executable, "-m", "labs.grading.server", str(theirs.fileno())]
        self.process = subprocess.Popen(
            command, env=env, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
        )
        theirs.close()
        self.control, self.buffer, self.ready = ours, b"", False
        atexit.register(self.close)

    @classmethod
    def shared(cls) -> Server:
        if cls._shared is None or cls._shared.process.poll() is not None:
            cls._shared = cls()
        return cls._shared

    def _line(self) -> dict[str, Any]:
        while b"\n" not in self.buffer:
            data = self.control.recv(1 << 16)
            if not data:
                raise RuntimeError("The grading server ended; its message is above.")
            self.buffer += data
        line, self.buffer = self.buffer.split(b"\n", 1)
        return json.loads(line)

    def _request(self, message: dict[str, Any], fds: tuple[int, ...] = ()) -> dict[str, Any]:
        if not self.ready:
            self._line()
            self.ready = True
        socket.send_fds(self.control, [json.dumps(message).encode()], list(fds))
        return self._line()

    def fork(self, stream: socket.socket, folder: str, memory_mb: int) -> int:
        message = {"do": "fork", "folder": folder, "memory_mb": memory_mb}
        return self._request(message, (stream.fileno(),))["pid"]

    def reap(self, pid: int) -> int:
        return self._request({"do": "reap", "pid": pid})["status"]

    def close(self) -> None:
        self.control.close()
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()


class ChildSession:
    """Runs a learner's text in a child of the server, under a clock and a watch on its memory."""

    def __init__(
        self,
        name: str,
        path: str,
        text: str,
        *,
        forbid: tuple[str, ...] = (),
        seconds: float = SECONDS,
        memory_mb: int = 2048,
        server: Server | None = None,
    ):
        self.server = server or Server.shared()
        self.seconds, self.memory_mb = seconds, memory_mb
        self.folder = tempfile.mkdtemp(prefix="labs-grade-")
        self.stream, theirs = socket.socketpair()
        self.pid: int | None = self.server.fork(theirs, self.folder, memory_mb)
        theirs.close()
        self.base = self._resident()
        self.loaded = self._exchange((name, path, text, forbid), LOAD_SECONDS)

    def ask(self, request: Request) -> Outcome:
        if self.loaded.error or self.loaded.ended:
            return self.loaded
        return self._exchange(request, self.seconds)

    @property
    def output(self) -> str:
        """What the answer has printed so far."""
        try:
            return Path(self.folder, "output.txt").read_text(errors="replace")
        except OSError:
            return ""

    def close(self) -> None:
        if self.pid is not None:
            self._end()
        self.stream.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _exchange(self, message: Any, seconds: float) -> Outcome:
        if self.pid is None:
            return self.loaded
        deadline, turn = time.monotonic() + seconds, 0

        def wait() -> None:
            nonlocal turn
            while not select.select([self.stream], [], [], 0.01)[0]:
                turn += 1
                if time.monotonic() > deadline:
                    raise _Ended(
                        f"It was still running after {seconds:g} seconds and was stopped: "
                        "look for a loop that does not end."
                    )
                self._watch(family=turn % 10 == 0)

        try:
            send(self.stream, pickle.dumps(message))
            outcome = Outcome(**decode(receive(self.stream, wait)))
        except _Ended as ended:
            self._end()
            outcome = Outcome(ended=str(ended))
        except (EOFError, ConnectionError):
            outcome = Outcome(ended=_obituary(self._end(kill=False)))
        except (ValueError, TypeError) as error:
            self._end()
            outcome = Outcome(ended=f"What it sent back could not be read: {error}.")
        if outcome.error and _out_of_memory(outcome.error):
            outcome = Outcome(ended=self._too_much())
        if outcome.ended:
            self.loaded = outcome
        return outcome

    def _watch(self, family: bool) -> None:
        if self._resident(family) - self.base > self.memory_mb * 2**20:
            raise _Ended(self._too_much())

    def _too_much(self) -> str:
        return (
            f"It asked for more memory than the {self.memory_mb / 1024:g} GB an answer may use "
            "and was stopped: look for a tensor that is far larger than the inputs."
        )

    def _resident(self, family: bool = False) -> int:
        try:
            process = psutil.Process(self.pid)
            total = process.memory_info().rss
            if family:
                total += sum(c.memory_info().rss for c in process.children(recursive=True))
            return total
        except psutil.Error:
            return 0

    def _end(self, kill: bool = True) -> int:
        pid, self.pid = self.pid, None
        if kill:
            self._kill(pid)
            return self.server.reap(pid)
        status = self.server.reap(pid)
        self._kill(pid)  # what it started may outlive it in the same group
        return status

    @staticmethod
    def _kill(pid: int) -> None:
        for kill in (os.killpg, os.kill):  # it may not have its own group yet
            with contextlib.suppress(ProcessLookupError, PermissionError):
                kill(pid, signal.SIGKILL)


class _Ended(Exception):
    pass


def _out_of_memory(error: dict[str, Any]) -> bool:
    text = error["message"]
    return error["type"] in ("MemoryError", "_ArrayMemoryError") or "can't allocate memory" in text


def _obituary(status: int) -> str:
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        return f"It crashed the Python process ({name}): something below Python failed."
    code = os.waitstatus_to_exitcode(status)
    return f"It ended the Python process (exit code {code}): look for exit() or os._exit()."
