"""From the evidence of a run to a report: what it died of, where, what held the memory, what helps.

Rules, in the order in which they are asked: a limit or the kernel killed it; the host's memory or
/dev/shm ran out; then, for a GPU or a budget, arithmetic on the moment of death (`gpu_finding`).
Standard library only.
"""

from __future__ import annotations

import re
import time
from dataclasses import replace
from typing import Any

from labs.doctors.finding import Evidence as Line
from labs.doctors.finding import Finding, Report, size
from labs.doctors.memory import growth, hostmem, phases
from labs.doctors.memory.bytesize import format_size
from labs.doctors.memory.causes import CAUSES, RUN
from labs.doctors.memory.diary import Pages
from labs.doctors.memory.remedies import remedies
from labs.doctors.memory.run import Evidence
from labs.doctors.memory.savings import ranked

KILLED = (-9, 137)
NEARLY_FULL = 0.9
SCARCE = 0.05  # of the machine's memory still available
OTHERS = 0.1  # of a GPU held by others
STEADY = 0.75  # earlier steps stayed below this share of the one that failed


def finding(
    cause: str, confidence: str, lines: list[str], why: str, title: str | None = None, **fields: Any
) -> Finding:
    """A finding of the shared catalogue, with this run's evidence."""
    known = CAUSES[cause]
    fields.setdefault("remedies", remedies(known.remedies))
    return Finding(
        cause=cause,
        title=title or known.title,
        confidence=confidence,
        evidence=[Line(line) for line in lines],
        why=why,
        # What `run` would find out is found out already.
        next_command=None if known.next_command == RUN else known.next_command,
        section=known.section,
        **fields,
    )


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


# -- killed from outside -----------------------------------------------------------------------


def unfinished(evidence: Evidence) -> list[Pages]:
    """Diaries of processes that never said goodbye, the first to fall silent first."""
    silent = [p for p in evidence.diaries if p.ended is None]
    return sorted(silent, key=lambda p: p.sample.get("time") or p.phase_time)


def kill_finding(evidence: Evidence) -> Finding | None:
    """A kill for memory by the kernel or a limit; None where nothing speaks for one."""
    silent = unfinished(evidence)
    if not (evidence.code in KILLED or (evidence.code and silent) or evidence.kills):
        if not (evidence.kernel and evidence.code):
            return None
    last = evidence.series[-1] if evidence.series else {}
    where = standing(silent[0]) if silent else []
    where += tree_lines(last)
    limit, used = evidence.limit, last.get("group_used")
    peak = max((e.get("group_used") or 0 for e in evidence.series), default=0)
    if evidence.kills:
        lines = [
            f"memory group: oom_kill rose by {evidence.kills} during the run"
            + (f", limit {size(limit)}" if limit else "")
            + (f", use last seen {size(used)}" if used else ""),
            *evidence.kernel,
        ]
        return finding(
            "container_memory_limit",
            "certain",
            lines + where,
            "The kernel counts its kills in the memory group of the command, and that count rose. "
            "GPU memory is not part of it: this is the host's memory of all its processes.",
        )
    if evidence.kernel:
        limited = any("Memory cgroup" in line for line in evidence.kernel)
        return finding(
            "container_memory_limit" if limited else "host_memory",
            "certain",
            evidence.kernel + where,
            "The kernel's log names a process of this run as the one it killed for memory.",
        )
    if evidence.code not in KILLED:
        return None
    available, total = last.get("available"), hostmem.machine()["total"]
    if limit and peak >= NEARLY_FULL * limit:
        return finding(
            "container_memory_limit",
            "likely",
            [f"{size(peak)} of the group's limit of {size(limit)} in use", *where],
            "It was killed (SIGKILL) while its memory group was nearly full.",
        )
    if available is not None and total and available < SCARCE * total:
        return finding(
            "host_memory",
            "likely",
            [f"{size(available)} of {size(total)} were available when last seen", *where],
            "It was killed (SIGKILL) while the machine had hardly any memory left.",
        )
    return None


def tree_lines(last: dict[str, Any]) -> list[str]:
    if not last.get("tree"):
        return []
    largest = last["largest"][0][1] if last["largest"] else 0
    return [
        f"{last['processes']} processes held {size(last['tree'])} when last seen, "
        f"the largest {size(largest)}"
    ]


