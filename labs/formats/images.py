"""Opening an image file so that what comes out is always an RGB picture the right way up."""

import base64
import binascii
import io
import os
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from labs.errors import InputError
from labs.formats.files import check_file, impostor

MAX_PIXELS = 100_000_000  # 300 MB as RGB; real photographs stay under it, decompression bombs don't


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
    if isinstance(reference, Image.Image):
        return _to_rgb(reference, "the image in memory", max_pixels)
    reference = os.fspath(reference)
    if reference.startswith("data:"):
        name, source = "the data URL", io.BytesIO(_decode_url(reference))
    else:
        name, source = f"the image {reference}", reference
        check_file(reference, "image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # size is checked below; damaged metadata harms no pixel
            with Image.open(source) as image:
                return _to_rgb(image, name, max_pixels)
    except UnidentifiedImageError:
        raise InputError(
            f"{_capital(name)} is not an image in a format that can be read.",
            "Look at its first bytes (`file` names the format) and convert it to JPEG or PNG.",
        ) from None
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise _too_large(name, "more pixels than Pillow's own limit of", limit) from None
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError) as error:
        # Pillow reports broken files by any of these, by format.
        raise InputError(
            f"{_capital(name)} is truncated or damaged: {str(error).rstrip('.')}.",
            "Fetch it again, or remove the sample that uses it.",
        ) from None


def _to_rgb(image: Image.Image, name: str, max_pixels: int) -> Image.Image:
    width, height = image.size
    if width * height > max_pixels:
        raise _too_large(name, f"{width} x {height} pixels, above the limit of", max_pixels)
    if width == 0 or height == 0:
        raise InputError(
            f"{_capital(name)} has no pixels ({width} x {height}).", "Remove the sample."
        )
    image.load()
    if image.mode == "RGB" and "transparency" not in image.info:
        if _turned(image):
            return ImageOps.exif_transpose(image)
        return image if type(image) is Image.Image else image.copy()  # a copy outlives its file
    turned = ImageOps.exif_transpose(image) if _turned(image) else image
    if turned.mode in ("I", "F") or turned.mode.startswith("I;16"):
        return _eight_bits(turned).convert("RGB")
    if "A" in turned.mode or "a" in turned.mode or "transparency" in turned.info:
        rgba = turned.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return turned.convert("RGB")


def _turned(image: Image.Image) -> bool:
    return image.getexif().get(0x0112, 1) != 1


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit, 32-bit and float greyscale to 8 bits, by the range that the type promises."""
    values = np.asarray(image).astype(np.float64)
    if image.mode == "F":
        values = np.nan_to_num(values) * (255.0 if np.nanmax(values, initial=0.0) <= 1.0 else 1.0)
    elif image.mode.startswith("I;16") or values.max(initial=0) > 255:
        values = values / 257.0  # 65535 -> 255
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))


def _decode_url(url: str) -> bytes:
    header, _, body = url.partition(",")
    try:
        if not header.endswith(";base64"):
            raise ValueError("not base64")
        data = base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        raise InputError(
            f"The data URL {url[:40]!r} is not base64.",
            "Write it as data:image/png;base64, and then the bytes.",
        ) from None
    if kind := impostor(data[:512]):
        raise InputError(f"The data URL holds {kind}, not an image.", "Encode the image itself.")
    return data


def _too_large(name: str, what: str, max_pixels: int) -> InputError:
    return InputError(
        f"{_capital(name)} has {what} {max_pixels:,}.",
        "Resize it first, or raise max_pixels if the picture is really wanted at that size.",
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
