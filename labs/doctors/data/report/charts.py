"""Histograms for the page: bars in SVG, words in HTML beside them. Standard library only, Python 3.9+."""

from __future__ import annotations

from collections.abc import Sequence

from labs.doctors import page
from labs.doctors.data.report.report import Histogram
from labs.doctors.data.report.words import counted

HEIGHT = 200
LABELS = 5  # words under the axis: as many as fit on a phone
NARROWEST = 10  # a histogram of fewer bins leaves room at its right, rather than drawing walls

STYLE = """
.bars{position:relative;height:clamp(120px,24vw,200px);border-bottom:1px solid var(--ink)}
.bars svg{width:100%;height:100%;display:block}
.axis{position:relative;height:1.4rem;font-size:.75rem;color:var(--soft)}
.axis span{position:absolute;top:.15rem;transform:translateX(-50%);white-space:nowrap}
.axis .first{transform:none}.axis .last{transform:translateX(-100%)}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,26rem),1fr));gap:0 2rem}
.charts figure{min-width:0}
"""


def span_of(low: int, high: int) -> str:
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def histogram(chart: Histogram, noun: str = "sample") -> page.Html:
    """Bars of equal width, one a bin, each with its numbers as a `<title>`; axis and words in HTML."""
    bins = chart.bins
    top = max((count for _, _, count in bins), default=0)
    if not top:
        return page.paragraph("Nothing to count.", kind="note")
    step = 1000 / max(len(bins), NARROWEST)
    bars = []
    for number, (low, high, count) in enumerate(bins):
        # The rarest bin is still to be seen: it is what a reader looks for.
        height = max(HEIGHT * count / top, 1.5) if count else 0
        told = f"{span_of(low, high)} {chart.unit}: {counted(count, noun)}"
        bars.append(
            f'<rect class="f0" x="{number * step + step * 0.05:.2f}" y="{HEIGHT - height:.2f}" '
            f'width="{step * 0.9:.2f}" height="{height:.2f}"><title>{page.escape(told)}</title></rect>'
        )
        bars.append(
            f'<rect class="hover" x="{number * step:.2f}" y="0" width="{step:.2f}" '
            f'height="{HEIGHT}"><title>{page.escape(told)}</title></rect>'
        )
    summary = (
        f"{chart.title}: {counted(chart.total, noun)}, from {bins[0][0]:,} to {bins[-1][1]:,} "
        f"{chart.unit}"
    )
    svg = page.Html(
        f'<svg viewBox="0 0 1000 {HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="{page.escape(summary)}"><title>{page.escape(summary)}</title>'
        f"{''.join(bars)}</svg>"
    )
    plot = page.tag("div", svg, class_="bars")
    caption = f"{chart.title} ({chart.unit}); the highest bar stands for {counted(top, noun)}"
    return page.figure(page.tag("div", plot, _axis(bins, step)), caption)


def _axis(bins: Sequence[tuple[int, int, int]], step: float) -> page.Html:
    """The lowest value of the first bin, the highest of the last, and a few between them."""
    last = len(bins) - 1
    full = len(bins) >= NARROWEST
    marks = (
        sorted({round(i * last / (LABELS - 1)) for i in range(LABELS)}) if full else range(last + 1)
    )
    words = []
    for mark in marks:
        low, high, _ = bins[mark]
        side = {0: "first", last: "last"}.get(mark) if full else None
        at = {"first": 0, "last": 100}.get(side, (mark + 0.5) * step / 10)
        text = f"{high:,}" if side == "last" else f"{low:,}"
        words.append(page.tag("span", text, class_=side, style=f"left:{at:.2f}%"))
    return page.tag("div", *words, class_="axis")
