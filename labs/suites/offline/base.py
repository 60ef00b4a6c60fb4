"""What the suites on the offline world share: which questions, the scene in words, rates with intervals."""

import functools
from collections.abc import Callable, Sequence

import numpy as np

from labs.errors import InputError
from labs.evaluation.intervals import wilson_ci
from labs.shapes import Object, Scene, caption, seeded
from labs.shapes.language import LANGUAGES
from labs.shapes.scene import SPLITS
from labs.shapes.vocabulary import CELLS, SYNONYMS
from labs.suites.contract import Measure, Row, Suite
from labs.suites.summary import RESAMPLES, SEED, mean_of


class WorldSuite(Suite):
    """A suite of `n` questions about scenes of a split, in one language.

    The scenes of a split are the same in both languages, and the first `n` questions are those of
    any longer suite: a score on 100 questions is a part of the score on 500.

    Raises InputError for fewer than one question, a language or a split that there is not.
    """

    def __init__(self, *, n: int = 500, language: str = "en", split: str = "test"):
        if n < 1:
            raise InputError(f"A suite of {n} questions has none.", "Ask at least one.")
        if language not in LANGUAGES:
            raise InputError(f"There is no language {language!r}.", "Use 'en' or 'zh'.")
        if split not in SPLITS:
            raise InputError(f"There is no split {split!r}.", "Use 'train', 'val' or 'test'.")
        self.n, self.language, self.split = n, language, split

    def settings(self) -> dict:
        return {"n": self.n, "language": self.language, "split": self.split}


def described(scene: Scene, language: str, seed: str) -> str:
    """The scene in words, its objects in random order: what a text-only model reads for a picture."""
    order = list(range(len(scene.objects)))
    seeded("described", seed).shuffle(order)
    return caption(scene, language, order)


def objects_of(scene: Scene) -> list[dict]:
    """The scene's objects as JSON."""
    return [
        {"kind": o.kind, "colour": o.colour, "size": o.size, "position": o.position}
        for o in scene.objects
    ]


def scene_of(objects: Sequence[dict]) -> Scene:
    """The scene that `objects_of` wrote down, without jitter and grain, for the oracle to judge by."""
    return Scene(
        tuple(
            Object(o["kind"], o["colour"], o["size"], CELLS.index(o["position"])) for o in objects
        )
    )


def synonyms(words: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Each word with what people write for it, in both languages."""
    return {word: SYNONYMS[word] for word in words}


def mean_where(
    rows: Sequence[Row], where: Callable[[Row], bool], value: Callable[[Row], float]
) -> Measure:
    """The mean of `value` over the rows that `where` picks; 0, without an interval, of none."""
    picked = [row for row in rows if where(row)]
    return mean_of(picked, value) if picked else Measure(0.0, None, None, 0)


def ratio(
    rows: Sequence[Row], top: Callable[[Row], float], bottom: Callable[[Row], float]
) -> Measure:
    """The sum of `top` over the sum of `bottom`, with its 95 % interval over groups.

    F1 and CHAIR are such ratios: of all objects that captions mention, how many are made up. Whole
    groups (a picture with its questions) are drawn with replacement, and both sums are made of
    what was drawn; percentile interval. Where every group gives 0, or every group 1, that would have
    no width; the interval is Wilson's then, for as many trials as there are groups. A ratio with
    nothing below it is 0, as in `labs.evaluation`; with nothing below it in any row, or with a single
    group, it has no interval. n: the rows that weigh.

    Cochran 1977, section 2.11 (ratio estimators); Efron and Tibshirani 1993. Chapter 7.
    """
    above = np.array([top(row) for row in rows], dtype=np.float64)
    below = np.array([bottom(row) for row in rows], dtype=np.float64)
    weighing = int(np.count_nonzero(below))
    if not weighing:
        return Measure(0.0, None, None, 0)
    names = [f"alone {row.id}" if row.group is None else f"group {row.group}" for row in rows]
    _, group = np.unique(names, return_inverse=True)
    above, below = (np.bincount(group, weights=side) for side in (above, below))
    value = float(above.sum() / below.sum())
    if len(above) == 1:
        return Measure(value, None, None, weighing)
    if value == 0.0 or np.array_equal(above, below):
        trials = int(np.count_nonzero(below))
        low, high = wilson_ci(round(value) * trials, trials)
        return Measure(value, float(low), float(high), weighing)
    drawn = _draws(len(above))
    tops, bottoms = drawn @ above, drawn @ below
    values = np.divide(tops, bottoms, out=np.zeros_like(tops), where=bottoms > 0)
    low, high = np.quantile(values, [0.025, 0.975])
    return Measure(value, float(low), float(high), weighing)


@functools.lru_cache(maxsize=4)
def _draws(groups: int) -> np.ndarray:
    """How often each group is drawn in each resample, [resamples, groups]. Always the same draws, so
    that two measures of one run differ by their rows and not by their luck."""
    rng = np.random.default_rng(SEED)
    counts = rng.multinomial(groups, np.full(groups, 1 / groups), size=RESAMPLES)
    return counts.astype(np.float64)
