"""From the analysis of a snapshot to a report: the cause, who holds what, what would have to go."""

from __future__ import annotations

from typing import Any

from labs.doctors.finding import Evidence, Finding, Report, size
from labs.doctors.memory import phases
from labs.doctors.memory.bytesize import largest
from labs.doctors.memory.causes import CAUSES


def report(devices: list[dict[str, Any]], fits: int | None = None) -> Report:
    """One report over all devices of a snapshot; `fits`: bytes that it should fit into."""
    findings, facts, notes = [], {}, []
    for device in devices:
        found = oom_finding(device) or (too_large(device, fits) if fits else None)
        if found:
            findings.append(found)
        facts.update(numbers(device))
        if device["live"] and device["with_stacks"] < device["live"] / 2:
            notes.append(
                f"GPU {device['device']}: {size(device['live'] - device['with_stacks'])} were "
                "allocated before the history began, or without it: they have no stacks. Call "
                "_record_memory_history() before the model is built."
            )
    notes.append(
        "Only PyTorch's allocator is in a snapshot: the CUDA context, NCCL and other processes are "
        "not. Categories are told from the allocating stacks."
    )
    verdict = "cause" if findings else "no_oom"
    return Report("oom", "snapshot", verdict, findings, {**facts, "devices": devices}, notes)


def missing(device: dict[str, Any]) -> int:
    """Bytes that an OOM lacked, over and above what the driver had free."""
    return max(0, (device["tried"] or 0) - (device["free"] or 0))


def to_go(device: dict[str, Any], need: int) -> list[str]:
    """The fewest stacks whose allocations together cover `need`, largest first."""
    lines, covered = [], 0
    for row in device["stacks"]:
        if covered >= need:
            break
        covered += row["bytes"]
        lines.append(
            f"{size(row['bytes'])} in {row['count']} at {phases.show_stack(row['stack'], 3)}"
        )
    if covered < need:
        lines.append(f"(these are {size(covered)} of the {size(need)} that would have to go)")
    return lines


def oom_finding(device: dict[str, Any]) -> Finding | None:
    """The cause of the snapshot's last OOM; None where it has none."""
    if not device["ooms"]:
        return None
    tried, free, need = device["tried"] or 0, device["free"] or 0, missing(device)
    pieces = device["fragmentation"]
    lines = [
        f"GPU {device['device']}: {size(tried)} asked for with {size(free)} free at the driver; "
        f"{size(device['live'])} live in {device['allocations']} allocations",
        f"at {phases.show_stack(device['tried_stack'], 4)}",
    ]
    if tried and pieces["stranded"] and need <= pieces["stranded"]:
        cause, confidence = "fragmentation", "likely"
        worst = [
            f"segment of {size(s['total'])} ({s['type']}): {size(s['unused'])} unused in "
            f"{s['blocks']} blocks, the largest free piece {size(s['largest_free'])}"
            for s in pieces["worst_segments"][:3]
        ]
        lines += worst
        why = (
            f"{size(pieces['stranded'])} lie reserved and unused between blocks in use, more than "
            f"the {size(need)} that were missing; no single piece of them was large enough."
        )
    else:
        cause, confidence = by_category(device), "likely" if device["with_stacks"] else "possible"
        lines += to_go(device, need)
        why = (
            f"True need: {size(need)} were missing, and only {size(pieces['stranded'])} lie unused "
            "between blocks. The lines above are the fewest places that would have to give way."
        )
    return made(cause, confidence, lines, why)


def too_large(device: dict[str, Any], fits: int) -> Finding | None:
    """What would have to go for the peak to fit into `fits` bytes; None if it fits."""
    reserved = max(device["fragmentation"]["reserved"], device["peak"])
    need = device["peak"] - fits
    if need <= 0:
        return None
    lines = [
        f"GPU {device['device']}: {size(device['peak'])} live at the peak ({size(reserved)} "
        f"reserved at the end), {size(fits)} to fit into",
        *to_go(device, need),
    ]
    why = f"{size(need)} have to go; the lines above are the fewest places that hold so much."
    return made("capacity", "certain", lines, why)


def by_category(device: dict[str, Any]) -> str:
    for name, _ in largest(device["categories"], 1):
        return {
            "optimizer": "optimizer_states",
            "activations": "activations",
            "evaluation": "evaluation",
            "generation (KV cache)": "generation",
            "checkpoint": "checkpoint_save",
            "weights": "model_load",
        }.get(name, "capacity")
    return "capacity"


def made(cause: str, confidence: str, lines: list[str], why: str) -> Finding:
    return CAUSES[cause].finding(confidence, map(Evidence, lines), why)


def numbers(device: dict[str, Any]) -> dict[str, str]:
    name, pieces = f"GPU {device['device']}", device["fragmentation"]
    return {
        f"{name} at {device['moment']}": f"{size(device['live'])} in {device['allocations']} "
        f"allocations; highest in the history {size(device['peak'])}",
        f"{name} by stack": "; ".join(
            f"{size(row['bytes'])} ({row['count']}) {phases.show_stack(row['stack'], 2)}"
            for row in device["stacks"][:6]
        ),
        f"{name} by category": ", ".join(
            f"{k} {size(v)}" for k, v in largest(device["categories"], 8)
        ),
        f"{name} reserved": f"{size(pieces['reserved'])} in {pieces['segments']} segments: "
        f"{size(pieces['in_use'])} in use, {size(pieces['stranded'])} stranded, "
        f"{size(pieces['releasable'])} releasable, {size(pieces['rounding'])} lost to rounding, "
        f"largest free piece {size(pieces['largest_free'])}",
    }
