# ruff: noqa: B905, RUF007 - reading reports must work on Python 3.9, which has neither zip(strict=) nor pairwise
"""A doctor's report as one static HTML file: no outside requests, no script, light and dark, phone width.

Charts are inline SVG that stretches to the width of the page, with a `<title>` on every shape, which
browsers show on hover. Words and numbers never stand inside the SVG, where a phone would shrink them
out of sight: axis labels and legends are HTML laid over or beside it.

Plain strings are escaped everywhere; only `Html`, which the helpers here return, goes in as it is, so
a path or a model name from a log can never become markup.
"""

from __future__ import annotations

import html
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from labs.doctors.finding import size
from labs.errors import InputError


class Html(str):
    """A string that already is markup. Everything else is escaped."""


def escape(text: object) -> Html:
    return text if isinstance(text, Html) else Html(html.escape(str(text), quote=True))


def join(parts: Iterable[object], between: str = "") -> Html:
    return Html(between.join(escape(part) for part in parts))


def tag(name: str, *inside: object, **attributes: object) -> Html:
    """One element; `class_` is the class attribute, `_` in a name becomes `-`."""
    pairs = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{pairs}>{join(inside)}</{name}>")


def render(title: str, sections: Iterable[Html], subtitle: object = "", style: str = "") -> str:
    """The whole page. `sections` come from `section`; `subtitle` is one line under the title.

    style: further CSS, for what only one doctor's page holds.
    """
    body = join(
        [tag("h1", title), tag("p", subtitle, class_="lead") if subtitle else "", *sections]
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        # A report must open on a machine without network, and must not tell anyone that it was opened.
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">"
        f"<title>{escape(title)}</title><style>{STYLE}{style}</style></head>"
        f"<body><main>{body}</main></body></html>\n"
    )


def write(path: str | os.PathLike, text: str) -> None:
    """Write the page beside `path` and rename it there. Raises InputError where that fails."""
    target = Path(path)
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            os.chmod(temporary, 0o644)
            os.replace(temporary, target)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise InputError(
            f"The page {path} cannot be written: {error.strerror}.",
            "Name a file in a folder that exists and that you may write to.",
        ) from None


def section(title: str, *blocks: object) -> Html:
    return tag("section", tag("h2", title), *blocks)


def paragraph(*words: object, kind: str | None = None) -> Html:
    """A paragraph; `kind` is None, "good", "bad", "warn" or "note" (small print)."""
    return tag("p", *words, class_=kind)


def bullets(items: Iterable[object]) -> Html:
    return tag("ul", *(tag("li", item) for item in items))


def code(text: str) -> Html:
    """A block of text or of shell lines, kept as written; long lines scroll by themselves."""
    return tag("pre", tag("code", text))


def facts(pairs: Mapping[str, object] | Iterable[tuple[str, object]]) -> Html:
    """Names and values, in two columns."""
    rows = pairs.items() if isinstance(pairs, Mapping) else pairs
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in rows))


def table(header: Sequence[object], rows: Iterable[Sequence[object]], numbers: Sequence[int] = ()):
    """A table that scrolls inside itself on a phone; `numbers` are the columns set to the right."""

    def cells(name: str, row: Sequence[object]) -> Html:
        kinds = ("number" if i in numbers else None for i in range(len(row)))
        return tag("tr", *(tag(name, cell, class_=kind) for cell, kind in zip(row, kinds)))

    head = tag("thead", cells("th", header))
    return tag(
        "div",
        tag("table", head, tag("tbody", *(cells("td", row) for row in rows))),
        class_="scroll",
        tabindex=0,
    )


def figure(chart: Html, caption: object = "") -> Html:
    return tag("figure", chart, tag("figcaption", caption) if caption else "")


