"""Opening an image file so that what comes out is always an RGB picture the right way up.

Training and the data doctor read pictures by the same routine, `open_image`: what one refuses, the
other refuses. Pillow and NumPy are imported when a picture is opened; Python 3.9 or newer.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import io
import os
import warnings
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING

from labs.errors import InputError
from labs.formats.files import check_file, impostor

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 100_000_000  # 300 MB as RGB; real photographs stay under it, decompression bombs don't

# Pillow opens these, but none is a picture by itself: PostScript and metafiles are programs, which
# another program must be started to draw; the rest are containers without a decoder.
_NO_PICTURES = {
    "EPS": "a PostScript file", "WMF": "a Windows metafile", "EMF": "a Windows metafile",
    "MPEG": "a video (MPEG)", "HDF5": "an HDF5 file", "GRIB": "a GRIB file", "BUFR": "a BUFR file",
}  # fmt: skip


class ImageError(InputError):
    """A picture that cannot be had.

    kind: "not_an_image", "truncated_image", "image_too_large", "image_too_slow" (no memory left) or
    "unreadable_file": the data doctor's names. detail: what exactly, in a few words without the name.
    """

    def __init__(self, what: str, do: str, kind: str = "truncated_image", detail: str = ""):
        super().__init__(what, do)
        self.kind = kind
        self.detail = detail


def load_image(
    reference: str | os.PathLike | Image.Image, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """Return the picture at a path, in a base64 data URL, or already open, as RGB of `[0, 255]`.

    - EXIF orientation is applied (phones store a turn instead of turning the pixels);
    - transparency is laid over white (dropping it would show whatever hides under it, often black);
    - 16-bit and float greyscale are scaled to 8 bits, CMYK and palettes converted;
    - of an animation, the first frame.

    Raises InputError for a file that is missing, of zero bytes, truncated, not an image, an HTML
    page or a Git-LFS pointer under the image's name, and for more than `max_pixels` (read from the
    header, before any pixel is decoded).
    """
    from PIL import Image

    if isinstance(reference, Image.Image):
        _check_size(reference, "the image in memory", max_pixels)
        reference.load()
        return to_rgb(reference)
    reference = os.fspath(reference)
    if reference.startswith("data:"):
        name, source = "the data URL", io.BytesIO(decode_data_url(reference))
    else:
        name, source = f"the image {reference}", reference
        check_file(reference, "image")
    with open_image(source, name, max_pixels) as image:
        image.load()
        return to_rgb(image)


@contextlib.contextmanager
def open_image(
    source: str | IO[bytes], name: str = "the image", max_pixels: int = MAX_PIXELS
) -> Iterator[Image.Image]:
    """The image in a file, with its header read and found small enough; no pixel is decoded yet.

    Whatever goes wrong inside the block too (`image.load()`) becomes an ImageError that calls the
    image `name`, so nothing but reading the image belongs there.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # size is checked below; damaged metadata harms no pixel
            with Image.open(source) as image:
                if found := _NO_PICTURES.get(image.format or ""):
                    raise ImageError(
                        f"{_capital(name)} is {found}, not an image.",
                        "Draw it into a PNG first.",
                        "not_an_image",
                        f"is {found}",
                    )
                _check_size(image, name, max_pixels)
                yield image
    except UnidentifiedImageError:
        raise ImageError(
            f"{_capital(name)} is not an image in a format that can be read.",
            "Look at its first bytes (`file` names the format) and convert it to JPEG or PNG.",
            "not_an_image",
            "no format that can be read",
        ) from None
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise _too_large(name, "more pixels than Pillow's own limit of", limit) from None
    except MemoryError:
        raise ImageError(
            f"Decoding {name} needs more memory than there is.",
            "Resize it, or give the process more memory.",
            "image_too_slow",
            "needs more memory than there is",
        ) from None
    except InputError:
        raise
    except Exception as error:  # Pillow reports broken files by nearly anything, by format
        if getattr(error, "errno", None) is not None:
            reason = getattr(error, "strerror", None) or error
            raise ImageError(
                f"{_capital(name)} cannot be read: {reason}.",
                "Check the disk and the permissions.",
                "unreadable_file",
                str(reason),
            ) from None
        reason = str(error).rstrip(".") or type(error).__name__
        if "MAX_TEXT" in reason:  # PNG's compressed comments, kept small by Pillow
            raise ImageError(
                f"{_capital(name)} holds a compressed text that unpacks to more than Pillow's limit.",
                "Write it again without its text chunks.",
                "image_too_large",
                f"a compressed text unpacks to more than {_text_limit(reason)}",
            ) from None
        raise ImageError(
            f"{_capital(name)} is truncated or damaged: {reason}.",
            "Fetch it again, or remove the sample that uses it.",
            "truncated_image",
            reason,
        ) from None


