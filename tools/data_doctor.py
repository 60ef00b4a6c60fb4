#!/usr/bin/env python3
"""The data doctor: what is wrong with a training set, found before a long run pays for it.

Runs as a file from anywhere, and as one zipapp (`make doctors`). Python 3.9 or newer; what is
checked with Pillow or Transformers is left out, and named, where they are missing.
"""

from __future__ import annotations

import difflib
import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if (ROOT / "labs" / "doctors").is_dir():  # not inside a zipapp, which is its own root
    sys.path.insert(0, str(ROOT))

from labs.doctors.data.commands.arguments import CASES, EXIT_CODES  # noqa: E402
from labs.errors import InputError  # noqa: E402


def usage() -> str:
    examples = "\n".join(f"  data_doctor.py {case}" for case in CASES)
    return (
        f"usage: data_doctor.py check PATH …\n\n{__doc__.splitlines()[0]}\n\nexamples:\n{examples}\n\n"
        f"`data_doctor.py check --help` lists the options.\n\n{EXIT_CODES}"
    )


def run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if arguments[0] != "check":
        near = difflib.get_close_matches(arguments[0], ["check"], n=1)
        if Path(arguments[0]).exists():
            do = f"To check a training set: data_doctor.py check {arguments[0]}"
        else:
            do = "Did you mean `check`?" if near else "`data_doctor.py --help` shows examples."
        raise InputError(f"There is no command {arguments[0]!r}.", do)
    from labs.doctors.data.commands.check import run

    return run(arguments[1:], "data_doctor.py check")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a pipe in an old locale: lose a letter, not the report
            stream.reconfigure(errors="replace")
    try:
        return run(arguments)
    except InputError as error:
        if "--debug" in arguments:
            raise
        if "--json" in arguments:
            print(json.dumps({"error": error.what, "do": error.do}, ensure_ascii=False))
        print(f"error: {error.what}\n       {error.do}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `… | head`: whoever read has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main())
