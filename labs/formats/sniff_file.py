"""Which public format one file is, by what is in it. Standard library only, Python 3.9 or newer."""

from __future__ import annotations

import itertools
import os
import re
import tarfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from labs.errors import InputError
from labs.formats.dialects import record_format, references_in
from labs.formats.files import check_file
from labs.formats.json_cut import Span, top_level
from labs.formats.json_rows import Shape
from labs.formats.row import kind_of, printable
from labs.formats.rows import encoding_of, read_rows

_LOOK = 100  # records that are looked at
_HEAD = 1 << 16
SHARDS = (".tar", ".tar.gz", ".tgz")
_YES_NO = {"yes", "no"}


class Guess(NamedTuple):
    """format: None where it is none that is known. saw: what it is then, in words.

    references: images that its first records refer to.
    """

    format: str | None
    saw: str = ""
    references: tuple[str, ...] = ()


def guess(path: Path) -> Guess:
    """Look at a file. Raises InputError for one that is missing, empty, an HTML page or an LFS pointer."""
    head = check_file(path, "data file")
    if head[:4] == b"PAR1":
        return _parquet(path)
    if path.name.lower().endswith(SHARDS) or head[257:262] == b"ustar":
        return _shard(path)
    for magic, name in (
        (b"\x1f\x8b", "gzip"),
        (b"PK\x03\x04", "zip"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
    ):
        if head.startswith(magic):
            return Guess(None, f"a {name} archive, which must be unpacked first")
    with open(path, "rb") as file:
        head = file.read(_HEAD)
    encoding = encoding_of(head)
    text = head.decode(encoding or "utf-8-sig", "replace").lstrip()
    if text[:1] in ("{", "["):
        return _json(path, converted=encoding is not None)
    return _table(path, text)


def _json(path: Path, converted: bool) -> Guess:
    if not converted:
        with open(path, "rb") as file:
            lists = coco_lists(file)
        if lists is not None:
            return _coco(path, lists)
    votes: Counter = Counter()
    references: list[str] = []
    seen: list = []
    for row in itertools.islice(read_rows(path), _LOOK):
        if row.value is None:
            continue
        seen.append(row.value)
        votes[record_format(row.value)] += 1
        references += references_in(row.value)[:8]
    known = [(count, name) for name, count in votes.items() if name]
    if known:
        return Guess(max(known)[1], "", tuple(references))
    if not seen:  # all of it damaged: the keys may still be there
        with open(path, "rb") as file:
            head = file.read(1 << 20)
        if re.search(rb'"(?:conversations|messages)"\s*:\s*\[', head):
            return Guess("llava")
        return Guess(None, "no JSON record that could be read")
    first = seen[0]
    if isinstance(first, dict):
        keys = ", ".join(printable(str(key), 30) for key in list(first)[:8]) or "none"
        return Guess(None, f"JSON objects with the keys {keys}")
    return Guess(None, f"JSON, but its first record is {kind_of(first)}")


def coco_lists(file) -> dict[str, Span] | None:
    """Where `images` and `annotations` of a COCO object stand; None where the file is no such object."""
    file.seek(0)
    head = file.read(_HEAD)
    start = 3 if head.startswith(b"\xef\xbb\xbf") else 0
    start += len(head[start:]) - len(head[start:].lstrip())
    if head[start : start + 1] != b"{":
        return None
    if not re.search(rb'"(?:images|annotations|info|licenses)"\s*:\s*[\[{]', head):
        return None
    spans = {span.key: span for span in top_level(file, start)}
    if not {"images", "annotations"} <= spans.keys():
        return None
    for key in ("images", "annotations"):
        file.seek(spans[key].start)
        if file.read(1) != b"[":
            return None
    return spans


def _coco(path: Path, lists: dict[str, Span]) -> Guess:
    def first(key: str) -> list[dict]:
        rows = read_rows(path, Shape("list", lists[key].start + 1, whole=False))
        values = [row.value for row in itertools.islice(rows, 32)]
        return [value for value in values if isinstance(value, dict)]

    if not any("caption" in item for item in first("annotations")):
        return Guess(None, "COCO annotations without captions")
    names = [item.get("file_name") for item in first("images")]
    return Guess("coco", "", tuple(name for name in names if isinstance(name, str)))


def _table(path: Path, text: str) -> Guess:
    if "\0" in text:
        return Guess(None, f"binary data that begins with {printable(text[:40])!r}")
    lines = [line for line in text.splitlines()[:20] if line.strip()]
    cells = [line.split("\t") for line in lines]
    if not lines or len(cells[0]) < 2:
        return Guess(None, f"plain text that begins with {printable(text[:40])!r}")
    header = {cell.strip().strip('"').lower() for cell in cells[0]}
    if {"index", "question"} <= header and header & {"image", "image_path"}:
        return Guess("mmbench")
    if any(len(row) in (2, 3, 4) and _is_label(row) for row in cells):
        return Guess("mme")
    return Guess(None, f"a table with the columns {printable(', '.join(cells[0]))}")


def _is_label(row: list[str]) -> bool:
    return row[1 if len(row) == 2 else 2].strip().lower() in _YES_NO


def _shard(path: Path) -> Guess:
    """A tar with text or JSON beside its pictures; names of members only, no byte of them is read."""
    from labs.formats.shard_fields import IMAGE_SUFFIXES
    from labs.formats.tar_members import open_tar, walk

    suffixes: Counter = Counter()
    try:
        file, size = open_tar(path)
        with file:
            for member in itertools.islice(walk(file, path, size), 64):
                suffixes[member.name.rpartition(".")[2].lower()] += 1
    except InputError:
        if not suffixes and not tarfile.is_tarfile(path):
            return Guess(None, "no tar file, though it is named so")
    if set(suffixes) & {"json", "jsn", "txt", "text", "caption"}:
        return Guess("webdataset")
    if set(suffixes) & IMAGE_SUFFIXES:
        return Guess(None, "a tar of pictures without texts")
    return Guess(None, "a tar without pictures and texts")


def _parquet(path: Path) -> Guess:
    try:
        from pyarrow import parquet
    except ImportError:
        return Guess(None, "a Parquet file, and pyarrow, which reads it, is not installed")
    try:
        names = parquet.read_schema(os.fspath(path)).names
    except (OSError, ValueError) as error:
        return Guess(None, f"a damaged Parquet file ({printable(str(error))})")
    if record_format(dict.fromkeys(names)) == "qilin":
        return Guess("qilin")
    return Guess(None, f"a Parquet file with the columns {printable(', '.join(names))}")
