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

from . import hostmem, phases
from .diary import UNKNOWN, Diary, Step

MOST_DEATHS = 5  # a program that catches its OOMs may have thousands
BASELINE_STEP = 3  # by then lazily made state is there
PROBE_GROWTH = 256 * 2**20  # host memory grown by this much (and by a quarter) is worth a look

# Called once these modules are imported: {module: [(dotted name, phase)]}
WRAPPED = {
    "transformers.trainer": [
        ("Trainer.evaluation_loop", "evaluation"),
        ("Trainer._save_checkpoint", "checkpoint"),
    ],
    "transformers.modeling_utils": [("PreTrainedModel.save_pretrained", "checkpoint")],
    "transformers.generation.utils": [("GenerationMixin.generate", "generation")],
    "deepspeed.runtime.engine": [
        ("DeepSpeedEngine.backward", "backward"),
        ("DeepSpeedEngine.step", "optimizer step"),
        ("DeepSpeedEngine.save_checkpoint", "checkpoint"),
    ],
}

HOST_WORDS = (
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "unable to allocate",
    "no space left on device",
    "bus error",
    "killed by signal",
    "shared memory",
)


def is_memory_error(error: BaseException) -> bool:
    """Whether an exception is about memory: of a GPU, of the host, of /dev/shm."""
    text = str(error).lower()
    return (
        isinstance(error, MemoryError)
        or "OutOfMemory" in type(error).__name__
        or "out of memory" in text
        or (isinstance(error, (RuntimeError, OSError)) and any(w in text for w in HOST_WORDS))
    )


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

    # -- start and end -------------------------------------------------------------------------

    def open(self, role: str = "program") -> None:
        self.diary = Diary(
            os.path.join(self.folder, f"diary-{os.getpid()}.bin"),
            {
                "pid": os.getpid(),
                "parent": os.getppid(),
                "role": role,
                "command": list(getattr(sys, "orig_argv", sys.argv))[:40],
                "rank": _integer("RANK"),
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
        from . import budget

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
            self.baseline, self.baseline_step = self.by_stack(), self.step
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
        from . import holders

        now = holders.take()
        self.diary.text("probe", {"step": self.step, "host": resident, **now})

    def by_stack(self) -> dict[tuple, list[int]]:
        """Live allocations by the Python stack that made them: {stack: [count, bytes]}."""
        if self.budget is not None:
            blocks = [(b.bytes, b.stack) for b in list(self.budget.follower.blocks.values())]
        elif self.torch.cuda.is_initialized() and self.config.get("history"):
            from . import allocations

            blocks = list(allocations.live_blocks(self.torch.cuda.memory._snapshot()))
        else:
            return {}
        found: dict[tuple, list[int]] = {}
        for size, stack in blocks:
            entry = found.setdefault(tuple(map(tuple, stack)), [0, 0])
            entry[0] += 1
            entry[1] += size
        return found

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
        from . import holders

        self.deaths += 1
        if self.deaths > MOST_DEATHS:
            return
        if self.diary is None:
            self.open("forked")
        torch, record = self.torch, {}
        allocated, reserved, peak = self.memory()
        if kind == "cuda":
            from . import allocations

            record["segments"] = allocations.fragmentation(torch.cuda.memory._snapshot())
            record.update(holders.take(f"cuda:{device}"))
            known = sum(record["categories"].values())
            if allocated > known:
                record["categories"]["activations"] = allocated - known
        elif kind == "budget":
            record.update(holders.take("cpu"))
            record["categories"] = {k: v for k, v in self.budget.live().items() if v}
            record["modules"] = self.followed_modules()
        else:
            record.update(holders.take())
        node = getattr(torch._C, "_current_autograd_node", lambda: None)()
        record.update(
            {
                "kind": kind,
                "number": self.deaths,
                "time": time.time(),
                "pid": os.getpid(),
                "rank": _integer("RANK"),
                "device": device,
                "step": self.step,
                "phase": phases.of_stack(stack) or self.phase,
                "type": type(error).__name__ if error else "OutOfMemoryError",
                "message": str(error)[:2000] if error else None,
                "tried": tried,
                "free": free,
                "stack": stack,
                "node": type(node).__name__ if node is not None else None,
                "module": self.budget.follower.module if self.budget is not None else None,
                "allocated": allocated,
                "reserved": reserved,
                "peak": peak,
                "limit": self.limit,
                "baseline_step": self.baseline_step,
                "stacks": self.stacks(),
                "host": {"resident": hostmem.resident(), "shm": hostmem.shared_memory()},
                "pinned": self.pinned(),
                "alloc_conf": os.environ.get("PYTORCH_ALLOC_CONF")
                or os.environ.get("PYTORCH_CUDA_ALLOC_CONF"),
            }
        )
        path = os.path.join(self.folder, f"death-{os.getpid()}-{self.deaths}.json")
        with open(path + ".part", "w") as file:
            json.dump(record, file, default=str)
        os.replace(path + ".part", path)

    def followed_modules(self) -> dict[str, dict[str, int]]:
        from . import holders

        follower, found = self.budget.follower, {}
        for block in list(follower.blocks.values()):
            parts = found.setdefault(holders.place(block.module) or "(outside modules)", {})
            category = follower.category(block)
            parts[category] = parts.get(category, 0) + block.bytes
        largest = sorted(found.items(), key=lambda item: -sum(item[1].values()))
        return dict(largest[: holders.MOST])

    def stacks(self, most: int = 10) -> list[dict[str, Any]]:
        """Live bytes by stack, and what each has grown since the baseline; largest growth first."""
        found = []
        for stack, (count, size) in self.by_stack().items():
            count_before, size_before = self.baseline.get(stack, (0, 0))
            found.append(
                {
                    "stack": [list(frame) for frame in stack[:24]],
                    "count": count,
                    "bytes": size,
                    "grown": size - size_before if self.baseline_step else None,
                    "grown_count": count - count_before if self.baseline_step else None,
                }
            )
        by_size = sorted(found, key=lambda e: -e["bytes"])[:most]
        by_growth = sorted(found, key=lambda e: -(e["grown_count"] or 0))[:most]
        return by_size + [entry for entry in by_growth if entry not in by_size]

    def pinned(self) -> int | None:
        stats = getattr(self.torch.cuda, "host_memory_stats", None)
        if stats is None or not self.torch.cuda.is_initialized():
            return None
        return stats().get("allocated_bytes.current")


def wrap(owner: Any, name: str, mark: Callable[[bool], None]) -> None:
    """Replace `owner.name` by itself between two marks; it keeps its name, text and signature."""
    original = getattr(owner, name, None)
    if original is None or getattr(original, "_oom_doctor", False):
        return

    @functools.wraps(original)
    def wrapped(*arguments, **named):
        mark(True)
        try:
            return original(*arguments, **named)
        finally:
            mark(False)

    wrapped._oom_doctor = True
    setattr(owner, name, wrapped)


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
