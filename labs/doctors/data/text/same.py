"""Whether two images are the same: one file, or two of the same bytes.

Files are read only where their sizes agree, and first only their last bytes.
Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable

from labs.doctors.data.text.images import ImageTable

_END = 1 << 14  # bytes at the end of a file that are compared first
_BLOCK = 1 << 20


def name_of(table: ImageTable, number: int) -> str:
    """Where an image is, as text: equal for equal paths."""
    source = table.sources.get(number)
    if source == "data" or (number in table.sources and source is None):
        return table.references[number]
    if source is not None:
        return f"{source[0]}\0{source[1]}"
    return f"{table.folders[table.folder_of[number]].root}/{table.references[number]}"


def identity_of(table: ImageTable, number: int) -> tuple[int, int] | None:
    """(device, inode) of its file, None where that is not known."""
    inode = table.inodes[number]
    return (table.devices[number], inode) if inode else None


class Contents:
    """What images hold, each read once: told apart by size, by their ends, by the whole."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int, bool], bytes | None] = {}

    def key(self, table: ImageTable, number: int, step: int) -> Hashable:
        """Something equal for equal images; with `step` 0 (size), 1 (end) and 2 (all) ever surer.

        Of an image that cannot be read it is where it is.
        """
        size = table.sizes[number]
        if step == 0 and size > 0 and number not in table.problems:
            return size
        digest = self.digest(table, number, step == 2) if size > 0 and step else None
        return digest or name_of(table, number)

    def digest(self, table: ImageTable, number: int, whole: bool) -> bytes | None:
        key = (id(table), number, whole)
        if key not in self._known:
            self._known[key] = None if number in table.problems else _read(table, number, whole)
        return self._known[key]


def _read(table: ImageTable, number: int, whole: bool) -> bytes | None:
    source, size = table.source(number), table.sizes[number]
    if source is None:
        return None
    path, start = (source, 0) if isinstance(source, str) else source[:2]
    end = start + size
    digest = hashlib.blake2b(digest_size=16)
    try:
        with open(path, "rb") as file:
            position = start if whole else max(start, end - _END)
            file.seek(position)
            while position < end:
                block = file.read(min(_BLOCK, end - position))
                if not block:
                    return None
                digest.update(block)
                position += len(block)
    except OSError:
        return None
    return digest.digest()
