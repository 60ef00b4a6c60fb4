"""Copies within a data set: samples, ids, captions. Standard library only, Python 3.9 or newer.

The memory: one digest a sample, sorted into buckets by its first byte, one bucket at a time in a dict.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator

from labs.doctors.data.tally import Tally
from labs.doctors.data.text.corpus import Corpus
from labs.doctors.data.text.digests import NONE, SIZE
from labs.doctors.data.text.same import Contents

# A caption counts as shared from so many pictures on, and so large a share of them. One caption in a
# hundred, on twenty pictures or more, is no coincidence of short descriptions in a set of thousands;
# in a small set twenty keeps "A dog." on a few photographs of dogs out of it.
SHARED_IMAGES = 20
SHARED_PART = 0.01
# Answers are told of as one-sided from a hundred on, when four in five go one way: LLaVA's own training
# answers were so lopsided that POPE (arXiv:2305.10355) saw up to 99 % yes. Of fair answers a hundred
# lie beyond 80 % once in 10^9.
ONE_SIDED = 0.8
ANSWERS = 100


def find_copies(corpus: Corpus, samples: bool = True) -> None:
    """Add duplicate samples (within a split) and duplicate ids (within a file) to the corpus' tally.

    Samples are equal where their turns are, and their images: as files, or byte by byte.
    """
    splits: dict[str, list[int]] = {}
    for number, file in enumerate(corpus.files if samples else ()):
        splits.setdefault(file.split, []).append(number)
    for files in splits.values():
        for (file, record), (first_file, first) in _equal_samples(corpus, files):
            place = str(corpus.files[first_file].place(first))
            detail = f"the same as {place if first_file != file else _short(place)}"
            corpus.tally.add("duplicate_sample", corpus.files[file].place(record), detail)
    for data in corpus.files:
        for record, first in _equal_ids(data.ids):
            detail = f"used before, at {_short(str(data.place(first)))}"
            corpus.tally.add("duplicate_id", data.place(record), detail)


def _short(place: str) -> str:
    return place.rpartition(", ")[2]


Spot = tuple  # (number of the file, record)


def _equal_samples(corpus: Corpus, files: list[int]) -> list[tuple[Spot, Spot]]:
    """(a sample, the first one that is the same) of all that were there before, in order."""
    contents = Contents()
    found: list[tuple[Spot, Spot]] = []
    for group in _equal_turns(corpus, files):
        shown = {spot: corpus.images.shown_by(*spot).tolist() for spot in group}
        groups = [group]
        for step in range(3):  # by size, by the ends of files, by all of them
            apart: dict[tuple, list[Spot]] = {}
            for number, spots in enumerate(groups):
                if len({tuple(shown[spot]) for spot in spots}) == 1:  # the very same images
                    apart.setdefault((number,), []).extend(spots)
                    continue
                for spot in spots:
                    keys = [contents.key(corpus.images, image, step) for image in shown[spot]]
                    apart.setdefault((number, *keys), []).append(spot)
            groups = [spots for spots in apart.values() if len(spots) > 1]
        found += [(spot, spots[0]) for spots in groups for spot in spots[1:]]
    return sorted(found)


def _equal_turns(corpus: Corpus, files: list[int]) -> Iterator[list[Spot]]:
    """The samples of equal turns, wherever there are two or more, each group in order."""
    buckets: list[tuple[array, array]] = [(array("I"), array("I")) for _ in range(256)]
    for number in files:
        for record, byte in enumerate(corpus.files[number].digests[::SIZE]):
            numbers, records = buckets[byte]
            numbers.append(number)
            records.append(record)
    for numbers, records in buckets:
        seen: dict[bytes, list[Spot]] = {}
        for number, record in zip(numbers, records):  # noqa: B905  (Python 3.9)
            at = record * SIZE
            digest = bytes(corpus.files[number].digests[at : at + SIZE])
            seen.setdefault(digest, []).append((number, record))
        seen.pop(NONE, None)
        yield from (spots for spots in seen.values() if len(spots) > 1)


def _equal_ids(ids: array) -> Iterator[tuple[int, int]]:
    """(record, the first record with this id) of each id that was there before, in order."""
    if len(set(ids) - {0}) == len(ids) - ids.count(0):
        return  # none, and no need to remember where each was
    seen: dict[int, int] = {}
    for record, number in enumerate(ids):
        if number:
            first = seen.setdefault(number, record)
            if first != record:
                yield record, first


def find_shared_captions(corpus: Corpus) -> None:
    """Add captions that stand under many pictures to the tally, the most frequent first."""
    total = len(corpus.captions)
    least = max(SHARED_IMAGES, SHARED_PART * total)
    counts = Counter(corpus.captions)
    often = {caption for caption, count in counts.items() if count >= least}
    del counts
    if not often:
        return
    images: dict[int, set[int]] = {caption: set() for caption in often}
    firsts: dict[int, int] = {}
    for caption, image in zip(corpus.captions, corpus.caption_images):  # noqa: B905  (Python 3.9)
        if caption in often:
            images[caption].add(image)
            firsts.setdefault(caption, image)
    for caption, shown in sorted(images.items(), key=lambda item: -len(item[1])):
        if len(shown) >= least:
            entry = corpus.images.entry(firsts[caption])
            detail = f"one caption under {len(shown):,} images, {len(shown) / total:.0%} of all"
            corpus.tally.add("shared_caption", entry.place, detail, image=entry.reference)


def find_one_sided_answers(answers: Counter, tally: Tally, place) -> None:
    """Add a note where the yes/no questions of a language are answered one way."""
    for language, name in (("en", "English"), ("zh", "Chinese")):
        yes, no = answers[language, "yes"], answers[language, "no"]
        total = yes + no
        if total >= ANSWERS and max(yes, no) >= ONE_SIDED * total:
            word = "yes" if yes > no else "no"
            detail = f"{max(yes, no):,} of {total:,} yes/no answers in {name} are {word}"
            tally.add("yes_rate", place, detail)
