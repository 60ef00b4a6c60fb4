"""What a device holds while a case of `labs bench memory_gpu` runs: a meter for CUDA, one for the CPU.

Every call into torch.cuda that the bench makes is here. Sizes in bytes. A meter is a context
manager; `mark(phase)` closes a phase, and `readings()` may be asked for once the context has ended,
after an out-of-memory error too:

    allocated   the most that tensors held, as the allocator rounds it
    requested   the same, as they asked for it
    reserved    the most that the caching allocator held
    outside     what the process holds beside that at the end: CUDA's context, kernels, libraries
    device      reserved + outside: what has to fit on the card
    phases      {phase: {"peak", "reserved", "after"}} of allocated bytes
    room        what a confined run was given; retries: how often cached memory had to be given back
"""

import contextlib
import time
from typing import Any

PATIENCE = 10.0  # seconds for the memory of a process that has just ended to come back
BUSY = 2 << 30  # more than this held at the start belongs to somebody else


class CudaMeter:
    """The caching allocator's own counters, and the driver's for what lies outside of it.

    limit: bytes of the card that the run is to fit, its context included; None = the whole device.
    """

    def __init__(self, limit: int | None = None):
        self.limit = limit
        self.phases: dict[str, dict[str, int]] = {}
        self.facts: dict[str, Any] = {}
        self.highest = dict.fromkeys(("allocated", "requested", "reserved"), 0)

    def __enter__(self) -> "CudaMeter":
        import torch

        self.cuda = torch.cuda
        self.facts["nvml_before"] = _nvml()
        self.one = torch.zeros(1, device="cuda")  # makes the context
        self.cuda.synchronize()
        deadline = time.monotonic() + PATIENCE
        while self._outside() > BUSY and time.monotonic() < deadline:
            time.sleep(0.1)
        total = self.cuda.mem_get_info()[1]
        self.facts |= {
            "name": self.cuda.get_device_name(),
            "capability": list(self.cuda.get_device_capability()),
            "total": total,
            "outside_at_start": self._outside(),
        }
        if self.limit is not None:
            self.facts["room"] = room = self.limit - self._outside()
            self.cuda.set_per_process_memory_fraction(room / total)
        return self

    def _outside(self) -> int:
        """What this device holds beside this process's allocator."""
        free, total = self.cuda.mem_get_info()
        return total - free - self.cuda.memory_reserved()

    def mark(self, phase: str) -> None:
        """What was at most held since the last mark belongs to `phase`."""
        self.cuda.synchronize()
        stats = self.cuda.memory_stats()
        now = {
            "allocated": stats["allocated_bytes.all.peak"],
            "requested": stats.get("requested_bytes.all.peak", 0),
            "reserved": stats["reserved_bytes.all.peak"],
        }
        self.highest = {name: max(self.highest[name], now[name]) for name in now}
        held = self.phases.setdefault(phase, {"peak": 0, "reserved": 0, "after": 0})
        held["peak"] = max(held["peak"], now["allocated"])
        held["reserved"] = max(held["reserved"], now["reserved"])
        held["after"] = stats["allocated_bytes.all.current"]
        self.cuda.reset_peak_memory_stats()

    def __exit__(self, *_) -> None:
        with contextlib.suppress(RuntimeError):  # a device that has failed answers nothing any more
            self.mark("end")
            self.facts |= {
                "outside": self._outside(),
                "retries": self.cuda.memory_stats().get("num_alloc_retries", 0),
                "nvml_after": _nvml(),
            }

    def readings(self) -> dict[str, Any]:
        """See the module."""
        outside = self.facts.get("outside")
        device = None if outside is None else self.highest["reserved"] + outside
        return {**self.highest, **self.facts, "device": device, "phases": self.phases}


class CpuMeter:
    """PyTorch's profiler as the witness of what is allocated on the CPU; a byte budget as the limit.

    There is no cache and no context: reserved, outside and device are None. A phase has no figures of
    its own, because the profiler tells only when all is over.
    """

    def __init__(self, limit: int | None = None):
        self.limit = limit
        self.witness = self.budget = None

    def __enter__(self) -> "CpuMeter":
        import gc

        from labs.bench.witness import profiler_witness
        from labs.doctors.memory.follow.budget import byte_budget

        gc.collect()
        self.stack = contextlib.ExitStack()
        self.witness = self.stack.enter_context(profiler_witness())
        if self.limit is not None:
            self.budget = self.stack.enter_context(byte_budget(self.limit, device_name="CPU"))
        return self

    def mark(self, phase: str) -> None:
        """Nothing to read yet."""

    def __exit__(self, *exception) -> None:
        # Not told of an exception, the profiler still adds up what it has seen until then.
        self.stack.__exit__(None, None, None)

    def readings(self) -> dict[str, Any]:
        """See the module."""
        return {
            "allocated": self.witness.peak_bytes,
            "requested": self.witness.peak_bytes,
            "reserved": None,
            "outside": None,
            "device": None,
            "room": self.limit,
            "retries": 0,
            "phases": {},
            "name": "CPU",
        }


def make_meter(device: str, limit: int | None = None) -> CudaMeter | CpuMeter:
    """The meter of a device, "cuda" or "cpu"."""
    return CudaMeter(limit) if device == "cuda" else CpuMeter(limit)


def _nvml() -> dict[str, Any] | None:
    """What the driver says the first GPU holds, and how much each process; None where it says nothing."""
    from labs.doctors.memory.live.nvml import Nvml, NvmlError

    try:
        gpu = Nvml().gpus()[0]
    except (NvmlError, IndexError):
        return None
    return {"used": gpu.used, "processes": {str(pid): used for pid, used in gpu.processes.items()}}
