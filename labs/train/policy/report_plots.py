"""A diary's curves as inline SVG that takes the page's colours, light or dark. Chapter 5.

Words and numbers stand beside the SVG as HTML, where a phone does not shrink them. Long runs are
thinned to their means; a bold line is the moving average over a tenth of the entries.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from labs.train.policy.rules import CLIPPED, MISMATCH, MISMATCH_MAX, NO_SIGNAL
from labs.train.policy.series import Series, names, series, short
from labs.train.policy.view import setting

WIDTH, HEIGHT = 1000, 300
TINY = 1e-30  # what is smaller is drawn as 0
POINTS, COLUMNS, COLOURS = 400, 80, 8  # drawn points a line; places to hover over; of the page
SMOOTH_FROM = 30  # entries from which the noise hides the line


@dataclass(frozen=True)
class Panel:
    """What one plot shows. names: quantities, or one prefix such as "task/". spread: a band around
    the first. limit: a dashed line, where the curve comes near it; a string is a run's setting."""

    title: str
    names: tuple[str, ...]
    note: str = ""
    spread: str | None = None
    limit: float | str | None = None
    bounds: tuple[float, float] | None = None  # shown whatever the values


SHARE = (0.0, 1.0)
PANELS = (
    Panel("Reward", ("reward",), "mean, with one standard deviation of single answers", "reward_std"),
    Panel("Parts of the reward", ("rewards/",), "mean of each"),
    Panel("Reward by task", ("task/",), "mean over the prompts of each"),
    Panel("KL to the reference", ("kl",), "nats a token"),
    Panel("KL of a whole answer", ("kl_per_sequence",), "nats", limit="kl_target"),
    Panel("KL coefficient", ("kl_coef",)),
    Panel("Entropy", ("entropy",), "nats a token"),
    Panel("Clip fraction", ("clip_fraction",), "share of tokens beyond the clip", limit=CLIPPED),
    Panel("Approximate KL of a step", ("approx_kl",), "from the rollout's policy, nats a token"),
    Panel("Losses", ("loss", "policy_loss", "value_loss")),
    Panel("Explained variance of the value head", ("value_explained_variance",), limit=0.0),
    Panel("Response length", ("response_length",), "tokens", limit="max_new_tokens"),
    Panel("Share finished", ("finished",), "ended by themselves", bounds=SHARE),
    Panel("Groups without a signal", ("no_signal",), "share", limit=NO_SIGNAL, bounds=SHARE),
    Panel("Hallucination rate", ("hallucination_rate",), "share of captions"),
    Panel("Rollout against trainer", ("mismatch",), "mean difference, nats", limit=MISMATCH),
    Panel("Rollout against trainer, worst", ("mismatch_max",), "nats", limit=MISMATCH_MAX),
    Panel("Gradient norm", ("grad_norm",)),
    Panel("Learning rate", ("learning_rate",)),
    Panel("Time of a step", ("seconds_rollout", "seconds_score", "seconds_update"), "seconds"),
    Panel("Answers a second", ("completions_per_second",)),
    Panel("Tokens a second", ("tokens_per_second",)),
)  # fmt: skip


def plots(
    entries: Sequence[Mapping[str, Any]], run: Mapping[str, Any]
) -> tuple[list[Markup], list[str]]:
    """The figures that can be drawn, and the titles of those whose quantities are missing."""
    drawn, missing = [], []
    for panel in PANELS:
        wanted = [
            name
            for key in panel.names
            for name in (names(entries, key) if key.endswith("/") else [key])
        ]
        lines = [found for name in wanted if len(found := series(entries, name)) or found.broken]
        if lines:
            drawn.append(_figure(panel, lines, entries, run))
        else:
            missing.append(panel.title)
    return drawn, missing


def _figure(panel: Panel, lines: list[Series], entries, run) -> Markup:
    band = _band(lines[0], series(entries, panel.spread)) if panel.spread else None
    values = [line.values for line in lines] + (list(band[1:]) if band else [])
    values.append(np.array(panel.bounds or (), np.float64))
    limit = setting(run, panel.limit) if isinstance(panel.limit, str) else panel.limit
    usable = isinstance(limit, int | float) and not isinstance(limit, bool) and abs(limit) < 1e9
    highest = max((float(v.max()) for v in values if len(v)), default=0.0)
    if usable and highest >= 0.5 * limit:
        values.append(np.array([limit], np.float64))
    else:
        limit = None
    scale = Scale(lines, values)

    shapes = [
        Markup('<line class="grid" x1="0" x2="1000" y1="{0}" y2="{0}"/>').format(scale.y(tick))
        for tick in scale.ticks
    ]
    if band:
        steps, low, high = band
        edge = _points(scale, steps, high) + _points(scale, steps[::-1], low[::-1])
        shapes.append(Markup('<polygon class="band" points="{}"/>').format(" ".join(edge)))
    if limit is not None:
        shapes.append(
            Markup('<line class="limit" x1="0" x2="1000" y1="{0}" y2="{0}"><title>{1}</title></line>')
            .format(scale.y(limit), f"limit {short(limit)}")
        )  # fmt: skip
    for place, line in enumerate(lines):
        shapes += _line(scale, line, place % COLOURS)
    shapes += _hovers(scale, lines)

    told = "; ".join(f"{line.name} {short(line.first)} to {short(line.last)}" for line in lines if len(line))  # fmt: skip
    svg = Markup(
        '<svg viewBox="0 0 1000 300" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>'
    ).format(f"{panel.title}: {told}", Markup("").join(shapes))
    labels = Markup("").join(
        Markup('<span class="tick" style="top:{}%">{}</span>').format(
            f"{scale.y(tick) / HEIGHT * 100:.2f}", short(tick)
        )
        for tick in scale.ticks
    )
    legend = Markup("").join(
        Markup('<li><i class="b{}"></i>{} <b>{}</b></li>').format(
            place % COLOURS, line.name, short(line.last) if len(line) else "NaN"
        )
        for place, line in enumerate(lines)
    )
    note = Markup(" <small>{}</small>").format(panel.note) if panel.note else ""
    return Markup(
        '<figure><figcaption>{}{}</figcaption><div class="plot">{}{}</div>'
        '<div class="steps"><span>step {}</span><span>{}</span></div>'
        '<ul class="legend">{}</ul></figure>'
    ).format(
        panel.title, note, svg, labels, f"{scale.first:,}", f"{scale.last:,}", legend
    )  # fmt: skip


