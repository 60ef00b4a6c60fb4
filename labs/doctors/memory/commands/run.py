"""`oom_doctor.py run -- COMMAND…`: run a training command; say why, if it dies of memory."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from labs.doctors.finding import Report
from labs.doctors.memory.death.diagnose import diagnose
from labs.doctors.memory.live import run
from labs.doctors.memory.live.evidence import Evidence, new_folder, read
from labs.errors import InputError

EPILOG = """examples:
  oom_doctor.py run -- python train.py --lr 1e-4
  oom_doctor.py run -- torchrun --nproc_per_node 8 train.py
  oom_doctor.py run --budget '2 GiB' -- python train.py      (no GPU needed)
  oom_doctor.py run --read ~/.cache/oom_doctor/runs/20260101-120000-42

The exit code is the command's own (128 + n if signal n ended it); 2 where it cannot be started.
The diagnosis goes to standard error and to the run's folder (report.json, report.html)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    parser.add_argument(
        "--budget",
        metavar="SIZE",
        help="let every process have SIZE of live CPU tensors and fail with PyTorch's own "
        "out-of-memory beyond it; scratch memory inside operators is not counted",
    )
    parser.add_argument("--json", metavar="FILE", help="also write the report here (- = stdout)")
    parser.add_argument("--html", metavar="FILE", help="also write the report here as a page")
    parser.add_argument(
        "--history",
        type=int,
        default=20_000,
        metavar="N",
        help="allocations whose stacks are remembered on a GPU; 0 = none (default: %(default)s)",
    )
    parser.add_argument("--no-redact", action="store_true", help="keep paths and host names")
    parser.add_argument("--keep", action="store_true", help="keep the folder of a good run too")
    parser.add_argument("--read", metavar="FOLDER", help="report on a run that has ended before")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- and the command")


def main(args: argparse.Namespace) -> int:
    if args.read:
        evidence = read(Path(args.read))
        report = diagnose(evidence)
        publish(report, evidence, args)
        return 0 if report.verdict == "cause" else 3 if report.verdict == "cannot_tell" else 4
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    run.find_command(command)
    if args.history < 0:
        raise InputError("--history cannot be negative.", "Give 0 for no history.")
    config = {"budget": run.budget_setting(args.budget), "history": args.history}
    folder = new_folder()
    evidence = run.run(command, folder, config)
    report = diagnose(evidence)
    if report.verdict != "no_oom" or report.notes:
        publish(report, evidence, args)
    elif not args.keep and not evidence.code:
        shutil.rmtree(folder, ignore_errors=True)
    return run.exit_code(evidence)


def publish(report: Report, evidence: Evidence, args: argparse.Namespace) -> None:
    """Print the report and save it in the run's folder and wherever it was asked for."""
    from labs.doctors.memory.death import page as death_page
    from labs.doctors.redact import redact
    from labs.doctors.show import show

    shown = report if args.no_redact else redact(report)
    if report.verdict != "no_oom" or args.read:
        show(shown, sys.stderr)
    else:
        for note in shown.notes:
            print(f"oom_doctor: {note}", file=sys.stderr)
    targets = [(evidence.folder / "report.json", shown.to_json())]
    if report.verdict != "no_oom":
        html = death_page.page(shown, evidence)
        targets.append((evidence.folder / "report.html", html))
        print(f"Saved in {evidence.folder}", file=sys.stderr)
        if args.html:
            targets.append((Path(args.html), html))
    if args.json == "-":
        print(shown.to_json())
    elif args.json:
        targets.append((Path(args.json), shown.to_json()))
    for path, text in targets:
        try:
            partial = path.with_name(path.name + ".part")
            partial.write_text(text, encoding="utf-8")
            partial.replace(path)
        except OSError as error:
            print(f"oom_doctor: {path} cannot be written: {error.strerror}.", file=sys.stderr)
