"""Results folders, read: what comparisons, leaderboards and exports start from.

Files may come from elsewhere, so nothing in them is believed: each is JSON of the right shape, or an
InputError says in which line it is not.
"""

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from labs.errors import InputError
from labs.evaluation.reading import STATUSES
from labs.formats.files import check_file
from labs.suites.contract import Measure, Row
from labs.suites.suspicious import CONFIG, ITEMS, SCORES, read_lines, read_object

DEPTH = 3  # folders below one that is searched for runs


@dataclass(frozen=True)
class Run:
    """A finished run: one model, one suite. rows: in the order of the suite's questions."""

    folder: Path
    config: dict
    rows: list[Row]
    scores: dict

    @property
    def model(self) -> str:
        return self.config["model"]["name"]

    @property
    def suite(self) -> str:
        return self.config["suite"]["name"]

    @property
    def fingerprint(self) -> str:
        """The same for runs that were asked the same questions."""
        return self.config["questions"]["fingerprint"]

    @property
    def headline(self) -> str:
        """The name of the measure that stands first."""
        return self.scores["headline"]

    @cached_property
    def measures(self) -> dict[str, Measure]:
        return {name: Measure(**value) for name, value in self.scores["measures"].items()}


def read_run(folder: str | Path) -> Run:
    """The finished run in `folder`.

    Raises InputError where there is none, where it is not finished, where a file is damaged, and
    where items.jsonl is not what scores.json was made from.
    """
    folder = Path(folder)
    config = read_config(folder)
    n = config["questions"]["n"]
    if not (folder / SCORES).exists():
        done = len(read_lines(folder / ITEMS, torn=True)[0]) if (folder / ITEMS).exists() else 0
        raise InputError(
            f"The run in {folder} is not finished: {done} of {n} questions are answered.",
            "Run the same `labs eval` command again: it goes on where it stopped.",
        )
    scores = read_object(folder / SCORES)
    _check_scores(scores, folder / SCORES)
    rows = read_rows(folder)
    digest = hashlib.sha256((folder / ITEMS).read_bytes()).hexdigest()
    if len(rows) != n or digest != scores.get("items"):
        raise InputError(
            f"{folder / ITEMS} is not what {SCORES} was made from: it was changed or cut.",
            "Run `labs eval --rescore` on that folder, or run the suite again.",
        )
    return Run(folder, config, rows, scores)


def read_config(folder: Path) -> dict:
    """config.json of a results folder, with the entries that every reader needs."""
    if not folder.is_dir():
        raise InputError(f"There is no results folder {folder}.", "Check the path.")
    if not (folder / CONFIG).exists():
        raise InputError(
            f"{folder} is no results folder: it holds no {CONFIG}.",
            "Give a folder that `labs eval` wrote, such as runs/eval/MODEL/SUITE.",
        )
    config = read_object(folder / CONFIG)
    wanted = (("suite", "name", str), ("model", "name", str), ("questions", "n", int),
              ("questions", "fingerprint", str))  # fmt: skip
    for part, key, kind in wanted:
        inner = config.get(part)
        if not isinstance(inner, dict) or type(inner.get(key)) is not kind:
            raise InputError(
                f"{folder / CONFIG} does not say `{part}.{key}`.", "Run the suite again."
            )
    return config


def read_rows(folder: Path) -> list[Row]:
    """The rows of items.jsonl, each checked field by field."""
    path = folder / ITEMS
    check_file(path, "results file")
    rows, seen = [], set()
    for number, record in read_lines(path)[0]:
        row = row_from(record, f"{path}, line {number}")
        if row.id in seen:
            raise InputError(
                f"{path}, line {number} answers {row.id!r} a second time.", "Run the suite again."
            )
        seen.add(row.id)
        rows.append(row)
    return rows


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


_FIELDS = {
    "id": lambda v: isinstance(v, str),
    "group": lambda v: v is None or isinstance(v, str),
    "prompt": lambda v: isinstance(v, str),
    "answer": lambda v: True,
    "about": lambda v: isinstance(v, dict),
    "said": lambda v: isinstance(v, str),
    "thoughts": lambda v: isinstance(v, list) and all(isinstance(x, str) for x in v),
    "tokens": lambda v: type(v) is int and v >= 0,
    "finished": lambda v: type(v) is bool,
    "status": lambda v: isinstance(v, str) and v in STATUSES,
    "parsed": lambda v: True,
    "score": lambda v: _is_number(v) and 0 <= v <= 1,
}
assert tuple(_FIELDS) == tuple(field.name for field in fields(Row))


def row_from(record: dict, where: str) -> Row:
    """A row from a line of items.jsonl; InputError that names the field which is not as it should be."""
    for name, fits in _FIELDS.items():
        if name not in record or not fits(record[name]):
            raise InputError(
                f"{where}: `{name}` is missing or is not what a row has there.",
                "The file was damaged or changed: run the suite again in another --output.",
            )
    return Row(**{name: record[name] for name in _FIELDS} | {"score": float(record["score"])})


def _check_scores(scores: dict, path: Path) -> None:
    measures = scores.get("measures")
    good = isinstance(measures, dict) and scores.get("headline") in measures
    for value in measures.values() if good else ():
        good = good and isinstance(value, dict) and value.keys() == set(Measure._fields)
        good = good and _is_number(value["value"]) and type(value["n"]) is int
        good = good and all(value[k] is None or _is_number(value[k]) for k in ("low", "high"))
    if not good:
        raise InputError(
            f"{path} does not hold the scores of a run.",
            "Run `labs eval --rescore` on that folder, or run the suite again.",
        )


def find_runs(paths: Iterable[str | Path]) -> list[Path]:
    """The results folders at and below paths, each once: a model's folder stands for its suites.

    Raises InputError for a path without any.
    """
    found: dict[Path, None] = {}
    for path in map(Path, paths):
        below = _below(path, DEPTH)
        if not below:
            raise InputError(
                f"There are no results in {path}."
                if path.is_dir()
                else f"There is no results folder {path}.",
                "Give a folder that `labs eval` wrote, such as runs/eval/MODEL.",
            )
        found |= dict.fromkeys(below)
    return list(found)


def _below(folder: Path, depth: int) -> Sequence[Path]:
    if not folder.is_dir():
        return []
    if (folder / CONFIG).exists():
        return [folder]
    if depth == 0:
        return []
    return [run for inner in sorted(folder.iterdir()) for run in _below(inner, depth - 1)]
