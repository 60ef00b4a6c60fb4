"""All near pairs among many fingerprints, without comparing all with all.

Pigeonhole: deal the bits out to distance + 1 bands; where at most `distance` bits differ, at least one
band has none of them. So it is enough to compare fingerprints that agree in a whole band. Equal
fingerprints are taken together first: a thousand copies of one picture are one entry.

Standard library only, Python 3.9 or newer; NumPy is used where it is installed (the same results, 30
times as fast). After Manku, Jain, Das Sarma, "Detecting near-duplicates for web crawling", 2007.
"""

# ruff: noqa: B905  (Python 3.9 has no zip(strict=))
from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

_SHORT = 1024  # buckets up to this size are compared pair by pair, all buckets at once
_BLOCK = 1 << 17  # pairs compared at a time


def hamming(a: int, b: int) -> int:
    """In how many bits two fingerprints differ."""
    return bin(a ^ b).count("1")


def near_pairs(hashes: Sequence[int], distance: int, bits: int) -> list[tuple[int, int]]:
    """All pairs (i, j), i < j, of fingerprints of `bits` bits that differ in at most `distance`, sorted.

    The list itself grows with the square of a crowd of copies; where one partner of each is enough,
    `first_near` stays near-linear. Raises ValueError for a fingerprint that has more bits.
    """
    where = _places(hashes, bits)
    distinct, places = list(where), list(where.values())
    found = [pair for members in places for pair in combinations(members, 2)]
    search = _near_numpy if _numpy() else _near_python
    for a, b in search(distinct, distance, bits):
        found += [(i, j) if i < j else (j, i) for i in places[a] for j in places[b]]
    return sorted(found)


def first_near(
    hashes: Sequence[int], distance: int, bits: int, against: Sequence[int] | None = None
) -> list[int | None]:
    """For each fingerprint the first one before it that differs in at most `distance` bits, or None.

    With `against`, the first one of those instead: what of one split is also in another. Raises
    ValueError for a fingerprint that has more than `bits` bits.
    """
    if against is None:
        where = _places(hashes, bits)
        distinct, border = list(where), None
    else:
        where = _places(against, bits)
        border = len(where)
        own = _places(hashes, bits)
        distinct = [*where, *own]
    search = _first_numpy if _numpy() else _first_python
    first = search(distinct, distance, bits, border)
    places = [members[0] for members in where.values()]
    if border is not None:
        number = {value: border + k for k, value in enumerate(own)}
        return [
            None if first[number[value]] is None else places[first[number[value]]]
            for value in hashes
        ]
    number = {value: k for k, value in enumerate(distinct)}
    out: list[int | None] = []
    for i, value in enumerate(hashes):
        k = number[value]
        earlier = places[k if first[k] is None else first[k]]
        out.append(earlier if earlier < i else None)
    return out


def _places(hashes: Sequence[int], bits: int) -> dict[int, list[int]]:
    where: dict[int, list[int]] = {}
    for i, value in enumerate(hashes):
        where.setdefault(value, []).append(i)
    for value in where:
        if value < 0 or value >> bits:
            raise ValueError(f"{value:#x} is no fingerprint of {bits} bits")
    return where


def _masks(distance: int, bits: int) -> list[int]:
    """The bands. Every (distance + 1)-th bit: neighbouring bits often agree, and would make poor bands."""
    count = min(distance + 1, bits)
    if distance >= bits:
        return [0]  # everything is near everything
    return [sum(1 << bit for bit in range(band, bits, count)) for band in range(count)]


def _numpy() -> Any:
    try:
        import numpy
    except ImportError:
        return None
    return numpy


def _buckets(values: list[int], mask: int) -> Iterator[list[int]]:
    buckets: dict[int, list[int]] = {}
    for i, value in enumerate(values):
        buckets.setdefault(value & mask, []).append(i)
    return (members for members in buckets.values() if len(members) > 1)


def _near_python(values: list[int], distance: int, bits: int) -> set[tuple[int, int]]:
    found = set()
    for mask in _masks(distance, bits):
        for members in _buckets(values, mask):
            for a, b in combinations(members, 2):
                if hamming(values[a], values[b]) <= distance:
                    found.add((a, b))
    return found


def _first_python(
    values: list[int], distance: int, bits: int, border: int | None
) -> list[int | None]:
    first: list[int | None] = [None] * len(values)
    for mask in _masks(distance, bits):
        for members in _buckets(values, mask):
            waiting = [m for m in members if border is None or m >= border]
            for pivot in members:
                if border is not None and pivot >= border:
                    break
                # Who has an earlier partner already cannot gain from this pivot: a crowd of near
                # copies finds its first member at once and is done.
                waiting = [
                    m for m in waiting if m > pivot and (first[m] is None or first[m] > pivot)
                ]
                for m in waiting:
                    if hamming(values[pivot], values[m]) <= distance:
                        first[m] = pivot
    return first


