"""From the evidence of a run to a report: what it died of, where, what held the memory, what helps.

Rules, in the order in which they are asked: a limit or the kernel killed it (`killed.py`); the host's
memory or /dev/shm ran out (`host.py`); then, for a GPU or a budget, arithmetic on the moment of death
(`gpu.py`). Standard library only.
"""

from __future__ import annotations

from typing import Any

from labs.doctors.finding import Report
from labs.doctors.memory.death.facts import caught_notes, facts, reporting_notes, trend_notes
from labs.doctors.memory.death.gpu import gpu_finding
from labs.doctors.memory.death.host import host_findings
from labs.doctors.memory.death.killed import KILLED, kill_finding, standing, unfinished
from labs.doctors.memory.death.leak import leak_finding
from labs.doctors.memory.live.evidence import Evidence


def diagnose(evidence: Evidence) -> Report:
    """The report on a run that has ended."""
    death = fatal(evidence)
    killed = kill_finding(evidence)
    notes = reporting_notes(evidence)
    if death is None and killed is None:
        notes += caught_notes(evidence) + trend_notes(evidence)
        if evidence.code in KILLED:
            notes.append(
                "It was ended by SIGKILL, but neither the kernel's log nor the counters of its "
                "memory group say that this was for memory, and there was memory left when it was "
                "last seen. Ask the scheduler (time limit, preemption) or whoever may kill it."
            )
            notes += [line for page in unfinished(evidence)[:1] for line in standing(page)]
            return Report("oom", "run", "cannot_tell", [], facts(evidence, None), notes)
        return Report("oom", "run", "no_oom", [], facts(evidence, None), notes)
    findings = [killed] if killed else []
    if death is not None:
        findings += host_findings(evidence, death) or [gpu_finding(evidence, death)]
    leak = leak_finding(evidence, death)
    if leak is not None and leak.cause not in {f.cause for f in findings}:
        findings.append(leak)
    return Report("oom", "run", "cause", findings, facts(evidence, death), notes)


def fatal(evidence: Evidence) -> dict[str, Any] | None:
    """The out-of-memory that ended the run: the earliest of a process that did not survive it."""
    if not evidence.code and evidence.ended is not None:
        return None
    pages = {page.pid: page for page in evidence.diaries}
    for death in evidence.deaths:
        page = pages.get(death["pid"])
        later = [d for d in evidence.deaths if d["pid"] == death["pid"] and d is not death]
        if page is None or any(d["time"] > death["time"] for d in later):
            continue
        if page.last.get("memory") or (not page.last and page.step <= death["step"] + 1):
            return death
    return None
