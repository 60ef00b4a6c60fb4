"""What a stream reads from: pieces that are opened one after the other, again in each epoch."""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from labs.data.skips import Skip
from labs.data.stream import BROKEN
from labs.errors import InputError
from labs.formats import check_file, read_records
from labs.formats.shard_names import SHARD_SUFFIXES, shard_paths
from labs.formats.webdataset import ShardSample, read_shard

LINES = (".jsonl", ".ndjson")
RECORDS = (".json", *LINES)


class Source(Protocol):
    """pieces: what can be opened apart from each other.

    `open` yields the items of one. `wanted()` says whether the next one is likely to be used: where it
    says no, its bytes may be left unread, but not lost. `value` is what an item stands for; it may
    raise Skip.
    """

    pieces: list

    def names(self) -> list[str]: ...

    def open(self, piece: Any, wanted: Callable[[], bool]) -> Iterator[Any]: ...

    def value(self, item: Any) -> Any: ...


def make_source(source: Any) -> Source:
    """The source for what a stream was given. Raises InputError where it cannot be told or read."""
    if isinstance(source, str | os.PathLike):
        source = [source]
    if isinstance(source, list | tuple) and source and all(map(_is_path, source)):
        paths = [os.fspath(path) for path in source]
        kinds = {_kind(path) for path in paths}
        if len(kinds) > 1:
            raise InputError(
                "Shards and JSON files cannot be one stream.",
                "Make a stream of each, and mix them with labs.data.StreamingMixture.",
            )
        return Shards(paths) if kinds == {"shards"} else Records(paths)
    return Items(source)


def _is_path(item: Any) -> bool:
    return isinstance(item, str | os.PathLike)


def _kind(path: str) -> str:
    if path.endswith(RECORDS):
        return "records"
    if path.endswith(SHARD_SUFFIXES) or os.path.isdir(path) or "://" in path or "pipe:" in path:
        return "shards"
    raise InputError(
        f"{path} is neither a shard nor a JSON file by its name.",
        f"Name it {', '.join((*SHARD_SUFFIXES, *RECORDS))}.",
    )


class Shards:
    """WebDataset shards. A sample that is passed over costs its headers, not its bytes."""

    def __init__(self, paths: list[str]):
        self.pieces = shard_paths(paths)

    def names(self) -> list[str]:
        return [os.path.basename(path) for path in self.pieces]

    def open(self, piece: str, wanted: Callable[[], bool]) -> Iterator[ShardSample]:
        return read_shard(piece, wanted)

    def value(self, item: ShardSample) -> dict[str, Any]:
        try:
            return item.read()
        except InputError as error:
            raise Skip(BROKEN, error.what) from None


class Records:
    """JSON and JSONL files, one piece each. A line is parsed when its turn comes, if it does."""

    def __init__(self, paths: list[str]):
        for path in paths:
            check_file(path, "data file")
        self.pieces = paths

    def names(self) -> list[str]:
        return [os.path.basename(path) for path in self.pieces]

    def open(self, piece: str, wanted: Callable[[], bool]) -> Iterator[tuple[str, Any]]:
        if not piece.endswith(LINES):
            yield from ((piece, record) for _, record in read_records(piece))
            return
        with open(piece, "rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f"{piece}, line {number}", line

    def value(self, item: tuple[str, Any]) -> Any:
        where, record = item
        if not isinstance(record, bytes):
            return record
        try:
            return json.loads(record.decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise Skip(BROKEN, f"{where}: bad JSON: {str(error).rstrip('.')}.") from None


class Items:
    """Anything that can be gone through again, in one piece."""

    def __init__(self, items: Iterable | Callable[[], Iterable]):
        if (
            not callable(items)
            and not isinstance(items, Iterable)
            and not hasattr(items, "__getitem__")
        ):
            raise InputError(
                f"A stream cannot be made of a {type(items).__name__}.",
                "Give paths, something to iterate over, or a function that returns an iterator.",
            )
        if isinstance(items, Iterator):
            raise InputError(
                "A stream was given an iterator, which can be gone through only once.",
                "Give a function that returns a new one, for each worker and epoch.",
            )
        self.pieces = [items]

    def names(self) -> list[str]:
        return [type(self.pieces[0]).__name__]

    def open(self, piece: Any, wanted: Callable[[], bool]) -> Iterator[Any]:
        return iter(piece() if callable(piece) and not isinstance(piece, Iterable) else piece)

    def value(self, item: Any) -> Any:
        return item
