"""An independent witness of what PyTorch allocates on CPU: its profiler's allocation events."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile


@dataclass
class Witness:
    """peak_bytes and end_bytes: live above the level at the start, once the context has ended."""

    peak_bytes: int = 0
    end_bytes: int = 0
    allocations: int = 0


@contextmanager
def profiler_witness() -> Iterator[Witness]:
    """Record every allocation and free of PyTorch's CPU allocator inside the context.

    The profiler hooks the allocator itself: it also sees scratch that operators take inside.
    """
    witness = Witness()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        yield witness
    waiting = list(profiler.profiler.kineto_results.experimental_event_tree())
    changes = []
    while waiting:
        event = waiting.pop()
        waiting.extend(event.children)
        if event.typed[0] == _EventType.Allocation:
            fields = event.typed[1]
            if fields.device == torch.device("cpu"):
                changes.append((event.start_time_ns, fields.alloc_size))
    live = 0
    for _, change in sorted(changes, key=lambda pair: pair[0]):
        live += change
        witness.peak_bytes = max(witness.peak_bytes, live)
        witness.allocations += change > 0
    witness.end_bytes = live