def standing(page: Pages) -> list[str]:
    """Where a process stood when it fell silent."""
    sample = page.sample
    phase = sample.get("phase") or page.phase
    line = f"process {page.pid} fell silent in {phase}, step {page.step}"
    if sample.get("host"):
        line += f", holding {size(sample['host'])} of host memory"
    lines = [line]
    if sample.get("stack"):
        lines.append(f"it stood at {show_stack(sample['stack'], 3)}")
    return lines


# -- the host, told by an exception ---------------------------------------------------------------


def host_findings(evidence: Evidence, death: dict[str, Any]) -> list[Finding]:
    """The host's memory or /dev/shm; [] where the exception speaks of a GPU or a budget."""
    if death["kind"] != "exception":
        return []
    message = death.get("message") or death["type"]
    lines = [f"{death['type']}: {message.strip().splitlines()[0] if message.strip() else ''}"]
    lines += [f"in {death['phase']}, at {show_stack(death['stack'], 3)}"]
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
        return [finding("memory_limit", "likely", lines, why, title=HOST_LIMIT)]
    why = "The failed allocation is one of host memory: the GPU has no part in it."
    return [finding("host_memory", "certain" if number else "likely", lines, why)]


HOST_LIMIT = "A limit set for this process refused host memory that the machine still had"


# -- GPU or budget --------------------------------------------------------------------------------


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
        before = max(s.peak for s in pages_of(evidence, death).steps)
        return made(
            "length_outlier",
            "likely",
            lines,
            f"The {death['step']} steps before this one never held more than {size(before)}; this "
            f"one needed at least {size(death['allocated'] + tried)}: its batch is larger.",
        )
    cause = cause_by_phase(death, categories, tried)
    largest = ", ".join(f"{name} {size(n)}" for name, n in top(categories, 3))
    return made(
        cause,
        "likely" if categories else "possible",
        lines,
        f"True need: nothing leaks, little is stranded ({size(stranded)}), nobody else holds much. "
        + (f"Most is held by {largest}." if largest else ""),
    )


def pages_of(evidence: Evidence, death: dict[str, Any]) -> Pages | None:
    return next((page for page in evidence.diaries if page.pid == death["pid"]), None)


def outlier(evidence: Evidence, death: dict[str, Any], tried: int) -> bool:
    """Whether steady steps went before, far below what this one asked for."""
    page = pages_of(evidence, death)
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
        f"at {show_stack(death['stack'], 4)}",
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
        f"+{size(s['grown'])} in {s['grown_count']} allocations made at {show_stack(s['stack'], 3)}"
        for s in grown[:most]
    ]


def probe_lines(page: Pages) -> list[str]:
    tensors = page.probe.get("tensors") or []
    return [
        f"{t['count']} tensors {t['what']} hold {size(t['bytes'])} (step {page.probe['step']})"
        for t in tensors[:2]
    ]


# -- what is said beside the cause -------------------------------------------------------------------


def with_savings(found: Finding, evidence: Evidence, death: dict[str, Any], need: int) -> Finding:
    pages = pages_of(evidence, death)
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


def top(parts: dict[str, int], most: int) -> list[tuple[str, int]]:
    return sorted(((k, v) for k, v in parts.items() if v), key=lambda item: -item[1])[:most]


def show_stack(stack: list, most: int) -> str:
    """The user's own frames of a stack, innermost first, on one line."""
    frames = [tuple(frame) for frame in stack]
    chosen = phases.own(frames)[:most] or frames[:most]
    return " <- ".join(f"{file}:{line} in {name}" for file, line, name in chosen) or "(unknown)"


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
            f"{name} {size(n)}" for name, n in top(death.get("categories") or {}, 8)
        )
        rows = [
            f"{name}: " + ", ".join(f"{k} {size(v)}" for k, v in top(parts, 3))
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


MEASURED = ("kind", "phase", "step", "rank", "tried", "free", "allocated", "reserved", "peak", "limit",
            "categories", "modules", "segments", "stacks", "stack", "tensors", "graphs", "pinned")  # fmt: skip


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
