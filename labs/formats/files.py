"""Reading and writing files safely: what a file really is, and writing it whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from labs.errors import InputError

_LFS = b"version https://git-lfs.github.com/spec/"
_HTML = (b"<!doctype html", b"<html", b"<head", b'<?xml version="1.0"?><!doctype html')


def impostor(head: bytes) -> str | None:
    """Name what a failed download left in place of the file, from the file's first bytes.

    Returns "an HTML page" (a login or error page saved under the file's name), "a Git-LFS pointer"
    (cloned without `git lfs pull`), or None when the bytes look like neither.
    """
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith(_LFS):
        return "a Git-LFS pointer"
    if start.startswith(_HTML):
        return "an HTML page"
    return None


def check_file(path: str | os.PathLike, what: str = "file") -> bytes:
    """Return the first 512 bytes of `path`; say in one sentence why it cannot be read if it cannot.

    Raises InputError for a missing file, a broken link, a folder, a pipe, no permission, zero bytes, and
    for an HTML page or a Git-LFS pointer under the file's name.
    """
    try:
        if stat.S_ISFIFO(os.stat(path).st_mode):  # opening it would wait for a writer
            raise InputError(f"The {what} {path} is a pipe, not a file.", "Give a file.")
        with open(path, "rb") as file:
            head = file.read(512)
    except FileNotFoundError:
        if os.path.islink(path):
            raise InputError(
                f"The {what} {path} is a link to {os.readlink(path)}, which does not exist.",
                "Fetch the file it points to, or correct the link.",
            ) from None
        raise InputError(
            f"The {what} {path} does not exist.", "Check the path and the folder it is relative to."
        ) from None
    except IsADirectoryError:
        raise InputError(
            f"{path} is a folder, where one {what} was expected.",
            "Give the path of one file in it.",
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"The {what} {path} cannot be read: {reason}.", "Check its name and its permissions."
        ) from None
    if not head:
        raise InputError(
            f"The {what} {path} has zero bytes.",
            "The copy or download was cut off: fetch it again.",
        )
    kind = impostor(head)
    if kind == "a Git-LFS pointer":
        raise InputError(
            f"The {what} {path} is {kind}, not the file itself.",
            "Run `git lfs pull` in the folder it was cloned to.",
        )
    if kind:
        raise InputError(
            f"The {what} {path} is {kind}, not the file itself.",
            "The download needs a login or a different address: fetch it again.",
        )
    return head


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, mode: str = "w") -> Iterator[IO]:
    """Open a temporary file beside `path` and rename it to `path` when the block ends well.

    Whoever reads `path` sees the old file or the whole new one, never half of it; an exception
    (a full disk, Ctrl-C) leaves the old file as it was and removes the temporary one.
    """
    path = Path(path)
    encoding = None if "b" in mode else "utf-8"
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(
            prefix=f".{path.name}.", suffix=".tmp", dir=path.parent
        )
        with os.fdopen(handle, mode, encoding=encoding) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files for the owner alone; give the ordinary permissions back.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException as error:
        if temporary is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InputError(
                f"The disk is full: {path} was not written, and no half of it is left.",
                "Free some space or write to another disk, and run the command again.",
            ) from error
        raise
