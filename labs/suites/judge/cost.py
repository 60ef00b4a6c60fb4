"""What judging will cost, told before it starts: calls, tokens, seconds, money."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from labs.errors import InputError
from labs.suites.judge.base import Judge
from labs.suites.judge.pairs import Pair, check_pairs

SAMPLE = 64  # requests whose tokens are counted
TIMED = 16  # pairs that are timed


@dataclass(frozen=True)
class Estimate:
    """calls: exact. prompt_tokens: from a sample of requests, pictures included. answer_tokens: at
    most, every answer as long as it may get. seconds: from one timed batch, None where nothing was
    timed. dollars: at most; None without prices."""

    pairs: int
    identical: int
    orders: int
    calls: int
    prompt_tokens: int
    answer_tokens: int
    seconds: float | None
    dollars: float | None

    def to_dict(self) -> dict:
        return asdict(self)


def estimate(
    judge: Judge,
    pairs: Sequence[Pair],
    *,
    swap: bool = True,
    batch_size: int = 32,
    price_in: float | None = None,
    price_out: float | None = None,
    timed: bool = True,
) -> Estimate:
    """What `judge_pairs` with these arguments will ask for.

    price_in, price_out: dollars for a million tokens read and said. With `timed`, up to TIMED pairs
    are judged twice, once to warm up and once on the clock, and the time of a call is multiplied.

    Chapter 7.
    """
    check_pairs(pairs)
    for price in (price_in, price_out):
        if price is not None and price < 0:
            raise InputError(f"A price of {price} is below zero.", "Give dollars a million tokens.")
    shown = [pair for pair in pairs if not pair.identical]
    orders = 2 if swap and not judge.pointwise else 1
    requests = judge.requests(shown)
    calls = len(requests) * orders
    sample = _evenly(requests, SAMPLE)
    lengths = judge.lengths(sample)
    prompt_tokens = round(sum(lengths) / len(lengths) * calls) if sample else 0
    answer_tokens = sum(request.max_new_tokens for request in requests) * orders
    seconds = _seconds(judge, shown, batch_size, calls) if timed else None
    dollars = None
    if price_in is not None or price_out is not None:
        dollars = (prompt_tokens * (price_in or 0) + answer_tokens * (price_out or 0)) / 1e6
    return Estimate(
        len(pairs), len(pairs) - len(shown), orders, calls, prompt_tokens, answer_tokens,
        seconds, dollars,
    )  # fmt: skip


def _seconds(judge: Judge, pairs: list[Pair], batch_size: int, calls: int) -> float | None:
    few = _evenly(pairs, TIMED)
    own = len(judge.requests(few))
    if not own:
        return None
    notes = judge.notes.copy()
    judge.compare(few[:1], batch_size=batch_size)
    start = time.perf_counter()
    judge.compare(few, batch_size=batch_size)
    took = time.perf_counter() - start
    judge.notes = notes  # a trial leaves no count behind
    return took / own * calls


def _evenly(items: Sequence, n: int) -> list:
    """Up to `n` items from all over the list: those of a suite may come in blocks of like length."""
    n = min(n, len(items))
    return [items[i * len(items) // n] for i in range(n)]


def check_budget(
    found: Estimate, *, budget: float | None = None, max_calls: int | None = None
) -> None:
    """InputError, before anything is asked, where the estimate is above what may be spent."""
    if budget is not None:
        if found.dollars is None:
            raise InputError(
                "A budget in dollars says nothing without prices.",
                "Add --price-in and --price-out, or limit the calls with --max-calls.",
            )
        if found.dollars > budget:
            raise InputError(
                f"Judging would cost up to ${found.dollars:,.2f}, more than the budget of ${budget:,.2f}.",
                "Raise --budget, ask about fewer pairs with --n, or take a cheaper judge.",
            )
    if max_calls is not None and found.calls > max_calls:
        raise InputError(
            f"Judging takes {found.calls:,} calls, more than the {max_calls:,} allowed.",
            "Raise --max-calls, ask about fewer pairs with --n, or use --no-swap.",
        )
