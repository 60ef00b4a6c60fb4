"""`--fix`: a cleaned copy of what was examined, and a second look at it.

Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from labs.doctors.data.check import Examined, examine
from labs.doctors.data.reading.sources import is_json
from labs.doctors.data.reading.whole import reader
from labs.doctors.data.repair.log import Log
from labs.doctors.data.repair.repair import Done, Plan, remove, repair
from labs.doctors.data.repair.target import log_of, staged
from labs.doctors.data.report.report import Report
from labs.doctors.data.report.words import FIXABLE, FORMATS
from labs.doctors.data.text.characters import clean
from labs.doctors.data.text.turns import look, rules_for
from labs.errors import InputError
from labs.formats.files import atomic_write
from labs.formats.sniff import Layout

Progress = Callable[[str, int, "int | None"], None]


def fix(
    examined: Examined,
    out: Path,
    semantic: bool = False,
    copy_images: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Write the cleaned copy to `out` and return the report with `fixed` filled in.

    semantic: also remove what was judged by a score. copy_images: copy what is still shown into `out`.
    Raises InputError for a format that cannot be written, and where no sample would be left.
    """
    progress = progress or (lambda stage, done, total: None)
    layout, options = examined.survey.layout, examined.options
    check_fixable(layout)
    single = options.image_root is not None or not layout.roots
    if copy_images and not single:
        raise InputError(
            f"The images of {options.path} lie in several folders, and --copy-images makes one.",
            "Clean one file at a time, or leave --copy-images out.",
        )
    folder = options.path if options.path.is_dir() else options.path.parent
    rules = rules_for(layout.format, _special_tokens(options.model))
    plan = Plan(
        files=tuple(file.path for file in examined.survey.files),
        folder=folder,
        hits=examined.survey.tally.hits,
        read=lambda path: reader(layout.format, path),
        look=lambda sample: look(sample, rules),
        break_up=rules.tokens.break_up,
        clean=clean,
        semantic=semantic,
        images=copy_images,
    )
    root = options.image_root or layout.root
    with staged(out, options.path) as place:
        with atomic_write(place.log) as file:
            log = Log(file)
            done = repair(plan, place.folder, log, progress)
            for _ in range(LOOKS):
                _refuse_nothing(done, options.path)
                errors, hits = _look_again(examined, place.copy, root if single else None, progress)
                if not hits:
                    break
                remove(hits, place.folder, log, done)
        if copy_images:
            _copy_images(done, root, place.folder, progress)
    pictured = single and len(examined.survey.images) > 0
    fixed: dict[str, Any] = {
        "out": str(out),
        "log": str(log_of(out)),
        "kept": done.kept,
        "mended": done.mended,
        "removed": done.removed,
        "image_root": str(out if copy_images else root) if pictured else None,
        "errors_left": errors,
    }
    return dataclasses.replace(examined.report, fixed=fixed)


LOOKS = 3  # what is removed for a fault brings no new one: the second look finds nothing, or nothing to mend


def _refuse_nothing(done: Done, path: Path) -> None:
    if not done.kept + done.mended:
        raise InputError(
            f"No sample of {path} would be left: nothing was written.",
            "Mend the data at its source; the report says what is wrong with it.",
        )


def _look_again(
    examined: Examined, copy: Path, root: Path | None, progress: Progress
) -> tuple[list[str], dict[tuple[str, int], list[str]]]:
    """The kinds of error in the copy, and where they are. Pictures are not opened again."""
    options = dataclasses.replace(
        examined.options, path=copy, image_root=root, images=False, clip=None, clip_threshold=None
    )
    again = examine(options, lambda stage, n, of: progress(f"second look: {stage}", n, of))
    errors = [
        finding.kind
        for finding in again.report.of("error")
        if root is not None or finding.group != "images"
    ]
    hits = {}
    for place, kinds in again.survey.tally.hits.items():
        found = [kind for kind in kinds if kind in errors]
        if found:
            hits[place] = found
    return errors, hits


def check_fixable(layout: Layout) -> None:
    """Raise InputError for a format, or a file, of which no cleaned copy can be written."""
    if layout.format not in FIXABLE:
        known = ", ".join(FORMATS[name] for name in FIXABLE)
        raise InputError(
            f"--fix cannot write {FORMATS[layout.format]}.",
            f"It writes {known}; for others, go by the report.",
        )
    for file in layout.files:
        if not is_json(file, layout.format):
            raise InputError(
                f"--fix cannot write {file.name}: it is no JSON.", "Convert it to JSONL first."
            )


def _special_tokens(model: str | None) -> list[str] | None:
    if model is None:
        return None
    from labs.doctors.data.tokens import make_checker

    return make_checker(model).special_tokens


def _copy_images(done: Done, root: Path, folder: Path, progress: Progress) -> None:
    """Copy every image that is still shown to where the copy refers to it.

    Those that lead out of their folder went with their samples; a link is followed, and its file copied.
    """
    for number, reference in enumerate(done.used):
        progress("copied images", number + 1, len(done.used))
        source, target = os.path.join(root, reference), folder / os.path.normpath(reference)
        if not reference.startswith("data:") and not target.exists() and os.path.isfile(source):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