def breakdown(
    rows: Sequence[tuple[str, Sequence[tuple[str, float]]]],
    limits: Sequence[tuple[str, float]] = (),
    colours: Sequence[str] = (),
) -> Html:
    """Stacked horizontal bars, one a row, of (part, bytes); a part has one colour in all rows.

    `colours`: names in the order of their colours, to have the same ones in several charts.

    `limits` are (name, bytes) lines drawn through all bars, such as the memory of a GPU.
    """
    names = list(dict.fromkeys(name for _, parts in rows for name, value in parts if value > 0))
    colour = _colours(names, colours)
    width = max(
        [sum(value for _, value in parts) for _, parts in rows] + [v for _, v in limits] + [1]
    )
    bars = []
    for label, parts in rows:
        at, shapes = 0.0, []
        for name, value in parts:
            if value <= 0:
                continue
            shapes.append(
                f'<rect x="{1000 * at / width:.2f}" y="0" width="{1000 * value / width:.2f}" height="20" '
                f'class="f{colour[name]}"><title>{escape(f"{name}: {size(value)}")}</title></rect>'
            )
            at += value
        for name, value in limits:
            x = 1000 * value / width
            shapes.append(f'<line x1="{x:.2f}" x2="{x:.2f}" y1="0" y2="20" class="halo"/>')
            shapes.append(
                f'<line x1="{x:.2f}" x2="{x:.2f}" y1="0" y2="20" class="limit">'
                f"<title>{escape(f'{name}: {size(value)}')}</title></line>"
            )
        bars.append(tag("div", tag("span", label), tag("b", size(at)), class_="barlabel"))
        bars.append(
            Html(
                '<svg viewBox="0 0 1000 20" preserveAspectRatio="none" class="bar" role="img" '
                f'aria-label="{escape(f"{label}: {size(at)}")}">{"".join(shapes)}</svg>'
            )
        )
    largest = {name: max(dict(parts).get(name, 0) for _, parts in rows) for name in names}
    return tag("div", *bars, _legend([(n, colour[n], size(largest[n])) for n in names]))


def timeline(
    layers: Mapping[str, Sequence[float]],
    phases: Sequence[tuple[str, int, int]] = (),
    lines: Mapping[str, Sequence[float]] | None = None,
    limits: Sequence[tuple[str, float]] = (),
    samples: int = 240,
    of: int | None = None,
    colours: Sequence[str] = (),
) -> Html:
    """Bytes over the events of a step: `layers` stacked, `lines` on top of them, `limits` across.

    Every series has one value an event, in the same order. `phases` are (name, first, last) event
    numbers; `of` is the number of events that the series stand for, where they were thinned before.
    Long series are thinned to `samples` columns by keeping each column's highest moment, so that a
    peak one event wide is not lost.
    """
    lines = lines or {}
    length = len(next(iter(layers.values()), ()))
    if not length:
        return tag("p", "Nothing was allocated.", class_="note")
    totals = [sum(values) for values in zip(*layers.values())]
    of = of or length
    moments = _thin(totals, samples)
    top = max(
        [max(totals)] + [max(v) for v in lines.values()] + [value for _, value in limits]
    ) * 1.04 or 1.0  # fmt: skip
    step = 1000 / len(moments)

    shapes, base = [], [0.0] * len(moments)
    colour = _colours(list(layers), colours)
    for name, values in layers.items():
        upper = [b + values[m] for b, m in zip(base, moments)]
        up = [f"{x},{_y(v, top)}" for i, v in enumerate(upper) for x in _sides(i, step)]
        down = [
            f"{x},{_y(v, top)}"
            for i, v in reversed(list(enumerate(base)))
            for x in reversed(_sides(i, step))
        ]
        shapes.append(f'<polygon class="f{colour[name]}" points="{" ".join(up + down)}"/>')
        base = upper
    for values in lines.values():
        points = " ".join(
            f"{x},{_y(values[m], top)}" for i, m in enumerate(moments) for x in _sides(i, step)
        )
        shapes.append(f'<polyline class="line" points="{points}"/>')
    for name, value in limits:
        shapes.append(
            f'<line class="limit" x1="0" x2="1000" y1="{_y(value, top)}" y2="{_y(value, top)}">'
            f"<title>{escape(f'{name}: {size(value)}')}</title></line>"
        )
    for column, moment in enumerate(moments):
        phase = next((name for name, first, last in phases if first <= moment <= last), "")
        words = [
            f"{phase}, event {(moment + 1) * of // length:,} of {of:,}".lstrip(", "),
            f"total {size(totals[moment])}",
        ]
        words += [f"{name} {size(v[moment])}" for name, v in layers.items() if v[moment] > 0]
        words += [f"{name} {size(values[moment])}" for name, values in lines.items()]
        shapes.append(
            f'<rect class="hover" x="{column * step:.2f}" y="0" width="{step:.2f}" height="300">'
            f"<title>{escape(chr(10).join(words))}</title></rect>"
        )

    labels = [
        tag("span", size(value), class_="tick", style=f"top:{100 * (1 - value / top):.2f}%")
        for value in _ticks(top)
    ]
    labels += [
        tag("span", name, class_="tick limitname", style=f"top:{100 * (1 - value / top):.2f}%")
        for name, value in limits
    ]
    where = {moment: column for column, moment in enumerate(moments)}
    bands = []
    for name, first, last in phases:
        inside = [c for m, c in where.items() if first <= m <= last]
        if inside:
            bands.append(
                tag("span", name, title=name, style=f"flex:{(max(inside) - min(inside) + 1)} 1 0")
            )
    grid = "".join(
        f'<line class="grid" x1="0" x2="1000" y1="{_y(v, top)}" y2="{_y(v, top)}"/>'
        for v in _ticks(top)
    )
    chart = Html(
        '<svg viewBox="0 0 1000 300" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(f"memory over {of:,} events, peak {size(max(totals))}")}">'
        f"{grid}{''.join(shapes)}</svg>"
    )
    peak = totals.index(max(totals))
    shown = {n: v for n, v in layers.items() if max(v) > 0.001 * max(totals)}
    legend: list = [(n, colour[n], size(v[peak])) for n, v in shown.items()]
    legend += [(name, None, size(max(values))) for name, values in lines.items()]
    return tag(
        "div",
        tag("div", chart, *labels, class_="plot"),
        tag("div", *bands, class_="phases") if bands else "",
        _legend(legend),
    )


