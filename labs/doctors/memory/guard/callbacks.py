"""The guard for trainers: Transformers and TRL, Accelerate, Lightning.

    Trainer(…, callbacks=[transformers_callback()])
    with accelerate_guard(accelerator): …
    lightning.Trainer(…, callbacks=[lightning_callback()])

They keep what was allocated after each step, warn once when it grows steadily and say at which step
it will be full, and put the diagnosis on an out-of-memory. Each framework is imported only by its
own function.
"""

from __future__ import annotations

import sys
import time
import warnings
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from labs.doctors.finding import Report, size
from labs.doctors.memory import phases
from labs.doctors.memory.follow import budget as budgets
from labs.doctors.memory.guard import memory_guard as guard
from labs.doctors.memory.live import growth, hostmem
from labs.doctors.memory.live.diary import UNKNOWN, Step

EVERY = 10  # steps between two looks at the trend
KEPT = 2048


class MemoryGrows(UserWarning):
    """Allocated memory rises from step to step."""


class StepLog:
    """What was allocated after each step, and one warning when it keeps rising."""

    def __init__(self, every: int = EVERY):
        self.every = every
        self.steps: list[Step] = []
        self.warned = False
        self.budget: Any = None

    def note(self, step: int) -> None:
        self.steps.append(Step(step, time.time(), *self.numbers()))
        del self.steps[:-KEPT]
        if not self.warned and len(self.steps) % self.every == 0:
            self.look()

    def numbers(self) -> tuple[int, int, int, int, int]:
        """allocated, reserved, highest allocated, resident, limit: of this process, in bytes."""
        host = hostmem.resident()
        host = UNKNOWN if host is None else host
        active = self.budget or active_budget()
        if active is not None:
            live, limit = active.live_bytes, active.limit or UNKNOWN
            return live, live, active.peak_bytes, host, limit
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            return (
                torch.cuda.memory_allocated(),
                torch.cuda.memory_reserved(),
                torch.cuda.max_memory_allocated(),
                host,
                torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory,
            )
        return UNKNOWN, UNKNOWN, UNKNOWN, host, UNKNOWN

    def look(self) -> None:
        for what in ("allocated", "host"):
            trend = growth.trend(self.steps, what)
            if trend is None or not trend.leaks:
                continue
            self.warned = True
            end = f"; it will be full at step {trend.fills_at}" if trend.fills_at else ""
            warnings.warn(
                f"{what} memory rises by {size(trend.per_step)} a step ({size(trend.grown)} over "
                f"{trend.steps} steps){end}. Something keeps what each step makes: look for losses "
                "or outputs collected without .detach().",
                MemoryGrows,
                stacklevel=3,
            )
            return


def active_budget() -> budgets.byte_budget | None:
    """The innermost byte budget of this thread."""
    from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

    modes = reversed(_get_current_dispatch_mode_stack())
    return next((m.budget for m in modes if isinstance(m, budgets.BudgetFollower)), None)


def transformers_callback(every: int = EVERY) -> Any:
    """A TrainerCallback for transformers.Trainer and TRL's trainers.

    A callback sees no exceptions, so the diagnosis is made by PyTorch's out-of-memory observer (or
    the byte budget's) at the moment of the failure: printed, and saved as memory_report.json in
    the trainer's output_dir.
    """
    from transformers import TrainerCallback

    class MemoryCallback(TrainerCallback, StepLog):
        def __init__(self) -> None:
            StepLog.__init__(self, every)
            self.report: Report | None = None
            self.held: tuple[Any, ...] = ()
            self.output: Path | None = None
            self.step = 0
            self.attached = False

        def on_train_begin(self, args, state, control, model=None, optimizer=None, **_):
            self.held = tuple(thing for thing in (model, optimizer) if thing is not None)
            self.output = Path(args.output_dir) if args.output_dir else None
            self.budget = active_budget()
            budgets.OBSERVERS.append(self.budget_exceeded)
            if torch.cuda.is_available() and not self.attached:
                torch.cuda._lazy_call(self.attach)
                self.attached = True

        def attach(self) -> None:
            torch._C._cuda_attach_out_of_memory_observer(self.cuda_exceeded)

        def on_train_end(self, args, state, control, **_):
            if self.budget_exceeded in budgets.OBSERVERS:
                budgets.OBSERVERS.remove(self.budget_exceeded)

        def on_step_end(self, args, state, control, optimizer=None, **_):
            self.step = state.global_step
            self.note(state.global_step)

        def budget_exceeded(self, budget: budgets.byte_budget, tried: int) -> None:
            message = budgets.oom_message(tried, budget.limit, budget.live_bytes)
            error = budgets.OutOfMemoryError(message)
            error.budget = budget
            self.exceeded(error)

        def cuda_exceeded(self, device: int, tried: int, total: int, free: int) -> None:
            allocated = torch.cuda.memory_allocated(device)
            unused = torch.cuda.memory_reserved(device) - allocated
            other = max(0, total - free - allocated - unused)
            message = budgets.oom_message(tried, total, allocated, unused, other, index=device)
            self.exceeded(budgets.OutOfMemoryError(message))

        def exceeded(self, error: Exception) -> None:
            from labs.doctors.show import show

            if self.report is not None:  # a program that retries is told once
                return
            stack = phases.of_frame(sys._getframe(3))
            self.report = guard.diagnose(error, *self.held, step=self.step, stack=stack)
            show(self.report, sys.stderr)
            if self.output is not None:
                self.output.mkdir(parents=True, exist_ok=True)
                (self.output / "memory_report.json").write_text(self.report.to_json())

    return MemoryCallback()


def accelerate_guard(accelerator: Any, step: int | None = None) -> AbstractContextManager[None]:
    """`memory_guard` over all models and optimizers that an Accelerator has prepared."""
    return guard.memory_guard(*accelerator._models, *accelerator._optimizers, step=step)


def lightning_callback(every: int = EVERY) -> Any:
    """A Callback for lightning (or pytorch_lightning): it is told of exceptions."""
    try:
        from lightning.pytorch import Callback
    except ImportError:
        from pytorch_lightning import Callback

    class MemoryCallback(Callback, StepLog):
        def __init__(self) -> None:
            StepLog.__init__(self, every)
            self.report: Report | None = None

        def on_train_batch_end(self, trainer, *_, **__) -> None:
            self.note(trainer.global_step)

        def on_exception(self, trainer, module, exception) -> None:
            if guard.is_memory_error(exception):
                self.report = guard.attach(
                    exception, module, *trainer.optimizers, step=trainer.global_step
                )

    return MemoryCallback()
