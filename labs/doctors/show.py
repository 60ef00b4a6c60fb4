"""Prints a Report to the terminal: with `rich` where it is installed, as plain text where not."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterator
from typing import IO

from labs.doctors.finding import Finding, Remedy, Report, size

# What a line is, and how rich paints it. Plain text ignores the second.
STYLES = {
    "title": "bold",
    "cause": "bold red",
    "fine": "bold green",
    "unsure": "bold yellow",
    "label": "bold",
    "quote": "cyan",
    "quiet": "dim",
    "text": "",
}
SURE = {
    "certain": "certain",
    "likely": "likely",
    "possible": "possible, among others",
}


def wrapped(text: str, width: int, indent: str = "", first: str | None = None) -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent=indent if first is None else first,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    ) or [indent]


def quoted(text: str, width: int, where: str) -> Iterator[tuple[str, str]]:
    """An evidence line, shortened in the middle: the numbers stand at its start and at its end."""
    room = max(width * 4, 240)
    if len(text) > room:
        text = f"{text[: room * 2 // 3].rstrip()} … {text[-room // 3 :].lstrip()}"
    if where:
        yield "quiet", f"  {where}"
    for line in wrapped(text, width, "  | "):
        yield "quote", line


def lines_of_remedy(number: int, remedy: Remedy, width: int) -> Iterator[tuple[str, str]]:
    saving = f"  (saves about {size(remedy.saves_bytes)})" if remedy.saves_bytes else ""
    for line in wrapped(f"{remedy.title}{saving}", width, "     ", first=f"  {number}. "):
        yield "text", line
    for framework, how in remedy.how.items():
        for line in wrapped(how, width, " " * 9, first=f"     {framework}: "):
            yield "quote", line
    if remedy.saves_why:
        for line in wrapped(remedy.saves_why, width, "     "):
            yield "quiet", line
    if remedy.costs:
        for line in wrapped(f"Costs: {remedy.costs}", width, "     "):
            yield "quiet", line


def lines_of_finding(finding: Finding, width: int) -> Iterator[tuple[str, str]]:
    for line in wrapped(finding.title, width):
        yield "cause", line
    yield "text", f"  {finding.cause}, {SURE[finding.confidence]}"
    for evidence in finding.evidence:
        yield from quoted(evidence.text, width, evidence.where)
    if finding.why:
        yield "text", ""
        for line in wrapped(finding.why, width):
            yield "text", line
    if finding.remedies:
        yield "text", ""
        yield "label", "What to do, in this order"
        for number, remedy in enumerate(finding.remedies, 1):
            yield from lines_of_remedy(number, remedy, width)
    if finding.next_command:
        yield "text", ""
        yield "label", "Next"
        yield "quote", f"  {finding.next_command}"  # one line, to be copied
    if finding.section:
        yield "quiet", f"  Read: {finding.section}"


def lines_of(report: Report, width: int) -> Iterator[tuple[str, str]]:
    """The report as (style, line) pairs; the one layout that plain and coloured output share."""
    if report.verdict == "no_oom":
        yield "fine", "No out-of-memory found."
    elif report.verdict == "cannot_tell":
        yield "unsure", "Out of memory, but why cannot be told from this."
    for number, finding in enumerate(report.findings):
        if number or report.verdict != "cause":
            yield "text", ""
        if number == 1 and report.verdict == "cause":
            yield "label", "Also seen"
        yield from lines_of_finding(finding, width)
    readable = {key: value for key, value in report.facts.items() if isinstance(value, str)}
    if readable:
        yield "text", ""
        yield "label", "Numbers"
        column = max(map(len, readable)) + 2
        for key, value in readable.items():
            label = f"  {key.replace('_', ' '):<{column}}"
            for line in wrapped(value, width, " " * len(label), first=label):
                yield "text", line
    if report.notes:
        yield "text", ""
        yield "label", "Notes"
        for note in report.notes:
            for line in wrapped(note, width, "    ", first="  - "):
                yield "text", line


def text(report: Report, width: int = 100) -> str:
    """The report as plain text, `width` columns wide."""
    return "\n".join(line for _, line in lines_of(report, width)) + "\n"


def show(report: Report, stream: IO[str] | None = None) -> None:
    """Print the report to `stream` (standard output by default); colours only on a terminal."""
    stream = sys.stdout if stream is None else stream
    width = max(min(shutil.get_terminal_size((100, 24)).columns, 110), 40)
    try:
        from rich.console import Console
        from rich.text import Text
    except ImportError:
        Console = None
    if Console is None or not stream.isatty():
        # A pipe in an old locale: lose a quotation mark rather than the report.
        encoding = getattr(stream, "encoding", None) or "utf-8"
        stream.write(text(report, width).encode(encoding, "replace").decode(encoding))
        return
    console = Console(file=stream, width=width, highlight=False)
    for style, line in lines_of(report, width):
        console.print(Text(line, style=STYLES[style]))
