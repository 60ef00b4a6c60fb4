"""A process's diary: a small memory-mapped file that outlives the process, however it dies.

Pages written to a shared mapping belong to the kernel at once, so a SIGKILL of the writer or of its
parent loses nothing (only a crash of the machine would). Layout: a header, four texts (each with a
length and a checksum, so that one torn by a kill is seen as absent), a ring of optimizer steps.

Standard library only; the hook loads this very file into the process it observes.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import time
import zlib
from dataclasses import dataclass, field
from typing import Any, NamedTuple

MAGIC = b"OOMDIARY2\n"
# The phases of a run. Their order is the format: add at the end.
PHASES = (
    "start",
    "load",
    "forward",
    "backward",
    "optimizer step",
    "evaluation",
    "generation",
    "checkpoint",
)
UNKNOWN = -1  # a number that could not be read on this machine

HEADER = struct.Struct("<16sqdB7xdQQd")  # magic pid started phase phase_time step count ended
TEXT = struct.Struct("<II")  # length, crc32
STEP = struct.Struct("<Qd5q")
TEXTS = {
    "meta": (256, 4096),
    "sample": (4352, 12288),
    "probe": (16640, 12288),
    "last": (28928, 4096),
}
RING_AT, RING = 33024, 2048
SIZE = RING_AT + RING * STEP.size


class Step(NamedTuple):
    """What was known when optimizer step `step` had ended. Bytes; UNKNOWN where not readable.

    allocated, reserved: now (GPU allocator, or the followed storages under a byte budget);
    peak: the highest allocated so far; host: resident memory of the process;
    limit: what `allocated` must not pass (GPU memory or budget).
    """

    step: int
    time: float
    allocated: int
    reserved: int
    peak: int
    host: int
    limit: int


@dataclass
class Pages:
    """A diary as read: see `read`."""

    pid: int
    started: float
    phase: str
    phase_time: float
    step: int
    ended: float | None  # when the process said goodbye; None if it never did
    meta: dict[str, Any] = field(default_factory=dict)
    sample: dict[str, Any] = field(default_factory=dict)
    probe: dict[str, Any] = field(default_factory=dict)
    last: dict[str, Any] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)


class Diary:
    """The writer. One process, and at most one thread for each of the texts."""

    def __init__(self, path: str, meta: dict[str, Any]):
        self.path = path
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.ftruncate(descriptor, SIZE)
            self.map = mmap.mmap(descriptor, SIZE)
        finally:
            os.close(descriptor)
        self.pid, self.started, self.ended = os.getpid(), time.time(), 0.0
        self.phase_code, self.phase_time = 0, self.started
        self.step_number = self.count = 0
        self.text("meta", meta)
        self._header()

    def phase(self, name: str) -> None:
        """The run enters a phase."""
        self.phase_code, self.phase_time = PHASES.index(name), time.time()
        self._header()

    def step(self, step: Step) -> None:
        """An optimizer step has ended."""
        place = RING_AT + (self.count % RING) * STEP.size
        STEP.pack_into(self.map, place, *step)
        self.step_number = step.step
        self.count += 1  # after the record: a reader never sees one half written
        self._header()

    def text(self, name: str, content: dict[str, Any]) -> None:
        """Put a dict in place of the one of that name; too long a one is left out, and says so."""
        start, room = TEXTS[name]
        payload = json.dumps(content, default=str).encode()
        if len(payload) > room - TEXT.size:
            payload = json.dumps({"too_long": len(payload)}).encode()
        # An invalid checksum first: a kill between the two writes leaves a text known to be torn.
        TEXT.pack_into(self.map, start, 0, 1)
        self.map[start + TEXT.size : start + TEXT.size + len(payload)] = payload
        TEXT.pack_into(self.map, start, len(payload), zlib.crc32(payload))

    def goodbye(self) -> None:
        """The process ends by its own will."""
        self.ended = time.time()
        self._header()

    def _header(self) -> None:
        HEADER.pack_into(
            self.map,
            0,
            MAGIC,
            self.pid,
            self.started,
            self.phase_code,
            self.phase_time,
            self.step_number,
            self.count,
            self.ended,
        )


def read(path: str) -> Pages:
    """The diary at `path`, of a process alive or dead. Raises ValueError if it is not a diary."""
    with open(path, "rb") as file:
        content = file.read(SIZE)
    if len(content) < SIZE or not content.startswith(MAGIC):
        raise ValueError(f"{path} is not a diary of this version")
    _, pid, started, phase, phase_time, step, count, ended = HEADER.unpack_from(content, 0)
    texts = {name: _text(content, start) for name, (start, _) in TEXTS.items()}
    first = max(0, count - RING)
    steps = [
        Step(*STEP.unpack_from(content, RING_AT + (i % RING) * STEP.size))
        for i in range(first, count)
    ]
    name = PHASES[phase] if phase < len(PHASES) else PHASES[0]
    return Pages(pid, started, name, phase_time, step, ended or None, steps=steps, **texts)


def _text(content: bytes, start: int) -> dict[str, Any]:
    length, checksum = TEXT.unpack_from(content, start)
    payload = content[start + TEXT.size : start + TEXT.size + length]
    if not length or zlib.crc32(payload) != checksum:
        return {}
    return json.loads(payload)
