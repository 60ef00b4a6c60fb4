"""Work done in child processes, answers as they are ready.

Not `multiprocessing`: it runs the main program once more in every child (all of `labs`' command line,
torch included), and forks a process that may have threads. A child here imports what its work needs.
Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import json
import os
import pickle
import queue
import signal
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from labs.errors import InputError

HEADER = struct.Struct("=QB")  # length of a message; whether it is an answer (1) or an error (0)
AHEAD = 2  # jobs that a child has at a time: one it works on, one that waits


class Pool:
    """`make()` is called in each child and returns its work: a function of one job.

    make and the jobs are pickled, by this process for its own children.
    """

    def __init__(self, make: Callable[[], Callable[[Any], Any]], processes: int) -> None:
        self._make = pickle.dumps(make)
        self._size = processes
        self._children: list[_Child] = []
        self._answers: queue.SimpleQueue = queue.SimpleQueue()
        self._early: dict[int, Any] = {}
        self._owner: dict[int, _Child] = {}
        self._tickets = 0

    @property
    def room(self) -> bool:
        """Whether a child is free to take a job."""
        return sum(len(child.tickets) for child in self._children) < AHEAD * self._size

    def submit(self, job: Any) -> int:
        """Give a job to the child that has least to do; returns a ticket for `result`."""
        child = min(self._children, key=lambda c: len(c.tickets), default=None)
        if child is None or (child.tickets and len(self._children) < self._size):
            child = _Child(self._make, self._answers)
            self._children.append(child)
        ticket = self._tickets = self._tickets + 1
        child.tickets.append(ticket)
        self._owner[ticket] = child
        child.send(pickle.dumps(job))
        return ticket

    def result(self, ticket: int) -> Any:
        """Wait for the answer to a job. Raises the InputError or OSError that the job raised, InputError
        where the child died of it, and RuntimeError for a mistake in the work."""
        while ticket not in self._early:
            child, message = self._answers.get()
            if message is None:
                raise child.death()
            number = child.tickets.pop(0)
            if self._owner.pop(number, None) is not None:
                self._early[number] = message
        right, data = self._early.pop(ticket)
        answer = pickle.loads(data)
        if right:
            return answer
        raise answer if isinstance(answer, Exception) else RuntimeError(f"in a child:\n{answer}")

    def forget(self, ticket: int) -> None:
        """The answer to this job is not wanted any more."""
        self._early.pop(ticket, None)
        self._owner.pop(ticket, None)

    def close(self) -> None:
        for child in self._children:
            child.close()
        self._children = []

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Child:
    """tickets: of the jobs it has not answered, in order; it answers in that order."""

    def __init__(self, make: bytes, answers: queue.SimpleQueue) -> None:
        import labs

        root = str(Path(labs.__file__).resolve().parents[1])  # a folder, or the zip this runs from
        path = [root, *(entry for entry in sys.path if entry != root)]
        code = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from labs.doctors.data.reading.child import serve; serve()"
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed in `close`)
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, json.dumps(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,  # Ctrl-C reaches the parent alone, which ends its children
            env={**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
        )
        self.tickets: list[int] = []
        self._closing = False
        self.send(make)
        self._reader = threading.Thread(target=self._read, args=(answers,), daemon=True)
        self._reader.start()

    def send(self, data: bytes) -> None:
        try:
            self._process.stdin.write(HEADER.pack(len(data), 1) + data)
            self._process.stdin.flush()
        except (BrokenPipeError, OSError):
            pass  # it has died: its reader says so

    def _read(self, answers: queue.SimpleQueue) -> None:
        """In a thread: take the answers off the pipe at once, so that the child never waits for it."""
        pipe = self._process.stdout
        while True:
            head = pipe.read(HEADER.size)
            data, right = b"", 0
            if len(head) == HEADER.size:
                length, right = HEADER.unpack(head)
                data = pipe.read(length)
            if len(head) < HEADER.size or len(data) < length:
                if not self._closing:
                    answers.put((self, None))
                return
            answers.put((self, (right, data)))

    def death(self) -> InputError:
        """What to say where the child ended before it was told to."""
        code = self._process.wait()
        self._errors.seek(0)
        said = [line for line in self._errors.read().decode(errors="replace").split("\n") if line]
        how = f"exit code {code}"
        if code < 0:
            names = {int(number): number.name for number in signal.Signals}
            how = names.get(-code, f"signal {-code}")
        last = f": {said[-1][:200]}" if said else ""
        return InputError(
            f"A process that reads the data ended by {how}{last}.",
            "If the machine ran out of memory, use fewer --workers; else please report it.",
        )

    def close(self) -> None:
        self._closing = True
        self._process.kill()
        self._process.wait()
        self._reader.join(timeout=5)
        for pipe in (self._process.stdin, self._process.stdout):
            try:
                pipe.close()
            except OSError:  # what was left in a buffer for a child that is gone
                pass
        self._errors.close()


class Alone:
    """The same in this process: a job is done when it is submitted."""

    def __init__(self, make: Callable[[], Callable[[Any], Any]]) -> None:
        self._work = make()
        self._done: dict[int, Any] = {}
        self._tickets = 0

    @property
    def room(self) -> bool:
        return not self._done

    def submit(self, job: Any) -> int:
        self._tickets += 1
        self._done[self._tickets] = self._work(job)
        return self._tickets

    def result(self, ticket: int) -> Any:
        return self._done.pop(ticket)

    def forget(self, ticket: int) -> None:
        self._done.pop(ticket, None)

    def close(self) -> None:
        self._done = {}

    def __enter__(self) -> Alone:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
