"""Builds the book: `python -m book.build`. Pages that have not changed are not executed again."""

import argparse
import sys
import time

from rich.console import Console
from rich.table import Table

from book.builder.contents import ROOT
from book.builder.execute import Execution, PageError, execute
from book.builder.pages import find_notebooks, find_pages
from book.builder.site import BUILD, sphinx, stage

PAGE_SECONDS = 40  # what a page may take on one torch thread

console = Console(stderr=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m book.build", description=__doc__)
    parser.add_argument("--fresh", action="store_true", help="execute every page, cached or not")
    options = parser.parse_args(arguments)
    start = time.perf_counter()

    notebooks = find_notebooks()
    console.print(f"Executing {len(notebooks)} pages (those that changed), two side by side")
    try:
        executions = execute(notebooks, fresh=options.fresh)
    except PageError as error:
        console.print("The book was not built: a page failed.\n", style="bold red")
        console.print(str(error), markup=False, highlight=False)
        return 1
    show_times(executions)

    console.print("Building HTML")
    stage(find_pages(), executions, BUILD / "source")
    if sphinx(BUILD / "source", BUILD / "html"):
        console.print("The book was not built: Sphinx found the faults above.", style="bold red")
        return 1
    index = BUILD / "html" / "index.html"
    console.print(f"The book is built ({time.perf_counter() - start:.0f} s). Open it:")
    print(index.as_uri())
    print(f"or run `make serve-book`, which serves {index.parent.relative_to(ROOT)}")
    return 0


def show_times(executions: list[Execution]) -> None:
    if not executions:
        return
    table = Table("page", "seconds", "")
    for execution in executions:
        slow = f"over the {PAGE_SECONDS} s that a page may take"
        note = "executed now" if execution.fresh else "kept from before"
        note = slow if execution.seconds > PAGE_SECONDS else note
        table.add_row(execution.page.slug, f"{execution.seconds:.1f}", note)
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
