"""Rows of a table that is kept as JSONL or as Parquet, in one file or in a folder of files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from labs.errors import InputError
from labs.formats import fields
from labs.formats.files import check_file

_BATCH = 1024  # rows of Parquet held at a time


def read_rows(path: str | os.PathLike, noun: str) -> Iterator[tuple[str, dict]]:
    """Yield (place, row) of a JSONL or Parquet file, or of all such files of a folder, by name.

    Parquet needs pyarrow, which comes with the extra `trl`. Raises InputError for a missing or broken
    file, Parquet without pyarrow (with how to convert it), a folder with none of these files or with
    both kinds, and a file without rows.
    """
    path = Path(path)
    if not path.is_dir():
        check_file(path, "data file")
        return (
            _parquet(path, noun) if path.suffix == ".parquet" else fields.read_objects(path, noun)
        )
    files = sorted(f for f in path.iterdir() if f.suffix in (".jsonl", ".parquet") and f.is_file())
    if len({file.suffix for file in files}) != 1:
        found = "both Parquet and JSONL files" if files else "neither Parquet nor JSONL files"
        raise InputError(f"{path} holds {found}.", "Name the file or folder of one config.")
    return (row for file in files for row in read_rows(file, noun))


def _parquet(path: Path, noun: str) -> Iterator[tuple[str, dict]]:
    try:
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise InputError(
            f"{path} is Parquet, and pyarrow, which reads it, is not installed.",
            "Install it (pip install pyarrow), or convert the file to JSONL on a machine that has it:"
            ' pandas.read_parquet(path).to_json("data.jsonl", orient="records", lines=True,'
            " force_ascii=False).",
        ) from None
    return _parquet_rows(parquet, path, noun)


def _parquet_rows(parquet: Any, path: Path, noun: str) -> Iterator[tuple[str, dict]]:
    import pyarrow

    number = 0
    try:
        for batch in parquet.ParquetFile(path).iter_batches(batch_size=_BATCH):
            for row in batch.to_pylist():
                number += 1
                yield f"{path}, row {number}", row
    except (pyarrow.ArrowException, OSError) as error:
        after = f" after row {number}" if number else ""
        raise InputError(
            f"{path} is not whole Parquet{after}: {' '.join(str(error).split())[:200]}.",
            "Fetch the file again.",
        ) from None
    if number == 0:
        raise fields.nothing(path, noun)
