"""One child process that opens pictures, seen from the parent. Python 3.9 or newer, POSIX."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import mmap
import os
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from labs.doctors.data.images.child import MARK, NOBODY
from labs.doctors.data.images.look import Limits

GRACE = 30.0  # seconds beyond the limit of a picture after which a child is taken for stopped
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",  # each arena reserves 64 MB of address space
    "PYTHONWARNINGS": "ignore",
}


class Child:
    """waiting: the numbers it was given and has not answered, in order. silence: seconds since it was
    last heard of, as the pool counts them; beyond `patience` it must have been stopped from outside."""

    def __init__(self, limits: Limits, seconds: float):
        import labs

        root = str(Path(labs.__file__).resolve().parents[1])  # a folder, or the zip this runs from
        code = (
            f"import sys; sys.path.insert(0, {root!r}); "
            "from labs.doctors.data.images.child import serve; serve(sys.argv[1])"
        )
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `close`
        with tempfile.TemporaryFile() as file:
            file.write(MARK.pack(NOBODY))
            file.flush()
            self._mark = mmap.mmap(file.fileno(), MARK.size)
            settings = {
                "limits": dataclasses.asdict(limits),
                "seconds": seconds,
                "mark": file.fileno(),
            }
            self.process = subprocess.Popen(
                [sys.executable, "-c", code, json.dumps(settings)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                bufsize=0,
                pass_fds=[file.fileno()],
                start_new_session=True,  # Ctrl-C reaches the parent alone, which ends its children
                env={**os.environ, **_ENVIRONMENT},
            )
        self.answers = self.process.stdout
        os.set_blocking(self.answers.fileno(), False)
        os.set_blocking(self.process.stdin.fileno(), False)
        self.patience = seconds + GRACE
        self.waiting: dict[int, None] = {}
        self.silence = 0.0
        self.silent = True  # has answered nothing yet
        self.ended = False  # has closed its end of the pipe
        self._partial = b""
        self._heard = time.monotonic()

    @property
    def on(self) -> int:
        """The number of the picture that it is on, or was when it died; NOBODY between pictures."""
        return MARK.unpack_from(self._mark, 0)[0]

    def send(self, batch: list[list[Any]]) -> None:
        if not self.waiting:
            self._heard = time.monotonic()
        self.waiting.update(dict.fromkeys(number for number, _ in batch))
        data = memoryview(json.dumps(batch).encode() + b"\n")
        pipe = self.process.stdin.fileno()
        while data:
            try:
                data = data[os.write(pipe, data) :]
            except BrokenPipeError:  # it has died: `receive` will say so
                return
            except BlockingIOError:
                # Full: it is busy with a picture. It never blocks on its own answers, which are few
                # and short, so it comes back to read.
                poll = select.poll()
                poll.register(pipe, select.POLLOUT)
                if not poll.poll(1000 * self.patience):
                    self.process.kill()
                    return

    def receive(self) -> list[list[Any]]:
        """[number, verdict] of all pictures answered since; sets `ended` where that was the last."""
        while True:
            try:
                piece = os.read(self.answers.fileno(), 1 << 16)
            except BlockingIOError:
                break
            if not piece:
                self.ended = True
                break
            self._partial += piece
        *lines, self._partial = self._partial.split(b"\n")
        answers = [answer for line in lines for answer in json.loads(line)]
        for number, _ in answers:
            del self.waiting[number]
        self.silent = self.silent and not answers
        return answers

    def pace(self, answers: int) -> float:
        """Seconds a picture, since it was last asked for."""
        now = time.monotonic()
        pace, self._heard = (now - self._heard) / answers, now
        return pace

    def close(self) -> tuple[int, str]:
        """End it, take it from the process table, close what joined it to this process.

        Returns its exit code (negative: the signal that ended it) and the last line of what it said.
        """
        self.answers.close()
        self.process.stdin.close()
        if self.ended:  # a moment before it is dead: not to be taken for a kill of ours
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=5)
        self.process.kill()  # of a process that has been waited for, this does nothing
        code = self.process.wait()
        self._mark.close()
        with self._errors as file:
            file.seek(0)
            lines = file.read().decode(errors="replace").split("\n")
        said = [" ".join(line.split()) for line in lines if line.strip()]
        return code, f": {said[-1][:300]}" if said else ""
