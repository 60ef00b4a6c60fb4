"""A Report as one static HTML page. Standard library only, Python 3.9 or newer."""

from __future__ import annotations

import os

from labs.doctors import page
from labs.doctors.finding import Finding, Remedy, Report, size
from labs.doctors.show import SURE

VERDICTS = {
    "cause": ("The cause", "bad"),
    "cannot_tell": ("Out of memory, but why cannot be told from this", "warn"),
    "no_oom": ("No out-of-memory found", "good"),
}


def _remedy(remedy: Remedy) -> list[object]:
    saving = f" (saves about {size(remedy.saves_bytes)})" if remedy.saves_bytes else ""
    blocks: list[object] = [page.tag("h3", remedy.title + saving)]
    if remedy.how:
        blocks.append(page.code("\n".join(f"{name}: {how}" for name, how in remedy.how.items())))
    if remedy.saves_why:
        blocks.append(page.paragraph(remedy.saves_why))
    if remedy.costs:
        blocks.append(page.paragraph(f"Costs: {remedy.costs}", kind="note"))
    return blocks


def sections_of(finding: Finding) -> list[page.Html]:
    """The page's sections for one finding: what, by which lines, what to do."""
    blocks: list[object] = [
        page.paragraph(f"{finding.cause}, {SURE[finding.confidence]}", kind="note"),
        page.paragraph(finding.why),
    ]
    for evidence in finding.evidence:
        blocks += [page.paragraph(evidence.where, kind="note"), page.code(evidence.text[:4000])]
    sections = [page.section(finding.title, *blocks)]
    if finding.remedies:
        blocks = [block for remedy in finding.remedies for block in _remedy(remedy)]
        if finding.next_command:
            blocks += [page.tag("h3", "Next"), page.code(finding.next_command)]
        if finding.section:
            blocks.append(page.paragraph(f"Read: {finding.section}", kind="note"))
        sections.append(page.section("What to do, in this order", *blocks))
    return sections


def html_of(report: Report) -> str:
    """The whole page of one report."""
    title, kind = VERDICTS[report.verdict]
    top = report.findings[0] if report.findings else None
    said = top.title if top and report.verdict == "cause" else title
    sections = [page.section("Verdict", page.paragraph(said, kind=kind))]
    for finding in report.findings[:1]:
        sections += sections_of(finding)
    others = report.findings[1:]
    if others:
        rows = [(f.title, SURE[f.confidence], f.why) for f in others]
        sections.append(page.section("Also seen", page.table(("cause", "how sure", "why"), rows)))
    readable = {name: value for name, value in report.facts.items() if isinstance(value, str)}
    if readable:
        sections.append(page.section("Numbers", page.facts(readable)))
    if report.notes:
        sections.append(page.section("Notes", page.bullets(report.notes)))
    return page.render(f"{report.doctor} doctor: {report.command}", sections)


def write_html(report: Report, path: str | os.PathLike) -> None:
    """Write the page beside `path` and rename it there. Raises InputError where that fails."""
    page.write(path, html_of(report))
