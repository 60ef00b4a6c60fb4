"""What the votes say: who is better, how far raters agree, and which raters looked."""

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from labs.errors import InputError
from labs.evaluation.agreement import krippendorff_alpha, krippendorff_ci
from labs.evaluation.intervals import wilson_ci
from labs.evaluation.ratings import Rating, bradley_terry
from labs.suites.contract import Measure
from labs.suites.judge.means import RESAMPLES, group_mean
from labs.suites.rating.votes import Key, Vote

POINTS = {"first": 1.0, "second": 0.0, "tie": 0.5, "both_bad": 0.5}
PASS = 0.75  # of the checks a rater has to get right


@dataclass(frozen=True)
class Rater:
    """How one rater voted, checks left out of all but `gold`.

    left: share of votes for the left, of those for a side. seconds: the median of an item.
    gold: (right, seen); failed: fewer than PASS of them right.
    """

    name: str
    answered: int
    missing: int
    left: Measure | None
    ties: int
    both_bad: int
    seconds: float | None
    gold: tuple[int, int]
    failed: bool


@dataclass(frozen=True)
class Analysis:
    """win_rates: (A, B) -> how often A is better than B, ties and both-bad half. measures: alpha, left,
    tie, both_bad, seconds. ratings: Bradley-Terry, where more than two models were compared; unrated:
    why there are none. absent: raters of whom no file was read. dropped: those whose votes do not
    count in any of these. unseen: comparisons without a vote that counts."""

    models: tuple[str, ...]
    comparisons: int
    votes: int
    unseen: int
    raters: list[Rater]
    absent: tuple[str, ...]
    dropped: tuple[str, ...]
    measures: dict[str, Measure]
    win_rates: dict[tuple[str, str], Measure]
    ratings: dict[str, Rating] = field(default_factory=dict)
    unrated: str | None = None

    def to_dict(self) -> dict:
        found = asdict(self)
        for rater, row in zip(self.raters, found["raters"], strict=True):
            row["left"] = rater.left and rater.left._asdict()
        found["measures"] = {name: m._asdict() for name, m in self.measures.items()}
        found["win_rates"] = [
            {"first": a, "second": b, **m._asdict()} for (a, b), m in self.win_rates.items()
        ]
        found["ratings"] = {name: rating._asdict() for name, rating in self.ratings.items()}
        return found


def analyse(
    key: Key,
    votes: Sequence[Vote],
    missing: dict[str, int],
    *,
    drop_failed: bool = False,
    seed: int = 0,
) -> Analysis:
    """Agreement, win rates, ratings and raters.

        alpha      Krippendorff's, nominal, over {first, second, tie, both_bad} of each comparison
        win rate   mean over votes of 1, 0, and 0.5 for a tie or both bad; questions are drawn whole
        left       votes for the left of all votes for a side: 0.5, since sides are balanced

    Checks count in none of them; drop_failed: nor do the raters who failed them. Raises InputError
    where no votes are left.

    Krippendorff 2011; Bradley and Terry 1952. Chapter 7.
    """
    gold = {i for i, comparison in enumerate(key.comparisons) if comparison["gold"]}
    raters = [_rater(name, missing[name], votes, gold) for name in missing]
    dropped = tuple(r.name for r in raters if r.failed) if drop_failed else ()
    counted = [v for v in votes if v.comparison not in gold and v.rater not in dropped]
    if not counted:
        raise InputError(
            "No vote is left to count.",
            "Ask raters to answer their sheets, or leave out --drop-failed.",
        )
    ids = [comparison["id"] for comparison in key.comparisons]
    sides = [v for v in counted if v.side]
    seconds = [v.seconds for v in counted if v.seconds is not None]
    measures = {
        "alpha": _alpha(counted, ids, seed),
        "left": group_mean([float(v.side == "left") for v in sides], [v.comparison for v in sides]),
        "tie": _share(counted, "tie", ids, seed),
        "both_bad": _share(counted, "both_bad", ids, seed),
        "seconds": Measure(statistics.median(seconds), None, None, len(seconds))
        if seconds
        else None,
    }
    by_pair: dict[tuple[str, str], list[Vote]] = {}
    for vote in counted:
        by_pair.setdefault(tuple(key.comparisons[vote.comparison]["models"]), []).append(vote)
    win_rates = {
        pair: group_mean([POINTS[v.winner] for v in own], [ids[v.comparison] for v in own], seed)
        for pair, own in sorted(by_pair.items())
    }
    ratings, unrated = _ratings(key, counted, ids, seed) if len(key.models) > 2 else ({}, None)
    compared, seen = len(ids) - len(gold), {v.comparison for v in counted}
    absent = tuple(s["rater"] for s in key.sheets.values() if s["rater"] not in missing)
    return Analysis(
        key.models, compared, len(counted), compared - len(seen), raters, absent, dropped,
        {name: m for name, m in measures.items() if m}, win_rates, ratings, unrated,
    )  # fmt: skip


def _rater(name: str, missing: int, votes: Sequence[Vote], gold: set[int]) -> Rater:
    own = [v for v in votes if v.rater == name]
    checks = [v for v in own if v.comparison in gold]
    rest = [v for v in own if v.comparison not in gold]
    sides = [v.side == "left" for v in rest if v.side]
    left = None
    if sides:
        low, high = wilson_ci(sum(sides), len(sides))
        left = Measure(sum(sides) / len(sides), low, high, len(sides))
    seconds = [v.seconds for v in rest if v.seconds is not None]
    right = sum(v.winner == "first" for v in checks)
    kinds = Counter(v.winner for v in rest)
    return Rater(
        name, len(own), missing, left, kinds["tie"], kinds["both_bad"],
        statistics.median(seconds) if seconds else None, (right, len(checks)),
        bool(checks) and right < PASS * len(checks),
    )  # fmt: skip


def _ratings(
    key: Key, votes: Sequence[Vote], ids: list[str], seed: int
) -> tuple[dict[str, Rating], str | None]:
    games = [(*key.comparisons[v.comparison]["models"], POINTS[v.winner]) for v in votes]
    try:
        return bradley_terry(games, groups=[ids[v.comparison] for v in votes], seed=seed), None
    except InputError as error:  # too few votes came back; the rest of the analysis stands
        return {}, error.what


def _share(votes: Sequence[Vote], winner: str, ids: list[str], seed: int) -> Measure | None:
    return group_mean(
        [float(v.winner == winner) for v in votes], [ids[v.comparison] for v in votes], seed
    )


def _alpha(votes: Sequence[Vote], ids: list[str], seed: int) -> Measure | None:
    """None where no comparison has two votes, or all votes are alike: then alpha is 0/0."""
    by_comparison: dict[int, dict[str, str]] = {}
    for vote in votes:
        by_comparison.setdefault(vote.comparison, {})[vote.rater] = vote.winner
    shared = {i: given for i, given in by_comparison.items() if len(given) > 1}
    if len({winner for given in shared.values() for winner in given.values()}) < 2:
        return None
    names = sorted({rater for given in shared.values() for rater in given})
    ratings = [[given.get(name) for given in shared.values()] for name in names]
    groups = [ids[i] for i in shared]
    low = high = None
    if len(set(groups)) > 1:
        low, high = krippendorff_ci(ratings, groups=groups, resamples=RESAMPLES, seed=seed)
    return Measure(krippendorff_alpha(ratings), low, high, len(shared))
