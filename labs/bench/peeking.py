"""What peeking does to an A/B test, and what an always-valid test does about it.

Simulated experiments, visitors arriving in pairs, one an arm. In the A/A experiments nothing differs, so
whatever is found is a false alarm; the test is looked at after every pair and the experiment stopped at
the first p-value of 0.05 or less. Then the same with a real effect: how often it is found and after how
many visitors, beside the fixed design (one look at the planned sample size) and a group-sequential one
(five looks, O'Brien-Fleming spending).

Every experiment runs to twice the planned sample size: the always-valid test may go on, the fixed and the
group-sequential designs may not. The naive rates at few looks are held against theory, the integral of
Armitage, McPherson and Rowe 1969.
"""

import numpy as np
from scipy import special

from labs.bench.children import Progress
from labs.evaluation.intervals import wilson_ci
from labs.evaluation.online.design import sample_size
from labs.evaluation.online.group_sequential import crossing_probabilities, spending_bounds
from labs.evaluation.online.sequential import always_valid_p, mixture_scale, naive_p

ALPHA, POWER = 0.05, 0.8
# (baseline, effect planned for): the click rate that Qilin reports, and a rare event.
DESIGNS = ((0.21, 0.01), (0.01, 0.002))
EFFECTS = (1.0, 2.0)  # times the effect planned for, in the first design
LOOKS = 5  # of the group-sequential design, and of the naive test beside it
EXPERIMENTS, WITH_EFFECT = 4_000, 1_000
QUICK = 0.05, 0.03  # its baseline and effect: a shorter experiment
BLOCK = 2**20  # visitors of an arm that are simulated at once
SEED = 0
CODE = (
    "labs/bench/peeking.py",
    "labs/evaluation/intervals.py",
    "labs/evaluation/online/checks.py",
    "labs/evaluation/online/design.py",
    "labs/evaluation/online/group_sequential.py",
    "labs/evaluation/online/sequential.py",
)
# What stops an experiment. "fixed" and "group" end at the planned sample size n.
WAYS = {
    "naive, every visitor": "naive z test, after every pair of visitors",
    "naive, every 100": "naive z test, after every 100 pairs",
    "naive, 5 looks": "naive z test, five looks up to n",
    "fixed": "naive z test, once, at n",
    "group": "group sequential, the same five looks",
    "always valid": "always-valid test, after every pair",
}


def run(repeats: int = 1, quick: bool = False, progress: Progress | None = None) -> dict:
    """Simulates all of it; `repeats` times as many experiments. Returns

        {"setting": {...},
         "false_alarms": [{"baseline", "effect", "n", "tau", "experiments",
                           "ways": {way: {"at_n": share, "at_2n": share}}}, …],
         "effects": [{"effect", "n", "tau", "experiments", "ways": {way: {"at_n", "at_2n", "visitors"}}}, …],
         "theory": {"naive, 5 looks": rate, "group": {"power": x, "visitors": x}}}

    A share is {"count", "share", "low", "high"} (95 % Wilson). at_n: stopped by the planned number of
    visitors an arm, n; at_2n: by twice that, null for the designs that end at n. visitors: an arm, on
    average, until the way stops or, at the latest, n (fixed, group) or 2n (the others).
    """
    say = progress or (lambda _: None)
    designs = (QUICK,) if quick else DESIGNS
    null, real = (400, 200) if quick else (EXPERIMENTS, WITH_EFFECT)
    null, real = null * repeats, real * repeats
    jobs = [(design, 0.0, null) for design in designs]
    jobs += [(designs[0], times, real) for times in EFFECTS]
    false_alarms, effects = [], []
    for number, ((baseline, effect), times, experiments) in enumerate(jobs):
        n = sample_size(baseline, effect, alpha=ALPHA, power=POWER)
        tau = mixture_scale(n, baseline, alpha=ALPHA)
        what = f"{experiments:,} experiments of up to {2 * n:,} pairs at {baseline:.0%}"
        say(f"{what}, {'nothing differs' if not times else f'{times * effect:+.1%}'}")
        rng = np.random.default_rng([SEED, number])
        stops = _stops(rng, experiments, n, baseline, baseline + times * effect, tau)
        row = {"n": n, "tau": tau, "experiments": experiments}
        ways = {way: _summary(way, stop, n, bool(times)) for way, stop in stops.items()}
        if times:
            effects.append({"effect": times * effect, **row, "ways": ways})
        else:
            false_alarms.append({"baseline": baseline, "effect": effect, **row, "ways": ways})
    return {
        "setting": {"alpha": ALPHA, "power": POWER, "looks": LOOKS, "repeats": repeats, "quick": quick},
        "false_alarms": false_alarms,
        "effects": effects,
        "theory": _theory(*designs[0]),
    }  # fmt: skip