def _colours(names: Sequence[str], order: Sequence[str]) -> dict[str, int]:
    """A colour's number for each name: those of `order` by their place in it, the others after them."""
    known = {
        name: number for number, name in enumerate([*order, *(n for n in names if n not in order)])
    }
    return {name: known[name] % COLOURS for name in names}


def _thin(totals: Sequence[float], samples: int) -> list[int]:
    """At most `samples` event numbers: the highest of each stretch of equal length."""
    count = min(len(totals), samples)
    edges = [len(totals) * i // count for i in range(count + 1)]
    return [max(range(a, b), key=totals.__getitem__) for a, b in zip(edges, edges[1:])]


def _y(value: float, top: float) -> str:
    return f"{300 * (1 - value / top):.2f}"


def _sides(column: int, step: float) -> tuple[str, str]:
    """Memory holds its level until the next event: a column is a flat step, not a point."""
    return f"{column * step:.2f}", f"{(column + 1) * step:.2f}"


def _ticks(top: float) -> list[float]:
    """About four round values between 0 and `top`: 1, 2 or 5 times a power of ten of a unit."""
    unit = next((u for u in (2**30, 2**20, 2**10) if top >= u), 1)
    step = 10.0**-1
    for factor in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000):
        if top / (step * factor * unit) <= 5:
            step *= factor
            break
    else:
        step = 1000.0
    return [step * unit * i for i in range(1, int(top / (step * unit)) + 1)]


def _legend(entries: Sequence[tuple[str, int | None, str]]) -> Html:
    items = []
    for name, colour, value in entries:
        swatch = tag("i", class_=f"b{colour}" if colour is not None else "bline")
        items.append(tag("li", swatch, tag("span", name), " ", tag("b", value)))
    return tag("ul", *items, class_="legend")


# Okabe and Ito's colours, which people with colour blindness tell apart, with two greys.
_LIGHT = "#0072b2 #e69f00 #009e73 #cc79a7 #56b4e9 #d55e00 #8a8a00 #7a5fb5 #8c8c8c #b9b9b9".split()
_DARK = "#4aa3df #f0b43c #2fc39b #e09ac2 #8fd0f5 #f0804a #c9c23c #a48fdb #9a9a9a #6b6b6b".split()
COLOURS = len(_LIGHT)


def _variables(colours: Sequence[str]) -> str:
    return "".join(f"--c{i}:{colour};" for i, colour in enumerate(colours))


