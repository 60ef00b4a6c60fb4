"""Interleaving: two rankers in one list, so that every user compares them.

In an A/B test each user sees one ranker, and what differs between users and queries hides what differs
between rankers. Interleaved, both compete for the same clicks of the same user: the comparison is within
a query, and takes far fewer of them. It says which ranker is better, not how much better the product
gets: for that, run the A/B test.
"""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from labs.errors import InputError
from labs.evaluation.intervals import wilson_ci

A, B = 0, 1  # the teams


class Interleaved(NamedTuple):
    shown: list  # pictures by place
    teams: list[int]  # whose pick each was: A (0) or B (1)


class InterleavingResult(NamedTuple):
    wins_a: int
    wins_b: int
    ties: int
    share_b: float  # wins of B over the requests that were decided
    low: float  # its 95 % Wilson interval
    high: float
    p_value: float  # two-sided exact binomial test of a half, ties left out


def team_draft(
    a: Sequence[Hashable],
    b: Sequence[Hashable],
    rng: np.random.Generator,
    places: int | None = None,
) -> Interleaved:
    """Interleaves two rankings as captains pick teams.

    Each round a coin says who picks first; each then takes its best picture that is not yet in the
    list. Ends at `places` (by default the length of the longer ranking) or where both have run out;
    where one has, the other goes on. Every list is made of a start of `a` and a start of `b`, without
    duplicates, in the order each ranks its own. Two rankers that agree share the places evenly, so a
    user who clicks anywhere favours neither.

    Raises InputError for a ranking that is empty or names a picture twice.

    Radlinski, Kurup and Joachims 2008 (doi:10.1145/1458082.1458092), algorithm 2. Chapter 7.
    """
    rankings = _rankings(a, b)
    places = max(len(a), len(b)) if places is None else places
    queues = [iter(ranking) for ranking in rankings]
    shown, teams, taken = [], [], set()
    exhausted = [False, False]
    while len(shown) < places and not all(exhausted):
        first = int(rng.integers(2))
        for team in (first, 1 - first):
            pick = next((item for item in queues[team] if item not in taken), None)
            if pick is None:
                exhausted[team] = True
            elif len(shown) < places:
                shown.append(pick)
                teams.append(team)
                taken.add(pick)
    return Interleaved(shown, teams)


