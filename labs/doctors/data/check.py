"""The whole check: text, pictures, tokens, scores, in the order in which one needs the other.

Standard library only here; Pillow, Transformers and torch where a part of the check needs them, and a
sentence where they are missing. Python 3.9 or newer.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from labs.doctors.data.gallery import Gallery, look_at_images
from labs.doctors.data.images import unavailable
from labs.doctors.data.options import Options
from labs.doctors.data.report import build
from labs.doctors.data.report.report import Histogram, Report
from labs.doctors.data.report.words import FORMATS, counted
from labs.doctors.data.scores import score_texts
from labs.doctors.data.survey import Survey, survey
from labs.doctors.data.text.collect import upper_edge
from labs.formats.sniff import sniff

Progress = Callable[[str, int, "int | None"], None]


@dataclass
class Examined:
    """A report, and what it was made of: `--fix` and the page's pictures go by these."""

    options: Options
    survey: Survey
    gallery: Gallery | None
    report: Report


def check(options: Options, progress: Progress | None = None) -> Report:
    """Check `options.path`. progress(stage, done, total) is called often; total may be None.

    Raises InputError where the path holds nothing known, or what was asked for cannot be done.
    """
    return examine(options, progress).report


def examine(options: Options, progress: Progress | None = None) -> Examined:
    """`check`, with what the report was made of."""
    progress = progress or (lambda stage, done, total: None)
    layout = sniff(options.path, options.image_root)
    make_checker = None
    if options.model is not None:
        from labs.doctors.data.tokens import make_checker as make

        make_checker = functools.partial(make, options.model, options.max_length)
    found = survey(layout, options, progress, make_checker)
    unchecked = list(found.unchecked)
    checked = [
        (
            "records, turns, words",
            f"all {counted(found.samples, 'sample')} of {counted(len(found.files), 'file')}",
        ),
        ("copies within the data", f"all {counted(found.samples, 'sample')}"),
    ]
    _say_splits(found, options, checked, unchecked)
    gallery = _images(found, options, progress, checked, unchecked)
    if options.model is not None:
        limit = f", max_length {options.max_length:,}" if options.max_length else ""
        total = sum(found.histograms.get("tokens", Counter()).values())
        checked.append(("tokens", f"{counted(total, 'sample')}{limit}"))
    if options.clip is None:
        unchecked.append("Whether texts fit their pictures: no --clip was given.")
    elif gallery is None:
        unchecked.append("Whether texts fit their pictures: no picture was opened.")
    else:
        checked.append(
            ("texts against pictures, by CLIP", score_texts(found, gallery, options, progress))
        )
    if layout.note:
        unchecked.append(layout.note)
    report = Report(
        path=_name(options.path),
        findings=build.findings(
            found.tally, found.samples, gallery.shown if gallery else {}, options.examples
        ),
        facts=_facts(found, gallery, options),
        histograms=_histograms(found, gallery),
        checked=checked,
        unchecked=unchecked,
    )
    return Examined(options, found, gallery, report)


def _name(path: Path) -> str:
    """What a reader knows the data by: the last name of the path, but not that of a person's folder."""
    full = path.resolve()
    return "~" if full == Path.home() else full.name or str(path)


def _say_splits(found: Survey, options: Options, checked: list, unchecked: list) -> None:
    splits = [name for name in ("val", "test") if any(f.split == name for f in found.files)]
    others = [*splits, *(path.name for path in options.against)]
    if others:
        checked.append(("leaks", f"against {', '.join(others)}"))
    else:
        unchecked.append(
            "Leaks into another split: there is none here, and no --against was given."
        )


def _images(
    found: Survey, options: Options, progress: Progress, checked: list, unchecked: list
) -> Gallery | None:
    if not len(found.images):
        return None
    lost = [kind for kind, _ in found.images.problems.values() if kind == "missing_image"]
    if len(lost) > 0.9 * len(found.images):
        unchecked.append(
            f"{len(lost):,} of {len(found.images):,} image files are not there: if they lie elsewhere, "
            "name their folder with --image-root."
        )
    missing = unavailable() if options.images else "No picture was opened: --no-images was given."
    if missing:
        unchecked.append(missing)
        return None
    gallery = look_at_images(found, options, progress)
    limits = f"under {options.image_seconds:g} seconds and {options.image_memory_mb:,} MB each"
    checked.append(
        ("images", f"{gallery.opened:,} of {len(found.images):,} distinct ones opened, {limits}")
    )
    if options.near_duplicates:
        checked.append(("images that look alike", f"{gallery.opened:,} compared"))
    else:
        unchecked.append("Images that look alike: --no-near-duplicates was given.")
    return gallery


def _facts(found: Survey, gallery: Gallery | None, options: Options) -> dict:
    layout = found.layout
    facts = {
        "format": layout.format,
        "format_name": FORMATS[layout.format],
        "files": len(found.files),
        "samples": found.samples,
        "turns": found.turns,
        "images": len(found.images.uses),
        "distinct_images": len(found.images),
        "bytes": sum(file.path.stat().st_size for file in found.files),
    }
    splits: Counter = Counter()
    for file in found.files:
        splits[file.split] += len(file.lines)
    if set(splits) != {""}:
        facts["splits"] = dict(splits)
    facts["yes_rate"] = {}
    for language in ("en", "zh"):
        yes, no = found.answers.get((language, "yes"), 0), found.answers.get((language, "no"), 0)
        if yes + no:
            facts["yes_rate"][language] = round(yes / (yes + no), 4)
    for name in ("tokens", "visual_tokens"):
        counts = found.histograms.get(name)
        if counts:
            facts[name] = build.lengths(counts, upper_edge)
    if options.max_length and "tokens" in facts:
        # Unpacked, every sample takes a row of max_length: what is not tokens is padding.
        facts["filled_without_packing"] = round(
            min(facts["tokens"]["mean"] / options.max_length, 1.0), 4
        )
    if gallery is not None:
        facts["image_files"] = gallery.sizes.to_dict()
    return facts


def _histograms(found: Survey, gallery: Gallery | None) -> list[Histogram]:
    made = [
        build.histogram(name, found.histograms[name], upper_edge)
        for name in ("turns", "images", "characters", "tokens", "visual_tokens")
        if found.histograms.get(name)
    ]
    for quantity in ("width", "height", "shape", "area") if gallery else ():
        bins = gallery.sizes.histogram(quantity)
        if bins:
            made.append(
                Histogram(f"image_{quantity}", *build.HISTOGRAMS[f"image_{quantity}"], bins)
            )
    return made
