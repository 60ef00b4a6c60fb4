"""Decoded and resized pictures on disk: what costs milliseconds once costs a copy from then on."""

import contextlib
import hashlib
import os
import struct
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from PIL import Image

from labs.errors import InputError
from labs.formats import load_image

_MAGIC = b"labsRGB1"
_HEADER = struct.Struct("<8sIII")  # magic, width, height, checksum of the pixels
_SUFFIX = ".rgb"
_KEEP = 0.9  # of the limit is left after the oldest were removed
_ABANDONED = 3600 * 10**9  # nanoseconds

Size = int | tuple[int, int] | None


def resize(image: Image.Image, size: Size) -> Image.Image:
    """To (width, height); or its shorter side to `size`, keeping its shape; None leaves it. Bicubic."""
    if size is None:
        return image
    if isinstance(size, int):
        scale = size / min(image.size)
        size = tuple(max(1, round(side * scale)) for side in image.size)
    return image if image.size == tuple(size) else image.resize(size, Image.Resampling.BICUBIC)


class CachedImages:
    """Pictures by path, as RGB, resized; kept decoded in a folder of at most `max_bytes`.

    A picture is known by its path, its size in bytes and its time of change in nanoseconds, and by
    the size it was resized to: a file that was written again is read again. Raw pixels of 336 x 336
    take 338 kB: ten times a JPEG of that size, which is the price.

    Any number of processes may share the folder. Each picture is written to a temporary name and
    renamed; those not used for longest make room for new ones. What is read back is bytes with a
    checksum, never a pickle; a damaged one is made again. A disk without room stops the caching, not
    the training: `failed` counts.

    `hits`, `misses`, `failed`: of this process.
    """

    def __init__(self, folder: str | os.PathLike, max_bytes: int = 10 * 2**30, size: Size = None):
        if max_bytes < 1:
            raise InputError(f"A cache of {max_bytes} bytes holds nothing.", "Raise max_bytes.")
        sides = size if isinstance(size, tuple) else (size,)
        if size is not None and (len(sides) > 2 or min(sides) < 1):
            raise InputError(f"Pictures cannot be resized to {size}.", "Use 1 or more.")
        self.folder, self.max_bytes, self.size = Path(folder), max_bytes, size
        self.hits = self.misses = self.failed = 0
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"The cache {folder} cannot be made: {error.strerror}.", "Name another folder."
            ) from None

    def load(self, path: str | os.PathLike | Image.Image) -> Image.Image:
        """As `labs.formats.load_image`, resized. Raises InputError as that does; no failure is kept.

        Pictures in memory and data URLs are resized and not kept.
        """
        if isinstance(path, Image.Image) or os.fspath(path).startswith("data:"):
            return resize(load_image(path), self.size)
        path = os.path.abspath(path)
        try:
            stat = os.stat(path)
        except (OSError, ValueError):
            return resize(load_image(path), self.size)  # it says what is wrong
        return self.get((path, stat.st_size, stat.st_mtime_ns), lambda: load_image(path))

    def get(self, identity: Any, make: Callable[[], Image.Image]) -> Image.Image:
        """The picture known by `identity` (plain values); `make` decodes it where it is not there.

        For pictures that are no files: a member of a shard is known by the shard's path, size and time
        and its own name.
        """
        name = hashlib.sha256(repr((identity, self.size)).encode("utf-8", "surrogateescape"))
        file = self.folder / (name.hexdigest() + _SUFFIX)
        image = _read(file)
        if image is not None:
            self.hits += 1
            return image
        self.misses += 1
        image = resize(make(), self.size)
        if image.mode != "RGB":
            image = image.convert("RGB")
        try:
            self._write(file, image)
        except OSError:
            self.failed += 1
        return image

    def _write(self, file: Path, image: Image.Image) -> None:
        pixels = image.tobytes()
        size = _HEADER.size + len(pixels)
        if size > self.max_bytes:
            return
        handle, temporary = tempfile.mkstemp(dir=self.folder, suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as out:
                out.write(_HEADER.pack(_MAGIC, *image.size, zlib.crc32(pixels)))
                out.write(pixels)
            with self._locked() as total:
                # Counted before it is there: at no time is the folder above its limit.
                replaced = file.stat().st_size if file.exists() else 0
                self._make_room(total, size - replaced)
                os.replace(temporary, file)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise

    @contextlib.contextmanager
    def _locked(self) -> Iterator[IO[bytes]]:
        import fcntl  # Linux, macOS, WSL

        with open(self.folder / "total", "a+b") as total:
            fcntl.flock(total, fcntl.LOCK_EX)  # let go too when the process ends
            try:
                yield total
                total.flush()
            finally:
                # Not by closing alone: a process forked meanwhile has the file open as well.
                fcntl.flock(total, fcntl.LOCK_UN)

    def _make_room(self, total: IO[bytes], size: int) -> None:
        """Add `size` to the bytes that are kept, and remove pictures if that is too much."""
        total.seek(0)
        text = total.read(20)
        kept = int(text) if text.isdigit() else self.max_bytes + 1  # not known: look
        if kept + size > self.max_bytes:
            kept = self._evict(size)
        total.seek(0)
        total.truncate()
        total.write(b"%d" % (kept + size))

    def _evict(self, size: int) -> int:
        """Remove what was not used for longest until `size` fits, and if anything has to go a tenth
        of the limit, so that it happens seldom. Returns the bytes that are left."""
        now, found = time.time_ns(), []
        for entry in os.scandir(self.folder):
            with contextlib.suppress(FileNotFoundError):
                stat = entry.stat()
                if entry.name.endswith(_SUFFIX):
                    found.append((stat.st_mtime_ns, stat.st_size, entry.path))
                elif entry.name.endswith(".tmp") and now - stat.st_mtime_ns > _ABANDONED:
                    os.unlink(entry.path)  # of a process that was killed
        left = sum(length for _, length, _ in found)
        if left + size <= self.max_bytes:
            return left
        goal = min(_KEEP * self.max_bytes, self.max_bytes - size)
        for _, length, path in sorted(found):
            if left <= goal:
                break
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            left -= length
        return left


def _read(file: Path) -> Image.Image | None:
    """The picture in a file of the cache; None where there is none, or no whole one."""
    try:
        with open(file, "rb") as source:
            data = source.read()
        magic, width, height, checksum = _HEADER.unpack_from(data)
        pixels = memoryview(data)[_HEADER.size :]
        if magic != _MAGIC or len(pixels) != 3 * width * height or zlib.crc32(pixels) != checksum:
            return None
    except (OSError, struct.error):
        return None
    with contextlib.suppress(OSError):
        os.utime(file)  # used just now
    # The pixels are shared with `data` until somebody writes to them.
    return Image.frombuffer("RGB", (width, height), pixels, "raw", "RGB", 0, 1)
