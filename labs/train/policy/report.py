"""A policy run's report: findings, curves, sample answers, in one static HTML file. Chapter 5."""

import base64
import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from labs.errors import InputError
from labs.formats import load_image
from labs.formats.files import atomic_write
from labs.train.policy.findings import findings
from labs.train.policy.reading import REPORT, RunDiary, Sample, clean, read_diary
from labs.train.policy.report_page import render
from labs.train.policy.report_plots import plots
from labs.train.policy.rules import RULES
from labs.train.policy.series import short, summary
from labs.train.policy.view import setting

PROMPTS, ANSWERS = 12, 4  # shown: prompts, and answers to each
SIDE, LARGE = 256, 97  # pixels a picture is brought down to; from here on it is not drawn as blocks


@dataclass(frozen=True)
class Asked:
    """A prompt and what was said to it over the run. picture: a data URL."""

    prompt: str
    task: str
    answer: str | None
    answers: list[Sample]
    picture: str | None
    size: str = ""


def write_report(folder: str | os.PathLike, path: str | os.PathLike | None = None) -> Path:
    """Write the page of the run in `folder` to `path` (default: report.html there); returns the path.

    Static: no script, no outside request, pictures and curves inside. Raises InputError as
    `read_diary` does, and where `path` cannot be written.
    """
    diary = read_diary(folder)
    target = Path(path) if path is not None else diary.folder / REPORT
    text = page(diary)
    try:
        with atomic_write(target, "wb") as file:
            file.write(text.encode("utf-8", "replace"))
    except OSError as error:
        raise InputError(
            f"The report {target} cannot be written: {error.strerror}.",
            "Name a file in a folder that you may write to.",
        ) from None
    return target


def page(diary: RunDiary) -> str:
    """The page as text."""
    faults = list(diary.faults)
    judged = findings(diary.entries, diary.run)
    unknown = [finding for finding in judged if finding.severity == "unknown"]
    drawn, missing = plots(diary.entries, diary.run)
    asked, told = asked_over_time(diary.samples, faults)
    about = json.dumps(diary.run, indent=2, ensure_ascii=False) if diary.run else ""
    return render(
        short, title=f"Policy run: {clean(diary.folder.resolve().name)}", lead=_lead(diary),
        found=[finding for finding in judged if finding.severity != "unknown"], unknown=unknown,
        rules=len(RULES), judged=len(RULES) - len(unknown),
        plots=drawn, missing=missing, quantities=summary(diary.entries), asked=asked, told=told,
        run=clean(about), faults=[clean(fault) for fault in faults],
    )  # fmt: skip


def asked_over_time(samples: Sequence[Sample], faults: list[str]) -> tuple[list[Asked], str]:
    """Prompts with their answers from first to last, those asked over the longest time first.

    Unreadable pictures are added to `faults`. Also returns the line above the table.
    """
    groups: dict[tuple, list[Sample]] = {}
    for sample in samples:
        key = (sample.task, sample.prompt, sample.answer, sample.same_picture)
        groups.setdefault(key, []).append(sample)
    ordered = sorted(groups.values(), key=lambda g: g[0].step - g[-1].step)
    again = [group for group in ordered if group[0].step != group[-1].step]
    if again:
        chosen, told = again[:PROMPTS], "The same prompts, first to last. "
    else:
        half = PROMPTS // 2
        chosen = ordered if len(ordered) <= PROMPTS else [*ordered[:half], *ordered[-half:]]
        told = "No prompt was asked twice: these are the first and the last. "
    told += f"{len(chosen)} of {len(groups)} prompts."
    return [_asked(group, faults) for group in chosen], told


def _asked(group: list[Sample], faults: list[str]) -> Asked:
    last = len(group) - 1
    places = sorted({round(i * last / (ANSWERS - 1)) for i in range(ANSWERS)})
    picture, size = None, ""
    for sample in group:
        if sample.picture is not None:
            try:
                picture, size = _inline(sample.picture)
                break
            except InputError as error:
                faults.append(error.what)
    first = group[0]
    shown = [group[place] for place in places]
    return Asked(first.prompt, first.task, first.answer, shown, picture, size)


def _inline(path: Path) -> tuple[str, str]:
    """The picture as a data URL, written anew: what goes into the page is what was decoded."""
    picture = load_image(path).copy()
    picture.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    url = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    return url, "large" if max(picture.size) >= LARGE else ""


def _lead(diary: RunDiary) -> str:
    first, last = (int(diary.entries[place]["step"]) for place in (0, -1))
    parts = [f"{len(diary.entries):,} entries, steps {first:,} to {last:,}"]
    for name in ("algorithm", "model"):
        if isinstance(value := setting(diary.run, name), str):
            parts.append(clean(value))
    seconds = sum(
        value
        for entry in diary.entries
        for name, value in entry.items()
        if name in ("seconds_rollout", "seconds_score", "seconds_update") and 0 <= value < 1e9
    )
    if seconds:
        parts.append(f"{seconds / 60:,.1f} minutes of steps" if seconds > 90 else f"{seconds:,.0f} s of steps")  # fmt: skip
    return " · ".join(parts)
