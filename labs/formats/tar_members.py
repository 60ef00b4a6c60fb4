"""Walking through a tar file from front to back, trusting nothing in it and writing nothing to disk.

Why not `tarfile`: it reads an extended header of any claimed size into memory, follows a member of
zeros that claims a terabyte, takes a file that was cut off between two members for whole, and keeps
a list of all it has seen. The header block itself is parsed by `tarfile.TarInfo.frombuf`.

Standard library only, Python 3.9 or newer: the data doctor reads with it.
"""

from __future__ import annotations

import gzip
import os
import re
import tarfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from labs.errors import InputError
from labs.formats.files import check_file

MAX_BYTES = 256 * 2**20  # of one member; a photograph has some, a video clip a hundred MB at most

BLOCK = tarfile.BLOCKSIZE
_BUFFER = 1 << 16
_MAX_HEADER = 1 << 20  # of an extended header: names and attributes
_EXTENDED = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE)
_LONG = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_PAX = re.compile(rb"(\d{1,9}) ([^=]+)=")

# What makes a member unusable, as Member.problem.
PROBLEMS = {
    "link": "a link",
    "device": "a device or a pipe",
    "unknown_type": "neither a file nor a folder",
    "sparse": "a sparse file",
    "too_large": "larger than the limit",
    "unsafe_name": "a name that is absolute or climbs out of its folder",
}


class Member(NamedTuple):
    """A file in a tar. `offset`, `size`: where its bytes are, in the (uncompressed) tar.
    `problem`: a key of PROBLEMS, or None where the bytes may be read."""

    name: str
    offset: int
    size: int
    problem: str | None = None


def open_tar(path: str | os.PathLike) -> tuple[BinaryIO, int | None]:
    """The tar opened for reading, through gzip if it is compressed, and its size (None for gzip).

    Raises InputError for a file that is missing, empty, no file, an HTML page or a Git-LFS pointer.
    """
    head = check_file(path, "shard")
    if head[:2] == b"\x1f\x8b":
        return gzip.open(path, "rb"), None
    return open(path, "rb", buffering=_BUFFER), os.path.getsize(path)


def walk(
    file: BinaryIO, path: str | os.PathLike, size: int | None = None, max_bytes: int = MAX_BYTES
) -> Iterator[Member]:
    """Yield the members of an open tar in their order; folders are passed over.

    The caller may move the file (`read_member`) between two members. A member that must not be used
    is yielded with its problem. `size`: of the file, where it is known; `path` is for the messages.

    Raises InputError, with the byte at which it stands, for a damaged header and for a tar that is
    cut off: within a member, or before the two blocks of zeros that end every tar.
    """
    position, shared, own = 0, {}, {}
    while True:
        header = _read(file, position, BLOCK, path)
        if header.count(b"\0") == BLOCK:
            return
        try:
            info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        except (tarfile.HeaderError, ValueError):
            raise _damaged(path, position) from None
        data = position + BLOCK
        if info.type in _EXTENDED or info.type in _LONG:
            if not 0 <= info.size <= _MAX_HEADER:
                raise _damaged(path, position)
            body = _read(file, data, info.size, path)
            if info.type in _LONG:
                found = {"path": body.split(b"\0", 1)[0]}
                own.update(found if info.type == tarfile.GNUTYPE_LONGNAME else {})
            else:
                (shared if info.type == tarfile.XGLTYPE else own).update(_pax(body))
            position = data + _whole_blocks(info.size)
            continue
        if info.type == tarfile.GNUTYPE_SPARSE:
            more = header[482]
            while more:  # further blocks of its map
                more = _read(file, data, BLOCK, path)[504]
                data += BLOCK
        attributes = {**shared, **own}
        own = {}
        length = _size(attributes, info, path, position)
        name = attributes.get("path", info.name.encode("utf-8", "surrogateescape"))
        holds_data = info.isreg() or info.type not in tarfile.SUPPORTED_TYPES
        end = data + (_whole_blocks(length) if holds_data else 0)
        if holds_data and size is not None and data + length > size:
            raise _cut_off(path, position)
        if not info.isdir():
            text = name.decode("utf-8", "backslashreplace")
            yield Member(text, data, length, _problem(info, text, length, attributes, max_bytes))
        position = end


def read_member(file: BinaryIO, member: Member, path: str | os.PathLike) -> bytes:
    """The bytes of a member without a problem. Raises InputError where the tar ends too early."""
    return _read(file, member.offset, member.size, path)


def _read(file: BinaryIO, position: int, size: int, path: str | os.PathLike) -> bytes:
    try:
        file.seek(position)
        data = file.read(size)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise _cut_off(path, position) from None
    except OSError as error:
        raise InputError(
            f"The shard {path} cannot be read at byte {position:,}: {error.strerror or error}.",
            "Copy it again, or check the disk.",
        ) from None
    if len(data) < size:
        raise _cut_off(path, position)
    return data


def _size(attributes: dict, info: tarfile.TarInfo, path: str | os.PathLike, position: int) -> int:
    size = attributes.get("size", info.size)
    try:
        size = int(size) if isinstance(size, int) or len(size) <= 20 else -1
    except ValueError:
        size = -1
    if size < 0:  # base-256 numbers may be negative: following one would walk in a circle
        raise _damaged(path, position)
    return size


def _problem(
    info: tarfile.TarInfo, name: str, size: int, attributes: dict, max_bytes: int
) -> str | None:
    if info.islnk() or info.issym():
        return "link"
    if info.isdev():
        return "device"
    if not info.isreg():
        return "unknown_type"
    if info.type == tarfile.GNUTYPE_SPARSE or any(k.startswith("GNU.sparse.") for k in attributes):
        return "sparse"
    if size > max_bytes:
        return "too_large"
    climbs = ".." in re.split(r"[\\/]", name)
    if climbs or name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", name) or "\0" in name:
        return "unsafe_name"
    return None


def _pax(body: bytes) -> dict:
    """The records of an extended header that matter here: "LENGTH KEY=VALUE\\n"."""
    found, position = {}, 0
    while match := _PAX.match(body, position):
        length, key = int(match[1]), match[2].decode("utf-8", "replace")
        if length <= match.end() - position:
            break
        value = body[match.end() : position + length - 1]
        if key == "path":
            found[key] = value.rstrip(b"/")
        elif key == "size" or key.startswith("GNU.sparse."):
            found[key] = value
        position += length
    return found


def _whole_blocks(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _damaged(path: str | os.PathLike, position: int) -> InputError:
    what = "is no tar file" if position == 0 else f"is damaged at byte {position:,}"
    return InputError(
        f"The shard {path} {what}: there is no valid header there.",
        "Fetch it again, or write it again with tar or labs.formats.webdataset.",
    )


def _cut_off(path: str | os.PathLike, position: int) -> InputError:
    return InputError(
        f"The shard {path} is cut off: it ends within or right after what begins at byte {position:,}.",
        "Fetch it again: the copy or the download was interrupted.",
    )
