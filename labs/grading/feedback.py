"""Six to ten lines for a person: what happened, how to see it again, what it probably is."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path

import numpy as np
from torch import Tensor

from labs.grading.calls import STAGES, Record
from labs.grading.compare import show
from labs.grading.course import Chapter
from labs.grading.grade import Result

WIDTH = 100
SMALL = 24  # numbers that fit on the line of a reproducing call


def feedback(result: Result, chapter: Chapter, verbose: bool = False) -> str:
    """The lines that a learner reads about one answer."""
    exercise, failure, name = result.exercise, result.run.failure, result.exercise.name
    points = f"{result.points:g} of {exercise.points} points"
    if failure is None:
        return f"{name}: right, {points}"
    rows: list[tuple[str, str]] = []
    if failure.not_started:
        lines = [f"{name}: not started, {points}"]
        rows.append(("file", _short_path(result.path)))
        rows.append(
            ("kind", f"{exercise.kind}, {exercise.difficulty}, about {exercise.minutes} min")
        )
        rows.append(("next", _first_step(result, chapter)))
    else:
        number = STAGES.index(failure.stage) + 1
        lines = [f'{name}: stopped at "{failure.stage}" ({number} of {len(STAGES)}), {points}']
        rows.append(("problem", failure.sentence))
        if failure.record is not None:
            record = result.run.records[failure.record]
            rows.append(("call", _call(record)))
            if not _literal(record):
                rows.append(("again", _repeat(chapter, result, failure.record)))
        if failure.where:
            failure.got = f"{failure.got} {failure.where}"
            failure.where = ""
        if failure.wanted:
            rows.append(("wanted", failure.wanted))
        if failure.got:
            rows.append(("got", failure.got))
        if result.mistake:
            rows.append(("likely", result.mistake.says))
        elif failure.note:
            rows.append(("note", failure.note))
        if len(rows) < 3:
            rows.append(("file", _short_path(result.path)))
    rows.append(("hint", f"labs hint {chapter.short} {name}"))
    rows.append(("read", f"{chapter.title}, “{exercise.section}”"))
    lines += [f"  {key:<8}{text}" for key, text in rows]
    if verbose:
        for title, text in (("traceback", failure.traceback), ("printed", result.run.output)):
            if text.strip():
                lines += [f"  {title}", textwrap.indent(text.rstrip(), "    ")]
    return "\n".join(lines)


def _first_step(result: Result, chapter: Chapter) -> str:
    if result.path == chapter.stubs:
        return f"labs start {chapter.short}, then write your answer in {_short_path(chapter.work)}"
    return f"write your answer in place of the line that raises, then labs grade {chapter.short}"


def _short_path(path: Path) -> str:
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return os.fspath(path)


def _call(record: Record) -> str:
    literal = _literal(record)
    label = f"   # {record.label}" if record.label else ""
    return (literal or f"{record.name}({_arguments(record, show)})") + label


def _repeat(chapter: Chapter, result: Result, index: int) -> str:
    name = result.exercise.name
    where = f'inputs_of("{chapter.short}", "{name}", {index})'
    return f"from labs.grading import inputs_of; args, kwargs = {where}"


def _literal(record: Record) -> str | None:
    """The call as Python that can be pasted, where its arguments are small."""
    values = [*record.request.args, *record.request.kwargs.values()]
    if record.request.target is not None or record.request.probe or record.request.gradient:
        return None
    if not all(_is_small(v) for v in values):
        return None
    text = f"{record.name}({_arguments(record, _source)})"
    return text if len(text) <= 2 * WIDTH else None


def _arguments(record: Record, write) -> str:
    named = [f"{k}={write(v)}" for k, v in record.request.kwargs.items()]
    return ", ".join([*map(write, record.request.args), *named])


def _is_small(value: object) -> bool:
    if isinstance(value, (Tensor, np.ndarray)):
        return int(np.prod(value.shape)) <= SMALL
    if isinstance(value, (list, tuple)):
        return all(_is_small(v) for v in value)
    if isinstance(value, dict):
        return all(_is_small(v) for v in value.values())
    return value is None or isinstance(value, (bool, int, float, str))


def _source(value: object) -> str:
    if isinstance(value, Tensor):
        return f"torch.tensor({_rounded(value.tolist())!r})"
    if isinstance(value, np.ndarray):
        return f"np.array({_rounded(value.tolist())!r})"
    return repr(value)


def _rounded(value):
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    return float(f"{value:.9g}") if isinstance(value, float) else value
