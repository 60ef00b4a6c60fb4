"""`oom_doctor.py watch [RUN|PID]`: the live view of a run or of a process."""

from __future__ import annotations

import argparse
import json
import sys
import time

from labs.doctors.finding import size
from labs.doctors.memory.live import watch
from labs.doctors.memory.live.watch import Row, View
from labs.errors import InputError

HEADER = (
    "process",
    "who",
    "phase",
    "step",
    "allocated",
    "of",
    "reserved",
    "peak",
    "host",
    "full at",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "target", nargs="?", help="a process id or a run's folder (default: the newest run)"
    )
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between looks")
    parser.add_argument("--once", action="store_true", help="look once and end")
    parser.add_argument("--json", action="store_true", help="one line of JSON a look")


def main(args: argparse.Namespace) -> int:
    if args.interval <= 0:
        raise InputError(f"--interval is {args.interval}.", "Give seconds above 0.")
    target = watch.find(args.target)
    if args.json or args.once or not sys.stdout.isatty():
        return plain(target, args)
    try:
        from rich.console import Console
        from rich.live import Live
    except ImportError:
        return plain(target, args)
    with Live(console=Console(), refresh_per_second=4, screen=False) as live:
        while True:
            view = watch.look(target)
            live.update(table(view))
            if view.over:
                return 0
            time.sleep(args.interval)


def plain(target, args: argparse.Namespace) -> int:
    while True:
        view = watch.look(target)
        print(json.dumps(view.to_dict()) if args.json else text(view), flush=True)
        if args.once or view.over:
            return 0
        time.sleep(args.interval)


def cells(row: Row) -> tuple[str, ...]:
    def shown(number: int | None) -> str:
        return "" if number is None else size(number)

    phase = row.phase
    if row.phase_seconds is not None and row.phase_seconds >= 10:
        phase += f" for {row.phase_seconds:.0f} s"
    full = "" if row.full_at is None else f"step {row.full_at}"
    if row.full_in is not None:
        full += f", in {time.strftime('%H:%M:%S', time.gmtime(row.full_in))}"
    elif row.growth:
        full = f"+{size(row.growth)} a step"
    return (
        str(row.pid),
        row.who,
        phase,
        str(row.step or ""),
        shown(row.allocated),
        shown(row.limit),
        shown(row.reserved),
        shown(row.peak),
        shown(row.host),
        full,
    )


def text(view: View) -> str:
    """The view as plain lines."""
    lines = [HEADER, *map(cells, view.rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADER))]
    table = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
    return "\n".join([view.title, *table, *view.notes])


def table(view: View):
    """The view as a rich table, with what will be full in red."""
    from rich.table import Table

    found = Table(*HEADER, title=view.title, caption="\n".join(view.notes) or None)
    for row in view.rows:
        style = "dim" if not row.alive else "red" if row.full_at else None
        found.add_row(*cells(row), style=style)
    return found
