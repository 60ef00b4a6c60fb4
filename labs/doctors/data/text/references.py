"""Image references looked up on disk: each once, with one system call where all is well.

Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from typing import NamedTuple

from labs.formats.row import printable

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://")
_DRIVE = re.compile(r"[A-Za-z]:[\\/]|\\\\")
_LISTED = 200_000  # names of a folder that are kept to find one that is nearly right
_READABLE = stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH


class Found(NamedTuple):
    """What a reference leads to. problem: (kind, detail), or None; then it may be opened.

    size: bytes. identity: (device, inode), the same for two names of one file; (0, 0) where unknown.
    """

    problem: tuple[str, str] | None = None
    size: int = -1
    identity: tuple[int, int] = (0, 0)


class Folder:
    """The folder that references are relative to. Nothing outside of it is looked at, unless links
    are followed: a data folder may hold links to folders of pictures elsewhere."""

    def __init__(self, root: str | os.PathLike, follow_links: bool = False) -> None:
        self.follow_links = follow_links
        self.root = os.path.abspath(root)
        self.real = os.path.realpath(root)
        self._folders: dict[
            str, str | None
        ] = {}  # folder -> where it really is, if that is outside
        self._names: dict[str, dict[str, str] | None] = {}

    def path(self, reference: str) -> str:
        return os.path.normpath(os.path.join(self.root, reference))

    def look_up(self, reference: str) -> Found:
        """Look up a path. Data URLs pass; web addresses are a fault of their own."""
        if reference.startswith("data:"):
            return Found()
        if _ADDRESS.match(reference):
            return Found(("web_address", printable(reference)))
        if "\0" in reference:
            return Found(("missing_image", "a NUL byte in the path"))
        if _DRIVE.match(reference):
            return Found(("unsafe_path", f"an absolute path of Windows: {printable(reference)}"))
        path = f"{self.root}{os.sep}{reference}"
        if ".." in reference or reference[:1] == os.sep:
            path = self.path(reference)
            if not _is_under(path, self.root):
                what = "an absolute path" if os.path.isabs(reference) else 'a path with ".."'
                return Found(("unsafe_path", f"{what}: {printable(reference)}"))
        try:
            return self._status(path, reference)
        except OSError as error:
            return Found(self._fault(error, path, reference))
        except ValueError:  # a lone surrogate, which no file name has
            return Found(("missing_image", f"{printable(reference)}: no such file"))

    def _status(self, path: str, reference: str) -> Found:
        folder = os.path.dirname(path)
        if folder not in self._folders:
            real = os.path.realpath(folder)
            inside = self.follow_links or _is_under(real, self.real)
            self._folders[folder] = None if inside else real
        outside = self._folders[folder]
        if outside is not None:
            return Found(
                (
                    "unsafe_path",
                    f"{printable(reference)} leads through a link to {outside}; --follow-links allows that",
                )
            )
        status = os.lstat(path)
        if stat.S_ISLNK(status.st_mode):
            status = os.stat(path)  # raises for a loop, and for a link to nothing
            real = os.path.realpath(path)
            if not self.follow_links and not _is_under(real, self.real):
                return Found(("unsafe_path", f"{printable(reference)} is a link to {real}"))
        if not stat.S_ISREG(status.st_mode):
            what = "a folder" if stat.S_ISDIR(status.st_mode) else "no regular file"
            return Found(("unreadable_file", f"{printable(reference)} is {what}"))
        if status.st_mode & _READABLE != _READABLE and not os.access(path, os.R_OK):
            return Found(("unreadable_file", f"{printable(reference)}: permission denied"))
        return Found(None, status.st_size, (status.st_dev, status.st_ino))

    def _fault(self, error: OSError, path: str, reference: str) -> tuple[str, str]:
        name = printable(reference)
        if error.errno == errno.ELOOP:
            return "symlink_loop", name
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return "missing_image", f"{name}: {self._why_missing(path, reference)}"
        if error.errno == errno.ENAMETOOLONG:
            return "missing_image", f"{name}: too long for a path"
        return "unreadable_file", f"{name}: {(error.strerror or str(error)).lower()}"

    def _why_missing(self, path: str, reference: str) -> str:
        """What there is in place of the file: a broken link, another case, another suffix."""
        if os.path.islink(path):
            return f"a link to {printable(os.readlink(path))}, which is not there"
        if "\\" in reference and os.path.exists(self.path(reference.replace("\\", "/"))):
            return "written with backslashes; with slashes it is there"
        folder, name = os.path.split(path)
        names = self._listing(folder)
        if names is None:
            inside = os.path.relpath(folder, self.root)
            return "no such file" if inside == "." else f"there is no folder {printable(inside)}"
        near = names.get(name.lower()) or names.get(os.path.splitext(name)[0].lower())
        return f"no such file, but {printable(near)} is there" if near else "no such file"

    def _listing(self, folder: str) -> dict[str, str] | None:
        """The names in a folder by their lower case, and by that without suffix; listed once."""
        if folder not in self._names:
            names: dict[str, str] = {}
            try:
                with os.scandir(folder) as entries:
                    for number, entry in enumerate(entries):
                        if number >= _LISTED:
                            break
                        names.setdefault(entry.name.lower(), entry.name)
                        names.setdefault(os.path.splitext(entry.name)[0].lower(), entry.name)
                self._names[folder] = names
            except OSError:
                self._names[folder] = None
        return self._names[folder]


def _is_under(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
