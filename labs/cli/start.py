"""labs start: copy a chapter's exercises into work/."""

from typing import Annotated

import typer


def command(
    chapter: Annotated[str, typer.Argument(help="The chapter, such as ch03.")],
) -> None:
    """Copy a chapter's exercises into work/. A file you have edited is never overwritten.

    Example: labs start ch03
    """
    from labs.grading.course import chapter as find_chapter
    from labs.grading.start import start

    found = find_chapter(chapter)
    started = start(found)
    where = started.path.relative_to(found.root)
    work = found.work.relative_to(found.root)
    if started.action == "copied":
        print(f"{where} holds {len(found.graded)} exercises. Write your answers there.")
    elif started.action == "updated":
        print(f"{where} was unchanged and is now the newest version.")
    elif started.action == "kept":
        print(f"{where} is there and was left as it is.")
    else:
        print(f"{work} has your edits and was left as it is. The exercises have changed since:")
        print(f"the new ones are beside it in {where}.")
        if started.added:
            print(f"Not in your file: {', '.join(started.added)}.")
        print("Copy over what you want, then delete the .new file.")
    print(f"Grade them: labs grade {found.short}")
