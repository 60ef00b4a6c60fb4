# ruff: noqa: UP045 - aliases of types are evaluated, and Python 3.9 knows no X | None
"""Many pictures, looked at in children that may die of them. Python 3.9 or newer, POSIX.

The parent keeps each child busy with one batch in hand and one waiting. A child that dies is
replaced; the picture it was on is told about, the rest of its batches is done by others.
"""

from __future__ import annotations

import collections
import importlib.util
import os
import selectors
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Optional, TypeVar

from labs.doctors.data.images.look import Limits
from labs.doctors.data.images.process import Child
from labs.doctors.data.images.source import Source
from labs.doctors.data.images.verdict import ImageVerdict
from labs.doctors.data.options import Options
from labs.doctors.data.sample import Problem
from labs.errors import InputError

Reference = TypeVar("Reference")
Progress = Optional[Callable[[str, int, Optional[int]], None]]

BATCH_SECONDS = 0.1  # what a batch should take: long beside a pipe's latency, short beside a run
LARGEST = 64  # pictures in a batch
LARGEST_TEXT = 1_000_000  # characters of references in a batch, which data URLs fill
TRIES = 2  # a picture that two children died of is to blame
FALSE_STARTS = 3  # children in a row that end before they answered anything


def unavailable() -> str | None:
    """A sentence where pictures cannot be looked at here; None where they can."""
    if importlib.util.find_spec("PIL") is None:
        return "No picture was opened: Pillow is not installed (pip install pillow)."
    if os.name != "posix":
        return "No picture was opened: that needs Linux or macOS (on Windows, WSL)."
    return None


def check_images(
    items: Iterable[tuple[Reference, Source]], options: Options, progress: Progress = None
) -> Iterator[tuple[Reference, ImageVerdict]]:
    """Look at every picture; (reference, verdict) as they are done, each item once, in any order.

    items: (reference, source); a source is a path, a data URL, or (tar, offset, size) for a member of
    a tar that is not compressed. Each is decoded in a child under `options.image_seconds` of wall time
    and `options.image_memory_mb` of memory, with `options.processes` children. Verdicts carry
    fingerprints where `options.near_duplicates` is set. The children are gone when the iterator ends
    or is closed.

    Raises InputError where Pillow is missing or no child can be started.
    """
    if sentence := unavailable():
        raise InputError(sentence, "Install it, or leave pictures out with --no-images.")
    total = len(items) if hasattr(items, "__len__") else None
    pool = _Pool(options)
    done = 0
    try:
        for answer in pool.run(items):
            done += 1
            if progress is not None:
                progress("images", done, total)
            yield answer
    finally:
        pool.close()


class _Pool:
    def __init__(self, options: Options):
        self.seconds = options.image_seconds
        self.limits = Limits.of(options)
        self.size = options.processes
        self.children: list[Child] = []
        self.selector = selectors.DefaultSelector()
        self.again: collections.deque[list[int]] = collections.deque()  # batches to be done first
        self.open: dict[int, tuple[Any, Source]] = {}  # number -> (reference, source), not answered
        self.tries: collections.Counter[int] = collections.Counter()
        self.pace = BATCH_SECONDS / 4  # seconds a picture, on one child: a guess until it is known
        self.false_starts = 0

    def run(self, items: Iterable[tuple[Any, Source]]) -> Iterator[tuple[Any, ImageVerdict]]:
        fresh = enumerate(items)
        while True:
            self._feed(fresh)
            if not self.open:
                return
            began = time.monotonic()
            ready = self.selector.select(timeout=1.0)
            waited = time.monotonic() - began
            heard = {key.data for key, _ in ready}
            for child in list(self.children):
                if child in heard:
                    yield from self._hear(child)
                elif child.waiting:
                    child.silence += waited
                    if child.silence > child.patience:
                        child.process.kill()  # stopped from outside, or beyond its own timer's reach

    def close(self) -> None:
        for child in self.children:
            child.close()
        self.children = []
        self.selector.close()

    def _feed(self, fresh: Iterator[tuple[int, tuple[Any, Source]]]) -> None:
        """Give every child that has at most a batch left another; start children while there is work."""
        size = max(1, min(LARGEST, int(BATCH_SECONDS / self.pace)))
        for child in [*self.children, None]:
            while child is None or len(child.waiting) <= size:
                if child is None and len(self.children) >= self.size:
                    return
                batch = self._next(fresh, size)
                if not batch:
                    return
                if child is None:
                    self._send(self._start(), batch)
                else:
                    self._send(child, batch)

    def _next(self, fresh: Iterator, size: int) -> list[int]:
        if self.again:
            return self.again.popleft()
        batch, text = [], 0
        while len(batch) < size and text < LARGEST_TEXT:
            item = next(fresh, None)
            if item is None:
                break
            number, (reference, source) = item
            source = list(source) if isinstance(source, (tuple, list)) else os.fspath(source)
            self.open[number] = (reference, source)
            batch.append(number)
            text += len(source)
        return batch

    def _start(self) -> Child:
        child = Child(self.limits, self.seconds)
        self.children.append(child)
        self.selector.register(child.answers, selectors.EVENT_READ, child)
        return child

    def _send(self, child: Child, batch: list[int]) -> None:
        child.send([[number, self.open[number][1]] for number in batch])

    def _hear(self, child: Child) -> Iterator[tuple[Any, ImageVerdict]]:
        child.silence = 0.0
        answers = child.receive()
        if answers:
            self.false_starts = 0
            self.pace += 0.2 * (child.pace(len(answers)) - self.pace)
        for number, fields in answers:
            yield self._answered(number, ImageVerdict.from_list(fields))
        if child.ended:
            yield from self._bury(child)

    def _answered(self, number: int, verdict: ImageVerdict) -> tuple[Any, ImageVerdict]:
        self.tries.pop(number, None)
        return self.open.pop(number)[0], verdict

    def _bury(self, child: Child) -> Iterator[tuple[Any, ImageVerdict]]:
        """A child died: blame the picture it was on, or try it once more, and hand on the rest."""
        self.selector.unregister(child.answers)
        self.children.remove(child)
        rest, guilty = list(child.waiting), child.on
        code, said = child.close()
        if guilty in child.waiting:
            rest.remove(guilty)
            self.tries[guilty] += 1
            if code == -signal.SIGALRM:
                words = f"still decoding after the limit of {self.seconds:g} seconds"
                yield self._answered(guilty, _too_slow(words))
            elif self.tries[guilty] >= TRIES:
                yield self._answered(guilty, _too_slow(_death(code, self.limits.megabytes)))
            else:
                # Killed from outside, it may be: a picture is not blamed for one death.
                self.again.append([guilty])
        elif rest and child.silent:
            self.false_starts += 1
            if self.false_starts >= FALSE_STARTS:
                raise InputError(
                    f"The processes that open pictures end as soon as they start ({_ending(code)}){said}.",
                    "Check that Pillow works (python -c 'import PIL.Image'), or use --no-images.",
                )
        self.again.extend(rest[i : i + LARGEST] for i in range(0, len(rest), LARGEST))


def _too_slow(words: str) -> ImageVerdict:
    return ImageVerdict([Problem("image_too_slow", words)])


def _death(code: int, megabytes: int) -> str:
    words = f"its decoder dies ({_ending(code)})"
    if code in (-signal.SIGKILL, -signal.SIGABRT, -signal.SIGSEGV):
        words += f"; the limit of memory is {megabytes:,} MB"
    return words


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
