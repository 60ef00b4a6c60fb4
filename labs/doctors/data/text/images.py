"""The table of all images that samples refer to, each once however many samples show it.

Half a million references, so it holds strings and numbers side by side, no objects.
Standard library only, Python 3.9 or newer.
"""

# ruff: noqa: B905  (Python 3.9 has no zip(strict=); what is zipped has one length)
from __future__ import annotations

import bisect
import os
from array import array
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, Union

from labs.doctors.data.sample import Place
from labs.doctors.data.text.references import Folder, Found

# A path; the bytes of a member of a tar; or, of an image inside a record, the file and its row.
Source = Union[str, "tuple[str, int, int]", "Inside"]
_BATCH = 4096  # references that are looked up together
_THREADS = 8  # a network disk answers one question slowly, and eight as fast


class Inside(NamedTuple):
    """An image inside a record: which file, the record's number and the byte it starts at (-1 unknown)."""

    file: str
    record: int
    start: int


class Entry(NamedTuple):
    """reference: as written (a data URL by a digest of it). place: of the first sample that shows it.

    uses: how often it is shown. path: what to open; None where `problem` says why it cannot be opened.
    """

    reference: str
    place: Place
    uses: int
    path: Source | None
    problem: tuple[str, str] | None


class ImageTable:
    """Iterates over its entries in the order of first use; `len` is the number of distinct images."""

    def __init__(self, follow_links: bool = False) -> None:
        self.follow_links = follow_links
        self.references: list[str] = []
        self.uses: array = array("I")  # the reference, the file and the record of each use
        self.use_files: array = array("I")
        self.users: array = array("I")
        self.first: array = array("Q")  # the first use of each reference
        self.counts: array = array("I")
        self.folders: list[Folder] = []
        self.folder_of: array = array("H")
        self.sizes: array = array("q")
        self.devices: array = array("Q")
        self.inodes: array = array("Q")
        self.problems: dict[int, tuple[str, str]] = {}
        self.sources: dict[int, Any] = {}
        self.files: list[Any] = []  # what `Corpus` knows of each file
        self._numbers: list[dict[str, int]] = []
        self._spans: dict[int, tuple[int, int]] = {}  # a file's uses, which come in its order
        self._pool: ThreadPoolExecutor | None = None
        self._waiting: list[Future] = []
        self._fresh: list[int] = []

    def add(self, file: int, base: int, part: Any, folder: str) -> list[int]:
        """Take in the references of a Part; `base`: the number of its first record in the file. A file's
        parts come one after the other.

        Returns the number here of each of its references.
        """
        index = self._folder(folder)
        known = self._numbers[index]
        begin = self._spans.get(file, (len(self.uses), 0))[0]
        self._spans[file] = begin, len(self.uses) + len(part.uses)
        here = []
        for number, reference in enumerate(part.references):
            found = known.get(reference)
            if found is None:
                found = known[reference] = len(self.references)
                self._new(reference, index, part.sources.get(number), file)
            here.append(found)
        for use, user in zip(part.uses, part.users):
            number = here[use]
            if not self.counts[number]:
                self.first[number] = len(self.uses)
            self.counts[number] += 1
            self.uses.append(number)
            self.use_files.append(file)
            self.users.append(base + user)
        if len(self._fresh) >= _BATCH:
            self._look_up()
        return here

    def _folder(self, folder: str) -> int:
        for index, known in enumerate(self.folders):
            if known.root == os.path.abspath(folder):
                return index
        self.folders.append(Folder(folder, self.follow_links))
        self._numbers.append({})
        return len(self.folders) - 1

    def _new(self, reference: str, folder: int, source: Any, file: int) -> None:
        number = len(self.references)
        self.references.append(reference)
        self.folder_of.append(folder)
        self.first.append(0)
        self.counts.append(0)
        self.devices.append(0)
        self.inodes.append(0)
        if source is None:
            self.sizes.append(-1)
            self._fresh.append(number)
            return
        if source == "data":
            self.sizes.append(-1)
            self.sources[number] = source
            return
        _, offset, size = source
        self.sizes.append(size)
        # In a compressed shard there is no place to go to.
        place = None if offset is None else (str(self.files[file].path), offset, size)
        self.sources[number] = place

    def _look_up(self) -> None:
        fresh, self._fresh = self._fresh, []
        if self._pool is None:
            self._pool = ThreadPoolExecutor(_THREADS)
        size = max(len(fresh) // _THREADS, 256)
        for start in range(0, len(fresh), size):
            batch = fresh[start : start + size]
            jobs = [(self.folders[self.folder_of[n]], self.references[n]) for n in batch]
            self._waiting.append(self._pool.submit(_found, batch, jobs))

    def finish(self) -> None:
        """Wait until every reference has been looked up."""
        self._look_up()
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            for number, found in zip(*future.result()):
                if found.problem:
                    self.problems[number] = found.problem
                self.sizes[number] = found.size
                self.devices[number], self.inodes[number] = (
                    n & (1 << 64) - 1 for n in found.identity
                )
        self.close()

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    def __len__(self) -> int:
        return len(self.references)

    def __iter__(self) -> Iterator[Entry]:
        return map(self.entry, range(len(self.references)))

    def entry(self, number: int) -> Entry:
        problem = self.problems.get(number)
        path = None if problem else self.source(number)  # None of a compressed shard, too
        place = self.place(self.first[number])
        return Entry(self.references[number], place, self.counts[number], path, problem)

    def source(self, number: int) -> Source | None:
        """What to open for a reference, whether or not it was found in order."""
        source = self.sources.get(number, "")
        if source == "data":
            use = self.first[number]
            file = self.files[self.use_files[use]]
            record = self.users[use]
            return Inside(str(file.path), record, file.starts[record])
        if source != "":
            return source
        return self.folders[self.folder_of[number]].path(self.references[number])

    def places(self, references: Iterable[str]) -> Iterator[tuple[str, Place]]:
        """(reference, place) of every use of these references, in the order of the data."""
        wanted = set(references)
        numbers = {n for n, reference in enumerate(self.references) if reference in wanted}
        for use, number in enumerate(self.uses):
            if number in numbers:
                yield self.references[number], self.place(use)

    def shown_by(self, file: int, record: int) -> array:
        """The numbers of the images of one record."""
        start, end = self._spans[file]
        first = bisect.bisect_left(self.users, record, start, end)
        last = bisect.bisect_right(self.users, record, first, end)
        return self.uses[first:last]

    def place(self, use: int) -> Place:
        return self.files[self.use_files[use]].place(self.users[use])


def _found(numbers: list[int], jobs: list[tuple[Folder, str]]) -> tuple[list[int], list[Found]]:
    return numbers, [folder.look_up(reference) for folder, reference in jobs]
