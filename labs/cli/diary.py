"""`labs diary`: what a policy run's diary says is wrong, first and last numbers, and its report."""

import json
import math
from pathlib import Path
from typing import Annotated

import typer

COLOURS = {"bad": "red", "warning": "yellow", "unknown": "dim"}
FAULTS = 10  # shown on a terminal


def command(
    folder: Annotated[
        Path, typer.Argument(help="The output folder of a policy run.", metavar="RUN_FOLDER")
    ],
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The report; default: report.html in the folder.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print findings and numbers as JSON.")] = False,
):  # fmt: skip
    """Read the diary of a PPO, GRPO or RLOO run: what looks wrong, the numbers, and an HTML report.

    A run that is still going can be read too.

    Example:  labs diary runs/grpo --html grpo.html
    """
    from labs.train.policy.reading import findings, read_diary
    from labs.train.policy.report import write_report
    from labs.train.policy.series import summary

    diary = read_diary(folder)
    found, quantities = findings(diary.entries, diary.run), summary(diary.entries)
    report = write_report(folder, html)
    if as_json:
        told = {
            "entries": len(diary.entries), "steps": [int(diary.entries[i]["step"]) for i in (0, -1)],
            "findings": [vars(finding) for finding in found],
            "quantities": [{k: _plain(v) for k, v in vars(q).items()} for q in quantities],
            "samples": len(diary.samples), "faults": diary.faults, "report": str(report),
        }  # fmt: skip
        print(json.dumps(told, ensure_ascii=False))
        return
    _show(diary, found, quantities, report)


def _plain(value):
    """JSON has no NaN: a quantity without a finite value has null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _show(diary, found, quantities, report) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from labs.train.policy.series import short

    console = Console(highlight=False)
    told = [finding for finding in found if finding.severity != "unknown"]
    for finding in told:
        console.print(Text(f"{finding.severity}: {finding.title}", style=COLOURS[finding.severity]))
        console.print(Text(f"  {finding.evidence}"))
        console.print(Text(f"  {finding.advice}", style="dim"))
    if not told:
        console.print("No finding.")
    unknown = [finding for finding in found if finding.severity == "unknown"]
    if unknown:
        console.print(Text("Cannot be told:", style=COLOURS["unknown"]))
        for finding in unknown:
            name = finding.title.removesuffix(": cannot be told")
            console.print(Text(f"  {name}: {finding.evidence}", style=COLOURS["unknown"]))
    table = Table("quantity")
    for name in ("first", "last", "best", "at step"):
        table.add_column(name, justify="right")
    for q in quantities:
        spread = short(q.low) if q.low == q.high else f"{short(q.low)} to {short(q.high)}"
        best = spread if q.best is None else short(q.best)
        at = "" if q.best_step is None else str(q.best_step)
        table.add_row(Text(q.name), short(q.first), short(q.last), best, at)
    console.print(table)
    if diary.faults:
        console.print(f"{len(diary.faults)} lines or pictures left out:", markup=False)
        for fault in diary.faults[:FAULTS]:
            console.print(Text(f"  {fault}"))
    console.print(f"report: {report}", markup=False, soft_wrap=True)
