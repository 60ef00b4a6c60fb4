"""The entry point of `labs`: finds a command's file, runs it, and turns InputError into two sentences.

Each command is a file of this folder that holds either `command` (one function) or `app` (a typer
group). Its module is imported only when the command is used: importing torch takes seconds, and
`labs --help` should not.
"""

import importlib
import json
import os
import sys

import click
import typer
from typer.core import TyperGroup

from labs import __version__
from labs.errors import InputError

# name -> (module, one line for --help)
COMMANDS = {
    "env": ("labs.cli.env", "What this machine has, against what a recipe needs."),
    "start": ("labs.cli.start", "Copy a chapter's exercises into work/."),
    "hint": ("labs.cli.hint", "The next hint of an exercise."),
    "grade": ("labs.cli.grade", "Grade your answers, or the graders themselves."),
    "data": ("labs.cli.data", "Look at samples as the model sees them."),
    "train": ("labs.cli.train", "Train by a recipe: contrastive, align, sft."),
    "chat": ("labs.cli.chat", "Talk to a model about pictures."),
    "bench": ("labs.cli.bench", "Measure speed and memory as ratios in one run."),
    "zoo": ("labs.cli.zoo", "The shipped tiny models: list, rebuild, check."),
}


class LazyGroup(TyperGroup):
    """Lists every command from the table above and imports one when it is asked for."""

    def list_commands(self, ctx):
        return list(COMMANDS)

    def get_command(self, ctx, name):
        return _load(name) if name in COMMANDS else None

    def format_commands(self, ctx, formatter):
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in COMMANDS])

    def format_help(self, ctx, formatter):
        # typer's rich help would import every command to describe it; click's own needs none.
        click.Group.format_help(self, ctx, formatter)


def _load(name: str) -> click.Command:
    module = importlib.import_module(COMMANDS[name][0])
    if hasattr(module, "app"):
        command = typer.main.get_command(module.app)
    else:
        single = typer.Typer(add_completion=False, rich_markup_mode=None)
        single.command(name=name)(module.command)
        command = typer.main.get_command(single)
    command.name = name
    return command


app = typer.Typer(cls=LazyGroup, add_completion=False, no_args_is_help=True)


def _version(value: bool):
    if value:
        typer.echo(f"labs {__version__}")
        raise typer.Exit()


@app.callback()
def root(
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True),
):
    """Train, break and mend vision-language models.

    Examples:  labs chat --model tiny-sft --image picture.png --prompt "How many objects are there?"
               labs train sft --recipe tiny_sft --output runs/first
               labs grade ch03
    """


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code (2 for bad input, 130 for Ctrl-C)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        result = typer.main.get_command(app)(arguments, prog_name="labs", standalone_mode=False)
    except InputError as error:
        if debug:
            raise
        if "--json" in arguments:
            print(json.dumps({"error": error.what, "do": error.do}))
        print(f"error: {error.what}\n       {error.do}", file=sys.stderr)
        return 2
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 130
    return result if isinstance(result, int) else 0


def run() -> None:
    sys.exit(main())


if __name__ == "__main__":
    run()