def to_rgb(image: Image.Image) -> Image.Image:
    """A loaded image as RGB the right way up, as `load_image` says; independent of its file."""
    from PIL import Image, ImageOps

    if image.mode == "RGB" and "transparency" not in image.info:
        if turned(image):
            return ImageOps.exif_transpose(image)
        return image if type(image) is Image.Image else image.copy()  # a copy outlives its file
    upright = ImageOps.exif_transpose(image) if turned(image) else image
    if upright.mode in ("I", "F") or upright.mode.startswith("I;16"):
        return _eight_bits(upright).convert("RGB")
    if has_alpha(upright):
        rgba = upright.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return upright.convert("RGB")


def turned(image: Image.Image) -> bool:
    """Whether EXIF says that the picture is to be turned or mirrored when shown."""
    return image.getexif().get(0x0112, 1) != 1


def has_alpha(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info


def _check_size(image: Image.Image, name: str, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise _too_large(name, f"{width} x {height} pixels, above the limit of", max_pixels)
    if width == 0 or height == 0:
        raise ImageError(
            f"{_capital(name)} has no pixels ({width} x {height}).",
            "Remove the sample.",
            "truncated_image",
            f"no pixels ({width} x {height})",
        )


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit, 32-bit and float greyscale to 8 bits, by the range that the type promises."""
    import numpy as np
    from PIL import Image

    values = np.asarray(image).astype(np.float64)
    if image.mode == "F":
        values = np.nan_to_num(values) * (255.0 if np.nanmax(values, initial=0.0) <= 1.0 else 1.0)
    elif image.mode.startswith("I;16") or values.max(initial=0) > 255:
        values = values / 257.0  # 65535 -> 255
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))


def decode_data_url(url: str) -> bytes:
    """The bytes of a base64 data URL. Raises ImageError for another encoding and for no image."""
    header, _, body = url.partition(",")
    try:
        if not header.endswith(";base64"):
            raise ValueError("not base64")
        data = base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        raise ImageError(
            f"The data URL {url[:40]!r} is not base64.",
            "Write it as data:image/png;base64, and then the bytes.",
            "not_an_image",
            "a data URL that is not base64",
        ) from None
    if kind := impostor(data[:512]):
        raise ImageError(
            f"The data URL holds {kind}, not an image.",
            "Encode the image itself.",
            "not_an_image",
            f"is {kind}",
        )
    return data


def _too_large(name: str, what: str, max_pixels: int) -> ImageError:
    return ImageError(
        f"{_capital(name)} has {what} {max_pixels:,}.",
        "Resize it first, or raise max_pixels if the picture is really wanted at that size.",
        "image_too_large",
        f"{what} {max_pixels:,}",
    )


def _text_limit(reason: str) -> str:
    from PIL import PngImagePlugin

    limits = [name for name in ("MAX_TEXT_MEMORY", "MAX_TEXT_CHUNK") if name in reason]
    return f"{getattr(PngImagePlugin, limits[0]):,} bytes" if limits else "Pillow's limit"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
