"""What a report says beside the cause: facts of the run, and what could not be seen.

Standard library only.
"""

from __future__ import annotations

import re
import time
from typing import Any

from labs.doctors.finding import size
from labs.doctors.memory.bytesize import largest
from labs.doctors.memory.death.leak import leak_finding
from labs.doctors.memory.live.evidence import Evidence

MEASURED = ("kind", "phase", "step", "rank", "tried", "free", "allocated", "reserved", "peak", "limit",
            "categories", "modules", "segments", "stacks", "stack", "tensors", "graphs", "pinned")  # fmt: skip


def facts(evidence: Evidence, death: dict[str, Any] | None) -> dict[str, Any]:
    """Strings for the reader, numbers (bytes) for programs under `measured`."""
    code = evidence.code
    shown: dict[str, Any] = {
        "command": " ".join(evidence.command)[:300],
        "ended": "unknown (the doctor was killed)" if code is None
        else f"by signal {-code}" if code < 0 else f"with exit code {code}",
    }  # fmt: skip
    if evidence.ended:
        shown["took"] = time.strftime("%H:%M:%S", time.gmtime(evidence.ended - evidence.started))
    ranks = [p for p in evidence.diaries if p.step]
    if ranks:
        shown["steps"] = ", ".join(
            (f"rank {p.meta['rank']}: {p.step}" if p.meta.get("rank") is not None else str(p.step))
            for p in ranks[:8]
        )
    if death:
        shown["phase"] = death["phase"] + (f" ({death['node']})" if death.get("node") else "")
        shown["held by"] = ", ".join(
            f"{name} {size(n)}" for name, n in largest(death.get("categories") or {}, 8)
        )
        rows = [
            f"{name}: " + ", ".join(f"{k} {size(v)}" for k, v in largest(parts, 3))
            for name, parts in list((death.get("modules") or {}).items())[:5]
        ]
        shown["modules"] = "; ".join(rows)
        if death.get("pinned"):
            shown["pinned host memory"] = size(death["pinned"])
    last = evidence.series[-1] if evidence.series else {}
    if last.get("tree"):
        peak = max(e["tree"] for e in evidence.series)
        shown["host memory"] = f"{size(peak)} at most in {last['processes']} processes"
    shown = {name: value for name, value in shown.items() if value}
    numbers = {k: death.get(k) for k in MEASURED} if death else {}
    return {**shown, "measured": numbers, "host": last, "limit": evidence.limit}


def reporting_notes(evidence: Evidence) -> list[str]:
    """Where processes did not report, or the recorder failed."""
    notes = [
        f"The recorder had an error: {e.strip().splitlines()[-1]}" for e in evidence.errors[:1]
    ]
    if evidence.diaries:
        return notes
    if evidence.hellos:
        notes.append(
            "No process of this command imported torch, so nothing inside it was recorded."
        )
        return notes
    flags = [a for a in evidence.command if re.fullmatch(r"-[A-Za-z]*[ISE][A-Za-z]*", a)]
    if flags and "python" in evidence.command[0]:
        reason = f"Python was started with {flags[0]}, which ignores PYTHONPATH or sitecustomize"
    else:
        reason = (
            "it is no Python program, or starts Python with -I, -S or -E, "
            "in a container, on another machine or with an environment of its own"
        )
    notes.append(f"No process of this command reported ({reason}): seen only from outside.")
    return notes


def caught_notes(evidence: Evidence) -> list[str]:
    if not evidence.deaths:
        return []
    phases_seen = sorted({death["phase"] for death in evidence.deaths})
    return [
        f"The program met {len(evidence.deaths)} or more out-of-memory errors and went on "
        f"(in {', '.join(phases_seen)})."
    ]


def trend_notes(evidence: Evidence) -> list[str]:
    leak = leak_finding(evidence, None)
    if leak is None or leak.confidence == "possible":
        return []
    return [f"Memory grew from step to step: {leak.evidence[0].text}."]
