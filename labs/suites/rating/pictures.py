"""Pictures as they go into a page: small enough to send, without what a camera wrote into them."""

import base64
import io

from PIL import Image

from labs.formats import load_image

SIDE = 1024  # pixels of the long side at most
LOSSLESS = 256  # pictures up to this side are kept pixel by pixel


def page_picture(image) -> bytes:
    """A picture (path, data URL or Pillow image) as the bytes of a PNG or JPEG file.

    It is decoded and written anew, so nothing but pixels is left: no place, no name, no comment.
    Raises InputError for a picture that cannot be opened.
    """
    picture = load_image(image)
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    clean = Image.new("RGB", picture.size)
    clean.paste(picture)
    stream = io.BytesIO()
    if max(clean.size) <= LOSSLESS:
        clean.save(stream, "PNG")
    else:
        clean.save(stream, "JPEG", quality=90)
    return stream.getvalue()


def suffix(data: bytes) -> str:
    return "png" if data.startswith(b"\x89PNG") else "jpg"


def data_url(data: bytes) -> str:
    kind = "png" if suffix(data) == "png" else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
