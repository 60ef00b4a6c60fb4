"""The pictures beside the findings on the page: which image goes with which example.

Standard library only, Python 3.9 or newer.
"""

# ruff: noqa: B905 - Python 3.9 has no zip(strict=); the arrays of a table have one length
from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from labs.doctors.data.check import Examined
from labs.doctors.data.gallery import source_of
from labs.doctors.data.report.html import OPEN
from labs.doctors.data.report.thumbnails import NOTHING, UNSEEN, thumbnails

Progress = Callable[[str, int, "int | None"], None]


TWIN = re.compile(r"(?:looks like|the same picture as) (.+?)(?: \(\d+ of \d+ bits differ\))?", re.S)


def pictures_of(examined: Examined, progress: Progress) -> dict[tuple[str, int], list[str]]:
    """(kind, number of the example) -> its pictures as data URLs, or in words why there is none.

    Of the examples that are in view. Where a finding is about a sample, its first picture; of pictures
    that look alike, both. Empty where no picture was to be opened.
    """
    if examined.gallery is None:
        return {}
    wanted = _wanted(examined)
    numbers = dict.fromkeys(number for several in wanted.values() for number in several)
    seen: dict[int, str] = {}
    sources: dict[int, Any] = {}
    for number in numbers:
        fault = _unseen(examined, number)
        source = None if fault else source_of(examined.survey, examined.survey.images, number)
        if source is None:
            seen[number] = UNSEEN[fault] if fault else NOTHING
        else:
            sources[number] = source
    small = thumbnails(sources.values(), examined.options.max_pixels)
    for done, (number, url) in enumerate(zip(sources, small), 1):
        progress("pictures for the page", done, len(sources))
        seen[number] = url
    return {key: [seen[number] for number in several] for key, several in wanted.items()}


def _wanted(examined: Examined) -> dict[tuple[str, int], list[int]]:
    """(kind, number of the example) -> the numbers of its images in the survey's table."""
    table = examined.survey.images
    by_place: dict[tuple[str, int], list[tuple[str, int]]] = {}
    by_name: dict[str, list[tuple[str, int]]] = {}
    for finding in examined.report.findings:
        for number, example in enumerate(finding.examples[:OPEN]):
            key = (finding.kind, number)
            if example.image is not None:
                by_name.setdefault(example.image, []).append(key)
                if finding.kind == "near_duplicate_image":
                    twin = TWIN.fullmatch(example.detail)
                    if twin:
                        by_name.setdefault(twin[1], []).append(key)
            elif example.record is not None:
                by_place.setdefault((example.file, example.record), []).append(key)
    found: dict[tuple[str, int], list[int]] = {}
    for number, reference in enumerate(table.references if by_name else ()):
        for key in by_name.get(reference, ()):
            found.setdefault(key, []).append(number)
    names = [file.name for file in examined.survey.files]
    for number, file, record in zip(table.uses, table.use_files, table.users) if by_place else ():
        for key in by_place.get((names[file], record), ()):
            found.setdefault(key, [number])
    return found


def _unseen(examined: Examined, number: int) -> str | None:
    """The kind of fault because of which an image is not opened once more; None where it may be."""
    problem = examined.survey.images.problems.get(number)
    kinds = [problem[0]] if problem else examined.gallery.bad.get(number, [])
    return next((kind for kind in kinds if kind in UNSEEN), None)
