"""Ctrl-C that finishes the step and saves."""

import signal
import threading
from pathlib import Path


class TrainingInterrupted(KeyboardInterrupt):
    """Training stopped on SIGINT or SIGTERM after a whole step; exit code 130.

    `checkpoint` is where it was saved, None where the run had no output folder.
    """

    def __init__(self, step: int, checkpoint: Path | None):
        self.step, self.checkpoint = step, checkpoint
        saved = (
            f"saved in {checkpoint}; resume with --resume" if checkpoint else "nothing was saved"
        )
        super().__init__(f"Interrupted after step {step}: {saved}.")


class StopSignal:
    """Within it, the first SIGINT or SIGTERM sets `set`; a second one stops at once."""

    def __init__(self):
        self.set = False
        self.previous: dict[int, object] = {}

    def _handle(self, number: int, frame) -> None:
        if self.set:
            raise KeyboardInterrupt
        self.set = True

    def __enter__(self) -> "StopSignal":
        # Signals reach the main thread only; elsewhere Python refuses to set handlers.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
