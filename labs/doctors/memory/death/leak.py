"""Memory that grows from step to step, and the lines of the program that hold it.

Standard library only.
"""

from __future__ import annotations

from typing import Any

from labs.doctors.finding import Finding, size
from labs.doctors.memory import phases
from labs.doctors.memory.death.finding import finding
from labs.doctors.memory.live import growth
from labs.doctors.memory.live.diary import Pages
from labs.doctors.memory.live.evidence import Evidence


def leak_finding(evidence: Evidence, death: dict[str, Any] | None) -> Finding | None:
    """Growth from step to step, with the stack that grows where stacks were kept."""
    pid = death["pid"] if death else None
    best = None
    for page in evidence.diaries:
        if pid in (None, page.pid):
            for what in ("allocated", "host") if death is None else ("allocated",):
                found = growth.trend(page.steps, what)
                if found and found.leaks and (best is None or found.grown > best[0].grown):
                    best = found, page
    if best is None:
        return None
    found, page = best
    lines = [
        f"{found.what} memory rose by {size(found.per_step)} a step over {found.steps} steps "
        f"({found.rising:.0%} of them upwards), {size(found.grown)} in all"
    ]
    lines += growing_stacks(death) if death else probe_lines(page)
    graphs = (death or page.probe or {}).get("graphs") or 0
    if graphs > max(3, found.steps // 2):
        lines.append(
            f"{graphs} one-element tensors with a graph are alive: losses kept without .detach()"
        )
    share = found.grown / max(found.level, 1)
    return finding(
        "memory_grows",
        "certain" if share > 0.5 else "likely" if share > 0.2 else "possible",
        lines,
        "A step should leave behind what it found. What is allocated at these lines is still "
        "referred to by something that outlives the step.",
    )


def growing_stacks(death: dict[str, Any], most: int = 3) -> list[str]:
    steps = death["step"] - (death.get("baseline_step") or 0)
    grown = [
        s for s in death.get("stacks", [])
        if s.get("grown_count") and s["grown"] > 0 and s["grown_count"] >= max(2, 0.5 * steps)
    ]  # fmt: skip
    grown.sort(key=lambda s: -s["grown"])
    return [
        f"+{size(s['grown'])} in {s['grown_count']} allocations made at {phases.show_stack(s['stack'], 3)}"
        for s in grown[:most]
    ]


def probe_lines(page: Pages) -> list[str]:
    tensors = page.probe.get("tensors") or []
    return [
        f"{t['count']} tensors {t['what']} hold {size(t['bytes'])} (step {page.probe['step']})"
        for t in tensors[:2]
    ]
