"""A Report as one static page: why each fault matters, what to do, and the pictures themselves.

Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from labs.doctors import page
from labs.doctors.data.report import charts
from labs.doctors.data.report.report import Example, Finding, Report
from labs.doctors.data.report.words import cleaned, counted, extent, headline, percent
from labs.doctors.finding import size

# (kind, number of the example) -> its pictures as data URLs, or words where one cannot be shown.
Pictures = Mapping["tuple[str, int]", Sequence[str]]

TONES = {"errors": "bad", "warnings": "warn", "notes": "good", "clean": "good"}
BADGES = {"error": "bad", "warning": "warn", "note": "soft"}
OPEN = 6  # examples in view; the others are folded away

STYLE = (
    charts.STYLE
    + """
.badge{font-size:.8rem;font-weight:600;border:1px solid currentColor;border-radius:4px;
 padding:0 .4rem;margin-right:.6rem;white-space:nowrap}
.soft{color:var(--soft)}
.cases{list-style:none;padding:0;display:grid;gap:.6rem;
 grid-template-columns:repeat(auto-fill,minmax(min(100%,26rem),1fr))}
.cases li{display:flex;flex-wrap:wrap;gap:.7rem;min-width:0;border:1px solid var(--rule);border-radius:6px;
 padding:.5rem .6rem;background:var(--panel)}
.cases li>div:last-child{min-width:0;flex:1 1 9rem;overflow-wrap:anywhere;font-size:.9rem}
.cases img,.cases .none{width:96px;height:96px;object-fit:contain;flex:none;border-radius:3px;
 background:var(--paper)}
.cases .none{display:flex;align-items:center;justify-content:center;text-align:center;
 font-size:.7rem;line-height:1.2;color:var(--soft);padding:.3rem;border:1px dashed var(--rule)}
.where{color:var(--soft);font-size:.85rem}
details{margin:.6rem 0}summary{cursor:pointer;color:var(--link)}
"""
)


def html_of(report: Report, pictures: Pictures | None = None, following: str = "") -> str:
    """The whole page. following: the command that comes next."""
    pictures = pictures or {}
    blocks: list[object] = [
        page.paragraph(headline(report), kind=f"answer {TONES[report.verdict]}")
    ]
    if following:
        blocks += [page.paragraph("Next:", kind="note"), page.code(following)]
    if report.fixed:
        blocks += [page.tag("h3", "Cleaned copy"), page.bullets(cleaned(report))]
    blocks.append(page.facts(_facts(report)))
    sections = [page.section("Verdict", *blocks)]
    if report.findings:
        sections.append(page.section("Found", _overview(report.findings)))
    sections += [_section(finding, pictures) for finding in report.findings]
    drawn = [charts.histogram(chart, _noun(chart.name)) for chart in report.histograms]
    if drawn:
        sections.append(page.section("Sizes", page.tag("div", *drawn, class_="charts")))
    if report.checked:
        sections.append(page.section("Checked", page.table(("what", "how far"), report.checked)))
    if report.unchecked:
        sections.append(page.section("Not checked", page.bullets(report.unchecked)))
    return page.render(f"Data doctor: {report.path}", sections, style=STYLE)


def write_html(
    path: str | os.PathLike, report: Report, pictures: Pictures | None = None, following: str = ""
) -> None:
    """Write the page whole or not at all. Raises InputError where that fails."""
    page.write(path, html_of(report, pictures, following))


def _noun(name: str) -> str:
    return "image" if name.startswith("image_") else "sample"


def _facts(report: Report) -> list[tuple[str, object]]:
    """The facts, one number or word each, for reading."""
    rows: list[tuple[str, object]] = []
    for name, value in report.facts.items():
        title = TITLES.get(name, name.replace("_", " "))
        if name == "format" or value in (None, "", {}):
            continue
        if isinstance(value, dict):
            rows += [
                (f"{title}: {TITLES.get(key, key)}", _fact(key if key == "bytes" else name, inner))
                for key, inner in value.items()
                if isinstance(inner, (int, float, str))
            ]
        else:
            rows.append((title, _fact(name, value)))
    return rows


TITLES = {
    "bytes": "size",
    "format_name": "format",
    "yes_rate": "answers of yes",
    "filled_without_packing": "of a row filled, unpacked",
    "image_files": "image files",
}
SHARES = ("yes_rate", "filled_without_packing")


def _fact(name: str, value: object) -> str:
    if name == "bytes" and isinstance(value, int):
        return size(value)
    if name in SHARES and isinstance(value, (int, float)):
        return percent(value)
    return f"{value:,}" if isinstance(value, (int, float)) else str(value)


def _overview(findings: Sequence[Finding]) -> page.Html:
    rows = [
        (
            page.tag("span", finding.severity, class_=BADGES[finding.severity]),
            f"{finding.count:,}",
            page.tag("a", finding.title, href=f"#{finding.kind}"),
            extent(finding),
        )
        for finding in findings
    ]
    return page.table(("", "found", "what", "reach"), rows, numbers=(1,))


def _section(finding: Finding, pictures: Pictures) -> page.Html:
    tone = BADGES[finding.severity]
    head = page.tag(
        "p",
        page.tag("span", finding.severity, class_=f"badge {tone}"),
        f"found {counted(finding.count, 'time')}",
        f"; {extent(finding)}" if extent(finding) else "",
        "; judged by a score, which errs now and then" if finding.semantic else "",
        f" ({finding.kind})",
    )
    cases = [
        _case(example, pictures.get((finding.kind, number), ()))
        for number, example in enumerate(finding.examples)
    ]
    blocks: list[object] = [
        head,
        page.paragraph(finding.why),
        page.paragraph(page.tag("b", "What to do: "), finding.fix),
        page.paragraph(f"{finding.repair_text}.", kind="note"),
    ]
    if cases:
        blocks.append(page.tag("ul", *cases[:OPEN], class_="cases"))
    if cases[OPEN:]:
        more = page.tag("summary", f"{counted(len(cases) - OPEN, 'more example')}")
        blocks.append(page.tag("details", more, page.tag("ul", *cases[OPEN:], class_="cases")))
    return page.tag("section", page.tag("h2", finding.title, id=finding.kind), *blocks)


def _case(example: Example, pictures: Sequence[str]) -> page.Html:
    """One example: its pictures, or why there are none, and where it stands."""
    name = page.escape(example.image or example.place)
    shown = [
        page.Html(f'<img src="{page.escape(picture)}" alt="{name}"/>')
        if picture.startswith("data:image/")
        else page.tag("div", picture, class_="none")
        for picture in pictures
    ]
    where = [example.place] + ([f"id {example.id}"] if example.id is not None else [])
    if example.image:
        where.append(example.image)
    words = page.tag("div", page.tag("div", ", ".join(where), class_="where"), example.detail)
    return page.tag("li", *shown, words)
