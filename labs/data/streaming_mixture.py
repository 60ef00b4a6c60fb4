"""Several streams in given proportions."""

import functools
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, get_args

from labs.data.mixing import Mixture
from labs.data.skips import Skips
from labs.data.stream import Entry, Share, Stream, check_entries
from labs.errors import InputError

Exhausted = Literal["restart", "stop", "drop"]
_ROUND = (
    1 << 20
)  # the r-th time round a stream in epoch e is its epoch e + r * this: an order of its own


class StreamingMixture(Mixture, Stream):
    """Several streams in given proportions: each sample is drawn from stream i with weights[i] / sum.

    Every consumer (worker of a rank) draws from its shares of all streams, so the proportions hold in
    every worker's batches. The draws are a function of seed, epoch and consumer, and a sample that
    cannot be used spends its draw; so a position resumes as in any other Stream.

    weights, or a temperature with the streams' sizes (numbers of samples; only their ratios count).
    exhausted: what happens when a stream ends:
    - "restart": it begins again, in the order of its next round; the epoch ends when every stream has
      ended once, so each sample comes at least once;
    - "stop": the epoch ends there; what is left of the others is not seen in this epoch;
    - "drop": it is left out, and the others go on in their proportions to the end: each sample comes
      exactly once.
    """

    def __init__(
        self,
        streams: Sequence[Stream],
        weights: Sequence[float] | None = None,
        temperature: float | None = None,
        sizes: Sequence[int] | None = None,
        names: Sequence[str] | None = None,
        exhausted: Exhausted = "restart",
        seed: int = 0,
        rank: int | None = None,
        ranks: int | None = None,
        skips: Skips | None = None,
    ):
        super().__init__(seed, rank, ranks, skips)
        if exhausted not in get_args(Exhausted):
            raise InputError(f"exhausted = {exhausted!r} is unknown.", "Use restart, stop or drop.")
        if sizes is not None and len(sizes) != len(streams):
            raise InputError(
                f"The mixture has {len(streams)} streams, but {len(sizes)} sizes.", "Give one each."
            )
        if weights is None and sizes is None:
            raise InputError(
                "The mixture has neither weights nor the streams' sizes.",
                "A stream does not know its length: give weights, or sizes and a temperature.",
            )
        for stream in streams:
            check_entries(stream)
        self.weigh(len(streams), weights, temperature, names, sizes or [None] * len(streams))
        self.streams, self.exhausted = list(streams), exhausted

    def signature(self) -> dict[str, Any]:
        parts = [
            {k: v for k, v in s.signature().items() if k not in ("rank", "ranks")}
            for s in self.streams
        ]
        weights = [round(weight, 12) for weight in self.weights]
        return super().signature() | {
            "weights": weights,
            "exhausted": self.exhausted,
            "streams": parts,
        }

    def entries(
        self, epoch: int, share: Share, passing: Callable[[], bool] = lambda: False
    ) -> Iterator[Entry]:
        rng = random.Random(f"mixture {self.seed} {epoch} {share.index} of {share.count}")
        rounds = [0] * len(self.streams)

        def begin(source: int) -> Iterator[Entry]:
            number = epoch + _ROUND * rounds[source]
            rounds[source] += 1
            return self.streams[source].entries(number, share, passing)

        going = {i: begin(i) for i, weight in enumerate(self.weights) if weight}
        ended: set[int] = set()
        while going:
            [source] = rng.choices(list(going), [self.weights[i] for i in going])
            entry = next(going[source], None)
            if entry is None:
                ended.add(source)
                if self.exhausted == "stop" or (
                    self.exhausted == "restart" and ended >= set(going)
                ):
                    return
                if self.exhausted == "restart":
                    going[source] = begin(source)
                    entry = next(going[source], None)
            if entry is None:  # to be dropped, or this consumer's share of it is empty
                del going[source]
                continue
            yield functools.partial(self._open, source, entry)

    def _open(self, source: int, entry: Entry) -> Any:
        sample = entry()
        self.count(source)
        return sample
