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
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from labs.doctors.memory.plan import Plan
from labs.errors import InputError

SCHEMA = "memory-trace/1"
PIPE = "OOM_DOCTOR_TRACE_PIPE"  # the number of the file descriptor that the child answers on
_COLUMNS = ("category", "module", "phase", "op", "place")


@dataclass
class Event:
    """One allocation or free; the fields of `follow.Event`, without its need for torch."""

    kind: str
    bytes: int
    storage_id: int
    category: str
    module: str
    phase: str
    op: str
    place: str = "device"


@dataclass
class Trace:
    """What a step does to memory.

    events: every allocation and free in order. marks: (index of an event, phase that starts there).
    layers: layers of each tower that were traced. static: bytes by category that are there between
    steps (weights, optimizer state, buffers). notes: what was assumed.
    """

    events: list[Event]
    static: dict[str, int] = field(default_factory=dict)
    layers: dict[str, int] = field(default_factory=dict)
    parameters: dict[str, int] = field(default_factory=dict)  # total, trainable
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def marks(self) -> list[tuple[int, str]]:
        found: list[tuple[int, str]] = []
        for index, event in enumerate(self.events):
            if not found or found[-1][1] != event.phase:
                found.append((index, event.phase))
        return found

    def timeline(self, place: str = "device") -> list[int]:
        """Live bytes after each event."""
        live, line = 0, []
        for event in self.events:
            if event.place == place:
                live += event.bytes if event.kind == "alloc" else -event.bytes
            line.append(live)
        return line

    def peak_bytes(self, place: str = "device") -> int:
        return max(self.timeline(place), default=0)

    def peak_index(self, place: str = "device") -> int:
        """The event after which most is live."""
        line = self.timeline(place)
        return max(range(len(line)), key=line.__getitem__, default=0)

    def live_at(self, index: int, place: str = "device") -> list[Event]:
        """The allocations alive after an event."""
        alive: dict[int, Event] = {}
        for event in self.events[: index + 1]:
            if event.place != place:
                continue
            if event.kind == "alloc":
                alive[event.storage_id] = event
            else:
                alive.pop(event.storage_id, None)
        return list(alive.values())

    def by_category(self, index: int | None = None, place: str = "device") -> dict[str, int]:
        """Bytes by category after an event; at the peak where none is named."""
        return self._sum("category", index, place)

    def by_module(self, index: int | None = None, place: str = "device") -> dict[str, int]:
        return self._sum("module", index, place)

    def by_category_and_module(
        self, index: int | None = None, place: str = "device"
    ) -> dict[str, dict[str, int]]:
        total: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        for event in self.live_at(self.peak_index(place) if index is None else index, place):
            total[event.category][event.module] += event.bytes
        return {category: dict(modules) for category, modules in total.items()}

    def _sum(self, key: str, index: int | None, place: str) -> dict[str, int]:
        total: dict[str, int] = defaultdict(int)
        for event in self.live_at(self.peak_index(place) if index is None else index, place):
            total[getattr(event, key)] += event.bytes
        return dict(sorted(total.items(), key=lambda item: -item[1]))

    def to_json(self) -> dict:
        """Events in columns, with every string once."""
        words: dict[str, int] = {}
        rows = [
            [
                1 if e.kind == "alloc" else 0,
                e.bytes,
                e.storage_id,
                *(words.setdefault(getattr(e, column), len(words)) for column in _COLUMNS),
            ]
            for e in self.events
        ]
        return {
            "schema": SCHEMA,
            "words": list(words),
            "events": rows,
            **{name: getattr(self, name) for name in _PLAIN},
        }

    @classmethod
    def from_json(cls, value: dict) -> Trace:
        """Raises InputError for anything but `to_json`'s answer."""
        try:
            if value["schema"] != SCHEMA:
                raise KeyError("schema")
            words = value["words"]
            events = [
                Event("alloc" if kind else "free", size, number, *(words[i] for i in rest))
                for kind, size, number, *rest in value["events"]
            ]
            return cls(events, **{name: value[name] for name in _PLAIN})
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise InputError(
                f"This is no trace of a training step: {error}.", "Trace the plan again."
            ) from None


_PLAIN = ("static", "layers", "parameters", "notes", "seconds")


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
        code = f"import sys; sys.path.insert(0, {root!r}); from labs.doctors.memory.trace import serve; serve()"
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
    from labs.doctors.memory import tracing

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
