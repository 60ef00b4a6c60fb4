"""Who is best, from comparisons of two at a time: Bradley-Terry ratings with intervals."""

import math
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.special import expit, log_expit

from labs.errors import InputError
from labs.evaluation.checks import check_items
from labs.evaluation.clusters import check_confidence, drawn_counts, group_codes

CENTRE = 1000.0
SCALE = 400 / math.log(10)  # points for each unit of log odds: 400 points are odds of ten to one
# Draws that are fitted together hold about this many numbers.
_BLOCK = 2**20


class Rating(NamedTuple):
    rating: float  # points
    low: float | None  # None where no interval was asked for
    high: float | None
    games: int


def bradley_terry(
    comparisons: Iterable[tuple],
    *,
    groups: Sequence | np.ndarray | None = None,
    prior: int | float = 1.0,
    anchor: Hashable | None = None,
    confidence: float = 0.95,
    resamples: int = 1_999,
    seed: int = 0,
) -> dict[Hashable, Rating]:
    """Ratings on the scale of Elo, best first, each with a percentile bootstrap interval.

        P(i beats j) = 1 / (1 + 10^((R_j - R_i) / 400))

    by maximum likelihood (Newton's method). The mean rating is 1000, or that of `anchor` if one is
    named; its interval then has no width, and the others' are of their distance to it.

    `comparisons` [N]: (first, second, outcome), outcome 1 where the first won, 0 where the second
    did, 0.5 for a tie, which is half a win for each. Elo's running updates depend on the order of
    games; this does not.

    prior: games, half of them won, that each contestant is taken to have played against an average
    one. A contestant that won everything has no finite maximum-likelihood rating; with one such game
    it has, and among hundreds of real games one changes little. 0 gives plain maximum likelihood.

    `groups` [N]: labels of comparisons that are drawn together, such as the question they were about
    (all pairs of models on one question share its luck). None: each comparison stands alone.
    resamples=0 gives no intervals. How sure the *order* of two is, their separate intervals do not
    say: overlapping ones may still differ; compare the two on the same questions.

    Raises InputError for no comparisons, one of something with itself, any other outcome, an anchor
    that never played, and where contestants fall into parts that never met: no rating compares
    those, and the prior does not pretend to. With prior=0 also where some of them never lost to the
    others, in the data or in a draw: their ratings are infinite.

    Bradley and Terry 1952; Hunter 2004 (when the maximum exists). Chapter 7.
    """
    comparisons = list(comparisons)
    names, first, second, outcome = _checked(comparisons)
    check_confidence(confidence)
    if not (np.isfinite(prior) and prior >= 0):
        raise InputError(f"A prior of {prior} games cannot be.", "Pass 0 or a small number.")
    if anchor is not None and anchor not in names:
        raise InputError(f"The anchor {anchor!r} is in no comparison.", "Name a contestant.")
    count = len(names)
    codes = (
        np.arange(len(comparisons))
        if groups is None
        else group_codes("bradley_terry", groups, len(comparisons))
    )
    # wins of i over j at place i · count + j, for each group
    table = coo_array(
        (
            np.concatenate([outcome, 1 - outcome]),
            (
                np.concatenate([codes, codes]),
                np.concatenate([first * count + second, second * count + first]),
            ),
        ),
        shape=(codes.max() + 1, count * count),
    ).tocsr()
    wins = np.asarray(table.sum(axis=0)).reshape(count, count)
    _check_connected(names, wins)
    if prior == 0:
        _check_finite(names, wins)
    place = None if anchor is None else names.index(anchor)
    ratings = _points(wins[None], prior, place)[0]
    low = high = [None] * count
    if resamples:
        drawn = _bootstrap(table, count, prior, place, resamples, seed)
        tail = (1 - confidence) / 2
        low, high = np.quantile(drawn, [tail, 1 - tail], axis=0).tolist()
    games = np.bincount(first, minlength=count) + np.bincount(second, minlength=count)
    rows = zip(names, ratings.tolist(), low, high, games.tolist(), strict=True)
    best_first = sorted(rows, key=lambda row: -row[1])
    return {name: Rating(*rest) for name, *rest in best_first}


def _checked(comparisons: list) -> tuple[list, np.ndarray, np.ndarray, np.ndarray]:
    check_items("bradley_terry", comparisons)
    names: dict = {}
    rows = []
    for index, comparison in enumerate(comparisons):
        try:
            a, b, outcome = comparison
            rows.append((names.setdefault(a, len(names)), names.setdefault(b, len(names)), outcome))
        except (TypeError, ValueError):
            raise InputError(
                f"Comparison {index} is {comparison!r}.", "Pass (first, second, outcome)."
            ) from None
        if a == b:
            raise InputError(
                f"Comparison {index} is of {a!r} with itself.", "Leave it out of the ratings."
            )
        if isinstance(outcome, str) or outcome not in (0, 0.5, 1):
            raise InputError(
                f"The outcome of comparison {index} is {outcome!r}.",
                "Pass 1 where the first won, 0 where the second did, 0.5 for a tie.",
            )
    first, second, outcome = zip(*rows, strict=True)
    return list(names), np.array(first), np.array(second), np.array(outcome, dtype=np.float64)


