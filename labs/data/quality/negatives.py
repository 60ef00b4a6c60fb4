"""Hard negatives: objects that are not in a picture and that one would expect there.

Mined from the captions of any data set by counting alone, after POPE (arXiv:2305.10355).
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from labs.errors import InputError

Kind = Literal["popular", "adversarial"]


@dataclass
class Cooccurrence:
    """In how many pictures each object is (`single`), and each two together (`pairs`, both ways round)."""

    single: Counter = field(default_factory=Counter)
    pairs: dict[str, Counter] = field(default_factory=dict)
    pictures: int = 0

    def add(self, objects: Collection[str]) -> None:
        """Count the distinct objects of one picture."""
        present = sorted(set(objects))
        self.pictures += 1
        self.single.update(present)
        for a in present:
            self.pairs.setdefault(a, Counter()).update(b for b in present if b != a)

    def absent(
        self, present: Collection[str], count: int = 3, kind: Kind = "adversarial"
    ) -> list[str]:
        """The `count` likeliest objects that a picture of `present` does not show, likeliest first.

        popular: the most frequent in the data. adversarial: those most often seen together with what
        is there (the sum of the counts over `present`). Ties go to the more frequent object, then by
        name. Fewer are returned where the data knows no more.
        """
        if kind not in ("popular", "adversarial"):
            raise InputError(
                f"There are no {kind!r} negatives.",
                "Use 'popular' or 'adversarial'; draw random ones.",
            )
        together: Counter = Counter()
        if kind == "adversarial":
            for name in set(present):
                together.update(self.pairs.get(name, Counter()))
        left = [name for name in self.single if name not in present]
        left.sort(key=lambda name: (-together[name], -self.single[name], name))
        return left[:count]


class Finder:
    """Finds the objects of a vocabulary in texts.

    vocabulary: names, or names with their synonyms ({"circle": ["circle", "disc", "圆形"]}). Latin
    words are whole words, in the singular or plural; others are found anywhere. The longest name at
    a place counts: a "fire truck" is no truck.
    """

    def __init__(self, vocabulary: Mapping[str, Sequence[str]] | Sequence[str]):
        table = (
            {word: name for name, words in vocabulary.items() for word in words}
            if isinstance(vocabulary, Mapping)
            else {name: name for name in vocabulary}
        )
        if not table:
            raise InputError("The vocabulary is empty.", "Name the objects to look for.")
        self._names: dict[str, str] = {}
        for word, name in table.items():
            for form in _forms(word.lower()):
                self._names.setdefault(form, name)
        longest_first = sorted(self._names, key=lambda form: (-len(form), form))
        self._pattern = re.compile(
            "|".join(rf"\b{re.escape(f)}\b" if f.isascii() else re.escape(f) for f in longest_first)
        )

    def __call__(self, text: str) -> list[str]:
        """The distinct objects that the text names, in the order in which it does."""
        found = [self._names[match.group()] for match in self._pattern.finditer(text.lower())]
        return list(dict.fromkeys(found))


def _forms(word: str) -> list[str]:
    """A word and, of a Latin one, its regular plurals."""
    if not word.isascii():
        return [word]
    return [word, f"{word}s", f"{word}es"] + [f"{word[:-1]}ies"] * word.endswith("y")


def count_objects(captions: Iterable[Sequence[str] | str], find: Finder) -> Cooccurrence:
    """Counts over pictures, each with its caption or captions (all of one picture taken together).

    A caption names what its writer found worth naming, so an object that no caption names may still be
    there: look at a sample before you train on these negatives.
    """
    counts = Cooccurrence()
    for of_picture in captions:
        texts = [of_picture] if isinstance(of_picture, str) else of_picture
        counts.add({name for text in texts for name in find(text)})
    return counts
