"""labs hint: one hint of an exercise, and no more than asked for."""

from typing import Annotated

import typer


def command(
    chapter: Annotated[str, typer.Argument(help="The chapter, such as ch03.")],
    name: Annotated[str, typer.Argument(help="The exercise.")],
    number: Annotated[
        int | None, typer.Argument(help="1, 2 or 3; the next one by default.", min=1)
    ] = None,
) -> None:
    """Show the next hint of an exercise, or the one you name.

    Example: labs hint ch03 label_mask
    """
    from rich.console import Console
    from rich.markdown import Markdown

    from labs.errors import InputError
    from labs.grading.course import chapter as find_chapter
    from labs.grading.progress import Progress

    found = find_chapter(chapter)
    exercise = found.exercise(name)
    if not exercise.hints:
        raise InputError(
            f"{name} is a question for discussion and has no hints.",
            f"Its model answer is folded in {found.title}.",
        )
    progress = Progress(found.root)
    total = len(exercise.hints)
    if number is None:
        number = min(progress.hints_seen(found.name, name) + 1, total)
    if number > total:
        raise InputError(f"{name} has {total} hints.", f"Ask for 1 to {total}.")
    console = Console()
    console.print(f"{name}, hint {number} of {total}", style="bold", highlight=False)
    console.print(Markdown(exercise.hints[number - 1]))
    if number == total:
        console.print(f"The answer is folded in {found.title}, “{exercise.section}”.", style="dim")
    progress.saw_hint(found.name, name, number)
    progress.save()
