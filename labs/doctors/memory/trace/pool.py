"""Several tracers side by side: remedies do not wait for one another."""

from __future__ import annotations

import os
import queue
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TypeVar

from labs.doctors.memory.plan import Plan
from labs.doctors.memory.trace.child import Tracer
from labs.doctors.memory.trace.record import Trace

T, R = TypeVar("T"), TypeVar("R")
MOST = 4  # children; each holds about 0.5 GiB of libraries


class Pool:
    """Up to `MOST` tracers, one a core. A context manager; `trace` and `map` may be used together."""

    def __init__(self, size: int | None = None):
        self.size = size or max(1, min(MOST, os.cpu_count() or 1))

    def __enter__(self) -> Pool:
        self._stack = ExitStack()
        self._idle: queue.LifoQueue[Tracer] = (
            queue.LifoQueue()
        )  # the one that runs already comes first
        for _ in range(self.size):
            self._idle.put(self._stack.enter_context(Tracer()))
        self._threads = self._stack.enter_context(ThreadPoolExecutor(self.size))
        return self

    def __exit__(self, *exception) -> None:
        self._threads.shutdown(cancel_futures=True)
        self._stack.__exit__(*exception)

    def start(self) -> None:
        """Start the children's imports now."""
        tracers = [self._idle.get() for _ in range(self.size)]
        for tracer in tracers:
            tracer.start()
            self._idle.put(tracer)

    def trace(self, plan: Plan) -> Trace:
        """Trace one plan on whichever child is idle; waits for one."""
        tracer = self._idle.get()
        try:
            return tracer.trace(plan)
        finally:
            self._idle.put(tracer)

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """`function` of each item, as many at a time as there are children; in the items' order.

        Not from within a function that is mapped itself: it would wait for its own thread.
        """
        return list(self._threads.map(function, items))
