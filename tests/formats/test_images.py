"""Every kind of picture becomes RGB the right way up; every impostor is named."""

import base64
import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from labs.errors import InputError
from labs.formats import load_image


def save(tmp_path, image, name, **options):
    path = tmp_path / name
    image.save(path, **options)
    return path


def colour(path, at=(0, 0)):
    image = load_image(path)
    assert image.mode == "RGB"
    return image.getpixel(at)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp", "a.webp", "a.gif", "a.tiff"])
def test_formats(tmp_path, name):
    found = colour(save(tmp_path, Image.new("RGB", (8, 8), (200, 30, 30)), name))
    assert all(abs(a - b) <= 12 for a, b in zip(found, (200, 30, 30), strict=True))


def test_exif_orientation(tmp_path):
    image = Image.new("RGB", (4, 2), "blue")
    image.putpixel((0, 0), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned 90 degrees to the right when shown
    path = save(tmp_path, image, "turned.png", exif=exif)
    loaded = load_image(path)
    assert loaded.size == (2, 4)
    assert loaded.getpixel((1, 0)) == (255, 0, 0)


def test_cmyk(tmp_path):
    path = save(tmp_path, Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "a.jpg")
    red, green, blue = colour(path)
    assert red > 200 and green < 60 and blue < 60


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "PA-palette"])
def test_transparency_lies_over_white(tmp_path, mode):
    image = Image.new("RGBA", (4, 4), (0, 0, 0, 0))  # black under nothing
    image.putpixel((0, 0), (0, 0, 0, 255))
    if mode == "LA":
        image = image.convert("LA")
    elif mode == "P":
        image = image.convert("P")
        image.info["transparency"] = image.getpixel((1, 1))
        image.putpixel((0, 0), (image.getpixel((1, 1)) + 1) % 256)
        image.putpalette([0, 0, 0] * 256)
    elif mode == "PA-palette":
        image = image.quantize(8)
    path = save(tmp_path, image, "a.png")
    assert colour(path, (1, 1)) == (255, 255, 255)
    assert colour(path, (0, 0)) == (0, 0, 0)


def test_half_transparent(tmp_path):
    path = save(tmp_path, Image.new("RGBA", (2, 2), (255, 0, 0, 128)), "a.png")
    assert colour(path) == (255, 127, 127)


def test_rgb_with_a_transparent_colour(tmp_path):
    path = save(tmp_path, Image.new("RGB", (2, 2), (1, 2, 3)), "a.png", transparency=(1, 2, 3))
    assert colour(path) == (255, 255, 255)


@pytest.mark.parametrize(("value", "expected"), [(65535, 255), (0, 0), (32896, 128)])
def test_sixteen_bits(tmp_path, value, expected):
    image = Image.fromarray(np.full((2, 2), value, dtype=np.uint16))
    for name in ("a.png", "a.tiff"):
        assert colour(save(tmp_path, image, name)) == (expected,) * 3


def test_grey_bilevel_float_and_integer(tmp_path):
    assert colour(save(tmp_path, Image.new("L", (2, 2), 77), "a.png")) == (77, 77, 77)
    assert colour(save(tmp_path, Image.new("1", (2, 2), 1), "a.png")) == (255, 255, 255)
    unit = Image.fromarray(np.full((2, 2), 0.5, dtype=np.float32))
    assert colour(save(tmp_path, unit, "a.tiff")) == (128, 128, 128)
    bytes_ = Image.fromarray(np.full((2, 2), 200, dtype=np.int32))
    assert load_image(bytes_).getpixel((0, 0)) == (200, 200, 200)


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp"])
def test_first_frame_of_an_animation(tmp_path, name):
    frames = [Image.new("RGB", (4, 4), c) for c in ((255, 0, 0), (0, 0, 255))]
    path = tmp_path / name
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=50, lossless=True)
    red, _, blue = colour(path)
    assert red > 250 and blue < 5


