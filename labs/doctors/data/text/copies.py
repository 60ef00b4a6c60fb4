"""Copies within a data set: samples, ids, captions. Standard library only, Python 3.9 or newer.

The memory: one digest a sample, sorted into buckets by its first byte, one bucket at a time in a dict.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator

from labs.doctors.data.tally import Tally
from labs.doctors.data.text.corpus import Corpus, DataFile
from labs.doctors.data.text.digests import NONE, SIZE

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
    """Add duplicate samples (within a split) and duplicate ids (within a file) to the corpus' tally."""
    splits: dict[str, list[DataFile]] = {}
    for file in corpus.files if samples else ():
        splits.setdefault(file.split, []).append(file)
    for files in splits.values():
        for file, record, first_file, first in _equal_samples(files):
            place = first_file.place(first)
            detail = f"the same as {place}" if first_file is not file else _same_file(place)
            corpus.tally.add("duplicate_sample", file.place(record), detail)
    for file in corpus.files:
        for record, first in _equal_ids(file.ids):
            detail = f"used before, at {_short(file.place(first))}"
            corpus.tally.add("duplicate_id", file.place(record), detail)


def _short(place) -> str:
    return str(place).rpartition(", ")[2]


def _same_file(place) -> str:
    return f"the same as {_short(place)}"


def _equal_samples(files: list[DataFile]) -> Iterator[tuple[DataFile, int, DataFile, int]]:
    """(file, record, file and record of the first one) of each sample that was there before, in order."""
    buckets: list[tuple[array, array]] = [(array("I"), array("I")) for _ in range(256)]
    for number, file in enumerate(files):
        data = file.sample_digests
        for record, byte in enumerate(data[::SIZE]):
            numbers, records = buckets[byte]
            numbers.append(number)
            records.append(record)
    found = []
    for numbers, records in buckets:
        seen: dict[bytes, tuple[int, int]] = {}
        for number, record in zip(numbers, records):  # noqa: B905  (Python 3.9)
            at = record * SIZE
            digest = bytes(files[number].sample_digests[at : at + SIZE])
            first = seen.setdefault(digest, (number, record))
            if first != (number, record) and digest != NONE:
                found.append((number, record, *first))
    for number, record, first_number, first in sorted(found):
        yield files[number], record, files[first_number], first


def _equal_ids(ids: array) -> Iterator[tuple[int, int]]:
    """(record, the first record with this id) of each id that was there before, in order."""
    if len(set(ids)) + ids.count(0) >= len(ids):
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
