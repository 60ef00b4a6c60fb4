"""Texts that do not fit their pictures, by CLIP score: a judgement, which errs at some rate.

A score means little by itself: 0.28 is low for one model and high for another. So a text is held
against chance: the same pictures are also scored with texts of other pictures of the same data, and
what scores no better than all but a few of those wrong pairs is found. The model's weaknesses are this
check's: short answers, counting, text in pictures, languages it has not learnt.

Python 3.9 or newer; needs torch and Transformers. CLIP score: Hessel et al., arXiv:2104.08718.
"""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Callable, Hashable, Iterable
from typing import Any, Optional

from labs.doctors.data.images.source import Source, load_source
from labs.doctors.data.sample import Problem, Sample
from labs.doctors.data.tokens.clip_model import ClipModel
from labs.formats.dialects import IMAGE

Progress = Optional[Callable[[str, int, Optional[int]], None]]  # noqa: UP045 - Python 3.9

SHARE = 0.95  # of wrong pairs that a text must beat
SHIFTS = 8  # wrong texts a picture
FEWEST = 20  # pairs below which chance is not known well enough
LEVELS = (0, 1, 5, 25, 50, 75, 95, 99, 100)  # percentiles that are told
# What a text must have, in words or Han characters: a caption, and an answer to whatever was asked.
_CAPTION, _ANSWER = (3, 6), (8, 16)
_DESCRIBE = re.compile(
    r"\b(?:describ|descript|caption|summar|what (?:do you see|is shown|is in|does .{1,30} show))"
    r"|描述|说明|概括|介绍|看到了?什么|有什么",
    re.IGNORECASE,
)


@dataclasses.dataclass
class ClipReport:
    """scores: (key, cosine of picture and text). problems: (key, low_clip_score) of the low ones.

    threshold: below it a score is low; None where none could be chosen; how: in a sentence, where it
    comes from. quantiles, chance: percentile -> score, of the pairs and of wrong pairs. unread: how
    many pictures could not be opened.
    """

    scores: list[tuple[Hashable, float]]
    problems: list[tuple[Hashable, Problem]]
    threshold: float | None
    how: str
    quantiles: dict[int, float]
    chance: dict[int, float]
    unread: int = 0


def text_to_score(sample: Sample) -> str | None:
    """What a sample with one picture says of it: a caption, else the first answer of some length.

    A caption is an answer to a request for one, or to the picture alone. "At the top left" and
    "[12, 30, 40, 55]" are answers too, but no text that a dual encoder was trained to place.
    """
    if len(sample.images) != 1:
        return None
    found, asked = None, ""
    for role, text in sample.turns:
        if role != "assistant":
            asked = text.replace(IMAGE, "").strip()
            continue
        answer = text.strip()
        caption = not asked or _DESCRIBE.search(asked) is not None
        words = len(re.findall(r"[^\W\d_]+", answer))
        han = sum("\u4e00" <= letter <= "\u9fff" for letter in answer)
        least, least_han = _CAPTION if caption else _ANSWER
        if words >= least or han >= least_han:
            if caption:
                return answer
            found = found or answer
    return found


def check_clip(
    pairs: Iterable[tuple[Hashable, Source, str]],
    model: Any,
    threshold: float | None = None,
    progress: Progress = None,
    batch: int = 64,
) -> ClipReport:
    """Score (key, picture, text) and find the low ones.

    model: a folder, a hub name, or a ClipModel. Without a threshold, a score is low that is below
    SHARE of the scores of wrong pairs; with fewer than FEWEST pairs none is found then. Pictures that
    cannot be opened are left out and counted. Raises InputError where the model cannot be loaded.
    """
    pairs = list(pairs)
    encoder = model if hasattr(model, "embed_texts") else ClipModel(model)
    # In no order: neighbours in a file may show the same thing, and would make poor wrong pairs.
    order = list(range(len(pairs)))
    random.Random(0).shuffle(order)
    found: dict[int, float] = {}
    wrong: list[float] = []
    unread = 0
    for start in range(0, len(order), batch):
        block, images = [], []
        for i in order[start : start + batch]:
            image = load_source(pairs[i][1])
            if image is None:
                unread += 1
                continue
            block.append(i)
            images.append(image)
        if block:
            similarity = encoder.embed_texts([pairs[i][2] for i in block])
            similarity = encoder.embed_images(images) @ similarity.T
            found.update(zip(block, similarity.diagonal().tolist()))  # noqa: B905 - Python 3.9
            wrong += _wrong([pairs[i] for i in block], similarity)
        if progress is not None:
            progress("clip", min(start + batch, len(order)), len(order))
    how = "given"
    if threshold is None:
        threshold, how = _by_chance(wrong, len(found))
    scores = [(pairs[i][0], found[i]) for i in sorted(found)]
    problems = []
    if threshold is not None:
        words = f"threshold {threshold:.3f}"
        problems = [
            (key, Problem("low_clip_score", f"CLIP score {score:.3f}, {words}"))
            for key, score in scores
            if score < threshold
        ]
    values = list(found.values())
    return ClipReport(
        scores, problems, threshold, how, _quantiles(values), _quantiles(wrong), unread
    )


def _wrong(block: list[tuple[Hashable, Source, str]], similarity: Any) -> list[float]:
    """Scores of pictures with texts of others in the block."""
    size = len(block)
    return [
        similarity[i, (i + shift) % size].item()
        for shift in range(1, min(SHIFTS + 1, size))
        for i in range(size)
        if block[i][1] != block[(i + shift) % size][1]
        and block[i][2] != block[(i + shift) % size][2]
    ]


def _by_chance(wrong: list[float], pairs: int) -> tuple[float | None, str]:
    if pairs < FEWEST or len(wrong) < FEWEST:
        return (
            None,
            f"none: {pairs} pairs are too few to know what wrong ones score ({FEWEST} are needed)",
        )
    level = sorted(wrong)[min(len(wrong) - 1, int(SHARE * len(wrong)))]
    return level, (
        f"what {SHARE:.0%} of {len(wrong):,} wrong pairs (these pictures with each other's texts) stay below: "
        "a judgement, not a law"
    )


def _quantiles(values: list[float]) -> dict[int, float]:
    values = sorted(values)
    if not values:
        return {}
    return {level: values[round(level / 100 * (len(values) - 1))] for level in LEVELS}
