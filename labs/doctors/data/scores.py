"""Whether texts fit their pictures: the pairs that are scored, and what the scores say.

Python 3.9 or newer; needs torch and Transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from labs.doctors.data.gallery import Gallery, source_of
from labs.doctors.data.options import Options
from labs.doctors.data.reading import samples
from labs.doctors.data.sample import Sample
from labs.doctors.data.survey import Survey

Progress = Callable[[str, int, "int | None"], None]


def score_texts(found: Survey, gallery: Gallery, options: Options, progress: Progress) -> str:
    """Score every text that stands for a picture; add the low ones to the tally.

    Only pictures that opened well in their children are opened here. Returns a sentence for the report.
    """
    from labs.doctors.data.tokens import check_clip

    keys: list[tuple[Sample, str]] = []

    def pairs() -> Iterator[tuple[int, Any, str]]:
        for sample, reference, source, text in _pairs(found, gallery, options):
            keys.append((Sample(sample.place, sample.id, [], []), reference))
            yield len(keys) - 1, source, text

    report = check_clip(pairs(), options.clip, options.clip_threshold, progress)
    for key, problem in sorted(report.problems):
        sample, reference = keys[key]
        found.tally.add(problem.kind, sample.place, problem.detail, sample.id, reference)
    threshold = "" if report.threshold is None else f"threshold {report.threshold:.3f}: "
    return f"{len(report.scores):,} scored; {threshold}{report.how}"


def _pairs(
    found: Survey, gallery: Gallery, options: Options
) -> Iterator[tuple[Sample, str, Any, str]]:
    from labs.doctors.data.tokens import text_to_score

    table = found.images
    sound = {
        reference: number
        for number, reference in enumerate(table.references)
        if number not in gallery.bad and number not in table.problems
    }
    folder = options.path if options.path.is_dir() else options.path.parent
    for sample in samples(found.layout, folder):
        text = text_to_score(sample)
        number = sound.get(sample.images[0]) if text else None
        if number is not None:
            source = source_of(found, table, number)
            if source is not None:
                yield sample, sample.images[0], source, text
