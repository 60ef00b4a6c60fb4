"""One quantity of a diary over its steps: reading it, its trend, its first, last and best. Chapter 5."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.special import stdtrit

HUGE = 1e30  # what is larger has diverged, and its square would overflow
NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
TREND = 12  # entries from which first and last quarter have three values each
CONFIDENCE = 0.995  # of a trend, one side

# The order of tables, and which way is better: 1 up, -1 down, 0 neither.
QUANTITIES = {
    "reward": 1, "reward_std": 0, "rewards/": 1, "task/": 1, "hallucination_rate": -1,
    "objects_invented": -1, "objects_named": 1,
    "kl": 0, "kl_per_sequence": 0, "kl_coef": 0, "kl_loss": 0, "entropy": 0, "loss": 0, "policy_loss": 0,
    "clip_fraction": 0, "approx_kl": 0, "value_loss": 0, "value_clip_fraction": 0,
    "value_explained_variance": 1,
    "response_length": 0, "finished": 1, "no_signal": -1, "mismatch": -1, "mismatch_max": -1,
    "learning_rate": 0, "grad_norm": 0, "updates": 0, "stopped_early": 0, "skipped/": 0,
    "seconds_rollout": 0, "seconds_score": 0, "seconds_update": 0, "completions_per_second": 1,
    "tokens_per_second": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Series:
    """The finite values of one quantity, by rising step, and the steps where it was NaN or infinite."""

    name: str
    steps: np.ndarray  # [N] int64
    values: np.ndarray  # [N] float64
    broken: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def window(self) -> int:
        """How many entries "first" and "last" are the mean of: a tenth, at least three of six."""
        return max(3, len(self) // 10) if len(self) >= 6 else min(1, len(self))

    @property
    def first(self) -> float:
        return float(self.values[: self.window].mean())

    @property
    def last(self) -> float:
        return float(self.values[-self.window :].mean())


@dataclass(frozen=True)
class Change:
    """The first quarter's mean against the last's.

    rises, falls: the difference is beyond Student's 99.5 % quantile of its standard error (Welch),
    with a quarter's own degrees of freedom. Neighbouring steps are alike, so a drift passes easily:
    whoever asks wants a size as well.
    """

    first: float
    second: float  # the second quarter's mean
    last: float
    rises: bool
    falls: bool


@dataclass(frozen=True)
class Quantity:
    """A line of the summary. best and best_step are None where no direction is the better one."""

    name: str
    first: float
    last: float
    low: float
    high: float
    best: float | None
    best_step: int | None
    count: int
    broken: int


def number(value: Any) -> float | None:
    """A diary's value as a float: "NaN" and "Infinity" mean what they say; None for what is no number."""
    if isinstance(value, str):
        return NON_FINITE.get(value)
    if value is None or isinstance(value, bytes | bytearray):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf
    except (TypeError, ValueError, RuntimeError):  # RuntimeError: a tensor of several values
        return None


def series(entries: Sequence[Mapping[str, Any]], name: str) -> Series:
    """The quantity `name` of all entries that have it. An entry without a step counts as its number."""
    steps, values, broken = [], [], []
    for place, entry in enumerate(entries, 1):
        value = number(entry.get(name))
        if value is None:
            continue
        step = entry.get("step")
        step = step if isinstance(step, int) and 0 <= step < 2**53 else place
        if abs(value) <= HUGE:  # False for NaN
            steps.append(step)
            values.append(value)
        else:
            broken.append(step)
    order = np.argsort(np.array(steps, np.int64), kind="stable")
    return Series(
        name, np.array(steps, np.int64)[order], np.array(values, np.float64)[order], sorted(broken)
    )


def change(found: Series) -> Change | None:
    """How a quantity moved over the run; None with fewer than 12 entries."""
    values = found.values
    if len(values) < TREND:
        return None
    quarter = len(values) // 4
    first, second, last = values[:quarter], values[quarter : 2 * quarter], values[-quarter:]
    difference = last.mean() - first.mean()
    error = math.sqrt((first.var(ddof=1) + last.var(ddof=1)) / quarter)
    # Equal numbers may differ in the last bit of their means.
    beyond = stdtrit(quarter - 1, CONFIDENCE) * error + 1e-12 * np.abs(values).max()
    return Change(
        float(first.mean()), float(second.mean()), float(last.mean()),
        bool(difference > beyond), bool(difference < -beyond),
    )  # fmt: skip


def names(entries: Sequence[Mapping[str, Any]], prefix: str = "") -> list[str]:
    """The quantities that any entry has, in the order of `QUANTITIES`, unknown ones after them."""
    known = {key: place for place, key in enumerate(QUANTITIES)}
    found = {
        key
        for entry in entries
        for key, value in entry.items()
        if key not in ("step", "epoch") and key.startswith(prefix) and number(value) is not None
    }
    return sorted(found, key=lambda key: (known.get(_kind(key), len(known)), key))


def summary(entries: Sequence[Mapping[str, Any]]) -> list[Quantity]:
    """First, last, lowest, highest and best of every quantity. First and last are means: `Series.window`."""
    lines = []
    for name in names(entries):
        found = series(entries, name)
        if not len(found):
            nan = math.nan
            lines.append(Quantity(name, nan, nan, nan, nan, None, None, 0, len(found.broken)))
            continue
        direction = QUANTITIES.get(_kind(name), 0)
        place = int((direction * found.values).argmax())
        lines.append(
            Quantity(
                name, found.first, found.last, float(found.values.min()), float(found.values.max()),
                float(found.values[place]) if direction else None,
                int(found.steps[place]) if direction else None,
                len(found), len(found.broken),
            )
        )  # fmt: skip
    return lines


def _kind(name: str) -> str:
    """ "task/count" -> "task/": the key of `QUANTITIES` that a name belongs to."""
    head, slash, _ = name.partition("/")
    return head + slash


def short(value: float | None) -> str:
    """A number for a person: four digits, thousands set apart."""
    if value is None:
        return ""
    if not math.isfinite(value):
        return {True: "NaN"}.get(math.isnan(value), "infinite")
    if value == 0 or 1e-4 <= abs(value) < 1e7:
        digits = 0 if abs(value) >= 1000 else 3 - math.floor(math.log10(abs(value) or 1.0))
        text = f"{value:,.{min(max(digits, 0), 6)}f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    return f"{value:.3g}"
