"""`labs rate`: people compare the answers of models (`sheet`), and their votes are read (`read`)."""

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Blind rating sheets for people, and what their votes say.",
)


@app.callback()
def rate():
    """Blind rating sheets for people, and what their votes say."""


@app.command(short_help="Write blind rating pages, one a rater.")
def sheet(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Results folders of one suite, two or more.", metavar="RUN…"),
    ],
    output: Annotated[Path, typer.Option(help="Folder for the pages and the key.")],
    n: Annotated[int, typer.Option(min=1, help="Comparisons a rater.")] = 50,
    raters: Annotated[int, typer.Option(min=1, help="How many people rate.")] = 3,
    overlap: Annotated[
        int | None, typer.Option(min=1, help="How many raters see each comparison; default: all.")
    ] = None,
    gold: Annotated[
        int, typer.Option(min=0, help="Checks of attention a rater: one answer is plainly wrong.")
    ] = 0,
    language: Annotated[str, typer.Option(help="Of the page: en or zh.")] = "en",
    seed: Annotated[int, typer.Option()] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what was written as JSON.")
    ] = False,
):
    """Write one page a rater: static, blind, in random order, sides exchanged between raters.

    Send rater-1.html to the first person, and so on. Each votes in a browser, offline, and sends back
    the file that the page saves. Keep key.json and pictures/ to yourself.

    Example:  labs rate sheet runs/eval/tiny-base/captions runs/eval/tiny-sft/captions --n 50 --raters 3
              --gold 5 --output rating
    """
    from rich.console import Console

    from labs.suites.judge import side_by_side
    from labs.suites.rating import Item, write_sheets

    together = side_by_side(runs)
    items = [
        Item(
            a.question.id, a.question.prompt, dict(zip(together.models, a.answers, strict=True)),
            a.question.images,
            a.question.answer if isinstance(a.question.answer, str) else None,
        )
        for a in together.answered
    ]  # fmt: skip
    made = write_sheets(
        output, items, n=n, raters=raters, overlap=overlap, gold=gold, language=language,
        seed=seed, suite=together.suite,
    )  # fmt: skip
    if as_json:
        told = {
            "key": str(made.key), "pages": [str(page) for page in made.pages], "items": made.items,
            "comparisons": made.comparisons, "gold": made.gold, "left_out": made.left_out,
        }  # fmt: skip
        print(json.dumps(told, ensure_ascii=False))
        return
    console = Console(highlight=False)
    console.print(
        f"{made.comparisons} comparisons and {made.gold} checks for {raters} raters.", markup=False
    )
    for page, count in zip(made.pages, made.items, strict=True):
        console.print(f"  {page}  {count} items", markup=False, soft_wrap=True)
    for reason, count in made.left_out.items():
        console.print(f"left out, {reason}: {count} pairs of answers", markup=False)
    line = f"Keep to yourself: {made.key} and the pictures beside it."
    console.print(line, markup=False, soft_wrap=True)


@app.command(short_help="Read the votes: agreement, win rates, ratings.")
def read(
    votes: Annotated[
        list[Path], typer.Argument(help="The files that raters sent back.", metavar="VOTES.json…")
    ],
    key: Annotated[Path, typer.Option(help="The key.json that was written with the pages.")],
    preferences: Annotated[
        Path | None,
        typer.Option(metavar="OUT.jsonl", help="Write majority votes as preference pairs."),
    ] = None,
    drop_failed: Annotated[
        bool, typer.Option("--drop-failed", help="Leave out raters who failed the checks.")
    ] = False,
    seed: Annotated[int, typer.Option()] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the analysis as JSON.")] = False,
):
    """Read votes: agreement, win rates, ratings, raters; and preference pairs to train on.

    Example:  labs rate read votes-*.json --key rating/key.json --preferences preferences.jsonl
    """
    from rich.console import Console

    from labs.suites.rating import analyse, read_key, read_votes, write_preference_file

    known = read_key(key)
    given, missing = read_votes(votes, known)
    found = analyse(known, given, missing, drop_failed=drop_failed, seed=seed)
    written = None
    if preferences:
        written = write_preference_file(preferences, known, given, found.dropped)
    if as_json:
        told = found.to_dict()
        if written:
            told["preferences"] = {"written": written[0], "left_out": written[1]}
        print(json.dumps(told, ensure_ascii=False))
        return
    console = Console()
    _show(found, console)
    if written:
        count, left_out = written
        reasons = ", ".join(f"{n} {reason}" for reason, n in left_out.items()) or "none"
        console.print(
            f"{count} preference pairs written to {preferences}; left out: {reasons}.",
            highlight=False, markup=False, soft_wrap=True,
        )  # fmt: skip


TITLES = {
    "alpha": "Krippendorff's alpha (0: chance, 1: perfect)",
    "left": "votes for the left (0.5: no preference)",
    "tie": "ties",
    "both_bad": "both bad",
    "seconds": "median seconds an item",
}


def _show(found, console) -> None:
    from rich.table import Table

    line = f"{found.votes} votes on {found.comparisons} comparisons"
    if found.unseen:
        line += f", {found.unseen} of them without any"
    if found.absent:
        line += f"; no file of {', '.join(found.absent)}"
    if found.dropped:
        line += f"; left out: {', '.join(found.dropped)}"
    console.print(line, highlight=False, markup=False, soft_wrap=True)
    table = Table("measure", "value", "95 %", "n")
    for (a, b), m in found.win_rates.items():
        table.add_row(f"{a} better than {b}, ties half", *_cells(m))
    for name, m in found.measures.items():
        table.add_row(TITLES[name], *_cells(m))
    if "alpha" not in found.measures:
        table.add_row(TITLES["alpha"], "none (votes not shared, or all alike)", "", "")
    console.print(table)
    if found.ratings:
        board = Table("model", "Bradley-Terry", "95 %", "votes")
        for name, r in found.ratings.items():
            board.add_row(name, f"{r.rating:.0f}", f"{r.low:.0f} to {r.high:.0f}", str(r.games))
        console.print(board)
    if found.unrated:
        console.print(f"no ratings: {found.unrated}", highlight=False, markup=False, soft_wrap=True)
    people = Table("rater", "answered", "missing", "left", "ties", "both bad", "seconds", "checks")
    for r in found.raters:
        right, seen = r.gold
        checks = f"{right} of {seen}" + (", failed" if r.failed else "") if seen else ""
        people.add_row(
            r.name, str(r.answered), str(r.missing), f"{r.left.value:.2f}" if r.left else "",
            str(r.ties), str(r.both_bad), "" if r.seconds is None else f"{r.seconds:.1f}", checks,
        )  # fmt: skip
    console.print(people)


def _cells(m) -> tuple[str, str, str]:
    interval = "" if m.low is None else f"{m.low:.3f} to {m.high:.3f}"
    return f"{m.value:.3f}", interval, str(m.n)
