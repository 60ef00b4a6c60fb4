"""Writing WebDataset shards: each one whole or not at all, and the same bytes for the same samples.

Standard library only, Python 3.9 or newer; Pillow and NumPy where a sample holds pictures or arrays.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from labs.errors import InputError
from labs.formats.files import atomic_write
from labs.formats.shard_fields import encode_field

MAX_SAMPLES = 10_000
MAX_SHARD_BYTES = 10**9
_BLOCK, _RECORD = tarfile.BLOCKSIZE, tarfile.RECORDSIZE
_NUMBER = re.compile(r"%0?\d*d")


def write_shards(
    samples: Iterable[Mapping[str, Any]],
    pattern: str | os.PathLike,
    max_samples: int = MAX_SAMPLES,
    max_bytes: int = MAX_SHARD_BYTES,
    index: str | os.PathLike | None = None,
) -> list[Path]:
    """Write samples as shards, and return their paths; see ShardWriter."""
    with ShardWriter(pattern, max_samples, max_bytes, index) as writer:
        for sample in samples:
            writer.write(sample)
    return writer.paths


class ShardWriter:
    """Writes samples into `folder/name-%06d.tar`, the next shard when one is full. A context manager.

    A sample is {"__key__": "000017", "jpg": bytes or a picture, "json": value, "txt": text, …}
    (`labs.formats.shard_fields`); other keys that begin with "__" are left out.

    max_samples, max_bytes: a shard has at most so many samples and is at most so large, whichever
    comes first; a sample larger than that alone gets a shard to itself. index: a file written after
    the last shard, {"shardlist": [{"url", "nsamples", "filesize"}]}, as `widsindex` writes it.

    A shard appears under its name only when it is complete. Where the block ends with an exception
    the shard being written is dropped, those before it stay, and there is no index.

    Raises InputError for a pattern without a number, a key or extension that could not be read back
    (or would leave the folder it is once unpacked to), a key that was used before in its shard, a
    value that its extension cannot hold, and no sample at all.
    """

    def __init__(
        self,
        pattern: str | os.PathLike,
        max_samples: int = MAX_SAMPLES,
        max_bytes: int = MAX_SHARD_BYTES,
        index: str | os.PathLike | None = None,
    ):
        self.pattern = os.fspath(pattern)
        if len(_NUMBER.findall(os.path.basename(self.pattern))) != 1:
            raise InputError(
                f"{self.pattern} names one file, and there are to be many shards.",
                "Put the shard's number into the name: name-%06d.tar.",
            )
        if max_samples < 1 or max_bytes < 1:
            raise InputError("A shard holds at least one sample.", "Raise max_samples, max_bytes.")
        self.max_samples, self.max_bytes, self.index = max_samples, max_bytes, index
        self.paths: list[Path] = []
        self._shards: list[tuple[Path, int]] = []
        self._open = contextlib.ExitStack()
        self._file: Any = None
        self._size, self._keys = 0, set()

    def write(self, sample: Mapping[str, Any]) -> None:
        """Add one sample."""
        key = _checked_key(sample)
        members = [
            (_header(key, extension, value), value)
            for extension, value in _encoded(sample, key).items()
        ]
        size = sum(len(header) + _whole(len(value), _BLOCK) for header, value in members)
        full = len(self._keys) >= self.max_samples
        if self._file and (
            full or _whole(self._size + size + 2 * _BLOCK, _RECORD) > self.max_bytes
        ):
            self._finish()
        if self._file is None:
            folder, name = os.path.split(self.pattern)
            number = len(self.paths)
            self._path = Path(folder, _NUMBER.sub(lambda m: m[0] % number, name))
            self._file = self._open.enter_context(atomic_write(self._path, "wb"))
        if key in self._keys:
            raise InputError(
                f"The key {key} comes twice in the shard {self._path}.",
                "Number the samples: files of one key are one sample.",
            )
        for header, value in members:
            self._file.write(header)
            self._file.write(value)
            self._file.write(bytes(_whole(len(value), _BLOCK) - len(value)))
        self._size += size
        self._keys.add(key)

    def _finish(self) -> None:
        """End the tar as tar does (two blocks of zeros, whole records) and give it its name."""
        self._file.write(bytes(_whole(self._size + 2 * _BLOCK, _RECORD) - self._size))
        self._open.close()
        self.paths.append(self._path)
        self._shards.append((self._path, len(self._keys)))
        self._file, self._size, self._keys = None, 0, set()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind, error, traceback) -> None:
        if kind is not None:
            self._open.__exit__(kind, error, traceback)  # the temporary file goes
            return
        if self._file:
            self._finish()
        if not self.paths:
            raise InputError(f"No sample to write to {self.pattern}.", "Check what was selected.")
        if self.index is not None:
            folder = Path(self.index).parent
            shards = [
                {
                    "url": Path(os.path.relpath(path, folder)).as_posix(),
                    "nsamples": count,
                    "filesize": path.stat().st_size,
                }
                for path, count in self._shards
            ]
            content = {"__kind__": "wids-shard-index-v1", "wids_version": 1, "shardlist": shards}
            with atomic_write(self.index) as file:
                json.dump(content, file, indent=1)


def _checked_key(sample: Mapping[str, Any]) -> str:
    key = sample.get("__key__")
    parts = key.split("/") if isinstance(key, str) else [""]
    name = parts[-1]
    bad = "" in parts or ".." in parts or "." in name or "\\" in str(key) or "\0" in str(key)
    if bad or re.match(r"[A-Za-z]:", str(key)) or re.match(r"__[^/]*__/", str(key)):
        raise InputError(
            f"{key!r} is no key of a sample.",
            'Give each sample a "__key__" without dots in its last part, as "000017" or "a/17".',
        )
    return key


def _encoded(sample: Mapping[str, Any], key: str) -> dict[str, bytes]:
    members = {
        str(extension): encode_field(value, str(extension), f"{key}.{extension}")
        for extension, value in sample.items()
        if not str(extension).startswith("__")
    }
    for extension in members:
        if not extension or "/" in extension or "\0" in extension or extension != extension.lower():
            raise InputError(
                f"Sample {key} has a member {extension!r}, which is no extension.",
                'Use small letters and no slash: "jpg", "json", "mask.png".',
            )
    if not members:
        raise InputError(f"Sample {key} is empty.", "Give it at least one member.")
    return members


def _header(key: str, extension: str, value: bytes) -> bytes:
    info = tarfile.TarInfo(f"{key}.{extension}")
    info.size, info.mode = len(value), 0o444
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8")


def _whole(size: int, unit: int) -> int:
    return -(-size // unit) * unit
