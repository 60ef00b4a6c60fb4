"""For code: an out-of-memory that says by itself what held the memory.

    with memory_guard(model, optimizer):
        train()

The exception is the same one, raised further; it gains a note (printed below its message) and the
whole report as `error.memory_report`. Costs nothing until there is an exception.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from labs.doctors.finding import Report
from labs.doctors.memory import phases
from labs.doctors.memory.follow import holders
from labs.doctors.memory.live.evidence import Evidence
from labs.doctors.memory.live.memory_error import is_memory_error

ATTRIBUTE = "memory_report"


@contextmanager
def memory_guard(*held: Any, step: int | None = None) -> Iterator[None]:
    """Add a diagnosis to an out-of-memory raised inside.

    `held`: the models (nn.Module) and optimizers to name in it; without any, all that the garbage
    collector knows. `step`: optimizer steps done so far. Other exceptions pass through untouched.
    """
    try:
        yield
    except Exception as error:
        if is_memory_error(error) and not hasattr(error, ATTRIBUTE):
            attach(error, *held, step=step)
        raise


def attach(error: Exception, *held: Any, step: int | None = None) -> Report:
    """Diagnose `error` and add the report to it; never raises over the exception at hand."""
    from labs.doctors.show import text

    report = diagnose(error, *held, step=step)
    error.memory_report = report  # type: ignore[attr-defined]
    if hasattr(error, "add_note"):
        error.add_note("\n" + text(report))
    return report


def diagnose(
    error: Exception,
    *held: Any,
    step: int | None = None,
    stack: list[phases.Frame] | None = None,
) -> Report:
    """The report on an out-of-memory of this process; `stack` where it has not been raised yet."""
    from labs.doctors.memory.death.facts import facts
    from labs.doctors.memory.death.gpu import gpu_finding
    from labs.doctors.memory.death.host import host_findings

    record = observe(error, *held, step=step)
    if stack is not None:
        record.update(stack=stack, phase=phases.of_stack(stack) or "forward")
    evidence = Evidence(Path(), [], record["time"], code=1, deaths=[record])
    if record["kind"] == "exception":
        findings = host_findings(evidence, record)
    else:
        findings = [gpu_finding(evidence, record)]
    shown = facts(evidence, record)
    for absent in ("command", "ended", "took"):
        shown.pop(absent, None)
    verdict = "cause" if findings else "cannot_tell"
    return Report("oom", "guard", verdict, findings, shown)


def observe(error: Exception, *held: Any, step: int | None = None) -> dict[str, Any]:
    """What is known at the moment of an out-of-memory, in the form the recorder writes."""
    import torch

    from labs.doctors.memory.live import hostmem
    from labs.doctors.memory.log import messages
    from labs.doctors.memory.snapshot import allocations

    said = next(iter(messages.parse_messages(str(error))), None)
    budget = getattr(error, "budget", None)
    record: dict[str, Any] = {"categories": {}, "modules": {}, "segments": {}}
    kind, device = "exception", None
    if said is not None and budget is not None:
        kind = "budget"
        record["categories"] = budget.held
        allocated, limit, free = sum(budget.held.values()), budget.limit or 0, None
    elif said is not None:
        kind, device = "cuda", said.gpu or 0
        allocated, limit, free = said.allocated or 0, said.total or 0, said.free
    else:
        allocated, limit, free = 0, 0, None
    models = [thing for thing in held if isinstance(thing, torch.nn.Module)]
    optimizers = [unwrapped(thing) for thing in held if not isinstance(thing, torch.nn.Module)]
    place = {"budget": "cpu", "cuda": f"cuda:{device}"}.get(kind)
    if kind == "cuda" and not torch.cuda.is_initialized():
        place = None  # a message from elsewhere: a remote worker, a test
    gc.collect()  # cycles would be counted as held
    taken = holders.take(place, models or None, optimizers or None)
    if kind == "cuda":
        known = sum(taken["categories"].values())
        if allocated > known:
            taken["categories"]["activations"] = allocated - known
        if place is not None:
            record["segments"] = allocations.fragmentation(torch.cuda.memory._snapshot(), device)
    stack = phases.of_traceback(error.__traceback__)
    return {
        **taken,
        **{name: value for name, value in record.items() if value},
        "kind": kind,
        "pid": os.getpid(),
        "time": time.time(),
        "rank": None,
        "device": device,
        "step": step or 0,
        "phase": phases.of_stack(stack) or "forward",
        "type": type(error).__name__,
        "message": str(error),
        "tried": said.tried if said else None,
        "free": free,
        "stack": stack,
        "allocated": allocated,
        "limit": limit,
        "host": {"resident": hostmem.resident(), "shm": hostmem.shared_memory()},
        "stacks": [],
    }


def unwrapped(optimizer: Any) -> Any:
    """The torch optimizer inside Accelerate's or DeepSpeed's."""
    while not hasattr(type(optimizer), "zero_grad") or hasattr(optimizer, "optimizer"):
        inner = getattr(optimizer, "optimizer", None)
        if inner is None:
            break
        optimizer = inner
    return optimizer
