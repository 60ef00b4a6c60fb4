"""What is found out about one picture: every fault by its name, and nothing about a sound one."""

import base64
import io
import os
import socket
import struct
import tarfile
import time
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps, features

from labs.doctors.data.images import ImageVerdict, Sizes
from labs.doctors.data.images.first_bytes import name_bytes
from labs.doctors.data.images.look import Limits, look
from labs.doctors.data.images.sizes import EDGES
from labs.doctors.data.images.source import header_size
from labs.doctors.data.kinds import KINDS
from labs.doctors.data.sample import Problem
from labs.errors import InputError
from labs.formats import load_image
from labs.formats.fingerprints import DISTANCE, hamming, picture_hash
from tests.doctors.data.images_helpers import check, chunk, encoded, kinds, picture, png, verdict

FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"] + ["AVIF"] * features.check("avif")
LIMITS = Limits(100_000_000, 1, 1e9, 1024, True)
ERRORS = {kind.id for kind in KINDS.values() if kind.severity == "error"}


def url(data: bytes) -> str:
    return "data:image/any;base64," + base64.b64encode(data).decode()


def refused(reference) -> bool:
    """Whether training's own loader stops at it: the oracle."""
    try:
        assert load_image(reference).mode == "RGB"
    except InputError:
        return True
    return False


def found(data: bytes) -> list[str]:
    return kinds(look(url(data), LIMITS))


