"""The report on a run as one page: the findings, what held the memory, memory over the steps."""

from __future__ import annotations

from labs.doctors import page as html
from labs.doctors.finding import Report
from labs.doctors.memory.live.evidence import Evidence
from labs.doctors.show_html import sections_of


def page(report: Report, evidence: Evidence) -> str:
    """The page's markup; opens from a file, without a network."""
    sections = [part for found in report.findings for part in sections_of(found)]
    measured = report.facts.get("measured") or {}
    if measured.get("categories"):
        sections.append(breakdown(measured))
    sections += curves(evidence)
    shown = {k.capitalize(): v for k, v in report.facts.items() if isinstance(v, str)}
    sections.append(html.section("The run", html.facts(shown)))
    if report.notes:
        sections.append(html.section("Notes", html.bullets(report.notes)))
    return html.render("Why the run ended", sections, report.facts.get("command", ""))


def breakdown(measured: dict) -> html.Html:
    parts = sorted(measured["categories"].items(), key=lambda item: -item[1])
    limit = measured.get("limit") or 0
    chart = html.breakdown(
        [("when it died", parts)], limits=[("limit", limit)] if limit > 0 else []
    )
    return html.section("What held the memory", html.figure(chart))


def curves(evidence: Evidence) -> list[html.Html]:
    """One chart for each process that took steps: allocated (or host memory) after each step."""
    found = []
    for pages in evidence.diaries[:8]:
        known = [s for s in pages.steps if s.allocated >= 0]
        what = "allocated" if known else "host"
        steps = known or [s for s in pages.steps if s.host >= 0]
        if len(steps) < 2:
            continue
        limit = steps[-1].limit if known and steps[-1].limit > 0 else None
        chart = html.timeline(
            {what: [getattr(s, what) for s in steps]},
            limits=[("limit", limit)] if limit else [],
        )
        rank = pages.meta.get("rank")
        who = f"rank {rank}" if rank is not None else f"process {pages.pid}"
        caption = f"{what} after each of steps {steps[0].step} to {steps[-1].step}, {who}"
        found.append(html.section("Memory over the steps", html.figure(chart, caption)))
    return found
