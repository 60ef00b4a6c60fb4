"""What is written down at the moment of an out-of-memory, inside the process that has it.

Imports only torch, through the recorder; loaded into observed processes.
"""

from __future__ import annotations

import os
import time
from typing import Any

from .. import phases
from ..follow import holders
from ..snapshot import allocations
from . import hostmem
from .stacks import grown


def last_words(
    recorder: Any,
    kind: str,
    error: BaseException | None,
    tried: int | None,
    stack: list[phases.Frame],
    device: int | None,
    free: int | None,
) -> dict[str, Any]:
    """The record of a death. `kind`: "cuda", "budget" or "exception"; sizes in bytes."""
    torch, record = recorder.torch, {}
    allocated, reserved, peak = recorder.memory()
    if kind == "cuda":
        record["segments"] = allocations.fragmentation(torch.cuda.memory._snapshot())
        record.update(holders.take(f"cuda:{device}"))
        known = sum(record["categories"].values())
        if allocated > known:
            record["categories"]["activations"] = allocated - known
    elif kind == "budget":
        record.update(holders.take("cpu"))
        record["categories"] = {k: v for k, v in recorder.budget.live().items() if v}
        record["modules"] = followed_modules(recorder.budget.follower)
    else:
        record.update(holders.take())
    node = getattr(torch._C, "_current_autograd_node", lambda: None)()
    record.update(
        {
            "kind": kind,
            "number": recorder.deaths,
            "time": time.time(),
            "pid": os.getpid(),
            "rank": recorder.rank,
            "device": device,
            "step": recorder.step,
            "phase": phases.of_stack(stack) or recorder.phase,
            "type": type(error).__name__ if error else "OutOfMemoryError",
            "message": str(error)[:2000] if error else None,
            "tried": tried,
            "free": free,
            "stack": stack,
            "node": type(node).__name__ if node is not None else None,
            "module": recorder.budget.follower.module if recorder.budget is not None else None,
            "allocated": allocated,
            "reserved": reserved,
            "peak": peak,
            "limit": recorder.limit,
            "baseline_step": recorder.baseline_step,
            "stacks": grown(recorder),
            "host": {"resident": hostmem.resident(), "shm": hostmem.shared_memory()},
            "pinned": pinned(torch),
            "alloc_conf": os.environ.get("PYTORCH_ALLOC_CONF")
            or os.environ.get("PYTORCH_CUDA_ALLOC_CONF"),
        }
    )
    return record


def followed_modules(follower: Any) -> dict[str, dict[str, int]]:
    """Bytes by module and category of what a byte budget follows, the largest modules."""
    found: dict[str, dict[str, int]] = {}
    for block in list(follower.blocks.values()):
        parts = found.setdefault(holders.place(block.module) or "(outside modules)", {})
        category = follower.category(block)
        parts[category] = parts.get(category, 0) + block.bytes
    largest = sorted(found.items(), key=lambda item: -sum(item[1].values()))
    return dict(largest[: holders.MOST])


def pinned(torch: Any) -> int | None:
    """Bytes of pinned host memory; None where PyTorch does not tell."""
    stats = getattr(torch.cuda, "host_memory_stats", None)
    if stats is None or not torch.cuda.is_initialized():
        return None
    return stats().get("allocated_bytes.current")