def write(path, data: bytes):
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("format", FORMATS)
def test_a_sound_picture(tmp_path, format):
    data = encoded(picture(size=(96, 64)), format)
    path = write(tmp_path / "a.bin", data)
    mode = "P" if format == "GIF" else "RGB"
    answer = verdict(path)
    assert answer == ImageVerdict([], (96, 64), mode, format, len(data), answer.fingerprint)
    assert hamming(answer.fingerprint, picture_hash(load_image(path))) <= DISTANCE
    assert verdict(path, near_duplicates=False).fingerprint is None


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("fingerprint", [True, False])
def test_cut_anywhere(format, fingerprint):
    """Draft decoding hides no cut: at every length, what training refuses is found, and no more."""
    data = encoded(picture(3, (300, 200), grain=4), format)
    limits = Limits(100_000_000, 1, 1e9, 1024, fingerprint)
    steps = [*range(1, len(data), max(1, len(data) // 12)), *range(len(data) - 3, len(data) + 1)]
    for length in steps:
        source = url(data[:length])
        problems = kinds(look(source, limits))
        assert bool(problems) == refused(source), length
        # A few first bytes may be anything: "BM", "II*".
        assert set(problems) <= {"truncated_image"} or length < 12, length
    assert found(data[: len(data) // 2]) == ["truncated_image"]


@pytest.mark.parametrize(
    "options",
    [
        {"progressive": True},
        {"subsampling": 0},
        {"progressive": True, "subsampling": 2},
        {"restart_marker_rows": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_cut_anywhere_in_any_jpeg(mode, options):
    data = encoded(picture(3, (150, 100), grain=3).convert(mode), "JPEG", **options)
    for length in [*range(2, len(data), len(data) // 6), *range(len(data) - 2, len(data))]:
        source = url(data[:length])
        assert refused(source) and kinds(look(source, LIMITS)) == ["truncated_image"], length


@settings(max_examples=100)
@given(
    st.sampled_from(FORMATS),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=8),
    st.booleans(),
)
def test_damage_is_found_where_training_stops(format, damage, fingerprint):
    data = bytearray(encoded(picture(1, (40, 32), grain=2), format))
    for at, value in damage:
        data[at % len(data)] = value
    source = url(bytes(data))
    answer = look(source, Limits(100_000_000, 1, 1e9, 1024, fingerprint))
    assert bool(ERRORS & set(kinds(answer))) == refused(source), answer


def test_jpeg_ends(tmp_path):
    """Bytes after the end are what cameras and editors write; a missing end is where training stops."""
    data = encoded(picture(), "JPEG")
    assert data.endswith(b"\xff\xd9")
    for tail in (b"\x00" * 1000, data, b"<html>"):
        assert found(data + tail) == [] and not refused(url(data + tail))
    assert found(data[:-2]) == ["truncated_image"] and refused(url(data[:-2]))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\n <!DOCTYPE html><html>Sign in", "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git-LFS pointer"),
        (b"PK\x03\x04" + bytes(40), "a zip archive"),
        (b"\x00\x00\x00\x18ftypmp42" + bytes(40), "a video"),
        (b"\x00\x00\x00\x14ftypqt  " + bytes(40), "a video"),
        (b"\x1a\x45\xdf\xa3" + bytes(40), "Matroska"),
        (b"\x00\x00\x01\xba" + bytes(100), "a video (MPEG)"),
        (b"RIFF\x10\x00\x00\x00AVI LIST" + bytes(40), "a video (AVI)"),
        (b"\x00\x00\x00\x18ftypheic" + bytes(40), "HEIC"),
        (b"\xff\x0a" + bytes(range(1, 90)), "JPEG XL"),
        (b"%PDF-1.7\n" + bytes(40), "a PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),
        (b"\x1f\x8b\x08" + bytes(40), "gzip"),
        (b"\x80\x04\x95" + bytes(40), "pickle"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "AccessDenied"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"></svg>', "SVG"),
        (b'{"error": "not found"}', "JSON"),
        ("图片不存在".encode(), "a text"),
        (bytes(5000), "zero bytes"),
        (b"\xfe\xf0" + bytes(range(200, 250)), "no format that can be read"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_image_is_named(tmp_path, content, words):
    path = write(tmp_path / "a.jpg", content)
    (problem,) = verdict(path).problems
    assert problem.kind == "not_an_image" and words in problem.detail, problem
    assert refused(path)


def test_the_names_do_not_depend_on_where_a_character_is_cut():
    for length in range(505, 513):
        assert name_bytes(("a" * length + "图" * 10).encode()[:512]) == "a text"
    assert name_bytes(b"") is None


def test_an_empty_file(tmp_path):
    assert kinds(verdict(write(tmp_path / "a.jpg", b""))) == ["empty_image"]
    assert kinds(verdict("data:image/png;base64,")) == ["empty_image"]


def test_what_is_no_file_is_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "gone.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "device.jpg").symlink_to("/dev/zero")
    (tmp_path / "to_pipe.jpg").symlink_to("pipe.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.jpg"))
        paths = [*sorted(tmp_path.iterdir()), tmp_path / "missing.jpg", "a\x00b", "/dev/null"]
        paths += [tmp_path / ("x" * 300), tmp_path / "pipe.jpg" / "below.jpg"]
        answers = check(paths, image_seconds=60)
    told = {os.path.basename(name): answer.problems for name, answer in answers.items()}
    assert told == {
        "pipe.jpg": [Problem("not_an_image", "is a named pipe (FIFO)")],
        "to_pipe.jpg": [Problem("not_an_image", "is a named pipe (FIFO)")],
        "folder.jpg": [Problem("not_an_image", "is a folder")],
        "socket.jpg": [Problem("not_an_image", "is a socket")],
        "device.jpg": [Problem("not_an_image", "is a device file")],
        "null": [Problem("not_an_image", "is a device file")],
        "gone.jpg": [Problem("missing_image", "there is no such file")],
        "missing.jpg": [Problem("missing_image", "there is no such file")],
        "below.jpg": [Problem("missing_image", "there is no such file")],
        "a\0b": [Problem("missing_image", "no file can have this name")],
        "loop.jpg": [Problem("symlink_loop", "a loop of links")],
        "x" * 300: [Problem("unreadable_file", "File name too long")],
    }


def test_what_may_not_be_read(tmp_path):
    if os.geteuid() == 0:
        # Root may read all of the disk, but not all of a process's memory.
        path = "/proc/self/mem"
        assert kinds(verdict(path)) in (["unreadable_file"], ["empty_image"])
        return
    path = write(tmp_path / "a.jpg", encoded(picture(), "JPEG"))
    path.chmod(0)
    assert kinds(verdict(path)) == ["unreadable_file"]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1, 1), ["absurd_image"]),
        ((7, 100), ["absurd_image"]),
        ((8, 160), []),
        ((8, 161), ["absurd_image"]),
        ((20_000, 10), ["absurd_image"]),
        ((10, 20_000), ["absurd_image"]),
        ((200, 10), []),
    ],
    ids=str,
)
def test_absurd_sizes(tmp_path, size, expected):
    for format in ("PNG", "JPEG"):
        answer = verdict(write(tmp_path / "a.bin", encoded(Image.new("RGB", size), format)))
        assert kinds(answer) == expected and answer.size == size
    if expected:
        assert f"{size[0]} x {size[1]}" in answer.problems[0].detail
        assert verdict(tmp_path / "a.bin", min_side=1, max_aspect=1e9).problems == []


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
def test_exif(tmp_path, format, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = picture(2, (320, 200))
    path = write(tmp_path / "a.bin", encoded(image, format, exif=exif))
    answer = verdict(path)
    assert kinds(answer) == (["exif_rotated"] if orientation != 1 else [])
    assert answer.size == load_image(path).size == header_size(path)
    assert hamming(answer.fingerprint, picture_hash(load_image(path))) <= DISTANCE
    if orientation != 1:
        assert str(orientation) in answer.problems[0].detail
        unturned = picture_hash(ImageOps.contain(image, (80, 80)))
        assert hamming(answer.fingerprint, unturned) > DISTANCE


def save_unusual(path, name):
    rgb = picture(4, (160, 128))
    alpha = rgb.convert("RGBA")
    alpha.putalpha(Image.linear_gradient("L").resize(rgb.size))
    deep = np.asarray(rgb.convert("L")).astype(np.uint16) * 257
    data = {
        "CMYK": lambda: encoded(rgb.convert("CMYK"), "JPEG"),
        "transparency": lambda: encoded(alpha, "PNG"),
        "transparency of grey": lambda: encoded(alpha.convert("LA"), "PNG"),
        "transparency of one colour": lambda: encoded(rgb, "PNG", transparency=(0, 0, 0)),
        "a palette with transparency": lambda: encoded(alpha.quantize(16), "PNG"),
        "16 bits a channel": lambda: encoded(Image.fromarray(deep), "PNG"),
        "16 bits a channel of TIFF": lambda: encoded(Image.fromarray(deep), "TIFF"),
        "16 bits a channel of colour": lambda: deep_colour_png(np.asarray(rgb)),
        "floating point": lambda: encoded(
            Image.fromarray(np.asarray(rgb.convert("L")) / np.float32(255)), "TIFF"
        ),
        "LAB": lambda: encoded(lab(rgb), "TIFF"),
    }[name]()
    path.write_bytes(data)
    return path


def lab(rgb):
    from PIL import ImageCms

    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    return ImageCms.profileToProfile(rgb, *profiles, outputMode="LAB")


def deep_colour_png(pixels) -> bytes:
    height, width, _ = pixels.shape
    rows = [b"\0" + (row.astype(">u2") * 257).tobytes() for row in pixels]
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"".join(rows)))]
    return b"\x89PNG\r\n\x1a\n" + b"".join([*parts, chunk(b"IEND", b"")])


@pytest.mark.parametrize(
    "name",
    [
        "CMYK", "transparency", "transparency of grey", "transparency of one colour",
        "a palette with transparency", "16 bits a channel", "16 bits a channel of TIFF",
        "16 bits a channel of colour", "floating point", "LAB",
    ],
)  # fmt: skip
def test_unusual_modes(tmp_path, name):
    path = save_unusual(tmp_path / "a.bin", name)
    answer = verdict(path)
    assert answer.problems == [Problem("unusual_mode", name.split(" of ")[0])]
    assert answer.size == (160, 128)
    assert hamming(answer.fingerprint, picture_hash(load_image(path))) <= DISTANCE


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1"])
def test_ordinary_modes(mode):
    assert found(encoded(picture().convert(mode), "PNG")) == []


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_animations(format):
    frames = [picture(seed) for seed in range(3)]
    whole = encoded(frames[0], format, save_all=True, append_images=frames[1:])
    (problem,) = look(url(whole), LIMITS).problems
    assert problem.kind == "animated_image"
    assert problem.detail == {"GIF": "several frames", "TIFF": "3 pages"}.get(format, "3 frames")
    single = encoded(frames[0], format, save_all=True)
    assert found(single) == []


def test_damage_after_the_first_frame_is_no_error():
    frames = [picture(seed, (200, 150), 2) for seed in range(3)]
    whole = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    alone = len(encoded(frames[0], "GIF"))
    source = url(whole[: alone + 5000])
    assert not refused(source)
    assert kinds(look(source, LIMITS)) == ["animated_image"]


def test_a_compressed_text_that_fills_the_memory(tmp_path):
    """Training stops at it too: Pillow unpacks it while it reads the header."""
    for name, head in ((b"zTXt", b"Comment\0\0"), (b"iTXt", b"Comment\0\1\0\0\0")):
        path = write(
            tmp_path / "a.png", png(64, 64, chunk(name, head + zlib.compress(bytes(50_000_000))))
        )
        assert path.stat().st_size < 100_000
        (problem,) = verdict(path).problems
        assert problem.kind == "image_too_large" and "1,048,576 bytes" in problem.detail
        assert refused(path)
        small = png(64, 64, chunk(name, head + zlib.compress(b"a comment")))
        assert found(small) == []


def test_data_urls():
    data = encoded(picture(), "PNG")
    assert verdict(url(data)).size == (96, 64)
    for bad in ("data:image/png;base64,@@", "data:image/png,abc", url(b"<html>no</html>")):
        (problem,) = verdict(bad).problems
        assert problem.kind == "not_an_image" and refused(bad)


def test_members_of_a_tar(tmp_path):
    files = {
        "a.png": encoded(picture(1), "PNG"),
        "b.jpg": encoded(picture(2), "JPEG")[:-500],
        "c.jpg": b"",
        "d.webp": encoded(picture(3), "WEBP"),
    }
    path = tmp_path / "shard.tar"
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    with tarfile.open(path) as tar:
        sources = {m.name: (str(path), m.offset_data, m.size) for m in tar}
    answers = check(sources.values())
    told = {name: answers[str(source)] for name, source in sources.items()}
    assert [kinds(answer) for answer in told.values()] == [
        [], ["truncated_image"], ["empty_image"], []
    ]  # fmt: skip
    assert told["a.png"].size == (96, 64)
    assert hamming(told["d.webp"].fingerprint, picture_hash(picture(3))) <= DISTANCE
    cut = (str(path), path.stat().st_size - 100, 500)
    assert kinds(verdict(cut)) == ["truncated_image"]
    assert kinds(verdict((str(tmp_path / "no.tar"), 0, 5))) == ["missing_image"]


def test_header_size(tmp_path):
    assert header_size(write(tmp_path / "a.png", png(12_000, 9_000))) == (12_000, 9_000)
    assert header_size(write(tmp_path / "a.png", png(30_000, 30_000))) is None
    assert header_size(url(encoded(picture(), "JPEG")[:700])) == (96, 64)
    assert header_size(write(tmp_path / "b.png", b"no")) is None
    assert header_size(tmp_path / "missing") is None


def test_looking_costs_little_more_than_decoding(tmp_path):
    """At least 80 % of a bare decode loop's speed, in processor time, fingerprint included."""
    paths = [
        str(write(tmp_path / f"{i}.jpg", encoded(picture(i, (640, 480), grain=2), "JPEG")))
        for i in range(25)
    ]

    def bare():
        for path in paths:
            Image.open(path).load()

    def looked():
        for path in paths:
            assert look(path, LIMITS).problems == []

    def seconds(work):
        began = time.process_time()
        work()
        return time.process_time() - began

    bare(), looked()
    times = [(seconds(bare), seconds(looked)) for _ in range(5)]
    assert min(b for b, _ in times) / min(a for _, a in times) > 0.8


@given(
    st.lists(st.tuples(st.integers(1, 70_000), st.integers(1, 70_000), st.integers(0, 9999))),
)
def test_histograms_count_every_picture_once(pictures):
    sizes = Sizes()
    for width, height, size in pictures:
        sizes.add(ImageVerdict([], (width, height), "RGB", "JPEG", size))
    sizes.add(ImageVerdict([], None, None, None, 7))
    assert sizes.pictures == len(pictures)
    assert sizes.bytes == sum(size for _, _, size in pictures) + 7
    oracle = {
        "width": lambda w, h: w,
        "height": lambda w, h: h,
        "shape": lambda w, h: 100 * w // h,
        "area": lambda w, h: w * h // 1000,
    }
    for name in EDGES:
        values = [oracle[name](width, height) for width, height, _ in pictures]
        bins = sizes.histogram(name)
        assert sum(count for _, _, count in bins) == len(values)
        for low, high, count in bins:
            assert low <= high
            if (low, high) != bins[-1][:2]:
                assert sum(low <= value <= high for value in values) == count
    if pictures:
        assert sizes.modes == {"RGB": len(pictures)} == sizes.to_dict()["modes"]
        area = [width * height for width, height, _ in pictures]
        assert sizes.largest[0] * sizes.largest[1] == max(area)
        assert sizes.smallest[0] * sizes.smallest[1] == min(area)
