"""How many requests interleaving needs to see which ranker is better, and how many an A/B test.

On the simulated service (`labs.evaluation.online.service`), position-based clicks. For the A/B test the
click rates of both rankers are known exactly, so the sample size is a formula, for two metrics: the share
of requests with a click, and clicks a request. For interleaving the share of requests that each side
wins is estimated from a large pool. Then both are tried at interleaving's number: how often does either
find the difference?
"""

import numpy as np
from scipy import stats

from labs.bench.children import Progress
from labs.evaluation.intervals import wilson_ci
from labs.evaluation.online.design import sample_size, sample_size_mean
from labs.evaluation.online.interleaving import credit, interleaving_test, team_draft_many
from labs.evaluation.online.sequential import naive_p
from labs.evaluation.online.service import Service, Variant

ALPHA, POWER = 0.05, 0.8
QUALITIES = ((0.5, 0.55), (0.5, 0.6), (0.5, 0.7))  # of the old and the new ranker
QUERIES, POOL, TRIALS = 500, 1_000_000, 400
SEED = 0
CODE = (
    "labs/bench/interleaving.py",
    "labs/evaluation/intervals.py",
    "labs/evaluation/online/checks.py",
    "labs/evaluation/online/design.py",
    "labs/evaluation/online/interleaving.py",
    "labs/evaluation/online/sequential.py",
    "labs/evaluation/online/service.py",
)


def run(repeats: int = 1, quick: bool = False, progress: Progress | None = None) -> dict:
    """`repeats` times as large a pool and as many trials. Returns {"setting": {...}, "pairs": [{

        "quality": [old, new], "clicked": [old, new], "clicks": [old, new], "share_b": wins of the new one,
        "ties": share, "requests": {"interleaving", "A/B, requests with a click", "A/B, clicks a request"},
        "times": A/B over interleaving, the better A/B metric,
        "found": {"interleaving", "A/B"}: shares of trials of requests["interleaving"] each}]}

    Requests are in total, both arms of an A/B test together, for a power of 0.8 at alpha 0.05.
    """
    say = progress or (lambda _: None)
    pool, trials = (50_000, 60) if quick else (POOL * repeats, TRIALS * repeats)
    pairs = QUALITIES[-1:] if quick else QUALITIES
    service = Service(queries=QUERIES, seed=SEED)
    found = []
    for number, qualities in enumerate(pairs):
        say(f"rankers of quality {qualities[0]} and {qualities[1]}: {pool:,} interleaved requests")
        rng = np.random.default_rng([SEED, number])
        rankings = [service.rankings(Variant(str(q), q)) for q in qualities]
        outcomes = _interleaved(service, rankings, pool, rng)
        truth = [_clicks(service, ranking) for ranking in rankings]
        needed = _needed(outcomes, truth)
        say(f"rankers of quality {qualities[0]} and {qualities[1]}: {trials} trials of each test")
        found.append(
            {
                "quality": list(qualities),
                "clicked": [t["clicked"] for t in truth],
                "clicks": [t["mean"] for t in truth],
                "share_b": float((outcomes == 1).sum() / (outcomes != 0).sum()),
                "ties": float((outcomes == 0).mean()),
                "requests": needed,
                "times": min(v for k, v in needed.items() if k != "interleaving")
                / needed["interleaving"],
                "found": _tried(service, rankings, needed["interleaving"], trials, rng),
            }
        )
    setting = {"alpha": ALPHA, "power": POWER, "queries": QUERIES, "pool": pool, "trials": trials}
    return {"setting": setting, "pairs": found}


def _interleaved(service: Service, rankings: list, requests: int, rng: np.random.Generator):
    """[requests] who won each."""
    won = []
    for start in range(0, requests, 100_000):
        query = service.asked(min(100_000, requests - start), rng)
        shown, teams = team_draft_many(rankings[0][query], rankings[1][query], rng)
        won.append(credit(service.click(query, shown, rng), teams))
    return np.concatenate(won)


