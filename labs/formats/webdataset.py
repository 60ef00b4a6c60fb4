"""WebDataset shards: tar files in which files of one basename, side by side, make up a sample.

    000017.jpg  000017.json  000018.jpg  000018.json  …      in  train-{000000..000123}.tar

A shard is read from front to back, which disks and object stores do fastest. The key of a sample is
the member's name up to the first dot after its last slash, what follows is the extension, in lower
case; members without one, and those named `__…__`, are passed over: all as the `webdataset` package
does it, with which these files are exchanged both ways. Two things differ: nothing is ever unpickled
(`.pyd`, `.pth` stay bytes), and shards are files (no `pipe:` command is run, nothing is fetched).

Standard library only, Python 3.9 or newer; Pillow for pictures and NumPy for arrays, if any are decoded.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Union

from labs.errors import InputError
from labs.formats.shard_fields import decode_image, decode_sample
from labs.formats.shard_names import expand_braces, shard_paths
from labs.formats.shard_writer import ShardWriter, write_shards
from labs.formats.tar_members import (
    MAX_BYTES,
    PROBLEMS,
    Member,
    open_tar,
    read_member,
    walk,
)

__all__ = [
    "MAX_BYTES",
    "PROBLEMS",
    "Member",
    "ShardSample",
    "ShardWriter",
    "decode_image",
    "decode_sample",
    "expand_braces",
    "read_samples",
    "read_shard",
    "shard_counts",
    "shard_paths",
    "write_shards",
]

Shards = Union[str, os.PathLike, Iterable[Union[str, os.PathLike]]]  # noqa: UP007  Python 3.9

_NAME = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)", re.DOTALL)
_META = re.compile(r"__[^/]*__($|/)")


@dataclasses.dataclass
class ShardSample:
    """One sample of a shard: `members` by extension, and their bytes once they were read.

    problem: a key of PROBLEMS or "duplicate_member", where it must not be used, and `detail`, the
    member that is to blame.
    """

    key: str
    shard: str
    members: dict[str, Member]
    data: dict[str, bytes] | None = None
    problem: str | None = None
    detail: str = ""

    def read(self) -> dict[str, Any]:
        """{"__key__", "__url__", extension: bytes, …}; reads the shard where that was put off."""
        if self.problem:
            raise _unusable(self)
        if self.data is None:
            file, _ = open_tar(self.shard)
            with file:
                self.data = {e: read_member(file, m, self.shard) for e, m in self.members.items()}
        return {"__key__": self.key, "__url__": self.shard, **self.data}


def read_samples(
    shards: Shards,
    max_bytes: int = MAX_BYTES,
    on_skip: Callable[[ShardSample], None] | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield the samples of all shards, in order: {"__key__", "__url__", extension: bytes, …}.

    shards: a path, `name-{000000..000123}.tar`, a folder of .tar files, or a list of these.
    on_skip: is told of each sample that must not be used (a link, a device, an unsafe name, a member
    above `max_bytes`); without it such a sample is an error.

    Raises InputError for shards that are missing, damaged or cut off (after their whole samples), and
    where the files of one sample stand apart.
    """
    for path in shard_paths(shards):
        for sample in read_shard(path, max_bytes=max_bytes):
            if sample.problem and on_skip is not None:
                on_skip(sample)
            else:
                yield sample.read()


def read_shard(
    path: str | os.PathLike,
    load: Callable[[], bool] = lambda: True,
    max_bytes: int = MAX_BYTES,
) -> Iterator[ShardSample]:
    """Yield every sample of one shard, those with a problem too.

    load: asked at each member; where it says no the bytes are passed over, and `read` fetches them
    if they are wanted after all. `max_bytes` bounds what one sample may hold.
    """
    path = os.fspath(path)
    file, size = open_tar(path)
    seen: dict[str, set] = {}
    with file:
        current: ShardSample | None = None
        for member in walk(file, path, size, max_bytes):
            match = _NAME.fullmatch(member.name)
            if match is None or _META.match(member.name):
                continue
            key, extension = match[1], match[2].lower()
            if current is None or key != current.key:
                if current is not None:
                    yield _finished(current, seen)
                current = ShardSample(key, path, {}, {} if load() or size is None else None)
            _add(current, extension, member, file, max_bytes)
        if current is not None:
            yield _finished(current, seen)


def _add(
    sample: ShardSample, extension: str, member: Member, file: BinaryIO, max_bytes: int
) -> None:
    problem = member.problem
    if extension in sample.members:
        problem = problem or "duplicate_member"
    sample.members[extension] = member
    if sum(m.size for m in sample.members.values()) > max_bytes:
        problem = problem or "too_large"
    if problem and not sample.problem:
        # One bad file spoils its sample: a picture without its text is not what was written.
        sample.problem, sample.detail, sample.data = problem, member.name, None
    elif sample.data is not None:
        sample.data[extension] = read_member(file, member, sample.shard)


def _finished(sample: ShardSample, seen: dict[str, set]) -> ShardSample:
    """The sample, once it is clear that it is no late piece of an earlier one.

    A key that comes again with the same extensions is another sample of the same name; with others
    it is a shard that was not sorted, and all its samples are torn.
    """
    parts = frozenset(sample.members)
    before = seen.setdefault(sample.key, parts)
    if before is not parts and before.isdisjoint(parts):
        raise InputError(
            f"The files of sample {sample.key} stand apart in the shard {sample.shard}: "
            f"{', '.join(sorted(before))} first, {', '.join(sorted(parts))} later.",
            "Write it again with the files in order: tar --sort=name.",
        )
    return sample


def _unusable(sample: ShardSample) -> InputError:
    reason = PROBLEMS.get(sample.problem, "a second file of the same name")
    return InputError(
        f"Sample {sample.key} of the shard {sample.shard} holds {sample.detail!r}, which is {reason}.",
        "Remove it from the shard, or skip such samples and count them (on_skip).",
    )


def shard_counts(index: str | os.PathLike) -> dict[str, int]:
    """{path of a shard: its number of samples} from an index file, as `write_shards` and `widsindex`
    write them; paths are relative to the index. Raises InputError for something else."""
    index = Path(index)
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
        shards = content["shardlist"]
        return {str(index.parent / shard["url"]): int(shard["nsamples"]) for shard in shards}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{index} is no index of shards: {type(error).__name__} {error}.",
            'It holds {"shardlist": [{"url": …, "nsamples": …}, …]}.',
        ) from None
