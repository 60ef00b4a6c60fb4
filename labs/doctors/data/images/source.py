"""The bytes of a picture, wherever they lie. Nothing here waits for a pipe or touches a device.

Python 3.9 or newer.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

from labs.doctors.data.images.first_bytes import HEAD
from labs.formats.images import ImageError, decode_data_url, open_image, to_rgb

if TYPE_CHECKING:
    from PIL import Image

# A path, a data URL, or a member of a tar that is not compressed: (path, offset of its bytes, size).
Source = Any

_SPECIAL = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe (FIFO)"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device file"),
    (stat.S_ISBLK, "a device file"),
)
_ERRNOS = {
    errno.ENOENT: ("missing_image", "there is no such file"),
    errno.ENOTDIR: ("missing_image", "there is no such file"),
    errno.ELOOP: ("symlink_loop", "a loop of links"),
}


class Fault(Exception):
    """A picture that cannot be opened: args are the kind of problem and the detail."""


@contextlib.contextmanager
def open_source(source: Source) -> Iterator[tuple[IO[bytes], int]]:
    """The bytes of a picture as a file, and how many they are. Never waits for a pipe or a device."""
    if isinstance(source, (list, tuple)):
        path, offset, size = source
        with _open_path(path) as file:
            try:
                file.seek(offset)
                data = file.read(size)
            except OSError as error:
                raise Fault("unreadable_file", error.strerror or str(error)) from None
        if len(data) < size:
            raise Fault("truncated_image", f"the tar ends {size - len(data):,} bytes too early")
        yield io.BytesIO(data), size
    elif os.fspath(source).startswith("data:"):
        data = decode_data_url(os.fspath(source))
        yield io.BytesIO(data), len(data)
    else:
        with _open_path(source) as file:
            yield file, os.fstat(file.fileno()).st_size


def _open_path(path: str) -> IO[bytes]:
    try:
        # Looked at before it is opened: opening a device can have effects, opening a pipe waits.
        mode = os.stat(path).st_mode
        if stat.S_ISREG(mode):
            return open(path, "rb", opener=_without_waiting)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        number = getattr(error, "errno", None)
        if number is None:
            raise Fault("missing_image", "no file can have this name") from None
        words = ("unreadable_file", os.strerror(number))
        raise Fault(*_ERRNOS.get(number, words)) from None
    what = next((name for test, name in _SPECIAL if test(mode)), "no regular file")
    raise Fault("not_an_image", f"is {what}")


def _without_waiting(path: str, flags: int) -> int:
    # Should the file have become a pipe since.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def read_head(file: IO[bytes]) -> bytes:
    """The first bytes, and back to the beginning."""
    try:
        head = file.read(HEAD)
        file.seek(0)
        return head
    except OSError as error:
        raise Fault("unreadable_file", error.strerror or str(error)) from None


def header_size(source: Source) -> tuple[int, int] | None:
    """(width, height) as shown, from the header alone; None where that cannot be read.

    For processes that open few pictures: under no limits, and bombs (Pillow's own limit) are None.
    """
    try:
        with open_source(source) as (file, _), open_image(file, max_pixels=1 << 62) as image:
            size = image.size
            if image.format == "TIFF":  # newer Pillows give the turned size already
                size = image.tag_v2[256], image.tag_v2[257]
            if image.format == "PNG" and "exif" not in image.info:
                return size  # `getexif` would decode it all to look for EXIF behind the pixels
            return shown(size, orientation_of(image))
    except (Fault, ImageError, MemoryError):
        return None


def load_source(source: Source) -> Image.Image | None:
    """The picture itself, as training loads it; None where it cannot be had. Under no limits."""
    if hasattr(source, "getpixel"):
        return to_rgb(source)
    try:
        with open_source(source) as (file, _), open_image(file) as image:
            image.load()
            return to_rgb(image)
    except (Fault, ImageError, MemoryError):
        return None


def orientation_of(image: Any) -> int:
    """EXIF's turn, 1 to 8; 1 is none."""
    return image.getexif().get(0x0112, 1)


def shown(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """(width, height) after EXIF's turn."""
    return (size[1], size[0]) if orientation in (5, 6, 7, 8) else size
