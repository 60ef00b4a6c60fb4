# ruff: noqa: B905, UP045 - Python 3.9 has no zip(strict=), and cannot evaluate X | None
"""Pictures that look alike: within the data, and across the border of a split.

Alike means: fingerprints (`labs.formats.fingerprints.picture_hash`) that differ in few bits. That is
a judgement, and errs now and then; the same bytes or pixels are the same picture for certain, and are
told apart.
Nothing is said about pictures of one colour, whose fingerprint is 0.

Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator, Sequence
from typing import Optional, TypeVar

from labs.doctors.data.sample import Problem
from labs.formats.fingerprints import BITS, DISTANCE
from labs.formats.near import first_near, hamming

Reference = TypeVar("Reference")
Same = Optional[Callable[[Reference, Reference], bool]]

TRIED = 20  # pictures of one fingerprint that are compared byte by byte
# Within so many bits two pictures are one picture saved twice. Among 200 million pairs of different
# scenes of the offline world, whose pictures are as alike as pictures get, none lay so near; 27 pairs
# lay within DISTANCE: small circles and squares of one colour, mostly.
SURE = 4


def near_duplicates(
    pictures: Sequence[tuple[Reference, int]], distance: int = DISTANCE, same: Same = None
) -> Iterator[tuple[Reference, Problem]]:
    """One problem for each picture that looks like an earlier one, naming the first that it looks like.

    pictures: (reference, fingerprint) in the order of the data. same(a, b): whether two pictures are
    the same, asked only where it can be.
    """
    pictures = _visible(pictures)
    values = [value for _, value in pictures]
    copies = _by_value(pictures)
    for i, j in enumerate(first_near(values, distance, BITS)):
        if j is None:
            continue
        reference, value = pictures[i]
        twin = _twin(reference, copies[value], same, before=i)
        if twin is not None:
            detail = f"the same picture as {pictures[twin][0]}"
        else:
            detail = (
                f"looks like {pictures[j][0]} ({hamming(value, values[j])} of {BITS} bits differ)"
            )
        yield reference, Problem("near_duplicate_image", detail)


def groups(
    pictures: Sequence[tuple[Reference, int]], distance: int = DISTANCE
) -> list[list[Reference]]:
    """The pictures that look alike, each with the first it looks like and what that looks like in turn;
    only groups of two and more, in the order of their first."""
    pictures = _visible(pictures)
    first = first_near([value for _, value in pictures], distance, BITS)
    root = list(range(len(pictures)))
    members: dict[int, list[Reference]] = {}
    for i, j in enumerate(first):
        if j is not None:
            root[i] = root[j]  # j comes before i: its root is known
            members.setdefault(root[i], [pictures[root[i]][0]]).append(pictures[i][0])
    return [members[i] for i in sorted(members)]


def leaks(
    pictures: Sequence[tuple[Reference, int]],
    others: Sequence[tuple[Reference, int, str]],
    distance: int = DISTANCE,
    same: Same = None,
) -> Iterator[tuple[Reference, Problem]]:
    """One problem for each picture that looks like one of another split, naming the first such.

    others: (reference, fingerprint, name of the split). "leaked_image" where `same` says that the two
    are the same, "leaked_near_duplicate" within SURE bits, beyond that "near_duplicate_image":
    two pictures that look alike may be two.
    """
    pictures, others = _visible(pictures), _visible(others)
    values = [other[1] for other in others]
    copies = _by_value(others)
    own = [value for _, value in pictures]
    surely = first_near(own, min(SURE, distance), BITS, values)
    found = first_near(own, distance, BITS, values)
    for (reference, value), sure, j in zip(pictures, surely, found):
        if j is None:
            continue
        j = j if sure is None else sure
        twin = _twin(reference, copies[value], same) if value in copies else None
        other, near, split = others[j if twin is None else twin]
        if twin is not None:
            yield reference, Problem("leaked_image", f"the same picture as {other} of {split}")
        else:
            words = f"looks like {other} of {split} ({hamming(value, near)} of {BITS} bits differ)"
            kind = "near_duplicate_image" if sure is None else "leaked_near_duplicate"
            yield reference, Problem(kind, words)


def _visible(pictures: Sequence) -> list:
    return [picture for picture in pictures if picture[1]]


def _by_value(pictures: Sequence) -> dict[int, list[tuple[int, Reference]]]:
    found = collections.defaultdict(list)
    for i, picture in enumerate(pictures):
        if len(found[picture[1]]) < TRIED:
            found[picture[1]].append((i, picture[0]))
    return found


def _twin(reference: Reference, copies: list, same: Same, before: float = float("inf")):
    """The index of the first picture of the same bytes: those have the same fingerprint."""
    if same is None:
        return None
    return next((i for i, other in copies if i < before and same(reference, other)), None)