def test_in_memory_and_data_url():
    image = Image.new("RGB", (2, 2), "red")
    assert load_image(image) is image
    assert load_image(Image.new("L", (2, 2), 3)).getpixel((0, 0)) == (3, 3, 3)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    url = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    assert load_image(url).getpixel((0, 0)) == (255, 0, 0)


def test_files_are_closed(tmp_path):
    path = save(tmp_path, Image.new("RGB", (4, 4), "red"), "a.png")
    image = load_image(path)
    path.unlink()
    assert image.resize((2, 2)).getpixel((0, 0)) == (255, 0, 0)


def sentence(reference, **options):
    with pytest.raises(InputError) as error:
        load_image(reference, **options)
    assert error.value.what.endswith(".") and error.value.do.endswith(".")
    return error.value.what


def test_impostors(tmp_path):
    path = tmp_path / "a.jpg"
    assert f"The image {path} does not exist" in sentence(path)
    path.write_bytes(b"")
    assert "zero bytes" in sentence(path)
    path.write_text("\n  <!DOCTYPE html>\n<html><body>Sign in</body></html>")
    assert "is an HTML page" in sentence(path)
    path.write_text("<HTML><head>404")
    assert "is an HTML page" in sentence(path)
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
    assert "is a Git-LFS pointer" in sentence(path)
    path.write_bytes(b"some other bytes, no picture at all")
    assert "is not an image in a format that can be read" in sentence(path)
    assert "is a folder, where one image was expected" in sentence(tmp_path)
    path.unlink()
    path.symlink_to(tmp_path / "gone.jpg")
    assert "is a link to" in sentence(path) and "gone.jpg" in sentence(path)
    assert "not base64" in sentence("data:image/png;base64,@@@")
    page = base64.b64encode(b"<html>no</html>").decode()
    assert "holds an HTML page" in sentence(f"data:image/png;base64,{page}")


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.gif", "a.bmp", "a.webp", "a.tiff"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_truncated(tmp_path, name, share):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = save(tmp_path, Image.fromarray(pixels), name)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    what = sentence(path)
    assert "is truncated or damaged" in what or "is not an image in a format" in what
    assert str(path) in what


def test_damaged_bytes_never_escape(tmp_path):
    """Random damage gives a picture or the sentence, never another exception."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)
    refused = 0
    for name in ("a.png", "a.jpg", "a.gif", "a.webp", "a.tiff", "a.bmp"):
        whole = bytearray(save(tmp_path, Image.fromarray(pixels), name).read_bytes())
        for _ in range(60):
            damaged = whole.copy()
            for at in rng.integers(0, min(len(damaged), 200), 6):
                damaged[at] = rng.integers(0, 256)
            (tmp_path / name).write_bytes(damaged)
            try:
                assert load_image(tmp_path / name).mode == "RGB"
            except InputError:
                refused += 1
    assert refused > 20


def png_header(width, height):
    """A PNG that claims a size and holds next to nothing."""

    def chunk(name, data):
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


def test_decompression_bomb(tmp_path):
    """Refused by the size in the header, before any pixel is decoded."""
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(11_000, 11_000))
    assert "has 11000 x 11000 pixels, above the limit of 100,000,000" in sentence(path)
    path.write_bytes(png_header(60_000, 60_000))
    assert "has more pixels than Pillow's own limit of 178,956,970" in sentence(path)
    path.write_bytes(png_header(100, 100))  # within the limit: now the pixels are looked for
    assert "is truncated or damaged" in sentence(path)
    small = save(tmp_path, Image.new("RGB", (20, 20)), "a.png")
    assert "20 x 20 pixels, above the limit of 399" in sentence(small, max_pixels=399)
    assert load_image(small, max_pixels=400).size == (20, 20)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "picture.png")
    with pytest.raises(InputError, match="is a pipe, not a file"):
        load_image(tmp_path / "picture.png")