STYLE = (
    ":root{--paper:#fff;--ink:#1c1c1e;--soft:#5f6368;--rule:#d9dadd;--panel:#f5f6f8;--good:#127a3e;"
    "--bad:#b3261e;--warn:#8a5a00;--link:#0b57d0;" + _variables(_LIGHT) + "}"
    "@media(prefers-color-scheme:dark){:root{--paper:#16181c;--ink:#e7e8ea;--soft:#a3a7ad;"
    "--rule:#383b41;--panel:#202329;--good:#6fd195;--bad:#ff8a80;--warn:#f1c26b;--link:#8ab4f8;"
    + _variables(_DARK)
    + "}}"
    """
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);
 font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:60rem;margin:0 auto;padding:1.5rem 1rem 4rem}
h1{font-size:1.5rem;line-height:1.25;margin:.2rem 0 .4rem;overflow-wrap:anywhere}
h2{font-size:1.1rem;margin:2.2rem 0 .6rem;padding-top:.8rem;border-top:1px solid var(--rule)}
.lead{font-size:1.1rem;margin:.2rem 0 1rem;color:var(--soft);overflow-wrap:anywhere}
p,li{overflow-wrap:anywhere}
p{margin:.5rem 0}
.answer{font-size:1.25rem}
.note{color:var(--soft);font-size:.9rem}.good{color:var(--good)}.bad{color:var(--bad)}
.warn{color:var(--warn)}
a{color:var(--link)}
ul{padding-left:1.2rem;margin:.5rem 0}
pre{background:var(--panel);border:1px solid var(--rule);border-radius:6px;padding:.7rem .8rem;
 overflow-x:auto;font-size:.85rem;line-height:1.45}
code{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
dl{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,17rem),1fr));gap:.3rem 1.6rem;
 margin:.6rem 0}
dl div{display:flex;justify-content:space-between;gap:1rem;border-bottom:1px solid var(--rule);
 padding:.15rem 0}
dt{color:var(--soft);min-width:0;overflow-wrap:anywhere}dd{margin:0;text-align:right;font-variant-numeric:tabular-nums;
 overflow-wrap:anywhere;min-width:0}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.93rem}
th,td{text-align:left;padding:.35rem .7rem .35rem 0;border-bottom:1px solid var(--rule);
 vertical-align:top}
th{color:var(--soft);font-weight:600}
.number{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
figure{margin:1rem 0}
figcaption{color:var(--soft);font-size:.9rem;margin-top:.4rem}
.plot{position:relative;height:clamp(200px,42vw,320px);border-bottom:1px solid var(--ink)}
.plot svg{width:100%;height:100%;display:block}
.tick{position:absolute;left:0;transform:translateY(-100%);font-size:.75rem;color:var(--soft);
 pointer-events:none;background:color-mix(in srgb,var(--paper) 70%,transparent);padding:0 .2rem}
.limitname{left:auto;right:0;color:var(--bad)}
.phases{display:flex;font-size:.75rem;color:var(--soft);gap:1px}
.phases span{min-width:0;overflow:hidden;text-overflow:ellipsis;white-space:nowrap;
 background:var(--panel);padding:.1rem .25rem;text-align:center}
.barlabel{display:flex;justify-content:space-between;gap:1rem;font-size:.9rem;margin-top:.6rem}
.barlabel b,.legend b{font-weight:600;white-space:nowrap;font-variant-numeric:tabular-nums}
.bar{width:100%;height:1.5rem;display:block;background:var(--panel)}
.legend{list-style:none;padding:0;margin:.6rem 0;display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;
 font-size:.85rem}
.legend li{overflow-wrap:anywhere;min-width:0}
.legend i{display:inline-block;width:.8em;height:.8em;border-radius:2px;margin-right:.4em}
.bline{border-top:2px solid var(--ink);height:0!important;vertical-align:middle}
.grid{stroke:var(--rule);stroke-width:1;vector-effect:non-scaling-stroke}
.limit{stroke:var(--bad);stroke-width:1.5;stroke-dasharray:5 4;vector-effect:non-scaling-stroke}
.halo{stroke:var(--paper);stroke-width:4;vector-effect:non-scaling-stroke}
.line{fill:none;stroke:var(--ink);stroke-width:1.3;vector-effect:non-scaling-stroke}
.hover{fill:transparent}.hover:hover{fill:var(--ink);fill-opacity:.12}
"""
    + "".join(f".f{i}{{fill:var(--c{i})}}.b{i}{{background:var(--c{i})}}" for i in range(COLOURS))
    + "@media print{h2{break-after:avoid}.hover{display:none}}"
)