def team_draft_many(
    a: np.ndarray, b: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """`team_draft` for N requests at once: rankings [N, k] of integers to (shown, teams), both [N, k].

    Rankings of k pictures each, lists of k places, so neither ever runs out. The same distribution of
    lists, in a fraction of the time. Raises InputError for shapes that differ, or a row that names a
    picture twice.
    """
    if a.shape != b.shape or a.ndim != 2 or 0 in a.shape:
        raise InputError(
            f"Rankings have shapes {a.shape} and {b.shape}.",
            "Pass one row a request of each, at least one picture long.",
        )
    rankings = np.stack([a, b])
    if (np.diff(np.sort(rankings, axis=2), axis=2) == 0).any():
        raise InputError("A ranking names a picture twice.", "Rank each picture once.")
    _, requests, places = rankings.shape
    shown = np.empty((requests, places), dtype=rankings.dtype)
    teams = np.empty((requests, places), dtype=np.int64)
    free = np.ones(rankings.shape, dtype=bool)
    rows = np.arange(requests)
    for place in range(places):
        if place % 2 == 0:
            first = rng.integers(2, size=requests)
        team = first if place % 2 == 0 else 1 - first
        best = free[team, rows].argmax(axis=1)
        pick = rankings[team, rows, best]
        shown[:, place], teams[:, place] = pick, team
        free &= rankings != pick[None, :, None]
    return shown, teams


def credit(clicks, teams) -> np.ndarray:
    """Who won each request: 1 for B, -1 for A, 0 for a tie.

    The sign of B's clicks less A's, each click being its team's. clicks and teams of one shape, [k] or
    [N, k]; returns a number or [N]. Raises InputError for shapes that differ, and other teams.
    """
    clicks, teams = np.asarray(clicks), np.asarray(teams)
    if clicks.shape != teams.shape or not np.isin(teams, (A, B)).all():
        raise InputError(
            f"Clicks of shape {clicks.shape} do not pair up with teams of shape {teams.shape}, or a"
            " team is neither 0 nor 1.",
            "Pass whether each place was clicked, and whose pick it was.",
        )
    clicked = clicks.astype(bool)
    return np.asarray(np.sign((clicked & (teams == B)).sum(-1) - (clicked & (teams == A)).sum(-1)))


def balanced(
    a: Sequence[Hashable], b: Sequence[Hashable], a_first: bool, places: int | None = None
) -> list:
    """Balanced interleaving: both rankings go down side by side; `a_first` says who leads.

    Any start of the list holds the top m of A and the top m or m - 1 of B (the other way round where B
    leads). The older method, here because its flaw shows why team draft is preferred: for A = [x, y, z]
    and B = [y, z, x] a user who clicks at random prefers B two times in three, see `balanced_credit`.

    Joachims 2003, "Evaluating retrieval performance using clickthrough data"; the flaw: Chapelle,
    Joachims, Radlinski and Yue 2012 (doi:10.1145/2094072.2094078). Chapter 7.
    """
    rankings = _rankings(a, b)
    places = max(len(a), len(b)) if places is None else places
    shown, down, lead = [], [0, 0], A if a_first else B
    while len(shown) < places and any(down[t] < len(rankings[t]) for t in (A, B)):
        behind = down[A] < down[B] or (down[A] == down[B] and lead == A)
        team = A if behind else B
        if down[team] >= len(rankings[team]):
            team = 1 - team
        pick = rankings[team][down[team]]
        down[team] += 1
        if pick not in shown:
            shown.append(pick)
    return shown


def balanced_credit(clicks, shown: Sequence, a: Sequence, b: Sequence) -> int:
    """Who won a balanced list: 1 for B, -1 for A, 0 for a tie.

    m is the better of the two ranks of the lowest clicked picture; who has more of the clicked pictures
    in its top m wins. Sources: see `balanced`.
    """
    if len(shown) != len(clicks):
        raise InputError(f"{len(clicks)} clicks on {len(shown)} places.", "Pass one a place.")
    clicked = [item for item, click in zip(shown, clicks, strict=True) if click]
    if not clicked:
        return 0
    rankings = _rankings(a, b)
    depths = [ranking.index(clicked[-1]) + 1 for ranking in rankings if clicked[-1] in ranking]
    if not depths:
        raise InputError(f"Neither ranking holds {clicked[-1]!r}.", "Pass what was interleaved.")
    hits_a, hits_b = (
        sum(item in ranking[: min(depths)] for item in clicked) for ranking in rankings
    )
    return int(np.sign(hits_b - hits_a))


def interleaving_test(outcomes) -> InterleavingResult:
    """Is B preferred to A? Of outcomes 1 (B won), -1 (A won), 0 (tie), one a request.

    Ties say nothing about which is better and are left out of share, interval and test, but counted:
    where most requests tie, the rankers hardly differ. Requests must be independent: one a person, or
    one outcome a person. Raises InputError for no outcomes, and for other numbers.

    Radlinski, Kurup and Joachims 2008 (doi:10.1145/1458082.1458092). Chapter 7.
    """
    outcomes = np.asarray(outcomes)
    if outcomes.ndim != 1 or not outcomes.size or not np.isin(outcomes, (-1, 0, 1)).all():
        raise InputError(
            "Outcomes are empty, or one is not -1, 0 or 1.",
            "Pass who won each request: see `credit`.",
        )
    wins_a, wins_b = int((outcomes == -1).sum()), int((outcomes == 1).sum())
    decided = wins_a + wins_b
    ties = len(outcomes) - decided
    if not decided:
        return InterleavingResult(0, 0, ties, 0.5, 0.0, 1.0, 1.0)
    low, high = wilson_ci(wins_b, decided)
    p_value = float(stats.binomtest(wins_b, decided).pvalue)
    return InterleavingResult(wins_a, wins_b, ties, wins_b / decided, low, high, p_value)


def _rankings(a: Sequence, b: Sequence) -> list[list]:
    for name, ranking in (("A", a), ("B", b)):
        if not len(ranking) or len(set(ranking)) < len(ranking):
            raise InputError(
                f"Ranking {name} is empty or names a picture twice.", "Rank each picture once."
            )
    return [list(a), list(b)]
