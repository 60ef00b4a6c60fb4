"""Real pictures, good and bad, made byte by byte where no library would write them."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from labs.doctors.data.images import check_images
from labs.doctors.data.images.look import Limits, look
from labs.doctors.data.options import Options


def options(path=".", **settings) -> Options:
    return Options(path=Path(path), **{"workers": 1, **settings})


def check(paths, **settings) -> dict:
    """Verdicts by reference; every item is answered exactly once."""
    items = [(str(path), path) for path in paths]
    answers = list(check_images(items, options(**settings)))
    assert sorted(reference for reference, _ in answers) == sorted(name for name, _ in items)
    return dict(answers)


def verdict(path, **settings):
    """Of one picture, looked at in this process."""
    return look(path, Limits.of(options(**settings)))


def verdict_of_child(path, **settings):
    (answer,) = check([path], **settings).values()
    return answer


def kinds(answer) -> list[str]:
    return [problem.kind for problem in answer.problems]


def picture(seed: int = 0, size: tuple[int, int] = (96, 64), grain: int = 8) -> Image.Image:
    """Soft blobs: as a photograph, it looks the same through JPEG and through a change of size."""
    rng = np.random.default_rng(seed)
    width, height = size
    small = rng.integers(
        0, 256, (max(2, height // grain), max(2, width // grain), 3), dtype=np.uint8
    )
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def encoded(image: Image.Image, format: str, **settings) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **settings)
    return buffer.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    body = name + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def png(width: int, height: int, *extra: bytes) -> bytes:
    """A whole, valid, black RGB picture of any size in a small file, made without its pixels.

    Deflate blocks end at a byte after a full flush, so one block of zeros is repeated; the checksum of
    n zeros is known.
    """
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    length = height * (1 + 3 * width)
    block = 1 << 20
    maker = zlib.compressobj(9, zlib.DEFLATED, -15)
    piece = maker.compress(bytes(block)) + maker.flush(zlib.Z_FULL_FLUSH)
    rest = zlib.compressobj(9, zlib.DEFLATED, -15)
    end = rest.compress(bytes(length % block)) + rest.flush(zlib.Z_FINISH)
    checksum = struct.pack(">I", (length % 65521) << 16 | 1)
    data = b"\x78\xda" + piece * (length // block) + end + checksum
    parts = [chunk(b"IHDR", header), *extra, chunk(b"IDAT", data), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def endless_jpeg(side: int = 4000, scans: int = 20_000) -> bytes:
    """A small, legal-looking JPEG that takes minutes: a progressive one with one scan many times over."""
    data = encoded(Image.new("L", (side, side), 100), "JPEG", progressive=True)
    starts = [i for i in range(len(data) - 1) if data[i : i + 2] == b"\xff\xda"]
    # The scan of DC (spectral selection from 0) comes first; the one after it is of AC.
    first = next(s for s in starts if data[s + 7] != 0)
    after = data.index(b"\xff", first + 10)
    while data[after + 1] == 0:  # a stuffed zero: 0xff within the scan
        after = data.index(b"\xff", after + 1)
    scan = data[first:after]
    return data[:after] + scan * scans + data[after:]
