"""Who is asked what, in which order, with which answer on which side."""

import hashlib
import random
from dataclasses import dataclass

from labs.errors import InputError


@dataclass(frozen=True)
class Placed:
    """A comparison as one rater sees it. name: what the page calls it, which tells nothing. number:
    of the comparison. flipped: its first answer stands on the right."""

    name: str
    number: int
    flipped: bool


def needed(n: int, raters: int, overlap: int) -> int:
    """Different comparisons where each of `raters` sees `n` and each comparison is seen by `overlap`.

    Raises InputError for numbers that cannot be.
    """
    if n < 1 or raters < 1:
        raise InputError(f"{n} items for {raters} raters are none.", "Give --n and --raters.")
    if not 1 <= overlap <= raters:
        raise InputError(
            f"A comparison cannot be seen by {overlap} of {raters} raters.",
            f"Give --overlap from 1 to {raters}; agreement needs 2.",
        )
    return n * raters // overlap


def assign(kinds: list, gold: int, raters: int, overlap: int, seed: int) -> list[list[Placed]]:
    """For each rater what they see, in order.

    kinds: for each comparison what it must be balanced within, its pair of models. gold: of further
    comparisons, numbered after the others, that all raters see.

    - Comparisons are dealt like cards: each goes to `overlap` raters, and any two raters' shares
      differ by one at most.
    - Sides: the raters of one comparison see it alternately one way and the other, so that it stands
      either way equally often (give or take one); which way the first sees it alternates within a
      kind, so that each model stands on the left as often as on the right.
    - The order is shuffled for each rater, with the checks anywhere in it.

    The same arguments give the same plan.
    """
    shares: list[list[tuple[int, bool]]] = [[] for _ in range(raters)]
    flips: dict = {}
    rng = random.Random(f"sides/{seed}")
    slot = 0
    for number, kind in enumerate(kinds):
        # Pairs of sides in random order: A left, then B left, or the other way round.
        queue = flips.setdefault(kind, [])
        if not queue:
            queue.extend(rng.sample([False, True], 2))
        base = queue.pop()
        for turn in range(overlap):
            shares[slot % raters].append((number, base ^ (turn % 2 == 1)))
            slot += 1
    for check in range(gold):
        base = rng.random() < 0.5
        for rater in range(raters):
            shares[rater].append((len(kinds) + check, base ^ (rater % 2 == 1)))
    plans = []
    for rater, share in enumerate(shares):
        random.Random(f"order/{seed}/{rater}").shuffle(share)
        plans.append([Placed(_name(seed, rater, n), n, flipped) for n, flipped in share])
    return plans


def _name(seed: int, rater: int, number: int) -> str:
    return hashlib.sha256(f"item/{seed}/{rater}/{number}".encode()).hexdigest()[:10]
