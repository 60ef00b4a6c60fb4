"""Pictures as they reach a service: other modes and files, odd shapes, broken, or written on."""

import base64
import io

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from labs.shapes import Scene, render

LARGE = 192  # side of a picture that goes through JPEG: at 48 its blocks would blur the colours
ORIENTATION = 0x0112  # the EXIF field that says how a picture is to be turned
TURN_RIGHT = 6  # its value for "turn a quarter to the right to see it upright"


def data_url(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg(image: Image.Image, **options) -> str:
    return data_url(encoded(image, "JPEG", quality=95, subsampling=0, **options), "jpeg")


def truncated(image: Image.Image) -> str:
    """A PNG of which half arrived."""
    data = encoded(image)
    return data_url(data[: len(data) // 2])


def web_page() -> str:
    """What a download of a picture gives where the server wanted a login."""
    return data_url(b"<!DOCTYPE html><html><body>Please log in.</body></html>", "jpeg")


def greyscale(image: Image.Image) -> str:
    return data_url(encoded(image.convert("L")))


def sixteen_bit(image: Image.Image) -> str:
    """A 16-bit greyscale PNG, as scanners and microscopes write: 0 to 65,535."""
    grey = np.asarray(image.convert("L")).astype(np.uint16) * 257
    return data_url(encoded(Image.fromarray(grey)))


def transparent(image: Image.Image, scene: Scene) -> str:
    """The background is transparent, and black lies under it: who drops the alpha sees black."""
    pixels = np.asarray(image)
    away = np.abs(pixels.astype(int) - scene.background).max(axis=-1)
    alpha = np.where(away < 30, 0, 255).astype(np.uint8)
    shown = np.where(alpha[..., None] > 0, pixels, 0).astype(np.uint8)
    return data_url(encoded(Image.fromarray(np.dstack([shown, alpha]))))


def cmyk(scene: Scene) -> str:
    """A JPEG in the four inks of a printer."""
    return jpeg(render(scene, LARGE).convert("CMYK"))


def turned(scene: Scene) -> str:
    """A JPEG as a phone held sideways writes it: the pixels lie, EXIF says how to turn them."""
    lying = render(scene, LARGE).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[ORIENTATION] = TURN_RIGHT
    return jpeg(lying, exif=exif)


def written(scene: Scene, text: str, side: int = 336) -> Image.Image | None:
    """The scene with a line of writing in a row of the grid that is free; None where none is."""
    used = {o.cell // 3 for o in scene.objects}
    free = [row for row in (2, 0, 1) if row not in used]
    if not free:
        return None
    image = render(scene, side)
    middle = (side / 2, side * (free[0] + 0.5) / 3)
    font = ImageFont.load_default(side / 12)
    ImageDraw.Draw(image).text(middle, text, fill=(20, 20, 20), font=font, anchor="mm")
    return image