def _check_connected(names: list, wins: np.ndarray) -> None:
    parts, part = connected_components(wins > 0, directed=False)
    if parts > 1:
        sides = ["{" + ", ".join(str(n) for n, p in zip(names, part, strict=True) if p == i) + "}"
                 for i in range(parts)]  # fmt: skip
        raise InputError(
            f"The contestants fall into parts that never met: {', '.join(sides)}.",
            "Compare across the parts, or rate each of them alone.",
        )


def _check_finite(names: list, wins: np.ndarray) -> None:
    parts, part = connected_components(wins > 0, connection="strong")
    for i in range(parts if parts > 1 else 0):
        inside = part == i
        if not wins[~inside][:, inside].any():
            never = ", ".join(str(n) for n, yes in zip(names, inside, strict=True) if yes)
            raise InputError(
                f"Of the others none won from {never}: without a prior that rating is infinite.",
                "Leave the prior above 0, or add comparisons that the others win.",
            )


def _bootstrap(table, count: int, prior: int | float, place: int | None, resamples: int, seed: int):
    groups = table.shape[0]
    if groups < 2:
        raise InputError(
            "All comparisons are in one group, which says nothing about others.",
            "Compare on more questions, or pass resamples=0 for ratings without intervals.",
        )
    drawn, block = [], max(1, _BLOCK // count**2)
    for counts in drawn_counts(groups, resamples, seed):
        wins = (table.T @ counts.T).T.reshape(-1, count, count)
        if prior == 0:
            infinite = sum(connected_components(w > 0, connection="strong")[0] > 1 for w in wins)
            if infinite:
                raise InputError(
                    f"Of {len(wins)} draws of these comparisons {infinite} have no finite ratings.",
                    "Leave the prior above 0, or pass resamples=0 for no intervals.",
                )
        for start in range(0, len(wins), block):
            drawn.append(_points(wins[start : start + block], prior, place))
    return np.concatenate(drawn)


def _points(wins: np.ndarray, prior: int | float, place: int | None) -> np.ndarray:
    strength = _fit(wins, prior)
    zero = strength.mean(axis=1) if place is None else strength[:, place]
    return CENTRE + SCALE * (strength - zero[:, None])


def _fit(wins: np.ndarray, prior: int | float) -> np.ndarray:
    """Log-odds strengths [draws, K] that maximise

        sum_ij wins_ij · log s(t_i - t_j) + prior / 2 · sum_i (log s(t_i) + log s(-t_i)),

    s the logistic function. Concave: Newton's method, with steps halved until they climb.
    """
    count = wins.shape[1]
    games = wins + wins.transpose(0, 2, 1)
    diagonal = np.arange(count)

    def height(t: np.ndarray) -> np.ndarray:
        pairs = (wins * log_expit(t[:, :, None] - t[:, None, :])).sum(axis=(1, 2))
        return pairs + prior / 2 * (log_expit(t) + log_expit(-t)).sum(axis=1)

    t = np.zeros(wins.shape[:2])
    here = height(t)
    for _ in range(200):
        # Of each pair the chance that the second wins, and that the first does: never as 1 - chance,
        # which of a sure game leaves no digits.
        lose = expit(t[:, None, :] - t[:, :, None])
        win, average = lose.transpose(0, 2, 1), expit(t)
        slope = (wins * lose - wins.transpose(0, 2, 1) * win).sum(axis=2)
        slope += prior * (0.5 - average)
        curve = games * win * lose
        hessian = -curve
        bend = curve.sum(axis=2) + prior * average * (1 - average)
        # A hair more on the diagonal: rounding must not make it singular. It moves no maximum.
        hessian[:, diagonal, diagonal] += bend + 1e-13 * bend.max(axis=1, keepdims=True)
        if prior == 0:
            # Nothing pins the mean then; the slope has no part along it, so this changes no step.
            hessian = hessian + 1 / count
        step = np.linalg.solve(hessian, slope[:, :, None])[:, :, 0]
        for _ in range(40):
            there = height(t + step)
            worse = there < here - 1e-12 * np.abs(here)
            if not worse.any():
                break
            step[worse] /= 2
        t, here = t + step, there
        # A thousandth of a point; the error left after such a step is its square.
        if np.abs(step).max() < 1e-5:
            return t
    raise ArithmeticError("Newton's method did not settle.")
