"""`labs zoo`: the shipped tiny models, listed, shown, rebuilt, checked."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from labs.errors import InputError

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="""The shipped tiny models.

    Examples:  labs zoo list      labs zoo show tiny-sft      labs zoo build tiny-clip
    """,
)


@app.command("list")
def list_models(json_output: Annotated[bool, typer.Option("--json")] = False):
    """Every shipped model with its size and headline scores."""
    from rich.console import Console
    from rich.table import Table

    from labs.models.places import EVERY
    from labs.zoo.card import read_card

    cards = []
    for name in EVERY:
        try:
            cards.append(read_card(name))
        except InputError:
            continue
    if json_output:
        print(json.dumps([asdict(c) for c in cards], ensure_ascii=False))
        return
    table = Table("model", "parameters", "what it is", "steps")
    for card in cards:
        table.add_row(card.name, f"{card.parameters:,}", card.summary, str(card.steps))
    Console().print(table)


@app.command()
def show(name: str, json_output: Annotated[bool, typer.Option("--json")] = False):
    """One model's card: recipe, seed, data, scores with intervals."""
    from rich.console import Console
    from rich.markdown import Markdown

    from labs.models.places import ZOO
    from labs.zoo.card import read_card

    card = read_card(name)
    if json_output:
        print(json.dumps(asdict(card), ensure_ascii=False))
    else:
        Console().print(Markdown((ZOO / name / "README.md").read_text(encoding="utf-8")))


@app.command()
def build(
    names: Annotated[list[str] | None, typer.Argument(help="All, where none is given.")] = None,
    questions: Annotated[int, typer.Option(help="Held-out questions a type.")] = 2000,
):
    """Trains and scores models again, replacing the shipped ones (all: under an hour, two cores)."""
    from labs.models.places import EVERY
    from labs.zoo.build import build as build_one
    from labs.zoo.build import build_all

    for name in names or []:
        if name not in EVERY:
            raise InputError(f"There is no zoo model {name!r}.", f"Use one of {', '.join(EVERY)}.")
    if names and len(names) == 1:
        build_one(names[0], questions)
    elif names:
        build_all(names)
    else:
        build_all()
