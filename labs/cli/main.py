"""The entry point of `labs`: finds a command's file, runs it, and turns InputError into two sentences.

Each command is a file of this folder that holds either `command` (one function) or `app` (a typer
group). Its module is imported only when the command is used: importing torch takes seconds, and
`labs --help` should not.
"""

import difflib
import importlib
import json
import os
import sys

import typer

from labs import __version__
from labs.errors import InputError

# name -> (module, one line for --help)
COMMANDS = {
    "env": ("labs.cli.env", "What this machine has, against what a recipe needs."),
    "start": ("labs.cli.start", "Copy a chapter's exercises into work/."),
    "hint": ("labs.cli.hint", "The next hint of an exercise."),
    "grade": ("labs.cli.grade", "Grade your answers, or the graders themselves."),
    "data": (
        "labs.cli.data",
        "Check a training set; look at samples as the model sees them; count tokens.",
    ),
    "pairs": (
        "labs.cli.pairs",
        "Preference pairs from a model's own answers; statistics of a file of pairs.",
    ),
    "train": (
        "labs.cli.train",
        "Train by a recipe: contrastive, fused, align, sft, reward, ppo, grpo.",
    ),
    "diary": ("labs.cli.diary", "What a policy run's diary says: findings, numbers, a report."),
    "chat": ("labs.cli.chat", "Talk to a model about pictures."),
    "eval": ("labs.cli.eval", "Ask a model suites of questions; compare runs; a leaderboard."),
    "judge": ("labs.cli.judge", "Let a model judge the answers of two runs, in both orders."),
    "rate": ("labs.cli.rate", "Blind rating sheets for people, and what their votes say."),
    "bench": ("labs.cli.bench", "Measure speed and memory as ratios in one run."),
    "zoo": ("labs.cli.zoo", "The shipped tiny models: list, show, rebuild."),
}

USAGE = """\
Train, break and mend vision-language models.

Usage: labs COMMAND [--help] [--debug] …

{commands}

Examples:
  labs chat --image scene.png --prompt "How many objects are there?"
  labs train sft --recipe tiny_sft --output runs/first
  labs grade ch03

--debug shows the traceback of an error; --version the version."""


def load_command(name: str):
    """The command's file as something to call with a list of arguments."""
    module = importlib.import_module(COMMANDS[name][0])
    if hasattr(module, "app"):
        group = module.app
    else:
        group = typer.Typer(add_completion=False, rich_markup_mode=None)
        group.command(name=name)(module.command)
    command = typer.main.get_command(group)
    for each in (command, *getattr(command, "commands", {}).values()):
        # A paragraph that begins with \b is shown as written: examples stay on lines of their own.
        each.help = (each.help or "").replace("\nExample", "\n\b\nExample")
    return command


def usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {line}" for name, (_, line) in COMMANDS.items()]
    return USAGE.format(commands="\n".join(lines))


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code (2 for bad input, 130 for Ctrl-C)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not arguments or arguments[0] in ("--help", "-h", "help"):
        print(usage())
        return 0
    if arguments[0] in ("--version", "-V"):
        print(f"labs {__version__}")
        return 0
    name = arguments[0]
    try:
        if name not in COMMANDS:
            near = difflib.get_close_matches(name, COMMANDS, n=1)
            raise InputError(
                f"There is no command {name!r}.",
                f"Did you mean `labs {near[0]}`?" if near else "`labs --help` lists the commands.",
            )
        code = load_command(name)(arguments[1:], prog_name=f"labs {name}", standalone_mode=False)
    except InputError as error:
        if debug:
            raise
        if "--json" in arguments:
            print(json.dumps({"error": error.what, "do": error.do}, ensure_ascii=False))
        print(f"error: {error.what}\n       {error.do}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except Exception as error:
        # A wrong option: typer keeps its own copy of click, so the class has no public name.
        if not (hasattr(error, "show") and hasattr(error, "exit_code")):
            raise
        error.show()
        return error.exit_code
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    sys.exit(main())