class _Words:
    """Fingerprints as rows of 64-bit words, and their buckets band by band."""

    def __init__(self, values: list[int], distance: int, bits: int):
        self.np = np = _numpy()
        self.distance, self.width = distance, -(-bits // 64)
        size = 8 * self.width
        packed = b"".join([value.to_bytes(size, "little") for value in values])
        self.words = np.frombuffer(packed, dtype="<u8").reshape(-1, self.width)
        self.masks = [
            np.frombuffer(mask.to_bytes(size, "little"), dtype="<u8")
            for mask in _masks(distance, bits)
        ]

    def bands(self) -> Iterator[tuple[Any, Any]]:
        """(order, starts): indices sorted by bucket and, in a bucket, by themselves; where each begins."""
        np = self.np
        for mask in self.masks:
            key = np.zeros(len(self.words), dtype=np.uint64)
            for word in range(self.width):
                # A mixed key may put two bands into one bucket; what is in it is compared in full.
                key = (key ^ (self.words[:, word] & mask[word])) * np.uint64(0x9E3779B97F4A7C15)
                key ^= key >> np.uint64(29)
            order = np.argsort(key, kind="stable")
            key = key[order]
            starts = np.flatnonzero(np.concatenate(([True], key[1:] != key[:-1])))
            yield order, np.append(starts, len(order))

    def near(self, a: Any, b: Any) -> Any:
        """Which of the pairs (a[k], b[k]) are near, as a mask. The first word alone rules out most."""
        np = self.np
        apart = self._count(self.words[a, 0] ^ self.words[b, 0])
        good = apart <= self.distance
        left = np.flatnonzero(good)
        if self.width > 1 and len(left):
            rest = self._count(self.words[a[left], 1:] ^ self.words[b[left], 1:])
            good[left] = apart[left] + rest.sum(axis=1) <= self.distance
        return good

    def _count(self, words: Any) -> Any:
        np = self.np
        if hasattr(np, "bitwise_count"):
            return np.bitwise_count(words).astype(np.int64)
        # NumPy before 2.0: by octets, from a table.
        table = np.array([bin(value).count("1") for value in range(256)])
        return table[words[..., None].view(np.uint8)].sum(axis=-1, dtype=np.int64)


def _pairs_in(np: Any, order: Any, starts: Any, most: int | None) -> Iterator[tuple[Any, Any]]:
    """All pairs of each bucket of at most `most` members, in blocks: neighbours at distance 1, 2, 3, …"""
    sizes = np.diff(starts)
    if most is not None:
        sizes = np.where(sizes <= most, sizes, 1)
    left = np.repeat(sizes, np.diff(starts)) - (
        np.arange(len(order)) - np.repeat(starts[:-1], np.diff(starts))
    )  # members from here to the end of the bucket, this one included
    alive, offset = np.flatnonzero(left > 1), 1
    while len(alive):
        for block in range(0, len(alive), _BLOCK):
            here = alive[block : block + _BLOCK]
            yield order[here], order[here + offset]
        offset += 1
        alive = alive[left[alive] > offset]


def _near_numpy(values: list[int], distance: int, bits: int) -> list[tuple[int, int]]:
    words = _Words(values, distance, bits)
    np, count = words.np, len(values)
    found = np.zeros(0, dtype=np.int64)
    for order, starts in words.bands():
        parts = []
        for a, b in _pairs_in(np, order, starts, None):
            good = words.near(a, b)
            if good.any():
                parts.append(a[good] * count + b[good])
        if parts:
            found = np.union1d(found, np.concatenate(parts))
    return list(zip((found // count).tolist(), (found % count).tolist())) if count else []


def _first_numpy(
    values: list[int], distance: int, bits: int, border: int | None
) -> list[int | None]:
    words = _Words(values, distance, bits)
    np, none = words.np, len(values)
    first = np.full(none, none, dtype=np.int64)
    for order, starts in words.bands():
        for a, b in _pairs_in(np, order, starts, _SHORT):
            if border is not None:
                across = (a < border) & (b >= border)
                a, b = a[across], b[across]
            good = words.near(a, b)
            np.minimum.at(first, b[good], a[good])
        for bucket in np.flatnonzero(np.diff(starts) > _SHORT):
            members = order[starts[bucket] : starts[bucket + 1]]
            waiting = members if border is None else members[members >= border]
            for pivot in members if border is None else members[members < border]:
                waiting = waiting[(waiting > pivot) & (first[waiting] > pivot)]
                if not len(waiting):
                    break
                good = words.near(np.full(len(waiting), pivot), waiting)
                first[waiting[good]] = pivot
    return [None if value == none else value for value in first.tolist()]
