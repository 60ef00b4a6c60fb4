"""labs grade: grade answers (pytest underneath), or the graders themselves."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    chapter: Annotated[str | None, typer.Argument(help="The chapter, such as ch03.")] = None,
    name: Annotated[str | None, typer.Argument(help="One exercise; all by default.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Show tracebacks.")] = False,
    answers: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Grade this folder or file.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="A table of all chapters.")] = False,
    quality: Annotated[bool, typer.Option("--quality", help="Grade the graders.")] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="With --quality: a Markdown table.")
    ] = False,
) -> None:
    """Grade your answers in work/, or the stubs where you have not started.

    Exit code 0: all right; 1: something is not; 2: the command cannot be carried out; 3: a check
    itself is at fault.

    Example: labs grade ch03 generation_loss
    """
    from labs.errors import InputError
    from labs.grading import GraderError, report

    if chapter is None and not (quality or everything):
        raise InputError("Which chapter?", "For example: labs grade ch03, or labs grade --all.")
    try:
        if quality:
            code = report.quality(chapter, as_json=as_json, markdown=markdown)
        elif everything:
            code = report.everything(answers, as_json=as_json)
        else:
            code = report.chapter(chapter, name, answers, as_json=as_json, verbose=verbose)
    except GraderError as error:
        typer.echo(f"The check is at fault, not your answer: {error}", err=True)
        code = 3
    raise typer.Exit(code)