def _clicks(service: Service, ranking: np.ndarray) -> dict:
    """What one ranker's lists get, exactly: share of requests with a click, clicks, their variance."""
    asked = 1 / np.arange(1, service.queries + 1) ** service.popularity
    asked /= asked.sum()
    rows = np.arange(service.queries)[:, None]
    chance = service.theta * service.attractiveness[rows, ranking]
    mean = chance.sum(1)
    variance = asked @ (chance * (1 - chance)).sum(1) + asked @ mean**2 - (asked @ mean) ** 2
    return {
        "clicked": float(asked @ (1 - np.prod(1 - chance, axis=1))),
        "mean": float(asked @ mean),
        "variance": float(variance),
    }


def _needed(outcomes: np.ndarray, truth: list[dict]) -> dict[str, int]:
    """Requests in total for POWER at ALPHA."""
    old, new = truth
    share = (outcomes == 1).sum() / (outcomes != 0).sum()
    decided = _decided(float(max(share, 1 - share)))
    clicked = sample_size(old["clicked"], new["clicked"] - old["clicked"], alpha=ALPHA, power=POWER)
    sd = float(np.sqrt((old["variance"] + new["variance"]) / 2))
    clicks = sample_size_mean(sd, new["mean"] - old["mean"], alpha=ALPHA, power=POWER)
    return {
        "interleaving": int(np.ceil(decided / (outcomes != 0).mean())),
        "A/B, requests with a click": 2 * clicked,
        "A/B, clicks a request": 2 * clicks,
    }


def _decided(share: float) -> int:
    """Decided requests from which on the exact binomial test has POWER, where the winner wins `share`."""
    rough = ((stats.norm.isf(ALPHA / 2) + stats.norm.ppf(POWER)) / (2 * share - 1)) ** 2
    n = np.arange(1, 50 + int(2 * rough))
    power = stats.binom.sf(stats.binom.isf(ALPHA / 2, n, 0.5), n, share)
    return int(n[power < POWER].max()) + 1  # it falls a little wherever the limit moves


def _tried(service: Service, rankings: list, requests: int, trials: int, rng) -> dict:
    """Each test on `requests` requests, `trials` times: how often does it find the better ranker?"""
    hits = {"interleaving": 0, "A/B": 0}
    half = max(1, requests // 2)
    for _ in range(trials):
        result = interleaving_test(_interleaved(service, rankings, requests, rng))
        hits["interleaving"] += result.p_value <= ALPHA and result.share_b > 0.5
        clicked = []
        for ranking in rankings:
            query = service.asked(half, rng)
            clicked.append(service.click(query, ranking[query], rng).any(1).sum())
        p = naive_p(clicked[0], half, clicked[1], half)
        hits["A/B"] += p <= ALPHA and clicked[1] > clicked[0]
    return {
        way: {"share": int(count) / trials, **wilson_ci(int(count), trials)._asdict()}
        for way, count in hits.items()
    }


def tables(result: dict) -> list:
    """Requests needed by each test, as a rich table."""
    from rich.table import Table

    setting = result["setting"]
    table = Table(
        title=f"Requests to see which ranker is better (power {setting['power']}, "
        f"alpha {setting['alpha']})",
        caption="Tried: how often each finds the better ranker in as many requests as interleaving "
        f"needs, of {setting['trials']} trials.",
    )
    for column in (
        "quality", "with a click", "new one wins", "interleaving", "A/B, clicked", "A/B, clicks",
        "times", "tried: interleaving", "A/B",
    ):  # fmt: skip
        table.add_column(column, justify="right")
    for row in result["pairs"]:
        table.add_row(
            " to ".join(map(str, row["quality"])),
            " to ".join(f"{x:.1%}" for x in row["clicked"]),
            f"{row['share_b']:.1%}",
            *(f"{n:,}" for n in row["requests"].values()),
            f"{row['times']:.0f}",
            *(f"{x['share']:.0%}" for x in row["found"].values()),
        )
    return [table]
