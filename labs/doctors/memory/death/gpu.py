"""Arithmetic on the moment of death, on a GPU or under a byte budget.

Rules, in the order in which they are asked: the request alone is too large; others hold the memory;
it leaked; it lies in pieces; this batch is larger than those before; it was truly needed. Standard
library only.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from labs.doctors.finding import Evidence as Line
from labs.doctors.finding import Finding, size
from labs.doctors.memory import phases
from labs.doctors.memory.bytesize import format_size, largest
from labs.doctors.memory.death.finding import finding
from labs.doctors.memory.death.leak import leak_finding
from labs.doctors.memory.death.savings import ranked
from labs.doctors.memory.live import growth, hostmem
from labs.doctors.memory.live.evidence import Evidence

OTHERS = 0.1  # of a GPU held by others
STEADY = 0.75  # earlier steps stayed below this share of the one that failed


def gpu_finding(evidence: Evidence, death: dict[str, Any]) -> Finding:
    """The cause of an out-of-memory, from the numbers of the moment."""
    tried, limit = death.get("tried") or 0, death.get("limit") or 0
    segments = death.get("segments") or {}
    free = death["free"] if death.get("free") is not None else max(0, limit - death["allocated"])
    stranded = segments.get("stranded", 0)
    others = other_bytes(evidence, death)
    categories = death.get("categories") or {}
    lines = headline(death, free, segments)
    made = lambda *a, **k: with_savings(finding(*a, **k), evidence, death, tried - free)  # noqa: E731

    if limit > 0 and tried > limit:
        return made(
            "request_exceeds_gpu",
            "certain",
            lines,
            "One request alone is larger than all there is; freeing anything else cannot help.",
        )
    if limit > 0 and others > OTHERS * limit and tried <= free + others:
        holders = other_lines(evidence, death)
        return made(
            "other_process",
            "likely",
            lines + holders,
            f"Without the {size(others)} of others the request would have fitted.",
        )
    leak = leak_finding(evidence, death)
    if leak is not None and leak.confidence != "possible":
        return with_savings(
            replace(leak, evidence=[*map(Line, lines), *leak.evidence]),
            evidence,
            death,
            tried - free,
        )
    if stranded and tried <= free + stranded:
        return made(
            "fragmentation",
            "certain" if segments["largest_free"] < tried <= stranded else "likely",
            lines,
            f"{size(stranded)} are reserved and free, but in pieces between blocks in use, the "
            f"largest {size(segments['largest_free'])}. A true lack of memory it is not.",
        )
    if outlier(evidence, death, tried):
        before = max(s.peak for s in evidence.pages_of(death["pid"]).steps)
        return made(
            "length_outlier",
            "likely",
            lines,
            f"The {death['step']} steps before this one never held more than {size(before)}; this "
            f"one needed at least {size(death['allocated'] + tried)}: its batch is larger.",
        )
    cause = cause_by_phase(death, categories, tried)
    most = ", ".join(f"{name} {size(n)}" for name, n in largest(categories, 3))
    page = evidence.pages_of(death["pid"])
    enough = page is not None and growth.tells(page.steps)
    leaks = "nothing leaks" if enough else "a leak cannot be told after so few steps"
    return made(
        cause,
        "likely" if categories else "possible",
        lines,
        f"True need: {leaks}, little is stranded ({size(stranded)}), nobody else holds much. "
        + (f"Most is held by {most}." if most else ""),
    )


def outlier(evidence: Evidence, death: dict[str, Any], tried: int) -> bool:
    """Whether steady steps went before, far below what this one asked for."""
    page = evidence.pages_of(death["pid"])
    peaks = [s.peak for s in page.steps] if page else []
    steady = len(peaks) > growth.WARM_UP and death["phase"] in ("forward", "backward")
    return steady and 0 < max(peaks) < STEADY * (death["allocated"] + tried)


def cause_by_phase(death: dict[str, Any], categories: dict[str, int], tried: int) -> str:
    phase = death["phase"]
    if phase in ("evaluation", "generation"):
        return phase
    if phase == "load":
        return "model_load"
    if phase == "checkpoint":
        return "checkpoint_save"
    if phase == "optimizer step":
        return "optimizer_states"
    pass_made = categories.get("activations", 0) + categories.get("temporary", 0) + tried
    logits = categories.get("logits", 0)
    total = sum(categories.values()) + tried
    if logits > 0.3 * total:
        return "logits"
    return "activations" if pass_made > 0.4 * total else "capacity"


def headline(death: dict[str, Any], free: int, segments: dict[str, Any]) -> list[str]:
    kind = "byte budget" if death["kind"] == "budget" else f"GPU {death.get('device') or 0}"
    rank = f" on rank {death['rank']}" if death.get("rank") is not None else ""
    module = f" (module {death['module']})" if death.get("module") else ""
    lines = [
        f"{kind}{rank}: {format_size(death.get('tried') or 0)} asked for in {death['phase']} of "
        f"step {death['step'] + 1}{module}; {format_size(death['allocated'])} allocated of "
        f"{format_size(max(death.get('limit') or 0, 0))}, {format_size(free)} free",
        f"at {phases.show_stack(death['stack'], 4)}",
    ]
    if segments:
        lines.append(
            f"reserved {size(segments['reserved'])}, in use {size(segments['in_use'])}, stranded "
            f"{size(segments['stranded'])}, largest free piece {size(segments['largest_free'])}"
        )
    return lines


def other_bytes(evidence: Evidence, death: dict[str, Any]) -> int:
    """What other processes hold on the GPU, as the driver says (0 where it does not)."""
    for gpu in evidence.gpus if death["kind"] == "cuda" else []:
        if gpu["index"] == (death.get("device") or 0):
            ours = set(gpu["ours"])
            return sum(n or 0 for pid, n in gpu["processes"].items() if pid not in ours)
    return 0


def other_lines(evidence: Evidence, death: dict[str, Any]) -> list[str]:
    lines = []
    for gpu in evidence.gpus:
        if gpu["index"] == (death.get("device") or 0):
            for pid, used in gpu["processes"].items():
                if pid not in gpu["ours"] and used:
                    name = hostmem.command(pid) or "not visible from here (another container?)"
                    lines.append(f"process {pid} holds {size(used)}: {name[:120]}")
    return lines


def with_savings(found: Finding, evidence: Evidence, death: dict[str, Any], need: int) -> Finding:
    pages = evidence.pages_of(death["pid"])
    trend = growth.trend(pages.steps) if pages else None
    return replace(
        found,
        remedies=ranked(
            found.remedies,
            death.get("categories") or {},
            need=max(need, 0),
            grown=trend.grown if trend and trend.leaks else 0,
            others=other_bytes(evidence, death),
            stranded=(death.get("segments") or {}).get("stranded", 0),
            world=(pages.meta.get("world") if pages else None) or 1,
            cause=found.cause,
        ),
    )
