"""Explains a training log after the fact: which cause, by which line, how sure, and what to do.

`case.py` reads, `conclude.py` decides, this file reports. Only "certain" and "likely" make a verdict;
anything less is "cannot tell", with its candidates. Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import dataclasses
import os
import re

from labs.doctors.finding import Finding, Report, size
from labs.doctors.memory.log import calls, gpu
from labs.doctors.memory.log.case import Case, examine
from labs.doctors.memory.log.conclude import DECODE, SURE, conclude, unique
from labs.doctors.memory.log.decode import WELL, Shape, decode
from labs.doctors.memory.log.guess import Guess
from labs.doctors.memory.log.known_bad import known_bad
from labs.doctors.memory.log.lines import Line, Log
from labs.doctors.memory.log.reading import from_text, read_log
from labs.doctors.memory.log.signs import HOST, MAYBE_HOST, SHM

ERROR = re.compile(r"^(?:[\w.]*\.)?[A-Z]\w*(?:Error|Exception|Interrupt)\b(?::|$)")


def explain_text(text: str, model: str | os.PathLike | None = None) -> Report:
    """`explain` for a log that is in memory: an exception with its traceback, a pasted report."""
    return explain(from_text(text), model)


def explain_file(path: str | os.PathLike, model: str | os.PathLike | None = None) -> Report:
    """`explain` for a file, or for standard input ("-"). Raises InputError for bad input."""
    return explain(read_log(path), model)


def explain(log: Log, model: str | os.PathLike | None = None) -> Report:
    """The report on one log; `model` is a config.json or a folder with one, to decode the request.

    Raises InputError if `model` cannot be read.
    """
    case = examine(log)
    shapes = []
    if model is not None and case.primary and case.primary.message:
        shapes = decode(
            case.primary.message, model, case.context.settings, case.phase, case.traceback.text
        )
    guesses = _decoded(conclude(case), shapes)
    main = (case.primary.line,) if case.primary else ()
    findings = [
        guess.finding(_frames_shown(case, main) if guess.cause not in _OWN_LINES else ())
        for guess in guesses
    ]
    if guesses or case.events:
        findings += known_bad(case.context, log)
    if guesses and guesses[0].confidence in SURE:
        verdict = "cause"
    elif guesses or case.events or any(sign.id in (*HOST, *SHM) for sign in case.signs):
        verdict = "cannot_tell"
    else:
        verdict = "no_oom"
    return Report(
        doctor="memory",
        command="explain",
        verdict=verdict,
        findings=findings,
        facts=_facts(case, shapes),
        notes=[*_notes(case), *_collect(case, verdict, findings)],
    )


# Causes whose rule brings its own lines; the GPU's sentence is not their evidence.
_OWN_LINES = {"host_memory", "container_memory_limit", "shared_memory", "file_descriptors",
              "page_file", "kernel_shared_memory"}  # fmt: skip


# What a decoded request proves about the cause, where nothing else did.
_DECODED = {
    "logits": "logits",
    "attention": "attention_quadratic",
    "vision attention": "vision_tokens",
}


def _decoded(guesses: list[Guess], shapes: list[Shape]) -> list[Guess]:
    """With the model given, its sizes may say which part of a full GPU the request was."""
    best = shapes[0] if shapes else None
    vague = not guesses or guesses[0].cause in (
        "capacity",
        "one_large_tensor",
        "activations",
        "request_exceeds_gpu",
        "length_outlier",
    )
    if best is None or best.what not in _DECODED or best.score < WELL or not vague:
        return _with_candidates(guesses, shapes)
    others = [shape.score for shape in shapes[1:]]
    if others and max(others) > best.score - 3:
        return _with_candidates(guesses, shapes)
    before = f"{guesses[0].why} " if guesses else ""
    why = f"{before}In this model's sizes the request is {best.formula}."
    return unique([Guess(_DECODED[best.what], "likely", why), *guesses])


def _with_candidates(guesses: list[Guess], shapes: list[Shape]) -> list[Guess]:
    """The readings of the request, where no single one of them proves the cause."""
    named = [shape.formula for shape in shapes if shape.what != "none"][:3]
    if not named:
        return guesses
    said = "in its sizes the request may be " + "; or ".join(named) + "."
    return [dataclasses.replace(guess, why=guess.why.replace(DECODE, said)) for guess in guesses]


def _frames_shown(case: Case, main: tuple[Line, ...]) -> tuple[Line, ...]:
    """The error's line and the innermost call outside of torch's wrappers."""
    for place in reversed(range(len(case.traceback.lines))):
        if not calls.PLUMBING.search(case.traceback.frames[place].words):
            return (*main, case.traceback.lines[place])
    return main


def _facts(case: Case, shapes: list[Shape]) -> dict[str, object]:
    facts: dict[str, object] = {}
    m = case.primary.message if case.primary else None
    if m:
        facts["asked for"] = size(m.tried)
        for name, value in (
            ("GPU", m.total), ("free", m.free), ("allocated", m.allocated),
            ("reserved, unused", m.unallocated), ("outside PyTorch", m.gap), ("limit", m.allowed),
            ("graph pools", m.pools),
        ):  # fmt: skip
            if value is not None:
                facts[name] = size(value)
        facts["printed by"] = m.versions
    if case.primary and case.phase:
        facts["phase"] = case.phase
    if case.primary and case.steps is not None:
        facts["steps before"] = f"{case.steps:,}"
    compiled = COMPILED.search(case.traceback.text) or COMPILED.search(_above(case))
    if compiled:
        shape = " × ".join(f"{int(n):,}" for n in re.findall(r"\d+", compiled.group(1)))
        facts["compiled code asked for"] = f"{shape} in {compiled.group(2)}"
    if case.context.versions:
        facts["versions"] = ", ".join(f"{k} {v}" for k, v in case.context.versions.items())
    if case.context.allocator:
        facts["allocator"] = case.context.allocator[0]
    for summary in case.pasted.summaries[:1]:
        for row, name in (("Allocated memory", "summary: allocated"), ("GPU reserved memory", "summary: reserved"),
                          ("Non-releasable memory", "summary: unusable")):  # fmt: skip
            if row in summary.now:
                facts[name] = f"{size(summary.now[row])} (peak {size(summary.peak[row])})"
    for g in case.pasted.gpus[:8]:
        facts[f"nvidia-smi {g.index}"] = f"{size(g.used)} of {size(g.total)} in use"
    for number, shape in enumerate(shapes[:6], 1):
        facts[f"decoded {number}"] = f"{shape.formula} ({shape.fit})"
    if m:
        facts["bytes"] = {
            name: value
            for name, value in dataclasses.asdict(m).items()
            if name not in ("start", "end", "step", "hint", "garbage") and value not in (None, ())
        }
    facts["decoded"] = [dataclasses.asdict(shape) for shape in shapes]
    facts["log"] = {"bytes": case.log.size, "encoding": case.log.encoding}
    return {name: value for name, value in facts.items() if value not in ([], {}, "")}


# TorchInductor's generated code names the tensor: shape, strides, dtype.
COMPILED = re.compile(r"empty_strided_cuda\(\(([\d, ]+)\), \([\d, ]*\), torch\.(\w+)\)")


def _above(case: Case) -> str:
    if not case.primary:
        return ""
    lines = case.log.regions[case.primary.region]
    return "\n".join(
        line.text[:300] for line in lines[max(0, case.primary.index - 6) : case.primary.index]
    )


def _notes(case: Case) -> list[str]:
    notes = []
    m = case.primary.message if case.primary else None
    if m:
        notes += gpu.notes(m, case.messages)
        ranks = sorted({e.line.rank for e in case.events if e.line.rank is not None})
        if len(ranks) > 1:
            notes.append(
                f"{len(ranks)} ranks ran out ({', '.join(map(str, ranks[:16]))}); the earliest is shown."
            )
    if case.survived:
        notes.append(
            f"{case.survived} earlier out-of-memory errors in this log were survived: training went on after them."
        )
    if case.went_on:
        notes.append(
            "Training steps follow the last error: the run, or another rank of it, went on."
        )
    if case.pasted.mig:
        notes.append("nvidia-smi shows MIG: the process has a slice, not the whole GPU.")
    if case.context.allocator and "expandable_segments:True" in case.context.allocator[0]:
        notes.append("expandable_segments is on already; the message's hint says it anyway.")
    kills = [sign for sign in case.signs if sign.id in MAYBE_HOST]
    if kills and case.events:
        notes.append(
            f"The kill on line {kills[0].line.number:,} came with or after the GPU's error; it is taken as its consequence."
        )
    return notes


def _collect(case: Case, verdict: str, findings: list[Finding]) -> list[str]:
    """What would make it tellable, or what the log is about instead."""
    if verdict == "cause":
        return []
    if verdict == "no_oom":
        notes = []
        for line in case.log.lines:
            if ERROR.match(line.text):
                notes.append(f"The first error in it is on line {line.number:,}: {line.text[:200]}")
                break
        killed = [sign for sign in case.signs if sign.id in MAYBE_HOST]
        if killed:
            notes.append(
                f"Line {killed[0].line.number:,} shows a kill (signal 9), but after another error: "
                "the launcher ends the other ranks that way."
            )
        notes.append(
            "If the run did die of memory, the error went elsewhere: look for the ranks' own logs, "
            "`dmesg -T | grep -i oom`, `sacct -j JOB --format=State,MaxRSS`, `kubectl describe pod`."
        )
        return notes
    missing = []
    m = case.primary.message if case.primary else None
    if m is None or not m.complete:
        missing.append(
            "the whole sentence after 'Tried to allocate' (sizes of the GPU, free, allocated, reserved)"
        )
    if not case.traceback.frames:
        missing.append("the traceback above it")
    if case.steps is None:
        missing.append("the lines of the steps before it (did it fail at the first step, or late?)")
    if m is None or m.gap is None:
        missing.append("`nvidia-smi` while it runs (is anyone else on the GPU?)")
    notes = [f"Collect {item}." for item in missing]
    notes.append(
        "Or run it again under `oom_doctor.py run -- COMMAND`, which records what held the memory."
    )
    return notes
