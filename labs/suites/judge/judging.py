"""Every pair to the judge in both orders, and what comes of the two verdicts."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from labs.formats.files import atomic_write
from labs.suites.folder import dumps
from labs.suites.judge.base import Judge
from labs.suites.judge.pairs import MIRROR, Pair, check_pairs


@dataclass(frozen=True)
class Judgements:
    """What a judge said of pairs, in their order.

    forward: the verdict with the answers shown as they stand in the pair: "first", "second", "tie",
    or None for an unreadable one. backward: with the two exchanged; "first" is still the first
    *place*, and so the pair's second answer. None where only one order was asked. judge: the judge's
    own description. notes: what was counted on the way.

    Pairs of two equal texts are ties that nobody was asked about.
    """

    judge: dict
    pairs: tuple[Pair, ...]
    forward: tuple[str | None, ...]
    backward: tuple[str | None, ...] | None
    pointwise: bool = False
    notes: dict[str, int] = field(default_factory=dict)

    @property
    def winners(self) -> list[str | None]:
        """Per pair which *answer* won: both orders agree on it, or it is a tie.

        Orders that contradict each other are a tie, since what decided was the place. One unreadable
        verdict leaves the pair without a winner (None). With one order asked, its verdict.
        """
        if self.backward is None:
            return list(self.forward)
        return [
            None if there is None or back is None else there if there == MIRROR[back] else "tie"
            for there, back in zip(self.forward, self.backward, strict=True)
        ]

    @property
    def judged(self) -> list[int]:
        """Places of the pairs that the judge was really asked about."""
        return [i for i, pair in enumerate(self.pairs) if not pair.identical]


def judge_pairs(
    judge: Judge,
    pairs: Sequence[Pair],
    *,
    swap: bool = True,
    batch_size: int = 32,
    progress: Callable[[int], None] | None = None,
) -> Judgements:
    """Ask a judge about pairs of answers, with `swap` in both orders.

    A judge that marks each answer alone (`pointwise`) is asked once: exchanging the places exchanges
    the verdict, and nothing else. Pairs of two equal texts are ties and cost nothing.

    progress: called after each batch of requests with their number. Raises InputError for no pairs and for an
    id that is used twice. Zheng et al. 2023, arXiv:2306.05685, section 3.4. Chapter 7.
    """
    check_pairs(pairs)
    before = judge.notes.copy()
    asked = [i for i, pair in enumerate(pairs) if not pair.identical]
    shown = [pairs[i] for i in asked]

    def verdicts(shown: list[Pair]) -> tuple[str | None, ...]:
        found: list[str | None] = ["tie"] * len(pairs)
        said = judge.compare(shown, batch_size=batch_size, progress=progress) if shown else []
        for i, verdict in zip(asked, said, strict=True):
            found[i] = verdict
        return tuple(found)

    forward = verdicts(shown)
    backward = None
    if judge.pointwise:
        backward = tuple(MIRROR[verdict] for verdict in forward)
    elif swap:
        backward = verdicts([pair.swapped() for pair in shown])
    return Judgements(
        judge.describe(), tuple(pairs), forward, backward, judge.pointwise,
        {name: count - before[name] for name, count in judge.notes.items()},
    )  # fmt: skip


def write_judgements(
    path: str | os.PathLike, judgements: Judgements, truth: Judgements | None = None
) -> None:
    """One JSON object a pair: id, answers, both verdicts, the winner, the oracle's where it is known.

    Written whole or not at all.
    """
    winners = judgements.winners
    true = truth.winners if truth else [None] * len(winners)
    with atomic_write(path, "wb") as file:
        for i, pair in enumerate(judgements.pairs):
            line = {
                "id": pair.id, "group": pair.group, "question": pair.question,
                "first": pair.first, "second": pair.second,
                "asked": not pair.identical, "forward": judgements.forward[i],
                "backward": None if judgements.backward is None else judgements.backward[i],
                "winner": winners[i], "judge": judgements.judge["name"],
            }  # fmt: skip
            if truth:
                line["oracle"] = true[i]
            file.write(dumps(line) + b"\n")
