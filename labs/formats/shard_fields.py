"""One member of a WebDataset sample, from a value to bytes and back, by what its extension says.

The extensions are those of the `webdataset` package, without the ones that pickle.
Standard library only, Python 3.9 or newer; Pillow for pictures and NumPy for arrays.
"""

from __future__ import annotations

import io
import json
import re
from typing import Any

from labs.errors import InputError

IMAGE_SUFFIXES = frozenset("jpg jpeg png webp gif bmp ppm pgm pbm tif tiff img image".split())
_TEXT = frozenset("txt text transcript caption".split())
_NUMBER = frozenset("cls cls2 class count index inx id".split())
_JSON = frozenset(("json", "jsn"))
_FORMATS = {"jpg": "JPEG", "img": "PPM", "image": "PPM", "tif": "TIFF", "pgm": "PPM", "pbm": "PPM"}


def kind_of(extension: str) -> str:
    """What decides: the last part of an extension, "png" of "mask.png"."""
    return extension.lower().rpartition(".")[2]


def decode_sample(sample: dict[str, Any], images: bool = True) -> dict[str, Any]:
    """The bytes of a sample as what their extensions say.

    json: the value; txt, text, transcript, caption: text; cls, index, id, …: a number, or text
    where it is none; npy: an array, never unpickled; pictures: RGB, as `labs.formats.load_image`
    makes them (bytes with images=False). All others, .pyd, .pickle and .pth too, stay bytes.

    Raises InputError, naming sample and member.
    """
    return {
        extension: _decode(value, extension, sample, images)
        if isinstance(value, bytes) and not extension.startswith("__")
        else value
        for extension, value in sample.items()
    }


def _decode(data: bytes, extension: str, sample: dict, images: bool) -> Any:
    kind = kind_of(extension)
    where = f"{sample.get('__key__')}.{extension} in {sample.get('__url__')}"
    if kind in IMAGE_SUFFIXES:
        return decode_image(data, where) if images else data
    try:
        if kind in _JSON:
            return json.loads(data.decode("utf-8-sig"))
        if kind in _TEXT:
            return data.decode("utf-8")
        if kind in _NUMBER:
            text = data.decode("utf-8").strip()
            return int(text) if re.fullmatch(r"[+-]?\d{1,18}", text) else text
        if kind == "npy":
            import numpy as np

            return np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, RecursionError, MemoryError) as error:
        raise InputError(
            f"{where} is not the {kind} that its name says: {str(error).rstrip('.')}.",
            "Write the sample again, or remove it.",
        ) from None
    return data


def decode_image(data: bytes, where: str) -> Any:
    """An encoded picture as RGB. Raises InputError for one that is none, broken, or too large."""
    from labs.formats.images import open_image, to_rgb

    with open_image(io.BytesIO(data), f"the image {where}") as image:
        image.load()
        return to_rgb(image)


def encode_field(value: Any, extension: str, where: str) -> bytes:
    """The bytes of a value: bytes and text as they are; JSON, numbers, pictures and arrays by the
    extension. Raises InputError for a value that its extension cannot hold."""
    kind = kind_of(extension)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    if kind in _JSON:
        try:
            return json.dumps(value, ensure_ascii=False).encode("utf-8")
        except (TypeError, ValueError) as error:
            raise InputError(f"{where} is no JSON: {error}.", "Give plain values.") from None
    if isinstance(value, str):
        return value.encode("utf-8")
    if kind in _NUMBER and isinstance(value, int):
        return str(int(value)).encode("ascii")
    if kind in IMAGE_SUFFIXES and hasattr(value, "save"):
        return _encode_image(value, kind)
    if kind == "npy" and hasattr(value, "dtype"):
        import numpy as np

        file = io.BytesIO()
        np.save(file, value, allow_pickle=False)
        return file.getvalue()
    raise InputError(
        f"{where} is a {type(value).__name__}, which .{kind} does not hold.",
        "Give bytes, text, or what the extension says: a picture, an array, a number, JSON.",
    )


def _encode_image(image: Any, kind: str) -> bytes:
    file = io.BytesIO()
    name = _FORMATS.get(kind, kind.upper())
    options = {"quality": 95} if name in ("JPEG", "WEBP") else {}
    image.save(file, format=name, **options)
    return file.getvalue()
