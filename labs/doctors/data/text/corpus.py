"""All that is known of a data set once its samples have been looked at: Parts, added up.

Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

from array import array
from collections import Counter
from pathlib import Path

from labs.doctors.data.sample import Place
from labs.doctors.data.tally import EXAMPLES, Tally
from labs.doctors.data.text.collect import Part
from labs.doctors.data.text.images import ImageTable


class DataFile:
    """One file, with an entry a record in each of its arrays (see Part).

    name: as places write it. split: "train", "val", "test", "against" or "" where there are no splits.
    """

    def __init__(self, path: Path, name: str, split: str = "", lined: bool = True) -> None:
        self.path, self.name, self.split, self.lined = path, name, split, lined
        self.lines: array = array("Q")
        self.starts: array = array("q")
        self.digests = bytearray()  # of the turns
        self.ids: array = array("Q")
        self.questions: array = array("Q")
        self.asked: array = array("H")

    def place(self, record: int) -> Place:
        return Place(self.name, self.lines[record] if self.lined else None, record)


class Corpus:
    """The files, their images, and the sums."""

    def __init__(self, examples: int = EXAMPLES, follow_links: bool = False) -> None:
        self.files: list[DataFile] = []
        self.images = ImageTable(follow_links)
        self.images.files = self.files
        self.tally = Tally(most=examples)
        self.samples = self.turns = 0
        self.histograms: dict[str, Counter] = {}
        self.answers: Counter = Counter()
        self.unchecked: list[str] = []  # sentences about what could not be looked at
        self.captions: array = array("Q")  # of each caption: its number and its (first) image
        self.caption_images: array = array("I")

    def add_file(self, file: DataFile) -> int:
        self.files.append(file)
        return len(self.files) - 1

    def add(self, number: int, part: Part, folder: str) -> None:
        """Take in the next stretch of file `number`; stretches of one file come in their order."""
        file = self.files[number]
        base = len(file.lines)
        self.tally.merge(shifted(part.tally, base))
        self.samples += part.samples
        self.turns += part.turns
        file.lines.extend(part.lines)
        file.starts.extend(part.starts)
        file.digests += part.digests
        file.ids.extend(part.ids)
        file.questions.extend(part.questions)
        file.asked.extend(part.asked)
        here = self.images.add(number, base, part, folder)
        self._add_captions(part, here)
        for name, counts in part.histograms.items():
            self.histograms.setdefault(name, Counter()).update(counts)
        self.answers.update(part.answers)

    def _add_captions(self, part: Part, here: list[int]) -> None:
        """Captions stand in the order of records, as uses of images do: both are walked through at once."""
        uses, users, at = part.uses, part.users, 0
        for caption, record in zip(part.captions, part.captioned):  # noqa: B905  (Python 3.9)
            while users[at] < record:
                at += 1
            self.captions.append(caption)
            self.caption_images.append(here[uses[at]])


def shifted(tally: Tally, base: int) -> Tally:
    """A copy of `tally` whose record numbers are `base` higher."""
    if not base or not tally.counts:
        return tally
    moved = Tally(dict(tally.counts), most=tally.most)
    for kind, examples in tally.examples.items():
        moved.examples[kind] = [
            example
            if example.place.record is None
            else example._replace(place=example.place._replace(record=example.place.record + base))
            for example in examples
        ]
    moved.hits = {(file, record + base): kinds for (file, record), kinds in tally.hits.items()}
    return moved
