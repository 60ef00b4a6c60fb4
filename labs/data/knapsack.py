"""Packing on the way: rows out of a small buffer, each as full as the buffer allows."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from labs.errors import InputError

T = TypeVar("T")
BUFFER = 64


def knapsack_pack(
    stream: Iterable[T], capacity: int, buffer: int = BUFFER, length: Callable[[T], int] = len
) -> Iterator[list[T]]:
    """Pack a stream's items into rows of at most `capacity` tokens; yields rows, lists of items.

    Up to `buffer` items are held. A row begins with the one that has waited longest, so none waits
    for more than `buffer` rows, and is filled by those of the others whose lengths come nearest to
    what is left (subset sum, solved exactly). First-fit decreasing needs all lengths beforehand and
    puts the long ones together; where lengths lie close to each other, as with a picture of 576 tokens
    in nearly every sample, that wastes more than this does.

    Raises InputError for an item longer than a row.
    """
    held = Knapsack(capacity, buffer)
    for number, item in enumerate(stream):
        held.add(item, length(item), number)
        if held.full:
            yield held.row()
    while held:
        yield held.row()


class Knapsack:
    """The items that wait for a row. What `row` takes depends on what is held and on nothing else."""

    def __init__(self, capacity: int, buffer: int):
        if capacity < 1 or buffer < 1:
            raise InputError(
                f"A row of {capacity} tokens from a buffer of {buffer} samples holds nothing.",
                "Use 1 or more of both.",
            )
        self.capacity, self.buffer = capacity, buffer
        self.items: list[tuple[Any, int]] = []

    def __len__(self) -> int:
        return len(self.items)

    @property
    def full(self) -> bool:
        return len(self.items) >= self.buffer

    def add(self, item: Any, length: int, number: int) -> None:
        """Hold an item; `number` is for the message."""
        if length > self.capacity:
            raise InputError(
                f"Sample {number} has {length} tokens and does not fit a row of {self.capacity}.",
                "Encode with max_length at most the length of a row.",
            )
        self.items.append((item, length))

    def row(self) -> list:
        """Take the next row out: the oldest item, and those that fill it up best, in their order."""
        chosen = {0, *(1 + i for i in fullest([n for _, n in self.items[1:]], self._room()))}
        row = [item for i, (item, _) in enumerate(self.items) if i in chosen]
        self.items = [pair for i, pair in enumerate(self.items) if i not in chosen]
        return row

    def _room(self) -> int:
        return self.capacity - self.items[0][1]


def fullest(lengths: list[int], room: int) -> list[int]:
    """Indices of lengths whose sum is the largest that is at most `room`.

    Bit t of `reach[i]` says whether some of the first i lengths sum to t. One shift and one "or" of a
    number of `room` bits a length: microseconds, where a table would take milliseconds.
    """
    below = (1 << (room + 1)) - 1
    reach = [1]
    for length in lengths:
        reach.append((reach[-1] | reach[-1] << length) & below)
        if reach[-1] >> room:  # full: the later ones may wait
            break
    total, chosen = reach[-1].bit_length() - 1, []
    for i in range(len(reach) - 1, 0, -1):
        if not reach[i - 1] >> total & 1:
            chosen.append(i - 1)
            total -= lengths[i - 1]
    return chosen
