"""Live allocations by the Python stack that made them, and which stacks have grown.

Loaded into observed processes; needs only their torch.
"""

from __future__ import annotations

from typing import Any

from ..snapshot import allocations


def by_stack(recorder: Any) -> dict[tuple, list[int]]:
    """Live allocations by the Python stack that made them: {stack: [count, bytes]}."""
    torch = recorder.torch
    if recorder.budget is not None:
        blocks = [(b.bytes, b.stack) for b in list(recorder.budget.follower.blocks.values())]
    elif torch.cuda.is_initialized() and recorder.config.get("history"):
        blocks = list(allocations.live_blocks(torch.cuda.memory._snapshot()))
    else:
        return {}
    found: dict[tuple, list[int]] = {}
    for size, stack in blocks:
        entry = found.setdefault(tuple(map(tuple, stack)), [0, 0])
        entry[0] += 1
        entry[1] += size
    return found


def grown(recorder: Any, most: int = 10) -> list[dict[str, Any]]:
    """Live bytes by stack, and what each has grown since the baseline; largest growth first."""
    found = []
    for stack, (count, size) in by_stack(recorder).items():
        count_before, size_before = recorder.baseline.get(stack, (0, 0))
        found.append(
            {
                "stack": [list(frame) for frame in stack[:24]],
                "count": count,
                "bytes": size,
                "grown": size - size_before if recorder.baseline_step else None,
                "grown_count": count - count_before if recorder.baseline_step else None,
            }
        )
    by_size = sorted(found, key=lambda e: -e["bytes"])[:most]
    by_growth = sorted(found, key=lambda e: -(e["grown_count"] or 0))[:most]
    return by_size + [entry for entry in by_growth if entry not in by_size]
