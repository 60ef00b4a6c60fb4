"""`oom_doctor.py snapshot FILE`: a PyTorch memory snapshot, analysed without a GPU."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from labs.doctors.memory.bytesize import parse_size
from labs.doctors.memory.snapshot import read as snapshot
from labs.doctors.memory.snapshot import report as snapshot_report
from labs.doctors.redact import redact
from labs.doctors.show import show
from labs.errors import InputError

EPILOG = """examples:
  oom_doctor.py snapshot memory.pickle
  oom_doctor.py snapshot memory.pickle --fits 24 --html memory.html

exit codes: 0 analysed; 1 it does not fit (--fits); 2 not a snapshot that can be read"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    parser.add_argument("file", help="what torch.cuda.memory._dump_snapshot wrote")
    parser.add_argument("--fits", type=float, metavar="GIB", help="what must go to fit into GIB")
    parser.add_argument("--json", action="store_true", help="print JSON (schema oom-doctor/1)")
    parser.add_argument("--html", metavar="FILE", help="write a page with timeline and breakdown")
    parser.add_argument("--largest", default="512MiB", help="refuse larger files (%(default)s)")
    parser.add_argument("--memory", default="4GiB", help="for the reading child (%(default)s)")
    parser.add_argument("--stacks", type=int, default=12, help="stacks to list (%(default)s)")
    parser.add_argument("--no-redact", action="store_true", help="keep paths and names")


def main(args: argparse.Namespace) -> int:
    try:
        largest, memory = parse_size(args.largest), parse_size(args.memory)
    except ValueError as error:
        raise InputError(str(error), "Example: --largest 2GiB.") from None
    if args.fits is not None and args.fits <= 0:
        raise InputError(f"--fits is {args.fits}.", "Give the GPU's memory in GiB.")
    devices = snapshot.analyse_file(args.file, largest, memory, max(args.stacks, 1))
    report = snapshot_report.report(devices, int(args.fits * 2**30) if args.fits else None)
    report = report if args.no_redact else redact(report)
    if args.json:
        print(report.to_json())
    else:
        show(report)
    if args.html:
        write(Path(args.html), page(report))
    return 1 if args.fits and any(d["peak"] > args.fits * 2**30 for d in devices) else 0


def page(report) -> str:
    """Timeline and breakdown of every device, as one page."""
    from labs.doctors import page as html
    from labs.doctors.show_html import sections_of

    sections = [part for found in report.findings for part in sections_of(found)]
    for device in report.facts["devices"]:
        name = f"GPU {device['device']}"
        if device["categories"]:
            parts = list(device["categories"].items())
            chart = html.breakdown([(device["moment"], parts)])
            sections.append(html.section(f"{name}: who holds the memory", html.figure(chart)))
        if len(device["timeline"]) > 1:
            chart = html.timeline({"live": device["timeline"]})
            sections.append(html.section(f"{name}: memory over the history", html.figure(chart)))
    shown = {k: v for k, v in report.facts.items() if isinstance(v, str)}
    sections.append(html.section("Numbers", html.facts(shown), html.bullets(report.notes)))
    return html.render("Memory snapshot", sections)


def write(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".part")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise InputError(
            f"{path} cannot be written: {error.strerror}.", "Name another file."
        ) from None
    print(f"Written: {path}", file=sys.stderr)
