"""The rows of a data file of any format. Standard library only, Python 3.9 or newer (pyarrow: Parquet)."""

# ruff: noqa: B905  (Python 3.9 has no zip(strict=); what differs in length is told of)
from __future__ import annotations

import codecs
import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from labs.errors import InputError
from labs.formats.json_rows import Shape
from labs.formats.row import Row, printable
from labs.formats.rows import LARGEST, encoding_of, read_rows
from labs.formats.shard_fields import IMAGE_SUFFIXES
from labs.formats.sniff_file import coco_lists

_CELL = (1 << 31) - 1  # characters of a cell: csv's own limit is below a photograph in base64
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".JPG", ".JPEG", ".PNG")


def is_json(path: Path, format: str) -> bool:
    """Whether the file is read as JSON records, and so can be cut into pieces."""
    if format in ("mmbench", "mme", "webdataset"):
        return False
    with open(path, "rb") as file:
        return file.read(4) != b"PAR1"


def whole_rows(path: Path, format: str, root: Path) -> Iterator[Row]:
    """The rows of a file that is read from front to back in one go."""
    if format == "mmbench":
        return table_rows(path)
    if format == "mme":
        return mme_rows(path, root)
    if format == "webdataset":
        return shard_rows(path)
    return parquet_rows(path)


def rows_of(path: Path, format: str, root: Path) -> Iterator[Row]:
    """The rows of any file."""
    if not is_json(path, format):
        return whole_rows(path, format, root)
    return read_rows(path, coco_shape(path) if format == "coco" else None)


def coco_shape(path: Path) -> Shape | None:
    """Where the captions of a COCO object stand. None where the file has changed since it was sniffed."""
    with open(path, "rb") as file:
        lists = coco_lists(file)
    if lists is None:
        return None
    keys = frozenset(("image_id", "id", "caption"))
    return Shape("list", lists["annotations"].start + 1, keys, whole=False)


def coco_names(path: Path) -> tuple[dict[str, str], list[Row]]:
    """(the file name of each image id, the entries of `images` that are faulty)."""
    with open(path, "rb") as file:
        lists = coco_lists(file)
    names: dict[str, str] = {}
    faults: list[Row] = []
    if lists is None:
        return names, faults
    keys = frozenset(("id", "file_name"))
    for row in read_rows(path, Shape("list", lists["images"].start + 1, keys, whole=False)):
        value = row.value
        if row.problem is not None:
            faults.append(row._replace(record=None))
        elif (
            not isinstance(value, dict)
            or value.get("id") is None
            or not isinstance(value.get("file_name"), str)
        ):
            fault = ("bad_field", "an entry of `images` without id and file_name")
            faults.append(row._replace(record=None, value=None, problem=fault))
        else:
            names[str(value["id"])] = value["file_name"]
    return names, faults


def table_rows(path: Path) -> Iterator[Row]:
    """The rows of a TSV file as dicts by column; the first line names the columns."""
    csv.field_size_limit(_CELL)
    header: list[str] = []
    record, line, start = 0, 1, 0
    with _text(path) as file:
        # Lines are handed over one at a time: how many bytes they had is where the next row starts.
        lines = _Lines(file)
        reader = csv.reader(lines, delimiter="\t")
        while True:
            problem: tuple[str, str] | None = None
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                cells, problem = [], ("bad_json", f"no row of a table: {error}")
            began, line = line, reader.line_num + 1
            at, start = start, lines.bytes
            if not cells and problem is None:
                continue
            if not header:
                header = _columns(cells)
                continue
            if problem is None and len(cells) != len(header):
                detail = f"{len(cells)} columns where the header has {len(header)}"
                if line - began > 100:
                    detail += "; a quote may be open"
                problem = ("bad_json", detail)
            value = dict(zip(header, cells)) if problem is None else None
            if value is not None:
                broken = [key for key, cell in value.items() if _is_broken(cell)]
                if broken:
                    problem = ("bad_encoding", f"bytes that are not UTF-8 in column {broken[0]}")
                    value = {key: _mended(cell) for key, cell in value.items()}
            known = lines.bytes >= 0
            yield Row(began, record, at if known else -1, start if known else -1, value, problem)
            record += 1


def _columns(cells: list[str]) -> list[str]:
    return [cell if len(cell) == 1 else cell.strip().lower() for cell in cells]


class _Lines:
    """The lines of a text file; `bytes`: how many were read, -1 where the file is not UTF-8."""

    def __init__(self, file: TextIO) -> None:
        self.file = file
        self.bytes = 0
        if file.encoding != "utf-8-sig":
            self.bytes = -1
        else:
            with open(file.name, "rb") as raw:
                self.bytes = 3 if raw.read(3) == codecs.BOM_UTF8 else 0

    def __iter__(self) -> Iterator[str]:
        for line in self.file:
            if self.bytes >= 0:
                length = (
                    len(line) if line.isascii() else len(line.encode("utf-8", "surrogateescape"))
                )
                self.bytes += length
            yield line


def table_row_at(path: Path, start: int) -> Row | None:
    """The row of a TSV file that starts at this byte."""
    csv.field_size_limit(_CELL)
    with _text(path) as file:
        header = next(csv.reader(file, delimiter="\t"), [])
    with open(path, "rb") as raw:
        raw.seek(start)
        lines = (line.decode("utf-8", "replace") for line in raw)
        cells = next(csv.reader(lines, delimiter="\t"), [])
    if len(cells) != len(header):
        return None
    return Row(None, None, start, -1, dict(zip(_columns(header), cells)))


