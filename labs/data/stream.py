"""Streams that remember where they are: the order is a function of seed, epoch and consumer alone.

A consumer is one worker of one rank. It has a share of the stream in an order of its own, so where
it stands is one number: how many samples it has passed. From that number it finds its way back
without having kept anything else.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.distributed
from torch.utils.data import IterableDataset, get_worker_info

from labs.data.skips import REASONS, Skip, Skips
from labs.errors import InputError

# A reason that only streams have: they meet their records one by one, while training.
BROKEN = "broken_record"

_EXAMPLE = 400  # bytes that are kept of the first example of each reason

Entry = Callable[[], Any]


class Share(NamedTuple):
    """Consumer `index` of `count` in all: worker * ranks + rank, of workers * ranks."""

    index: int
    count: int


class Stream(IterableDataset):
    """An IterableDataset that can say where it is and go on from there. Subclasses give `entries`.

    seed: with epoch and consumer it decides the order. rank, ranks: this process among those that
    train together; taken from torch.distributed where it is set up, else one alone. skips: counts
    what cannot be used; a sample that raises Skip, or InputError, is counted and left out, and the
    stream stops with InputError once more than its limit (1 %) are.

    `set_epoch(n)` begins epoch n: another order. Within a process, or through a DataLoader without
    workers, `state_dict()` and `load_state_dict()` are about the samples handed out. Through a
    DataLoader with workers use `labs.data.StreamingLoader`: it knows which of the samples that the
    workers prepared were also consumed.
    """

    def __init__(
        self,
        seed: int = 0,
        rank: int | None = None,
        ranks: int | None = None,
        skips: Skips | None = None,
    ):
        if rank is None or ranks is None:
            together = torch.distributed.is_available() and torch.distributed.is_initialized()
            rank = torch.distributed.get_rank() if together else 0
            ranks = torch.distributed.get_world_size() if together else 1
        if not 0 <= rank < ranks:
            raise InputError(f"There is no rank {rank} of {ranks}.", "Count ranks from 0.")
        self.seed, self.rank, self.ranks = seed, rank, ranks
        self.skips = skips if skips is not None else Skips()
        # Shared with the workers, persistent ones too: epoch, how often it was set, and whether a
        # worker has iterated.
        self._control = torch.zeros(3, dtype=torch.int64).share_memory_()
        self._examples = torch.zeros(len(REASONS), _EXAMPLE, dtype=torch.uint8).share_memory_()
        self._start: tuple[int, int, list] | None = None  # valid for, turn, a state for each worker
        self._here: tuple[int, Any] | None = None  # the worker that runs here, and its state

    # For subclasses.

    def entries(
        self, epoch: int, share: Share, passing: Callable[[], bool] = lambda: False
    ) -> Iterator[Entry]:
        """The samples of a consumer in their order, as functions that open them.

        passing: whether the caller is still on its way to the place to resume from and opens nothing.
        What is read meanwhile should be no more than it takes to know what comes next; the bytes of
        samples that are still held then are read when they are opened.
        """
        raise NotImplementedError

    def signature(self) -> dict[str, Any]:
        """What the order depends on besides the epoch; a state is only good for the same."""
        return {
            "kind": type(self).__name__,
            "seed": self.seed,
            "rank": self.rank,
            "ranks": self.ranks,
        }

    def walk(self, epoch: int, share: Share, state: dict | None) -> Iterator[tuple[dict, Any]]:
        """The usable samples of a consumer from `state` on, each with the state after it."""
        start = state["position"] if state else 0
        position = 0

        def passing() -> bool:
            return position < start

        for entry in self.entries(epoch, share, passing):
            position += 1
            if position > start:
                for sample in self.usable(entry, position):
                    yield {"position": position}, sample
        check_end(position, start)

    def usable(self, entry: Entry, position: int) -> list:
        """The sample in a list; an empty one, and the sample counted, where it cannot be used."""
        self.skips.seen()
        try:
            return [entry()]
        except Skip as skip:
            self._skip(skip.reason, skip.message, position)
        except InputError as error:
            self._skip(BROKEN, error.what, position)
        return []

    def _skip(self, reason: str, message: str, position: int) -> None:
        row = self._examples[list(REASONS).index(reason)]
        if not row[0]:
            text = message.encode("utf-8")[: _EXAMPLE - 1] + b"\0"
            row[: len(text)] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        self.skips.add(reason, position - 1)
        self.check()

    def example(self, reason: str) -> str:
        """The sentence on the first sample that was skipped for this reason; "" if none was."""
        text = bytes(self._examples[list(REASONS).index(reason)].tolist())
        return text.split(b"\0", 1)[0].decode("utf-8", "ignore")

    def check(self, final: bool = False) -> None:
        """Raise InputError, with an example, if too many were skipped. Every skip calls it."""
        worst = max(self.skips.counts, key=self.skips.counts.get, default=None)
        self.skips.check(final, lambda _: self.example(worst))

    # Iterating.

    @property
    def epoch(self) -> int:
        return int(self._control[0])

    def set_epoch(self, epoch: int) -> None:
        """Begin this epoch, from its first sample. Persistent workers hear of it too."""
        self._control[0] = epoch
        self._control[1] += 1
        self._start = self._here = None

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        workers, worker = (1, 0) if info is None else (info.num_workers, info.id)
        if info is not None:
            self._control[2] = 1
        state = None
        if self._start is not None and self._start[0] == int(self._control[1]):
            # After a resume the worker whose turn it is comes first, and a DataLoader begins with
            # its worker 0: so that one plays the part.
            _, turn, states = self._start
            worker = (worker + turn) % workers
            state = states[worker]
        if info is None:
            self._start = None  # the iteration after this one begins at the beginning
            self._control[2] = 0
        share = Share(worker * self.ranks + self.rank, workers * self.ranks)
        self._here = worker, state
        for after, sample in self.walk(self.epoch, share, state):
            self._here = worker, after
            yield sample

    # Remembering.

    def here(self) -> tuple[int, Any]:
        """Where the iteration of this process stands: its worker, and that one's state."""
        return self._here

    def state_dict(self) -> dict[str, Any]:
        """Where the iteration of this process stands: plain values, fit for JSON."""
        if self._control[2]:
            raise InputError(
                "Workers of a DataLoader iterate over this stream, and only they know where they are.",
                "Use labs.data.StreamingLoader in place of the DataLoader, and its state_dict().",
            )
        here = self._here[1] if self._here else None
        if here is None and self._start is not None:
            here = self._start[2][0]
        return make_state(self, {}, 0, [here])

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the state was taken. Raises InputError for the state of another stream."""
        restore_state(self, {}, state)


def make_state(stream: Stream, more: dict, turn: int, states: list) -> dict[str, Any]:
    """A state: epoch, what the order depends on, whose turn it is, and where each worker stands."""
    signature = stream.signature() | {"workers": len(states)} | more
    return {"epoch": stream.epoch, "signature": signature, "turn": turn, "states": states}


def restore_state(stream: Stream, more: dict, state: dict[str, Any], workers: int = 1) -> None:
    """Make the stream's next iteration go on from a state."""
    expected = stream.signature() | {"workers": workers} | more
    try:
        found, epoch, turn = state["signature"], int(state["epoch"]), int(state["turn"])
        states = list(state["states"])
    except (KeyError, TypeError, ValueError):
        raise InputError("This is no state of a stream.", "Give what state_dict() gave.") from None
    for key in {**expected, **found}:
        if expected.get(key) != found.get(key):
            raise InputError(
                f"The state is of a stream with {key} = {found.get(key)}, "
                f"but here {key} is {expected.get(key)}.",
                "Its order would be another one: resume with the same, or begin the epoch anew.",
            )
    stream.set_epoch(epoch)
    stream._start = int(stream._control[1]), turn, states


def check_entries(stream: Stream) -> None:
    """Raise InputError for a stream that has no single samples to draw from: one of packed rows."""
    if type(stream).entries is Stream.entries:
        raise InputError(
            f"A {type(stream).__name__} gives rows, not samples, and cannot be mixed or packed again.",
            "Mix the streams first, and pack the mixture.",
        )


def check_end(position: int, start: int) -> None:
    """Raise InputError if the data ended before the place to resume from."""
    if position < start:
        raise InputError(
            f"The state stands at sample {start:,} of a worker, but its data ends at {position:,}.",
            "The files have changed since: begin the epoch anew.",
        )
