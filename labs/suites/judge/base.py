"""What a judge is, and the requests to a model that its verdicts are made of."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from labs.suites.judge.pairs import Pair


class Request(NamedTuple):
    """One call of the judging model.

    answer: a text whose probability is asked for; None where the model itself is to say something.
    max_new_tokens: what it may say at most; 0 where only probabilities are read.
    """

    images: tuple
    prompt: str
    answer: str | None = None
    max_new_tokens: int = 0


class Judge(ABC):
    """Gives a verdict on pairs of answers.

    name: how it is called in reports. model: the name of the model that judges, None where none
    does; a judge that is also an author is watched for self-preference. pointwise: it gives each
    answer a mark of its own, and places mean nothing to it; then one order tells both. notes: counts
    of what happened on the way (claims that could not be read, …), summed over its calls.
    """

    name: str
    model: str | None = None
    pointwise: bool = False

    def __init__(self) -> None:
        self.notes: Counter = Counter()

    @abstractmethod
    def compare(
        self,
        pairs: Sequence[Pair],
        *,
        batch_size: int = 32,
        progress: Callable[[int], None] | None = None,
    ) -> list[str | None]:
        """For each pair "first", "second", "tie", or None where no verdict could be read.

        progress: called after each batch of requests with their number.
        """

    @abstractmethod
    def requests(self, pairs: Sequence[Pair]) -> list[Request]:
        """The calls that `compare` makes for these pairs: exactly so many, so that a price can be
        told before."""

    def lengths(self, requests: Sequence[Request]) -> list[int]:
        """Tokens that each request gives the model to read. A judge without a model reads none."""
        return [0] * len(requests)

    def describe(self) -> dict:
        """What a reader needs to judge the same way again; JSON."""
        return {"name": self.name, "model": self.model}


class PointwiseJudge(Judge):
    """A judge that marks each answer alone; the higher mark wins, equal marks are a tie.

    A mark is None where it could not be had; then there is no verdict.
    """

    pointwise = True

    @abstractmethod
    def marks(
        self,
        pairs: Sequence[Pair],
        *,
        batch_size: int = 32,
        progress: Callable[[int], None] | None = None,
    ) -> list[tuple[float | None, float | None]]:
        """The marks of the first and of the second answer of each pair; higher is better."""

    def compare(self, pairs, *, batch_size=32, progress=None) -> list[str | None]:
        marks = self.marks(pairs, batch_size=batch_size, progress=progress)
        return [_verdict(first, second) for first, second in marks]


def _verdict(first: float | None, second: float | None) -> str | None:
    if first is None or second is None:
        return None
    return "tie" if first == second else "first" if first > second else "second"


def batches(items: Sequence, size: int, length: Callable[[int], int]) -> Iterator[list[int]]:
    """Places of `items` in batches of `size`; those of like `length(place)` go together."""
    order = sorted(range(len(items)), key=length)
    for start in range(0, len(order), size):
        yield order[start : start + size]