def mme_rows(path: Path, root: Path) -> Iterator[Row]:
    """The questions in a text file of MME: beside a picture of its name, or one file of answers a task.

    Each becomes {"question", "label", "image", "task"}, the image relative to `root`.
    """
    task = path.parent.name if path.parent.name != "questions_answers_YN" else path.parents[1].name
    record = 0
    with _text(path) as file:
        for line, text in enumerate(file, 1):
            if not text.strip():
                continue
            problem = None
            if _is_broken(text):
                problem = ("bad_encoding", "bytes that are not UTF-8")
                text = _mended(text)
            cells = text.rstrip("\r\n").split("\t")
            if len(cells) == 2:
                image = _beside(path)
                value = {"question": cells[0], "label": cells[1], "task": task}
            elif len(cells) in (3, 4):
                image = _of_answers(path, cells[0], root)
                value = {"question": cells[1], "label": cells[2], "task": path.stem}
            else:
                problem = ("bad_json", f"{len(cells) - 1} tabs, where one separates the columns")
                yield Row(line, record, -1, -1, None, problem)
                record += 1
                continue
            value["image"] = Path(os.path.relpath(image, root)).as_posix()
            yield Row(line, record, -1, -1, value, problem)
            record += 1


def _beside(path: Path) -> Path:
    """The picture that a text file asks about: of its name, in its folder or in `images` beside it."""
    folder = path.parent
    if folder.name == "questions_answers_YN":
        folder = folder.parent / "images"
    names = [folder / (path.stem + suffix) for suffix in _SUFFIXES]
    return next((name for name in names if os.path.lexists(name)), names[0])


def _of_answers(path: Path, name: str, root: Path) -> Path:
    names = [root / path.stem / "images" / name, root / path.stem / name]
    return next((name for name in names if os.path.lexists(name)), names[1])


def shard_rows(path: Path) -> Iterator[Row]:
    """The samples of a WebDataset shard: {"key", "members", "json", "text"}, no picture is read.

    members: extension -> (name, offset, size), offset None in a compressed shard.
    """
    from labs.formats.tar_members import open_tar, read_member
    from labs.formats.webdataset import PROBLEMS, read_shard

    record = 0
    try:
        file, size = open_tar(path)
        with file:
            for sample in read_shard(path, load=lambda: False):
                value: dict[str, Any] = {"key": sample.key, "members": {}}
                problem = None
                if sample.problem:
                    reason = PROBLEMS.get(sample.problem, "a second file of the same name")
                    problem = ("bad_field", f"{printable(sample.detail)} is {reason}")
                for extension, member in sample.members.items():
                    place = (member.name, member.offset if size is not None else None, member.size)
                    value["members"][extension] = place
                    kind = extension.rpartition(".")[2]
                    if problem or kind in IMAGE_SUFFIXES or member.size > LARGEST:
                        continue
                    if kind in ("json", "jsn", "txt", "text", "caption"):
                        data = (sample.data or {}).get(extension)
                        if data is None:
                            data = read_member(file, member, path)
                        problem = _read_member(value, kind, extension, data)
                yield Row(None, record, -1, -1, value, problem)
                record += 1
    except InputError as error:
        kind = "cut_off" if "cut off" in error.what else "bad_json"
        yield Row(None, None, -1, -1, None, (kind, error.what))


def _read_member(value: dict, kind: str, extension: str, data: bytes) -> tuple[str, str] | None:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return "bad_encoding", f"{extension}: byte {data[error.start]:02x} at {error.start:,}"
    if kind not in ("json", "jsn"):
        value["text"] = text
        return None
    try:
        value["json"] = json.loads(text)
    except (ValueError, RecursionError) as error:
        return "bad_json", f"{extension}: {printable(str(error))}"
    return None


def parquet_rows(path: Path) -> Iterator[Row]:
    """The rows of a Parquet file; without pyarrow, a row that says so."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        fault = ("bad_json", "a Parquet file, and pyarrow, which reads it, is not installed")
        yield Row(None, None, -1, -1, None, fault)
        return
    record = 0
    try:
        for batch in parquet.ParquetFile(path).iter_batches(batch_size=1024):
            for value in batch.to_pylist():
                yield Row(None, record, -1, -1, value)
                record += 1
    except (pyarrow.ArrowException, OSError) as error:
        detail = f"damaged after row {record:,}: {printable(str(error), 120)}"
        yield Row(None, None, -1, -1, None, ("cut_off", detail))


def _text(path: Path) -> TextIO:
    """A text file opened for reading; bytes that are not UTF-8 come as lone surrogates."""
    with open(path, "rb") as file:
        encoding = encoding_of(file.read(1024))
    if encoding:
        return open(path, encoding=encoding, errors="replace", newline="")
    return open(path, encoding="utf-8-sig", errors="surrogateescape", newline="")


def _is_broken(text: str) -> bool:
    return not text.isascii() and any("\udc80" <= letter <= "\udcff" for letter in text)


def _mended(text: str) -> str:
    return "".join("\ufffd" if "\udc80" <= letter <= "\udcff" else letter for letter in text)
