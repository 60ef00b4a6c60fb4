"""`oom_doctor.py explain LOG`: the command line of `explain.py`. Python 3.9 or newer, no packages."""

from __future__ import annotations

import argparse

from labs.doctors.memory.log.explain import explain_file
from labs.doctors.redact import redact
from labs.doctors.show import show

EXIT = {"cause": 0, "cannot_tell": 3, "no_oom": 4}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "log",
        metavar="LOG",
        help="the log of any training run (text in any encoding, .gz too), or - for standard input",
    )
    parser.add_argument(
        "--model",
        metavar="CONFIG",
        help="the model's config.json, or the folder that holds it: the failed request is decoded "
        "into a shape",
    )
    parser.add_argument("--json", action="store_true", help="print JSON (schema oom-doctor/1)")
    parser.add_argument("--html", metavar="FILE", help="also write the report as one static page")
    parser.add_argument(
        "--no-redact",
        action="store_true",
        help="leave paths, host names, tokens and prompts in the quoted lines",
    )


def main(args: argparse.Namespace) -> int:
    """Explain one log; returns 0 (cause named), 3 (cannot be told) or 4 (no out-of-memory)."""
    report = explain_file(args.log, args.model)
    if not args.no_redact:
        report = redact(report)
    if args.html:
        from labs.doctors.show_html import write_html

        write_html(report, args.html)
    if args.json:
        print(report.to_json())
    else:
        show(report)
        if args.html:
            print(f"\nWritten: {args.html}")
    return EXIT[report.verdict]
