#!/usr/bin/env python3
"""The memory doctor of a training run: before it, during it, after it died.

Runs as a file from anywhere, and as one zipapp (`make doctors`). Each command lives in
`labs/doctors/memory/commands/<command>.py` and is imported only when it is asked for, so that one
command's packages never stand in the way of another's. Python 3.9 or newer.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if (ROOT / "labs" / "doctors").is_dir():  # not inside a zipapp, which is its own root
    # On this process' path only: the run that is watched never sees this repository.
    sys.path.insert(0, str(ROOT))

from labs.errors import InputError  # noqa: E402

COMMANDS = {
    "predict": "what a run will need, what fits, and what to change (no weights, no GPU needed)",
    "run": "start any training command unchanged; if memory runs out, say why",
    "watch": "a live view of a run started so, or of a process",
    "snapshot": "analyse a PyTorch memory snapshot, without a GPU",
    "explain": "name the cause of death in a training log",
}
EXAMPLES = {
    "predict": ["predict Qwen/Qwen2-VL-2B-Instruct --method lora --batch 4 --fits 24"],
    "run": ["run -- torchrun --nproc-per-node 8 train.py --config my.yaml"],
    "watch": ["watch", "watch 4242"],
    "snapshot": ["snapshot memory.pickle --html memory.html"],
    "explain": [
        "explain train.log",
        "explain train.log --model path/to/config.json",
        "kubectl logs my-pod --previous | oom_doctor.py explain - --json",
    ],
}
EXIT_CODES = """exit codes:
  0  done; it fits; the cause is named
  1  it does not fit (predict --fits)
  2  bad input: one sentence says what is wrong, one what to do
  3  out of memory, but the cause cannot be told from this input
  4  no out-of-memory in the log
  `run` returns the exit code of the command that it ran"""


def usage() -> str:
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:<{width}}  {line}" for name, line in COMMANDS.items())
    examples = "\n".join(f"  oom_doctor.py {lines[0]}" for lines in EXAMPLES.values())
    return (
        f"usage: oom_doctor.py COMMAND …\n\n{__doc__.splitlines()[0]}\n\ncommands:\n{commands}\n\n"
        f"examples:\n{examples}\n\n`oom_doctor.py COMMAND --help` says more.\n\n{EXIT_CODES}"
    )


def load(name: str):
    """The module of one command. Raises InputError where a package it needs is missing."""
    module = f"labs.doctors.memory.commands.{name}"
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name == module:
            raise InputError(
                f"This copy of the doctor has no command {name!r}.",
                "Use the whole repository, or rebuild the single file with `make doctors`.",
            ) from None
        raise InputError(
            f"`{name}` needs the Python package {error.name!r}, which this Python "
            f"({sys.executable}) does not have.",
            "Run it with the Python of your training environment, or install the package. "
            "`explain` needs none.",
        ) from None


def run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        if Path(name).exists():
            do = f"To explain a log: oom_doctor.py explain {name}"
        else:
            do = (
                f"Did you mean `{near[0]}`?"
                if near
                else "`oom_doctor.py --help` lists the commands."
            )
        raise InputError(f"There is no command {name!r}.", do)
    module = load(name)
    parser = argparse.ArgumentParser(
        prog=f"oom_doctor.py {name}",
        description=COMMANDS[name][0].upper() + COMMANDS[name][1:] + ".",
        epilog="examples:\n"
        + "\n".join(f"  {'' if '|' in line else 'oom_doctor.py '}{line}" for line in EXAMPLES[name])
        + f"\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--debug", action="store_true", help=argparse.SUPPRESS)
    module.add_arguments(parser)
    return module.main(parser.parse_args(rest))


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a pipe in an old locale: lose a dash, not the report
            stream.reconfigure(errors="replace")
    # What stands behind `--` belongs to the command that is run.
    mine = arguments[: arguments.index("--")] if "--" in arguments else arguments
    try:
        return run(arguments)
    except InputError as error:
        if "--debug" in mine:
            raise
        if "--json" in mine:
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
