"""Samples as a stream: from shards, JSON Lines or whatever can be opened again, never all in memory."""

import functools
import random
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, get_args

from labs.data.skips import Skips
from labs.data.stream import Entry, Share, Stream
from labs.data.stream_sources import Source, make_source
from labs.errors import InputError

Split = Literal["auto", "shards", "samples"]


class StreamingDataset(Stream):
    """An IterableDataset over data that need not fit into memory; see Stream for its state.

    source:
    - WebDataset shards: a path, `name-{000000..000123}.tar`, a folder of them, or a list;
    - JSON or JSONL files: a path, or a list (JSON Lines are read lightly: a line that is not needed
      is not parsed; of a JSON list every record is);
    - anything that can be gone through again: a list, a data set, or a function without arguments
      that returns an iterator, called anew each epoch.
    decode: makes a sample of what the source holds ({"__key__", "__url__", extension: bytes}, a record,
    or an item), in the worker and when its turn comes: `labs.formats.webdataset.decode_sample`, a
    `ConversationEncoder`, … It may raise Skip or InputError; such a sample is counted and left out. It
    should draw no random numbers but from what the sample and the epoch are: a resumed worker does
    not have the other one's.
    buffer: shuffle over this many samples held ready (undecoded), in shards taken in random order;
    0 keeps the order of the source. A worker holds `buffer` samples in memory.
    split: how consumers (workers of ranks) share an epoch out, each sample going to exactly one:
    - "shards": whole shards (or files), so that each is read once. Consumers get unequal numbers
      unless their number divides that of the shards;
    - "samples": every consumer passes over all shards and takes each n-th sample: ranks differ by at
      most one sample, however many workers;
    - "auto": shards if there is one for each consumer, else samples.
    Ranks that gather in every step must take equally many: count steps and not epochs, or use
    "samples" with drop_last.
    """

    def __init__(
        self,
        source: Any,
        decode: Callable[[Any], Any] | None = None,
        buffer: int = 1000,
        seed: int = 0,
        split: Split = "auto",
        rank: int | None = None,
        ranks: int | None = None,
        skips: Skips | None = None,
    ):
        super().__init__(seed, rank, ranks, skips)
        if split not in get_args(Split):
            raise InputError(f"split = {split!r} is unknown.", "Use auto, shards or samples.")
        if buffer < 0:
            raise InputError(f"A buffer of {buffer} samples cannot be held.", "Use 0 or more.")
        self.source: Source = make_source(source)
        self.decode, self.buffer, self.split = decode, buffer, split

    def signature(self) -> dict[str, Any]:
        names = "\n".join(self.source.names()).encode("utf-8", "surrogateescape")
        return super().signature() | {
            "buffer": self.buffer,
            "split": self.split,
            "shards": len(self.source.pieces),
            "names of shards": zlib.crc32(names),
        }

    def entries(
        self, epoch: int, share: Share, passing: Callable[[], bool] = lambda: False
    ) -> Iterator[Entry]:
        rng = random.Random(f"{self.seed} {epoch} {share.index} of {share.count}")
        for item in shuffled(self._items(epoch, share, passing), self.buffer, rng):
            yield functools.partial(self._open, item)

    def _open(self, item: Any) -> Any:
        value = self.source.value(item)
        return value if self.decode is None else self.decode(value)

    def _items(self, epoch: int, share: Share, passing: Callable[[], bool]) -> Iterator[Any]:
        """What this consumer reads, in the order of reading."""
        pieces = list(self.source.pieces)
        if self.buffer:
            random.Random(f"{self.seed} {epoch}").shuffle(pieces)  # the same for all consumers
        index, count = share
        if self.split == "shards" or (self.split == "auto" and len(pieces) >= count):
            pieces, index, count = pieces[index::count], 0, 1
        number = 0

        def wanted() -> bool:
            return number % count == index and not passing()

        for piece in pieces:
            for item in self.source.open(piece, wanted):
                mine, number = number % count == index, number + 1
                if mine:
                    yield item


def shuffled(items: Iterable[Any], size: int, rng: random.Random) -> Iterator[Any]:
    """The items in an order that is random over about `size` of them, holding so many.

    Each one that comes takes the place of a random one of those held, which goes.
    """
    held: list = []
    for item in items:
        if len(held) < size:
            held.append(item)
            continue
        if size:
            at = rng.randrange(size)
            held[at], item = item, held[at]
        yield item
    rng.shuffle(held)
    yield from held
