"""What a judge is shown: two answers to one question about one picture, and the verdicts it may give."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from labs.errors import InputError
from labs.shapes import Scene

# A verdict is one of these, or None where the judge's words could not be read.
VERDICTS = ("first", "second", "tie")
MIRROR = {"first": "second", "second": "first", "tie": "tie", None: None}


@dataclass(frozen=True)
class Pair:
    """Two answers to a question.

    id: unique among the pairs. images: as in `Question`, opened when they are needed. first,
    second: the answers, of model A and of model B, in the order in which a judge sees them unless
    it is asked the other way round. scene: what the picture shows, where that is known (the oracle
    needs it). group: what is drawn together for intervals, such as pairs about one picture.
    """

    id: str
    question: str
    first: str
    second: str
    images: tuple = ()
    scene: Scene | None = None
    group: str | None = None

    @property
    def identical(self) -> bool:
        """Both answers are the same text: nothing is to be judged."""
        return self.first.strip() == self.second.strip()

    def swapped(self) -> "Pair":
        return replace(self, first=self.second, second=self.first)


def check_pairs(pairs: Sequence[Pair]) -> None:
    """InputError for no pairs, and for an id that is used twice (it names the id)."""
    if not pairs:
        raise InputError("There are no pairs to judge.", "Give two runs that share questions.")
    seen: set[str] = set()
    for pair in pairs:
        if pair.id in seen:
            raise InputError(
                f"The id {pair.id!r} is used by two pairs.", "Give each pair an id of its own."
            )
        seen.add(pair.id)


def is_chinese(text: str) -> bool:
    """Whether a text holds Han characters: then it is asked about in Chinese."""
    return any("\u4e00" <= character <= "\u9fff" for character in text)
