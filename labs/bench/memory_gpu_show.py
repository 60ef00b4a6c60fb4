"""The report of `labs bench memory_gpu` as tables for the terminal."""

from typing import Any

from rich.table import Table

GIB = 2**30


def tables(result: dict) -> list[Table]:
    """Cases, errors, constants and verdicts, and what is missing."""
    return [cases(result), errors(result), facts(result)]


def cases(result: dict) -> Table:
    """One line a case: what was predicted, what was measured, and the errors."""
    table = Table(
        "case", "split", "allocated", "reserved", "device", "predicted", "before", "after",
        "accelerate", "ZeRO-2", "ZeRO-3", "s", title="Measured peaks, and the errors of their predictions",
    )  # fmt: skip
    for row in result["cases"]:
        found = row.get("errors")
        quantity = "device" if row["measured"]["device"] is not None else "allocated"
        shown = [size(row["measured"][name]) for name in ("allocated", "reserved", "device")]
        shown.append(size(row["predicted"][quantity]))
        if row["outcome"] != "done":
            shown[2] = row["outcome"]
        named = [found["others"][name] for name in found["others"]] if found else [None] * 3
        table.add_row(
            row["case"] + ("  !" if "differs" in row else ""),
            row["split"],
            *shown,
            *(percent(found[when][quantity] if found else None) for when in ("before", "after")),
            *map(percent, named),
            f"{row['seconds']:.0f}",
        )
    return table


def errors(result: dict) -> Table:
    """Median and worst absolute error of each estimator, on both splits."""
    table = Table(
        "estimate", "calibration: median", "worst", "validation: median", "worst", "cases"
    )
    both = result["errors"]
    for name in both["validation"]:
        left, right = both["calibration"][name], both["validation"][name]
        if right["cases"] or left["cases"]:
            table.add_row(
                name,
                *(percent(part[what], sign=False) for part in (left, right) for what in ("median", "worst")),
                str(right["cases"]),
            )  # fmt: skip
    return table


def facts(result: dict) -> Table:
    """Constants, limits, verdicts and gaps."""
    table = Table("", "", show_header=False)
    known = result["constants"]
    for framework, beside in known["workspace"].items():
        table.add_row(f"workspace, {framework}", f"{beside / 2**20:+.1f} MiB")
    factor, context = known["fragmentation"], known["context"]
    table.add_row("fragmentation", "as predicted" if factor is None else f"x {factor:.2f}")
    table.add_row("context", "as predicted" if context is None else f"{context / 2**20:.0f} MiB")
    for name, limit in result["limits"].items():
        met = "met" if result["met"][name] else "not met"
        table.add_row(f"limit: {name} at most {limit:.0%}", met)
    for name, found in result["verdicts"].items():
        if any(found[kind] for kind in ("right", "perhaps", "wrong")):
            counts = ", ".join(f"{found[kind]} {kind}" for kind in ("right", "perhaps", "wrong"))
            table.add_row(
                f"does it fit: {name}", counts + "".join(f"; {n}" for n in found["which"])
            )
    table.add_row("measured on", ", ".join(result["machines"]))
    for name in ("missing", "of other code"):
        if result[name]:
            table.add_row(name, ", ".join(result[name]))
    for row in result["failed"]:
        last = row["said"].strip().splitlines()[-1] if row["said"].strip() else ""
        table.add_row(f"{row['case']}: {row['outcome']}", last[:120])
    return table


def size(count: float | None) -> str:
    """Bytes in GiB, or in MiB where that would be nothing."""
    if count is None:
        return ""
    return f"{count / GIB:.2f} GiB" if count >= GIB / 8 else f"{count / 2**20:.1f} MiB"


def percent(share: Any, sign: bool = True) -> str:
    """A share as a percentage."""
    return "" if share is None else f"{share:+.2%}" if sign else f"{share:.2%}"
