"""Object hallucination after POPE: "is there a ring?", asked of pictures that show one and do not."""

import functools
from collections import Counter
from collections.abc import Iterator, Sequence

from labs.errors import InputError
from labs.evaluation.answers import read_yes_no
from labs.evaluation.reading import Reading
from labs.shapes import Scene, make_record, sample_scene, seeded
from labs.shapes.language import ask
from labs.shapes.tasks import absent_kind
from labs.shapes.vocabulary import KINDS, PARTNER, say
from labs.suites.contract import Measure, Question, Row
from labs.suites.offline.base import WorldSuite, described, mean_where, ratio
from labs.suites.summary import mean_score, share, unparsed

NEGATIVES = ("random", "popular", "adversarial")
COUNTED = 2_000  # training scenes that "popular" is counted over


class Existence(WorldSuite):
    """Two questions a picture, one about a kind that is there and one about a kind that is not.

    The absent kind is

    - random: any that is not there;
    - popular: one of the three kinds that most training pictures show (`popular_kinds`);
    - adversarial: the usual companion of one that is there (a star where a ring is).

    The three settings ask about the same pictures and share their positive questions, as POPE's do,
    so their difference is made by the absent kind alone. POPE asks three and three of pictures with
    more than three objects; a scene here has one to four kinds and often one adversarial candidate,
    so one and one is what every picture can give. Pictures that cannot give one in every setting are
    passed over: those that show whole pairs of companions only, and those with all popular kinds.

    *Popular says something else here.* POPE's popular objects are frequent in what models were
    trained on, and are named for that alone. The world draws every kind equally often: the three most
    frequent ones lead by chance (`settings` shows by how little), so the data gives a model no reason
    to treat them differently, and popular is a second draw of random with half of the kinds. Where
    the two differ by more than their intervals, the model has favourites of its own. `false_yes_ring`
    and its kin name them: how often it says yes to a kind that is not there. (In both settings some
    absent kinds are companions of one that is there, by chance; `about["companion"]` tells.)

    n is the number of questions, and even. Li et al. 2023 (POPE), arXiv:2305.10355. Chapter 7.
    """

    def __init__(
        self,
        negatives: str = "random",
        *,
        n: int = 500,
        language: str = "en",
        split: str = "test",
    ):
        super().__init__(n=n, language=language, split=split)
        if negatives not in NEGATIVES:
            raise InputError(
                f"There are no {negatives!r} negatives.", f"Use one of {', '.join(NEGATIVES)}."
            )
        if n % 2:
            raise InputError(
                f"Existence asks two questions a picture, and {n} is odd.",
                f"Ask {n - 1 or 2} or {n + 1}.",
            )
        self.negatives = negatives
        self.name = "existence" if negatives == "random" else f"existence_{negatives}"
        self.title = f"Is there a …? with {negatives} absent kinds (after POPE)"

    def settings(self) -> dict:
        popular = {"shown_in_training": shown_in_training()}
        return {
            **super().settings(), "negatives": self.negatives,
            **(popular if self.negatives == "popular" else {}),
        }  # fmt: skip

    def questions(self) -> Iterator[Question]:
        asked = index = 0
        while asked < self.n:
            # An adversarial negative is possible in this scene: the hardest of the three to find.
            record = make_record(
                "existence", index, self.split, self.language, answer=False, negatives="adversarial"
            )
            scene = record["meta"]["scene"]
            if not set(popular_kinds()) <= scene.kinds:
                yield from self._pair(index, scene, record["image"])
                asked += 2
            index += 1

    def _pair(self, index: int, scene: Scene, image) -> Iterator[Question]:
        picture = f"{self.split}-existence-{self.language}-{index}"
        seed = (self.split, "existence", index)  # without the language: both ask for the same
        present = seeded(*seed, "present").choice(sorted(scene.kinds))
        absent = absent_of(scene, self.negatives, seeded(*seed, self.negatives))
        for kind, there in ((present, True), (absent, False)):
            yield Question(
                id=f"{self.split}-existence-{self.negatives}-{self.language}-{index}-{kind}",
                prompt=ask("existence", self.language, seeded(*seed), what=say(kind, self.language)),
                answer=say("yes" if there else "no", self.language),
                images=(image,),
                about={
                    "kind": kind, "there": there, "negatives": None if there else self.negatives,
                    "companion": PARTNER[kind] in scene.kinds, "language": self.language,
                    "description": described(scene, self.language, picture),
                },
                group=picture,
            )  # fmt: skip

    def read(self, question: Question, said: str) -> Reading:
        return read_yes_no(said)

    def score(self, question: Question, reading: Reading) -> float:
        return float(reading.value == question.about["there"])

    def measures(self, rows: Sequence[Row]) -> dict[str, Measure]:
        """POPE's five numbers, false yes by kind, and the share that could not be read, over pictures.

        An answer that cannot be read is wrong, and is no yes (`labs.evaluation.pope_scores`).
        """
        found = {"accuracy": mean_score(rows)}
        found["precision"] = mean_where(rows, said_yes, there)
        found["recall"] = mean_where(rows, there, said_yes)
        # F1 is a ratio of counts: 2 TP / (answers yes + questions with the answer yes).
        found["f1"] = ratio(rows, lambda r: 2 * true_yes(r), lambda r: said_yes(r) + there(r))
        found["yes_rate"] = share(rows, said_yes)
        for kind in KINDS:
            absent = [r for r in rows if r.about["kind"] == kind and not there(r)]
            if absent:
                found[f"false_yes_{kind}"] = share(absent, said_yes)
        found["unparsed"] = unparsed(rows)
        return found


def there(row: Row) -> bool:
    return row.about["there"]


def said_yes(row: Row) -> bool:
    return row.status == "read" and row.parsed is True


def true_yes(row: Row) -> bool:
    return said_yes(row) and there(row)


def absent_of(scene: Scene, negatives: str, rng) -> str:
    """A kind that the scene does not show, drawn after the setting's rule."""
    if negatives == "popular":
        return rng.choice([kind for kind in popular_kinds() if kind not in scene.kinds])
    return absent_kind(rng, scene, negatives)


@functools.cache
def shown_in_training() -> dict[str, float]:
    """The share of training pictures that show each kind, counted over 2,000 of them."""
    counts: Counter[str] = Counter()
    for index in range(COUNTED):
        counts.update(sample_scene(seeded("popular", index), "train").kinds)
    return {kind: counts[kind] / COUNTED for kind in KINDS}


def popular_kinds() -> list[str]:
    """The half of the kinds that most training pictures show, the most frequent first."""
    shown = shown_in_training()
    return sorted(KINDS, key=lambda kind: -shown[kind])[: len(KINDS) // 2]
