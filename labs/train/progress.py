"""What a person sees of a run: a bar with loss, speed and remaining time, and a TensorBoard log."""

import sys
import time
from pathlib import Path

from labs.train.config import TrainConfig

PLAIN_SECONDS = 10.0  # between lines where there is no terminal


class Progress:
    """A rich bar on a terminal, a line now and then elsewhere, nothing with `progress=False`."""

    def __init__(
        self, total: int, config: TrainConfig, unit: str, done: int = 0, main: bool = True
    ):
        self.total, self.unit, self.done = total, unit, done
        terminal = sys.stderr.isatty()
        self.bar = None
        self.plain = main and config.progress is not False and not terminal
        self.last_line = time.monotonic()
        if main and (config.progress or (config.progress is None and terminal)):
            self._start_bar()

    def _start_bar(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self.plain = False
        self.bar = Bar(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            console=Console(stderr=True),
            refresh_per_second=2,  # drawing takes time from the training on a small machine
        )
        self.bar.start()
        self.task = self.bar.add_task("train", total=self.total, completed=self.done, text="")

    def step(self) -> None:
        self.done += 1
        if self.bar:
            self.bar.advance(self.task)

    def log(self, entry: dict) -> None:
        parts = [
            f"{name.replace('_', ' ')} {entry[name]:.4f}"
            for name in ("loss", "eval_loss")
            if name in entry
        ]
        if "tokens_per_second" in entry:
            parts.append(f"{entry['tokens_per_second']:,.0f} tokens/s")
        text = " · ".join(parts)
        if self.bar:
            self.bar.update(self.task, text=text)
        elif self.plain and time.monotonic() - self.last_line > PLAIN_SECONDS:
            self.last_line = time.monotonic()
            left = f" · {entry['seconds_left']:.0f} s left" if "seconds_left" in entry else ""
            print(f"step {self.done}/{self.total} · {text}{left}", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.bar:
            self.bar.stop()


class TensorBoardLog:
    """Scalars of each log entry in `output_dir/tensorboard`; nothing where there is no folder."""

    def __init__(self, config: TrainConfig, main: bool, step: int = 0):
        self.writer = None
        if main and config.output_dir and config.report_to == "tensorboard":
            from torch.utils.tensorboard import SummaryWriter

            # purge_step: a resumed run overwrites what the lost steps had logged
            self.writer = SummaryWriter(
                Path(config.output_dir) / "tensorboard", purge_step=step + 1 if step else None
            )

    def log(self, entry: dict) -> None:
        if self.writer is None:
            return
        for name, value in entry.items():
            if name == "learning_rates":
                for part, rate in value.items():
                    self.writer.add_scalar(f"learning_rate/{part}", rate, entry["step"])
            elif name != "step":
                place = "eval/loss" if name == "eval_loss" else f"train/{name}"
                self.writer.add_scalar(place, value, entry["step"])

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