def _stops(
    rng: np.random.Generator, experiments: int, n: int, rate_a: float, rate_b: float, tau: float
) -> dict[str, np.ndarray]:
    """After how many pairs each way stops each experiment; 0 where it never does."""
    seen = np.arange(1, 2 * n + 1)
    five = _five(n)
    limits = 2 * special.ndtr(-spending_bounds(five / n, alpha=ALPHA))
    found = {way: [] for way in WAYS}
    block = max(1, BLOCK // len(seen))
    for start in range(0, experiments, block):
        shape = min(block, experiments - start), len(seen)
        arms = [
            (rng.random(shape, dtype=np.float32) < rate).cumsum(axis=1, dtype=np.int32)
            for rate in (rate_a, rate_b)
        ]
        naive = naive_p(arms[0], seen, arms[1], seen)
        valid = always_valid_p(arms[0], seen, arms[1], seen, tau=tau)
        at_five = naive[:, five - 1]
        below = {
            "naive, every visitor": (naive <= ALPHA, seen),
            "naive, every 100": (naive[:, 99::100] <= ALPHA, seen[99::100]),
            "naive, 5 looks": (at_five <= ALPHA, five),
            "fixed": (at_five[:, -1:] <= ALPHA, five[-1:]),
            "group": (at_five <= limits, five),
            "always valid": (valid <= ALPHA, seen),
        }
        for way, (stop, looks) in below.items():
            found[way].append(np.where(stop.any(axis=1), looks[stop.argmax(axis=1)], 0))
    return {way: np.concatenate(parts) for way, parts in found.items()}


def _five(n: int) -> np.ndarray:
    return np.ceil(n * np.arange(1, LOOKS + 1) / LOOKS).astype(int)


def _summary(way: str, stop: np.ndarray, n: int, real: bool) -> dict:
    longest = 2 * n if way.startswith(("naive, every", "always")) else n
    result = {"at_n": _share((stop > 0) & (stop <= n))}
    result["at_2n"] = _share(stop > 0) if longest > n else None
    if real:
        result["visitors"] = float(np.where(stop > 0, stop, longest).mean())
    return result


def _share(hits: np.ndarray) -> dict:
    count = int(hits.sum())
    low, high = wilson_ci(count, len(hits))
    return {"count": count, "share": count / len(hits), "low": low, "high": high}


def _theory(baseline: float, effect: float) -> dict:
    """What normal theory says of the designs with few looks."""
    n = sample_size(baseline, effect, alpha=ALPHA, power=POWER)
    looks = _five(n) / n
    changed = baseline + effect
    drift = effect / np.sqrt((baseline * (1 - baseline) + changed * (1 - changed)) / n)
    bounds = spending_bounds(looks, alpha=ALPHA)
    stops = crossing_probabilities(bounds, looks, drift=float(drift))
    visitors = n * (stops @ looks + 1 - stops.sum())
    naive = crossing_probabilities(np.full(LOOKS, 1.959964), looks)
    return {
        "naive, 5 looks": float(naive.sum()),
        "group": {"power": float(stops.sum()), "visitors": float(visitors)},
    }


def tables(result: dict) -> list:
    """False alarms, then what a real effect costs to find, as rich tables."""
    from rich.table import Table

    shown = []
    for row in result["false_alarms"]:
        table = Table(
            title=f"A/A: {row['experiments']:,} experiments at {row['baseline']:.0%}, planned for "
            f"{row['effect']:+.1%}: n = {row['n']:,} an arm",
            caption="Share that ever finds a difference where there is none, with its 95 % interval; "
            f"five naive looks in theory {result['theory']['naive, 5 looks']:.1%}.",
        )
        for column in ("stopped at p <= 0.05 of the", "by n", "by 2n"):
            table.add_column(column, justify="left" if column.startswith("stopped") else "right")
        for way, name in WAYS.items():
            shares = row["ways"][way]
            table.add_row(name, _cell(shares["at_n"]), _cell(shares["at_2n"]))
        shown.append(table)
    for row in result["effects"]:
        table = Table(
            title=f"A real effect of {row['effect']:+.1%}: {row['experiments']:,} experiments, "
            f"n = {row['n']:,} an arm"
        )
        for column in ("way", "found by n", "by 2n", "visitors an arm", "of the fixed design's"):
            table.add_column(column, justify="left" if column == "way" else "right")
        for way in ("fixed", "group", "always valid"):
            found = row["ways"][way]
            visitors = found["visitors"]
            table.add_row(
                WAYS[way], _cell(found["at_n"]), _cell(found["at_2n"]),
                f"{visitors:,.0f}", f"{visitors / row['n']:.0%}",
            )  # fmt: skip
        shown.append(table)
    return shown


def _cell(share: dict | None) -> str:
    if share is None:
        return ""
    return f"{share['share']:.1%} ({share['low']:.1%} to {share['high']:.1%})"
