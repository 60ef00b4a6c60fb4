"""`labs data tokens`: what a picture costs in each family."""

import re
from pathlib import Path
from typing import Annotated

import typer

from labs.errors import InputError

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
SIZE = re.compile(r"(\d+) ?[xX×] ?(\d+)")
IN_FULL = 3  # with more pictures than this, one line a picture


def tokens(
    images: Annotated[
        list[Path] | None, typer.Argument(help="Pictures, or folders of pictures.")
    ] = None,
    size: Annotated[
        list[str] | None,
        typer.Option(metavar="WxH", help="A width and a height instead of a file. Repeatable."),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="A family: llava-next, qwen2-vl, internvl … Repeatable; default: all."),
    ] = None,
    context: Annotated[int, typer.Option(min=1, help="Tokens that the shares are of.")] = 4096,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
):
    """Say what a picture costs: how each family resizes and cuts it, and how many tokens that makes.

    \b
    Example:  labs data tokens scan.png
              labs data tokens --size 1344x896 --model llava-next --model qwen2-vl
              labs data tokens photos/ --json
    """
    import json
    import sys

    from rich.console import Console

    pictures = [*_measured(images or []), *map(_given, size or [])]
    if not pictures:
        raise InputError(
            "There is no picture to count.", "Give an image file, a folder, or --size 1344x896."
        )

    from labs.models.resolution import FAMILIES, family

    # By title, so that two names of one family make one line.
    chosen = {f.title: f for f in (family(name) for name in model or FAMILIES)}
    counted = [_count(*picture, list(chosen.values()), context) for picture in pictures]
    if as_json:
        json.dump({"context": context, "pictures": counted}, sys.stdout, ensure_ascii=False)
        print()
        return
    console = Console(highlight=False)
    if len(counted) <= IN_FULL:
        for picture in counted:
            console.print(_in_full(picture, context))
    else:
        console.print(_in_short(counted, list(chosen), context))


def _measured(paths: list[Path]) -> list[tuple[str, int, int]]:
    """(name, width, height) of every picture, turned upright as the models get them."""
    from labs.formats import load_image

    files = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        found = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
        if not found:
            raise InputError(
                f"The folder {path} holds no picture.", "Give a folder of PNG or JPEG files."
            )
        files += found
    return [(str(path), *load_image(path).size) for path in files]


def _given(size: str) -> tuple[str, int, int]:
    match = SIZE.fullmatch(size)
    if not match or not int(match[1]) or not int(match[2]):
        raise InputError(
            f"The size {size!r} is not a width and a height.", "Write it as 1344x896, width first."
        )
    return size, int(match[1]), int(match[2])


def _count(name: str, width: int, height: int, families: list, context: int) -> dict:
    """One picture in every family. A family that refuses it says so; all refusing is an error."""
    rows, refused = [], None
    for family in families:
        try:
            cut = family.cut((height, width))
        except InputError as error:
            refused = error
            rows.append({"family": family.title, "refused": error.what})
            continue
        rows.append(
            {
                "family": family.title,
                "tokens": cut.tokens,
                "markers": cut.markers,
                "share": (cut.tokens + cut.markers) / context,
                "resized": list(cut.picture[::-1]),
                "canvas": list(cut.canvas[::-1]),
                "tiles": list(cut.tiles),
                "overview": cut.overview,
            }
        )
    if refused and all("refused" in row for row in rows):
        raise refused
    return {"picture": name, "width": width, "height": height, "families": rows}


def _in_full(picture: dict, context: int):
    """A table a picture: a family a row, with how it is resized and cut."""
    from rich.table import Table

    width, height = picture["width"], picture["height"]
    named = picture["picture"]
    title = f"{width} x {height}" if SIZE.fullmatch(named) else f"{named}  {width} x {height}"
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("family")
    table.add_column("resized to")
    table.add_column("cut")
    for name in ("tokens", "markers", f"of {context:,}"):
        table.add_column(name, justify="right")
    for row in picture["families"]:
        if "refused" in row:
            table.add_row(row["family"], "refused")
            table.caption, table.caption_justify = row["refused"], "left"
            continue
        share = f"{row['share']:.1%}"
        if row["share"] > 1:
            share = f"[red]{share}[/red]"
        counts = f"{row['tokens']:,}", str(row["markers"] or ""), share
        table.add_row(row["family"], _resized(row), _cut(row), *counts)
    return table


def _resized(row: dict) -> str:
    told = " x ".join(map(str, row["resized"]))
    if row["resized"] != row["canvas"]:
        told += f" on {' x '.join(map(str, row['canvas']))}"  # the rest is padding
    return told


def _cut(row: dict) -> str:
    """Rows x columns of tiles, as far as there are any."""
    down, across = row["tiles"]
    if not row["overview"]:
        return "whole"
    return f"{down} x {across} tiles + overview"


def _in_short(counted: list[dict], titles: list[str], context: int):
    """A line a picture: tokens with markers; at the end the mean and its share of the context."""
    from rich.table import Table

    table = Table(title=f"tokens a picture, markers included ({len(counted)} pictures)")
    table.add_column("picture")
    table.add_column("size", justify="right")
    for title in titles:
        table.add_column(title, justify="right")
    totals = {title: [] for title in titles}
    for picture in counted:
        cells = []
        for row in picture["families"]:
            if "refused" in row:
                cells.append("refused")
                continue
            totals[row["family"]].append(row["tokens"] + row["markers"])
            cells.append(f"{totals[row['family']][-1]:,}")
        table.add_row(picture["picture"], f"{picture['width']} x {picture['height']}", *cells)
    table.add_section()
    means = [sum(t) / len(t) if t else None for t in totals.values()]
    table.add_row("mean", "", *("" if m is None else f"{m:,.0f}" for m in means))
    table.add_row(
        f"of {context:,}", "", *("" if m is None else f"{m / context:.1%}" for m in means)
    )
    return table
