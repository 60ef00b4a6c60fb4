"""Inside an observed process: keeps the diary, and writes down an out-of-memory when it happens.

`hook/sitecustomize.py` calls `arm` when the program has imported torch. Nothing here may disturb
the program: every entry point swallows and notes its own errors. Costs: two hooks at an optimizer
step, one around backward, a thread that looks twice a second. No hook on any module.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable
from typing import Any

from .. import phases
from . import hostmem
from .diary import UNKNOWN, Diary, Step
from .memory_error import is_memory_error
from .stacks import by_stack
from .wrapping import WRAPPED, wrap

MOST_DEATHS = 5  # a program that catches its OOMs may have thousands
BASELINE_STEP = 3  # by then lazily made state is there
PROBE_GROWTH = 256 * 2**20  # host memory grown by this much (and by a quarter) is worth a look


def quietly(function: Callable) -> Callable:
    """An entry point: its own errors go to a file in the run's folder, never to the program."""

    @functools.wraps(function)
    def wrapped(self, *arguments, **named):
        try:
            return function(self, *arguments, **named)
        except Exception:
            self.note_error()

    return wrapped


class Recorder:
    """One a process. `config` is what `run` wrote: folder, budget, device_name, history, period."""

    def __init__(self, config: dict[str, Any], torch: Any):
        self.config, self.torch = config, torch
        self.folder = config["folder"]
        self.diary: Diary | None = None
        self.main = threading.main_thread().ident
        self.step = self.deaths = self.depth = 0
        self.counts: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
        self.budget: Any = None
        self.baseline: dict[tuple, list[int]] = {}
        self.baseline_step = 0
        self.probed = 0
        self.limit = UNKNOWN
        self.phase = "load"
        self.stop = threading.Event()

    @property
    def rank(self) -> int | None:
        return _integer("RANK")

    # -- start and end -------------------------------------------------------------------------

    def open(self, role: str = "program") -> None:
        self.diary = Diary(
            os.path.join(self.folder, f"diary-{os.getpid()}.bin"),
            {
                "pid": os.getpid(),
                "parent": os.getppid(),
                "role": role,
                "command": list(getattr(sys, "orig_argv", sys.argv))[:40],
                "rank": self.rank,
                "local_rank": _integer("LOCAL_RANK"),
                "world": _integer("WORLD_SIZE"),
                "python": sys.version.split()[0],
                "torch": str(self.torch.__version__),
                "cuda": getattr(self.torch.version, "cuda", None),
                "budget": self.config.get("budget"),
            },
        )
        self.diary.phase(self.phase)
        self.stop = threading.Event()
        threading.Thread(target=self.watch, name="oom-doctor", daemon=True).start()

    @quietly
    def arm(self) -> None:
        from torch.optim.optimizer import (
            register_optimizer_step_post_hook,
            register_optimizer_step_pre_hook,
        )

        self.open()
        register_optimizer_step_pre_hook(self.step_starts)
        register_optimizer_step_post_hook(self.step_ends)
        wrap(self.torch.autograd, "backward", self.within("backward"))
        wrap(self.torch, "save", self.within("checkpoint"))
        atexit.register(self.at_exit)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.forked)
        if self.config.get("budget"):
            self.start_budget()
        lazily = getattr(self.torch.cuda, "_lazy_call", None)
        if lazily is not None:
            lazily(self.cuda_starts)

    def start_budget(self) -> None:
        from ..follow import budget

        limit = self.config["budget"]
        budget.OBSERVERS.append(self.budget_exceeded)
        self.budget = budget.byte_budget(
            None if limit == "none" else limit,
            device_name=self.config.get("device_name") or "CUDA",
            stacks=True,
        )
        self.limit = UNKNOWN if self.budget.limit is None else self.budget.limit
        self.budget.__enter__()

    @quietly
    def cuda_starts(self) -> None:
        """The program has initialised CUDA: be told of an OOM, and remember who allocated."""
        torch = self.torch
        torch._C._cuda_attach_out_of_memory_observer(self.cuda_exceeded)
        enabled = getattr(torch._C, "_cuda_isHistoryEnabled", None)
        if self.config.get("history") and not (enabled and enabled()):
            torch.cuda.memory._record_memory_history(
                "all", context="alloc", stacks="python", max_entries=int(self.config["history"])
            )

    def forked(self) -> None:
        """In a forked child: the diary is the parent's. Open another one once this one trains."""
        self.diary, self.deaths = None, 0
        self.main = threading.main_thread().ident

    @quietly
    def at_exit(self) -> None:
        self.stop.set()
        error = getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)
        if self.diary is None:
            return
        if error is not None:
            self.uncaught(error)
        self.diary.goodbye()

    def uncaught(self, error: BaseException) -> None:
        stack = phases.of_traceback(error.__traceback__)
        self.diary.text(
            "last",
            {
                "type": f"{type(error).__module__}.{type(error).__name__}",
                "message": str(error)[:2000],
                "memory": is_memory_error(error),
                "stack": stack[:12],
            },
        )
        if is_memory_error(error) and not self.deaths:
            self.write_death("exception", error, None, stack)

    def note_error(self) -> None:
        try:
            with open(os.path.join(self.folder, f"error-{os.getpid()}.txt"), "a") as file:
                traceback.print_exc(file=file)
        except OSError:
            pass

    # -- phases and steps ----------------------------------------------------------------------

    def within(self, name: str) -> Callable[[bool], None]:
        """Marks the start (True) and the end (False) of a phase; inner phases go unnoticed."""

        def mark(starts: bool) -> None:
            if threading.get_ident() != self.main:
                return
            self.depth += 1 if starts else -1
            if starts and self.depth == 1:
                self.enter(name)
            elif not starts and self.depth == 0:
                self.enter("forward" if self.phase != "load" or self.step else "load")

        return mark

    @quietly
    def enter(self, phase: str) -> None:
        if self.diary is None:
            self.open("forked")
        # A checkpoint written before the first step is a download or a conversion: still loading.
        self.phase = "forward" if phase == "load" and self.step else phase
        self.diary.phase(self.phase)

    def step_starts(self, *_: Any) -> None:
        self.within("optimizer step")(True)

    def step_ends(self, optimizer: Any, *_: Any) -> None:
        count = self.counts[optimizer] = self.counts.get(optimizer, 0) + 1
        if count > self.step:  # several optimizers: the one with most steps counts
            self.step = count
            self.note_step()
        self.within("optimizer step")(False)

    @quietly
    def note_step(self) -> None:
        if self.diary is None:
            self.open("forked")
        resident = hostmem.resident()
        allocated, reserved, peak = self.memory()
        self.diary.step(
            Step(
                self.step,
                time.time(),
                allocated,
                reserved,
                peak,
                UNKNOWN if resident is None else resident,
                self.limit,
            )
        )
        if self.step == BASELINE_STEP:
            self.baseline, self.baseline_step = by_stack(self), self.step
        if resident and resident > max(1.25 * self.probed, self.probed + PROBE_GROWTH):
            first, self.probed = not self.probed, resident
            if not first or self.step <= BASELINE_STEP:
                self.probe(resident)

    def memory(self) -> tuple[int, int, int]:
        """(allocated, reserved, highest allocated so far) of this process's device."""
        torch = self.torch
        if self.budget is not None:
            return self.budget.live_bytes, self.budget.live_bytes, self.budget.peak_bytes
        if not torch.cuda.is_available() or not torch.cuda.is_initialized():
            return UNKNOWN, UNKNOWN, UNKNOWN
        device = torch.cuda.current_device()
        if self.limit == UNKNOWN:
            self.limit = torch.cuda.get_device_properties(device).total_memory
        stats = torch._C._cuda_memoryStats(device)
        allocated, reserved = stats["allocated_bytes"]["all"], stats["reserved_bytes"]["all"]
        return allocated["current"], reserved["current"], allocated["peak"]

    # -- looking while it runs -----------------------------------------------------------------

    def watch(self) -> None:
        """The thread: where the program stands and what it holds, for the case of a kill."""
        diary, stop = self.diary, self.stop
        while not stop.wait(self.config.get("period", 0.5)):
            if self.diary is not diary:
                return
            try:
                stack = phases.of_thread(self.main)
                allocated, reserved, peak = self.memory()
                diary.text(
                    "sample",
                    {
                        "time": time.time(),
                        "phase": phases.of_stack(stack) or self.phase,
                        "host": hostmem.resident(),
                        "allocated": allocated,
                        "reserved": reserved,
                        "peak": peak,
                        "limit": self.limit,
                        "stack": (phases.own(stack)[:8] or stack[:8]),
                    },
                )
            except Exception:
                self.note_error()
                return

    def probe(self, resident: int) -> None:
        """Host memory has grown: which tensors are there now, by dtype and shape."""
        from ..follow import holders

        now = holders.take()
        self.diary.text("probe", {"step": self.step, "host": resident, **now})

    # -- the end -------------------------------------------------------------------------------

    @quietly
    def budget_exceeded(self, budget: Any, tried: int) -> None:
        if budget is self.budget:
            self.write_death("budget", None, tried, phases.of_frame(sys._getframe(3)))

    @quietly
    def cuda_exceeded(self, device: int, tried: int, total: int, free: int) -> None:
        stack = phases.of_thread(self.main)  # backward allocates in a thread of its own
        if self.limit == UNKNOWN:
            self.limit = total
        self.write_death("cuda", None, tried, stack, device, free)

    def write_death(
        self,
        kind: str,
        error: BaseException | None,
        tried: int | None,
        stack: list[phases.Frame],
        device: int | None = None,
        free: int | None = None,
    ) -> None:
        from .last_words import last_words

        self.deaths += 1
        if self.deaths > MOST_DEATHS:
            return
        if self.diary is None:
            self.open("forked")
        record = last_words(self, kind, error, tried, stack, device, free)
        path = os.path.join(self.folder, f"death-{os.getpid()}-{self.deaths}.json")
        with open(path + ".part", "w") as file:
            json.dump(record, file, default=str)
        os.replace(path + ".part", path)


def _integer(name: str) -> int | None:
    text = os.environ.get(name, "")
    return int(text) if text.isdigit() else None


_RECORDER: Recorder | None = None


def arm(config: dict[str, Any], torch: Any) -> None:
    """Start recording in this process."""
    global _RECORDER
    if _RECORDER is None:
        _RECORDER = Recorder(config, torch)
        _RECORDER.arm()


def arm_module(name: str, module: Any) -> None:
    """A module of WRAPPED has been imported: mark its phases."""
    if _RECORDER is None:
        return
    for dotted, phase in WRAPPED[name]:
        owner, _, attribute = dotted.rpartition(".")
        try:
            wrap(getattr(module, owner), attribute, _RECORDER.within(phase))
        except AttributeError:
            pass  # another version of that library
