"""Raters whose accuracy is known, to see what an analysis makes of their votes."""

import random
from collections.abc import Callable

from labs.suites.rating.votes import VOTES, VOTES_VERSION, Key


def simulated_votes(
    key: Key,
    sheet: str,
    truth: Callable[[dict], str],
    *,
    accuracy: float = 0.9,
    left: float = 0.0,
    answered: float = 1.0,
    wrong: tuple[str, ...] = ("first", "second"),
    seed: int = 0,
) -> dict:
    """What the page of `sheet` would save for a rater who is right with probability `accuracy`.

    truth: a comparison of the key -> "first", "second", "tie" or "both_bad". Where the rater errs, one
    of `wrong` that is not the truth is chosen, each as likely. left: how often they take the left
    without looking. answered: how much of the sheet they answer.
    """
    rng = random.Random(f"{sheet}/{seed}")
    votes = []
    for item, placed in key.sheets[sheet]["items"].items():
        if rng.random() >= answered:
            continue
        comparison = key.comparisons[placed["comparison"]]
        winner = "first" if comparison["gold"] else truth(comparison)
        if rng.random() >= accuracy:
            winner = rng.choice([w for w in wrong if w != winner])
        choice = winner
        if winner in ("first", "second"):
            choice = "left" if (winner == "first") != placed["flipped"] else "right"
        if rng.random() < left:
            choice = "left"
        votes.append({"item": item, "choice": choice, "seconds": round(rng.expovariate(1 / 8), 1)})
    return {
        "format": VOTES, "version": VOTES_VERSION, "sheet": sheet,
        "rater": key.sheets[sheet]["rater"], "votes": votes,
    }  # fmt: skip
