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
from labs.doctors.data.repair.repair import Done, Plan, repair
from labs.doctors.data.repair.target import staged
from labs.doctors.data.report.report import Report
from labs.doctors.data.report.words import FIXABLE, FORMATS
from labs.doctors.data.text.characters import clean
from labs.doctors.data.text.turns import look, rules_for
from labs.errors import InputError
from labs.formats.files import atomic_write

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
    check_fixable(examined)
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
            done = repair(plan, place.folder, Log(file), progress)
        if not done.kept + done.mended:
            raise InputError(
                f"No sample of {options.path} would be left: nothing was written.",
                "Mend the data at its source; the report says what is wrong with it.",
            )
        if copy_images:
            _copy_images(done, root, place.folder, progress)
            root = out
    # Several folders of images: a copy elsewhere cannot name one of them.
    single = copy_images or options.image_root is not None or not layout.roots
    fixed: dict[str, Any] = {
        "out": str(out),
        "log": str(place.log_name),
        "kept": done.kept,
        "mended": done.mended,
        "removed": done.removed,
        "image_root": os.fspath(root) if single and len(examined.survey.images) else None,
        "left": _left(examined, out, root if single else None, progress),
    }
    return dataclasses.replace(examined.report, fixed=fixed)


def check_fixable(examined: Examined) -> None:
    """Raise InputError for a format, or a file, of which no cleaned copy can be written."""
    layout = examined.survey.layout
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
    """Copy every image that is still shown. Those that lead out of `root` went with their samples."""
    for number, reference in enumerate(done.used):
        if reference.startswith("data:"):
            continue
        source = os.path.normpath(os.path.join(os.path.abspath(root), reference))
        inside = os.path.relpath(source, os.path.abspath(root))
        target = folder / inside
        if inside.startswith("..") or target.exists() or not os.path.isfile(source):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        progress("copied images", number + 1, len(done.used))


def _left(examined: Examined, out: Path, root: Path | None, progress: Progress) -> list[str]:
    """The kinds of error that a second look finds in the copy. Pictures are not opened again."""
    options = dataclasses.replace(
        examined.options, path=out, image_root=root, images=False, clip=None, clip_threshold=None
    )
    again = examine(options, lambda stage, n, of: progress("second look", n, of)).report
    return [
        finding.kind
        for finding in again.of("error")
        if root is not None or finding.group != "images"
    ]
