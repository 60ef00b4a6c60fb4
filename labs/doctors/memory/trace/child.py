"""trace(plan): one training step of the real model classes on fake tensors, in a child process.

The child takes no memory worth the name whatever the model's size, and touches no GPU. It is a
process of its own because the trace changes how operators of its process behave, and because it
must not share an environment with a training run. `Tracer` keeps one child for many plans: the
imports (a few seconds) are paid once.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from labs.doctors.memory.plan import Plan
from labs.doctors.memory.trace.record import Trace
from labs.errors import InputError

PIPE = "OOM_DOCTOR_TRACE_PIPE"  # the number of the file descriptor that the child answers on


def trace(plan: Plan) -> Trace:
    """Trace one plan in a child process of its own; see `Tracer` for many.

    Raises InputError for a plan or model that cannot be, with what is wrong and what to do.
    """
    with Tracer() as tracer:
        return tracer.trace(plan)


class Tracer:
    """A child process that traces plans one after another. A context manager."""

    def __init__(self) -> None:
        self.process: subprocess.Popen | None = None

    def __enter__(self) -> Tracer:
        self._errors = tempfile.TemporaryFile("w+")  # closed in __exit__
        return self

    def __exit__(self, *_) -> None:
        if self.process is not None:
            self.process.stdin.close()
            self._answers.close()
            try:
                self.process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._errors.close()

    def start(self) -> None:
        """Start the child's imports now, so that they are done when the first plan comes."""
        if self.process is not None:
            return
        import labs

        root = str(Path(labs.__file__).parents[1])  # a folder, or the zip file that this runs from
        reading, writing = os.pipe()
        code = f"import sys; sys.path.insert(0, {root!r}); from labs.doctors.memory.trace.child import serve; serve()"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=self._errors,
            stderr=self._errors,
            text=True,
            pass_fds=[writing],
            env=_environment() | {PIPE: str(writing)},
        )
        os.close(writing)
        self._answers = os.fdopen(reading)

    def trace(self, plan: Plan) -> Trace:
        """Trace one plan. Raises InputError where it cannot be traced."""
        self.start()
        try:
            self.process.stdin.write(json.dumps(plan.to_dict()) + "\n")
            self.process.stdin.flush()
            line = self._answers.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise InputError(
                f"The trace of {plan.model} ended without an answer.{self._last()}", _TELL
            )
        answer = json.loads(line)
        if "error" in answer:
            raise InputError(*answer["error"])
        return Trace.from_json(answer)

    def _last(self) -> str:
        """What the child said last, on one line."""
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors.read().splitlines() if line.strip()]
        return f" It said: {lines[-1][:300]}" if lines else ""


_TELL = "Try a smaller plan of the same model; if that fails too, report it with the configuration."


def _environment() -> dict[str, str]:
    quiet = {
        "CUDA_VISIBLE_DEVICES": "",  # a trace must not touch a GPU that others train on
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
        "PYTHONWARNINGS": "ignore",
    }
    return {**os.environ, **quiet}


def serve() -> None:
    """The child: a plan as JSON a line on standard input, a trace or an error a line on the pipe."""
    answers = os.fdopen(int(os.environ.pop(PIPE)), "w")
    from labs.doctors.memory.trace import tracing

    for line in sys.stdin:
        try:
            answer = tracing.trace_here(Plan.from_dict(json.loads(line))).to_json()
        except InputError as error:
            answer = {"error": [error.what, error.do]}
        except Exception as error:
            import traceback

            traceback.print_exc()
            words = " ".join(str(error).split())[:300]
            answer = {"error": [f"The trace stopped with {type(error).__name__}: {words}", _TELL]}
        with _whole_line(answers) as out:
            out.write(json.dumps(answer) + "\n")


@contextlib.contextmanager
def _whole_line(stream) -> Iterator[Any]:
    yield stream
    stream.flush()
