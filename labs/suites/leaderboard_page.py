"""A leaderboard as one static HTML file: light and dark, phone width, no outside requests.

The page's policy lets it load nothing, and run no script but the one below, by its digest. Without
scripts it is whole; the script sorts the table by a column whose head is pressed.
"""

import base64
import hashlib
import html
import os

from labs.formats.files import atomic_write
from labs.suites.leaderboard import CAPTION, Board, Standing, percent, percents

COLUMNS = ("rank", "model", "rating", "95 %", "score", "95 %", "won", "tied", "lost", "unparsed")

SCRIPT = """
for (const head of document.querySelectorAll("th button")) head.onclick = () => {
  const cell = head.parentElement, column = cell.cellIndex, body = cell.closest("table").tBodies[0];
  const up = cell.getAttribute("aria-sort") !== "ascending";
  for (const other of cell.parentElement.cells) other.removeAttribute("aria-sort");
  cell.setAttribute("aria-sort", up ? "ascending" : "descending");
  const key = row => row.cells[column].dataset.key;
  const order = (a, b) => isNaN(key(a)) ? key(a).localeCompare(key(b)) : key(a) - key(b);
  body.append(...[...body.rows].sort((a, b) => up ? order(a, b) : order(b, a)));
};
"""

STYLE = """
:root{color-scheme:light dark;--paper:#fff;--ink:#1c1c1e;--soft:#5f6368;--rule:#d9dadd;--panel:#f5f6f8;
--mark:#0072b2}
@media(prefers-color-scheme:dark){:root{--paper:#16181c;--ink:#e7e8ea;--soft:#a3a7ad;--rule:#383b41;
--panel:#202329;--mark:#4aa3df}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:60rem;margin:0 auto;padding:1.5rem 1rem 4rem}
h1{font-size:1.5rem;line-height:1.25;margin:.2rem 0 .4rem;overflow-wrap:anywhere}
p{margin:.5rem 0;color:var(--soft);overflow-wrap:anywhere}
.chart{margin:1.5rem 0}
.line{display:grid;grid-template-columns:minmax(7rem,14rem) 1fr 3.2rem;gap:0 .8rem;align-items:center;
border-top:1px solid var(--rule);padding:.45rem 0}
.name{overflow-wrap:anywhere;line-height:1.25}
@media(max-width:34rem){.line{grid-template-columns:1fr 3.2rem}.name{grid-column:1/-1}}
.name b{display:inline-block;min-width:2.4em;font-weight:600;color:var(--soft)}
.track{position:relative;height:1.4rem;background:var(--panel);border-radius:3px}
.track i{position:absolute;top:50%;height:3px;margin-top:-1.5px;background:var(--mark);border-radius:2px}
.track u{position:absolute;top:50%;width:11px;height:11px;margin:-5.5px;border-radius:50%;background:var(--mark)}
.value,td,th{font-variant-numeric:tabular-nums}
.value{text-align:right}
.ends{display:flex;justify-content:space-between;font-size:.8rem;color:var(--soft)}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.93rem}
td,th{text-align:right;padding:.35rem .5rem;border-bottom:1px solid var(--rule);white-space:nowrap}
td:nth-child(2),th:nth-child(2){text-align:left;white-space:normal;min-width:8rem;overflow-wrap:anywhere}
th button{font:inherit;font-weight:600;color:var(--soft);background:none;border:0;padding:0;cursor:pointer}
th[aria-sort]{box-shadow:inset 0 -2px var(--mark)}
"""


def write_html(board: Board, path: str | os.PathLike) -> None:
    """Write the page to `path`, whole or not at all. Chapter 7."""
    with atomic_write(path) as file:
        file.write(page(board))


def page(board: Board) -> str:
    """The page as text. Names of models and suites are escaped: nothing in them becomes markup."""
    title = f"Leaderboard: {', '.join(board.suites)}"
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    notes = "".join(f"<p>{_escape(note)}</p>" for note in (CAPTION, *board.notes))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>{_escape(title)}</title><style>{STYLE}</style></head><body><main>"
        f"<h1>{_escape(title)}</h1><p>{len(board.standings)} models, {board.questions:,} questions. "
        f"Bradley-Terry ratings with 95 % intervals; 400 points are odds of ten to one.</p>"
        f"{_chart(board)}{_table(board)}{notes}</main><script>{SCRIPT}</script></body></html>\n"
    )


def _chart(board: Board) -> str:
    low = min(min(s.low, s.rating) for s in board.standings)
    high = max(max(s.high, s.rating) for s in board.standings)
    width = (high - low) or 1.0

    def at(value: float) -> float:
        return 2 + 96 * (value - low) / width

    lines = []
    for s in board.standings:
        told = f"{s.rating:.0f}, 95 % interval {s.low:.0f} to {s.high:.0f}"
        lines.append(
            f'<div class="line"><span class="name"><b>{s.rank}</b> {_escape(s.model)}</span>'
            f'<span class="track" role="img" aria-label="{told}" title="{told}">'
            f'<i style="left:{at(s.low):.2f}%;width:{at(s.high) - at(s.low):.2f}%"></i>'
            f'<u style="left:{at(s.rating):.2f}%"></u></span>'
            f'<span class="value">{s.rating:.0f}</span></div>'
        )
    ends = f'<span class="name"></span><span class="ends"><span>{low:.0f}</span><span>{high:.0f}</span></span><span></span>'
    return f'<div class="chart">{"".join(lines)}<div class="line">{ends}</div></div>'


def _table(board: Board) -> str:
    heads = "".join(f'<th scope="col"><button type="button">{name}</button></th>' for name in COLUMNS)  # fmt: skip
    body = "".join(f"<tr>{_cells(s)}</tr>" for s in board.standings)
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr>{heads}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _cells(s: Standing) -> str:
    shown = [
        (s.ranks[0] + s.ranks[1] / 1000, s.rank), (s.model, s.model), (s.rating, f"{s.rating:.0f}"),
        (s.low, f"{s.low:.0f} to {s.high:.0f}"), (s.score.value, percent(s.score.value)),
        (s.score.low or 0.0, percents(s.score)),
        (s.wins, f"{s.wins:,}"), (s.ties, f"{s.ties:,}"), (s.losses, f"{s.losses:,}"),
        (s.unparsed, percent(s.unparsed)),
    ]  # fmt: skip
    return "".join(f'<td data-key="{_escape(key)}">{_escape(text)}</td>' for key, text in shown)


def _escape(value: object) -> str:
    return html.escape(str(value), quote=True)
