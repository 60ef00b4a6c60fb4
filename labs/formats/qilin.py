"""Qilin: search requests of an app with what was shown and clicked, and the notes that were shown.

A search request (configs search_train and search_test) and a note (config notes), one JSON object a
line or one row of Parquet:

    {"search_idx": 0, "session_idx": 3, "user_idx": 8, "query": "…", "query_from_type": 1,
     "recent_clicked_note_idxs": [5, …],
     "search_result_details_with_idx": [{"note_idx": 7, "position": 1, "click": 1, "like": 0,
       "collect": 0, "comment": 0, "share": 0, "page_time": 12.5, "timestamp": 1732…}, …],
     "search_results": [7, …], "bm25_results": [[7, 21.5], …], "dpr_results": [[7, 0.8], …]}
    {"note_idx": 7, "note_type": 1, "note_title": "…", "note_content": "…", "image_path": ["a.webp"], …}

Sources: RED-Search/Qilin, baselines/src/dataset_factory.py (fields), datasets/analyze_qilin.py
(details, flags that are 1.0 for 1, page_time -1 or NaN for unknown) and datasets/search.test.qrels.csv;
THUIR/Qilin on the Hugging Face hub. arXiv:2503.00501, tables 3 and 5.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import os
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from labs.errors import InputError
from labs.formats import fields
from labs.formats.files import check_file
from labs.formats.llava import resolve_image
from labs.formats.tables import read_rows

_DETAILS = "search_result_details_with_idx"
_ACTS = ("click", "like", "collect", "comment", "share")


@dataclasses.dataclass(frozen=True)
class Impression:
    """A note as it was shown: at which position (from 1), and what the user did (0 or 1 each).

    page_time: seconds on its page, None where unknown. timestamp: seconds since 1970.
    """

    note_idx: int
    position: int
    click: int
    like: int = 0
    collect: int = 0
    comment: int = 0
    share: int = 0
    page_time: float | None = None
    timestamp: float | None = None


@dataclasses.dataclass(frozen=True)
class SearchRequest:
    """A query, what was shown for it, and the candidates to rank.

    candidates: `search_results`, the notes that the public evaluation re-ranks (empty in the training
    split). bm25, dpr: (note, score) of two retrievers, where given.
    """

    search_idx: int
    query: str
    impressions: tuple[Impression, ...]
    session_idx: int | None = None
    user_idx: int | None = None
    query_from_type: int | None = None
    recent_clicks: tuple[int, ...] = ()
    candidates: tuple[int, ...] = ()
    bm25: tuple[tuple[int, float], ...] = ()
    dpr: tuple[tuple[int, float], ...] = ()

    @property
    def clicked(self) -> tuple[int, ...]:
        """The notes that were clicked, in the order they were shown: the relevant ones."""
        return tuple(shown.note_idx for shown in self.impressions if shown.click)

    @property
    def skipped(self) -> tuple[int, ...]:
        """The notes that were shown and not clicked: hard negatives, and biased by position."""
        return tuple(shown.note_idx for shown in self.impressions if not shown.click)


@dataclasses.dataclass(frozen=True)
class Note:
    """A note. images: its pictures, the cover first. features: counts, taxonomy and the rest."""

    note_idx: int
    title: str
    content: str
    images: tuple[str, ...] = ()
    note_type: int | None = None
    features: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def text(self) -> str:
        """Title and content on lines of their own."""
        return "\n".join(part for part in (self.title, self.content) if part)


def read_search(path: str | os.PathLike) -> Iterator[SearchRequest]:
    """Yield the search requests of a JSONL or Parquet file, or of a folder of them, one at a time.

    A nested field may also be JSON inside a string, as in the CSV files of the repository. Raises
    InputError, with the line or row, for a missing field, a number that is none, an act other than 0
    and 1, a position below 1, a search_idx used before, and a file without requests.
    """
    return _search(read_rows(path, "a search request"))


def _search(rows: Iterator) -> Iterator[SearchRequest]:
    seen: dict = {}
    for where, row in rows:
        key = fields.whole(row, "search_idx", where)
        fields.claim(seen, key, where, "search_idx")
        shown = _nested(fields.required(row, _DETAILS, where), _DETAILS, where)
        numbers = {
            name: fields.whole(row, name, where) if row.get(name) is not None else None
            for name in ("session_idx", "user_idx", "query_from_type")
        }
        yield SearchRequest(
            key,
            fields.text(row, "query", where),
            tuple(_impression(item, f"{where}, result {n}") for n, item in enumerate(shown, 1)),
            **numbers,
            recent_clicks=_notes(row, "recent_clicked_note_idxs", where),
            candidates=_notes(row, "search_results", where),
            bm25=_scores(row, "bm25_results", where),
            dpr=_scores(row, "dpr_results", where),
        )


def _impression(item: Any, where: str) -> Impression:
    if not isinstance(item, dict):
        raise InputError(
            f"{where}: not an object but {fields.kind(item)}.", "See the fields above."
        )
    acts = {name: 0 if item.get(name) is None else item[name] for name in _ACTS[1:]}
    acts = {name: fields.whole({**item, **acts}, name, where) for name in _ACTS}
    odd = next((name for name, done in acts.items() if done not in (0, 1)), None)
    if odd:
        raise InputError(f"{where}: `{odd}` is {acts[odd]}.", "Write 1 for done, 0 for not.")
    position = fields.whole(item, "position", where)
    if position < 1:
        raise InputError(f"{where}: `position` is {position}.", "Count positions from 1.")
    page = _number(item.get("page_time"))
    return Impression(
        fields.whole(item, "note_idx", where),
        position,
        **acts,
        page_time=page if page is not None and page >= 0 else None,
        timestamp=_number(item.get("timestamp", item.get("search_timestamp"))),
    )


def _number(value: Any) -> float | None:
    known = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if known and math.isfinite(value) else None


def read_notes(
    path: str | os.PathLike, image_root: str | os.PathLike | None = None
) -> Iterator[Note]:
    """Yield the notes of a JSONL or Parquet file, or of a folder of them (THUIR/Qilin has several).

    Image paths are resolved under `image_root`, by default the folder of the files. A note may lack a
    title, a text or pictures. Raises InputError, with the line or row, for a missing or repeated
    note_idx, fields of another type, an image outside the root, and a file without notes.
    """
    path = Path(path)
    root = Path(image_root) if image_root is not None else path if path.is_dir() else path.parent
    return _read_notes(read_rows(path, "a note"), root)


def _read_notes(rows: Iterator, root: Path) -> Iterator[Note]:
    seen = _Numbers()
    for where, row in rows:
        key = fields.whole(row, "note_idx", where)
        if not seen.add(key):
            raise InputError(f"{where}: the note_idx {key} was used before.", "Remove the copy.")
        texts = [row.get(name) or "" for name in ("note_title", "note_content")]
        if not all(isinstance(text, str) for text in texts):
            raise InputError(f"{where}: title and content must be texts.", "Correct them.")
        images = row.get("image_path") or []
        images = [images] if isinstance(images, str) and images[:1] != "[" else images
        images = _nested(images, "image_path", where)
        if not all(isinstance(image, str) and image for image in images):
            raise InputError(f"{where}: `image_path` must hold paths.", "List the note's images.")
        kind = fields.whole(row, "note_type", where) if row.get("note_type") is not None else None
        used = ("note_idx", "note_title", "note_content", "image_path", "note_type")
        yield Note(
            key,
            *texts,
            tuple(resolve_image(image, root, where) for image in images),
            kind,
            {name: value for name, value in row.items() if name not in used and value is not None},
        )


class _Numbers:
    """Whole numbers seen so far. A run that counts up costs two integers: the public file of notes is
    one, and a table of its two million would take more memory than all else here."""

    def __init__(self):
        self.run, self.others = range(0), set()

    def add(self, number: int) -> bool:
        """Whether `number` is new."""
        if number in self.run or number in self.others:
            return False
        if not self.run:
            self.run = range(number, number + 1)
        elif number == self.run.stop:
            self.run = range(self.run.start, number + 1)
        else:
            self.others.add(number)
        return True


def read_qrels(path: str | os.PathLike) -> dict[int, set[int]]:
    """Return the clicked notes of each request from a CSV file with the columns qid and pid."""
    path = Path(path)
    check_file(path, "qrels file")
    relevant: dict[int, set[int]] = {}
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            query, note = (fields.whole(row, name, where) for name in ("qid", "pid"))
            relevant.setdefault(query, set()).add(note)
    if not relevant:
        raise fields.nothing(path, "a clicked note")
    return relevant


def write_search(requests: Iterable[SearchRequest], path: str | os.PathLike) -> int:
    """Write search requests as JSONL with the public field names; return how many."""
    rows = fields.checked(map(_request_row, requests), _search, path)
    return fields.write_objects(rows, path, "a search request")


def _request_row(request: SearchRequest) -> dict:
    row = {
        "search_idx": request.search_idx,
        "session_idx": request.session_idx,
        "user_idx": request.user_idx,
        "query": request.query,
        "query_from_type": request.query_from_type,
        "recent_clicked_note_idxs": request.recent_clicks,
        _DETAILS: [_detail(shown) for shown in request.impressions],
    }
    lists = (
        ("search_results", request.candidates),
        ("bm25_results", request.bm25),
        ("dpr_results", request.dpr),
    )
    return {**row, **{name: values for name, values in lists if values}}


def _detail(shown: Impression) -> dict:
    detail = dataclasses.asdict(shown)
    if shown.page_time is None:
        detail["page_time"] = -1.0  # as the public files write it
    return detail


def write_notes(
    notes: Iterable[Note], path: str | os.PathLike, image_root: str | os.PathLike | None = None
) -> int:
    """Write notes as JSONL with the public field names, images relative to `image_root`."""
    path = Path(path)
    root = Path(image_root) if image_root is not None else path.parent
    rows = fields.checked(_note_rows(notes, path, root), partial(_read_notes, root=root), path)
    return fields.write_objects(rows, path, "a note")


def _note_rows(notes: Iterable[Note], path: Path, root: Path) -> Iterator[dict]:
    for number, note in enumerate(notes, 1):
        where = f"{path}, record {number}"
        yield {
            **note.features,
            "note_idx": note.note_idx,
            "note_type": note.note_type,
            "note_title": note.title,
            "note_content": note.content,
            "image_path": [fields.reference(image, root, "", where) for image in note.images],
        }


def _nested(value: Any, key: str, where: str) -> list:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            pass
    if not isinstance(value, (list, tuple)):
        raise InputError(
            f"{where}: `{key}` must be a list, not {fields.kind(value)}.",
            "Write it as a JSON list.",
        )
    return list(value)


def _notes(row: dict, key: str, where: str) -> tuple[int, ...]:
    values = _nested(row[key], key, where) if row.get(key) is not None else []
    return tuple(fields.whole({key: value}, key, where) for value in values)


def _scores(row: dict, key: str, where: str) -> tuple[tuple[int, float], ...]:
    values = _nested(row[key], key, where) if row.get(key) is not None else []
    pairs = []
    for value in values:
        pair = _nested(value, key, where)
        if len(pair) != 2 or _number(pair[1]) is None:
            raise InputError(f"{where}: `{key}` must hold pairs of note and score.", "See above.")
        pairs.append((fields.whole({key: pair[0]}, key, where), _number(pair[1])))
    return tuple(pairs)
