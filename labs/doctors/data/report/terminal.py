"""Prints a Report on the terminal: coloured where `rich` is installed, as plain text in a pipe.

Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterator
from typing import IO

from labs.doctors.data.report.report import Finding, Report
from labs.doctors.data.report.words import cleaned, counted, extent, headline

STYLES = {
    "errors": "bold red",
    "warnings": "bold yellow",
    "notes": "bold green",
    "clean": "bold green",
    "error": "red",
    "warning": "yellow",
    "note": "cyan",
    "label": "bold",
    "quiet": "dim",
    "command": "cyan",
    "text": "",
}
NAME = 9  # columns of the longest severity and two spaces


def lines_of(report: Report, width: int, following: str = "") -> Iterator[tuple[str, str]]:
    """The report as (style, line) pairs; the one layout that plain and coloured output share."""
    yield from wrapped(report.verdict, headline(report), width)
    yield from wrapped("quiet", _about(report), width)
    column = max([len(f"{f.count:,}") for f in report.findings] or [0])
    for finding in report.findings:
        yield "text", ""
        yield from _finding(finding, column, width)
    if report.unchecked:
        yield "text", ""
        yield "label", "Not checked"
        for sentence in report.unchecked:
            yield from wrapped("text", sentence, width, "  - ", "    ")
    if report.fixed:
        yield "text", ""
        yield "label", "Cleaned copy"
        for sentence in cleaned(report):
            yield from wrapped("text", sentence, width, "  - ", "    ")
    if following:
        yield "text", ""
        yield "label", "Next"
        yield "command", f"  {following}"  # one line, to be copied


def _about(report: Report) -> str:
    facts = report.facts
    parts = [report.path, facts.get("format_name", "")]
    for name, one in (("turns", "turn"), ("distinct_images", "distinct image")):
        if facts.get(name):
            parts.append(counted(facts[name], one))
    return ", ".join(filter(None, parts))


def _finding(finding: Finding, column: int, width: int) -> Iterator[tuple[str, str]]:
    first = f"{finding.severity:<{NAME}}{finding.count:>{column},}  "
    indent = " " * len(first)
    reach = extent(finding)
    unsure = ", by a score" if finding.semantic else ""
    title = f"{finding.title}{unsure}" + (f" ({reach})" if reach else "")
    yield from wrapped(finding.severity, title, width, first, indent)
    if finding.examples:
        example = finding.examples[0]
        name = f" (id {example.id})" if example.id is not None else ""
        said = f"{example.place}{name}: {example.detail}"
        yield from wrapped("text", shortened(said, width * 2), width, f"{indent}first: ", indent)
    yield from wrapped("quiet", f"fix: {finding.fix}", width, indent, indent)


def shortened(text: str, room: int) -> str:
    """One line of at most `room` characters; what is left out is in the middle."""
    text = " ".join(printable(text).split())
    return text if len(text) <= room else f"{text[: room * 2 // 3]} … {text[-(room // 3) + 3 :]}"


def printable(text: str) -> str:
    """`text` without what moves the cursor, changes the colours or turns the writing direction.

    The data are other people's: an id may hold terminal commands.
    """
    return "".join(c if c.isprintable() or c in " \n\t" else "�" for c in text)


def wrapped(style: str, text: str, width: int, first: str = "", indent: str = ""):
    lines = textwrap.wrap(
        printable(text),
        width,
        initial_indent=first,
        subsequent_indent=indent,
        break_on_hyphens=False,
    )
    for line in lines or [first]:
        yield style, line


def text(report: Report, width: int = 100, following: str = "") -> str:
    """The report as plain text, `width` columns wide."""
    return "\n".join(line for _, line in lines_of(report, width, following)) + "\n"


def show(report: Report, following: str = "", stream: IO[str] | None = None) -> None:
    """Print the report to `stream` (standard output by default); colours only on a terminal."""
    stream = sys.stdout if stream is None else stream
    width = max(min(shutil.get_terminal_size((100, 24)).columns, 110), 40)
    try:
        from rich.console import Console
        from rich.text import Text
    except ImportError:
        Console = None
    if Console is None or not stream.isatty():
        # A pipe in an old locale: lose a character of an id rather than the report.
        encoding = getattr(stream, "encoding", None) or "utf-8"
        stream.write(text(report, width, following).encode(encoding, "replace").decode(encoding))
        return
    console = Console(file=stream, width=width, highlight=False)
    for style, line in lines_of(report, width, following):
        # A command is one line, however long: it is there to be copied.
        console.print(Text(line, style=STYLES[style]), soft_wrap=style == "command")