class Scale:
    """Steps and values to the SVG's units, with about four round values to mark."""

    def __init__(self, lines: list[Series], values: list[np.ndarray]):
        steps = [
            int(s) for line in lines for s in (*line.steps[:1], *line.steps[-1:], *line.broken)
        ]
        self.first, self.last = min(steps), max(steps)
        every = np.concatenate(values)
        low, high = (float(every.min()), float(every.max())) if len(every) else (0.0, 1.0)
        size = max(abs(low), abs(high))
        if high - low <= max(1e-9 * size, TINY):  # a flat line goes through the middle
            pad = 0.5 * size if size > TINY else 0.5
            low, high = low - pad, high + pad
        rough = (high - low) / 4
        power = 10.0 ** np.floor(np.log10(rough))
        step = float(power * next(f for f in (1, 2, 5, 10, 20) if f * power >= rough))
        margin = 0.04 * (high - low)
        self.low, self.high = low - margin, high + margin
        start = int(np.ceil(self.low / step))
        found = [start * step + i * step for i in range(8)]
        self.ticks = [0.0 if abs(t) < step / 2 else t for t in found if t <= self.high]

    def x(self, step: float) -> float:
        return round(WIDTH * (step - self.first) / max(self.last - self.first, 1), 1)

    def y(self, value: float) -> float:
        return round(HEIGHT * (1 - (value - self.low) / (self.high - self.low)), 1)


def _band(line: Series, spread: Series) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Steps, lower and upper edge where both are known; smoothed as the line is."""
    steps, mine, other = np.intersect1d(line.steps, spread.steps, return_indices=True)
    if len(steps) < 2:
        return None
    middle, width = line.values[mine], np.abs(spread.values[other])
    if len(steps) > SMOOTH_FROM:
        middle, width = smooth(middle), smooth(width)
    steps, low, high = thin(steps, middle - width, middle + width)
    return steps, low, high


def smooth(values: np.ndarray) -> np.ndarray:
    """The centred moving average over a tenth of the values, narrower at the ends."""
    half = max(1, len(values) // 20)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    reach = np.minimum(np.minimum(places, len(values) - 1 - places), half)
    return (sums[places + reach + 1] - sums[places - reach]) / (2 * reach + 1)


def thin(*columns: np.ndarray) -> tuple[np.ndarray, ...]:
    """At most POINTS of each column: the means of runs of neighbours."""
    if len(columns[0]) <= POINTS:
        return columns
    edges = np.linspace(0, len(columns[0]), POINTS + 1).astype(int)[:-1]
    counts = np.diff([*edges, len(columns[0])])
    return tuple(np.add.reduceat(column.astype(np.float64), edges) / counts for column in columns)


def _points(scale: Scale, steps: np.ndarray, values: np.ndarray) -> list[str]:
    return [f"{scale.x(float(s))},{scale.y(float(v))}" for s, v in zip(steps, values, strict=True)]


def _line(scale: Scale, line: Series, colour: int) -> list[Markup]:
    """The raw values, the moving average over them, and a mark where the value was NaN or infinite."""
    shapes = []
    stroke = Markup('<polyline class="{} s{}" points="{}"/>')
    if len(line) == 1:  # a line needs two ends: a short dash for a single value
        x, y = scale.x(float(line.steps[0])), scale.y(float(line.values[0]))
        shapes.append(stroke.format("line", colour, f"{x - 8},{y} {x + 8},{y}"))
    elif len(line):
        noisy = len(line) > SMOOTH_FROM
        raw = thin(line.steps, line.values)
        shapes.append(
            stroke.format("raw" if noisy else "line", colour, " ".join(_points(scale, *raw)))
        )
        if noisy:
            calm = thin(line.steps, smooth(line.values))
            shapes.append(stroke.format("line", colour, " ".join(_points(scale, *calm))))
    mark = Markup(
        '<line class="broken" x1="{0}" x2="{0}" y1="0" y2="300"><title>{1}</title></line>'
    )
    for step in line.broken[:COLUMNS]:
        shapes.append(mark.format(scale.x(step), f"{line.name} is not finite at step {step}"))
    return shapes


def _hovers(scale: Scale, lines: list[Series]) -> list[Markup]:
    """Invisible columns that tell the values nearest to them."""
    steps = np.unique(np.concatenate([line.steps for line in lines]))
    if not len(steps):
        return []
    count = min(COLUMNS, len(steps))
    picked = steps[np.unique(np.linspace(0, len(steps) - 1, count).round().astype(int))]
    width = WIDTH / count
    shapes = []
    for step in picked:
        told = [f"step {step}"]
        for line in lines:
            place = int(np.searchsorted(line.steps, step))
            if place < len(line) and line.steps[place] == step:
                told.append(f"{line.name} {short(float(line.values[place]))}")
        shapes.append(
            Markup('<rect class="hover" x="{}" y="0" width="{:.1f}" height="300"><title>{}</title></rect>')
            .format(round(scale.x(float(step)) - width / 2, 1), width, escape("\n".join(told)))
        )  # fmt: skip
    return shapes
