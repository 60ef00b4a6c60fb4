"""How far a check has come, on standard error: bars on a terminal, a line now and then elsewhere.

Standard library only, Python 3.9 or newer; `rich` draws where it is installed.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import IO

EVERY = 10.0  # seconds between two lines in a log
REDRAW = 0.1  # seconds between two looks at the bars


class Progress:
    """Called as `progress(stage, done, total)`, total None where it is not known. A context manager."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        self.stream = sys.stderr if stream is None else stream
        self.bars = None
        self.tasks: dict[str, int] = {}
        self.last = time.monotonic()
        self.stage = ""

    def __enter__(self) -> Progress:
        if self.stream.isatty():
            try:
                from rich.console import Console
                from rich.progress import (
                    BarColumn,
                    MofNCompleteColumn,
                    TextColumn,
                    TimeRemainingColumn,
                )
                from rich.progress import Progress as Bars
            except ImportError:
                return self
            self.bars = Bars(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=Console(file=self.stream),
                transient=True,
            )
            self.bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.bars is not None:
            self.bars.stop()

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        if stage.endswith("text"):
            stage += ", MB"
        now = time.monotonic()
        wait = EVERY if self.bars is None else REDRAW
        if now - self.last < wait and (stage == self.stage or self.bars is None):
            return
        self.last, self.stage = now, stage
        if self.bars is None:
            of = f" of {total:,}" if total else ""
            self.stream.write(f"{stage}: {done:,}{of}\n")
            self.stream.flush()
            return
        for other, task in self.tasks.items():
            if other != stage:
                self.bars.update(task, visible=False)
        if stage not in self.tasks:
            self.tasks[stage] = self.bars.add_task(stage, total=total)
        self.bars.update(self.tasks[stage], completed=done, total=total, visible=True)
