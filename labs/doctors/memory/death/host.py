"""An exception that speaks of the host: its memory, /dev/shm, a limit on the process.

Standard library only.
"""

from __future__ import annotations

import re
from typing import Any

from labs.doctors.finding import Finding, size
from labs.doctors.memory import phases
from labs.doctors.memory.death.finding import finding
from labs.doctors.memory.live.evidence import Evidence

LIMIT = "A limit set for this process refused host memory that the machine still had"


def host_findings(evidence: Evidence, death: dict[str, Any]) -> list[Finding]:
    """The host's memory or /dev/shm; [] where the exception speaks of a GPU or a budget."""
    if death["kind"] != "exception":
        return []
    message = death.get("message") or death["type"]
    lines = [f"{death['type']}: {message.strip().splitlines()[0] if message.strip() else ''}"]
    lines += [f"in {death['phase']}, at {phases.show_stack(death['stack'], 3)}"]
    low = message.lower()
    shm = death["host"].get("shm") or {}
    shared = "shared memory" in low or "/torch_" in low or "bus error" in low
    if shared or ("no space left" in low and "shm" in low):
        if shm:
            lines.append(f"/dev/shm: {size(shm['used'])} of {size(shm['total'])} used")
        why = "Workers hand batches over through /dev/shm; it was full, or too small for a batch."
        return [finding("shared_memory", "certain" if shm else "likely", lines, why)]
    if "cuda" in low or "hip " in low:
        return []
    asked = re.search(r"tried to allocate (\d+) bytes", low) or re.search(
        r"unable to allocate", low
    )
    available = evidence.series[-1]["available"] if evidence.series else None
    number = int(asked[1]) if asked and asked.groups() else None
    if number and available and number < available:
        lines.append(f"{size(available)} of host memory were available, {size(number)} asked for")
        why = (
            "The request would have fitted into the machine's free memory, and yet was refused: a "
            "limit on this process's address space or data (ulimit -v, ulimit -d, a scheduler)."
        )
        return [finding("memory_limit", "likely", lines, why, title=LIMIT)]
    why = "The failed allocation is one of host memory: the GPU has no part in it."
    return [finding("host_memory", "certain" if number else "likely", lines, why)]
