"""Samples and images that are also in another split. Standard library only, Python 3.9 or newer."""

# ruff: noqa: B905  (Python 3.9 has no zip(strict=); arrays of one table have one length)
from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

from labs.doctors.data.text.corpus import Corpus, DataFile
from labs.doctors.data.text.images import ImageTable
from labs.doctors.data.text.same import Contents, identity_of, name_of


def find_leaks(mine: Corpus, left: set[int], other: Corpus, right: set[int]) -> None:
    """Add to `mine.tally` the samples of its files `left` that are in the files `right` of `other`.

    leaked_sample where a question and an image of it are together there (without images: where its
    questions are); leaked_image where only the image is.
    """
    there = _Side(other, right)
    here = _Side(mine, left)
    same = same_images(mine.images, here.images, other.images, there.images)
    leaked: dict[tuple[int, int], list[int]] = {}
    for file, record, image in here.uses(same.keys()):
        leaked.setdefault((file, record), []).append(image)
    asked: dict[int, dict[int, str]] = {}  # image there -> question -> where
    shown: dict[int, str] = {}  # image there -> where
    for file, record, image in there.uses(set(same.values())):
        place = str(other.files[file].place(record))
        shown.setdefault(image, place)
        for question in there.asked(file, record):
            asked.setdefault(image, {}).setdefault(question, place)
    for (file, record), images in leaked.items():
        questions = here.asked(file, record)
        found = (
            (image, asked.get(same[image], {}).get(question))
            for image in images
            for question in questions
        )
        image, place = next((pair for pair in found if pair[1]), (images[0], None))
        kind = "leaked_sample" if place else "leaked_image"
        detail = f"also in {place or shown[same[image]]}"
        name = mine.images.references[image]
        mine.tally.add(kind, mine.files[file].place(record), detail, image=name)
    texts = {question: (file, record) for file, record, question in there.text_only()}
    for file, record, question in here.text_only():
        if question in texts:
            in_file, at = texts[question]
            detail = f"also in {other.files[in_file].place(at)}"
            mine.tally.add("leaked_sample", mine.files[file].place(record), detail)


class _Side:
    """Some files of a corpus: which images their records show, and what they ask."""

    def __init__(self, corpus: Corpus, files: set[int]) -> None:
        self.corpus, self.files = corpus, files
        self.images: set[int] = set()
        self._illustrated = {n: bytearray(len(corpus.files[n].lines)) for n in files}
        for image, file, record in self._all_uses():
            self.images.add(image)
            self._illustrated[file][record] = 1
        self._starts = {n: _starts(corpus.files[n]) for n in files}

    def _all_uses(self) -> Iterator[tuple[int, int, int]]:
        table, files = self.corpus.images, self.files
        for use in zip(table.uses, table.use_files, table.users):
            if use[1] in files:
                yield use

    def uses(self, images: Iterable[int]) -> Iterator[tuple[int, int, int]]:
        """(file, record, image) wherever one of these images is shown."""
        for image, file, record in self._all_uses():
            if image in images:
                yield file, record, image

    def asked(self, file: int, record: int) -> list[int]:
        start = self._starts[file][record]
        data = self.corpus.files[file]
        return data.questions[start : start + data.asked[record]].tolist()

    def text_only(self) -> Iterator[tuple[int, int, int]]:
        """(file, record, question) of the samples without images."""
        for file in sorted(self.files):
            illustrated = self._illustrated[file]
            for record, count in enumerate(self.corpus.files[file].asked):
                if count and not illustrated[record]:
                    yield file, record, self.asked(file, record)[0]


def _starts(file: DataFile) -> list[int]:
    return list(itertools.accumulate(file.asked, initial=0))


def same_images(
    mine: ImageTable, here: set[int], other: ImageTable, there: set[int]
) -> dict[int, int]:
    """Of the images `here` of one table those that are the same as one `there` of the other: which one."""
    same: dict[int, int] = {}
    names = {name_of(other, number): number for number in sorted(there, reverse=True)}
    files = {identity_of(other, number): number for number in sorted(there, reverse=True)}
    files.pop(None, None)
    sizes: dict[int, list[int]] = {}
    for number in sorted(there):
        if other.sizes[number] > 0:
            sizes.setdefault(other.sizes[number], []).append(number)
    contents = Contents()
    for number in sorted(here):
        if mine is other and number in there:
            same[number] = number
            continue
        found = names.get(name_of(mine, number), files.get(identity_of(mine, number)))
        if found is None and number not in mine.problems:
            alike = sizes.get(mine.sizes[number], [])
            for whole in (False, True):
                own = contents.digest(mine, number, whole) if alike else None
                alike = [n for n in alike if own and own == contents.digest(other, n, whole)]
            found = alike[0] if alike else None
        if found is not None:
            same[number] = found
    return same
