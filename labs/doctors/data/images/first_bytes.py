"""What a file is that is no image, told by its first bytes. Standard library only, Python 3.9."""

from __future__ import annotations

import re

from labs.formats.files import impostor

HEAD = 512  # bytes that are looked at

_MAGIC = (
    (b"PK\x03\x04", "a zip archive"), (b"PK\x05\x06", "an empty zip archive"),
    (b"\x1f\x8b", "gzip data"), (b"BZh", "bzip2 data"), (b"\xfd7zXZ\x00", "xz data"),
    (b"\x28\xb5\x2f\xfd", "zstandard data"), (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!\x1a\x07", "a rar archive"), (b"%PDF-", "a PDF"), (b"%!PS", "a PostScript file"),
    (b"\x1a\x45\xdf\xa3", "a video (Matroska or WebM)"), (b"FLV\x01", "a video (Flash)"),
    (b"\x00\x00\x01\xba", "a video (MPEG)"), (b"\x00\x00\x01\xb3", "a video (MPEG)"),
    (b"OggS", "Ogg audio or video"), (b"ID3", "an MP3"), (b"fLaC", "FLAC audio"),
    (b"\x93NUMPY", "a NumPy array"), (b"\x80\x02", "a Python pickle"), (b"\x80\x03", "a Python pickle"),
    (b"\x80\x04", "a Python pickle"), (b"\x80\x05", "a Python pickle"), (b"PAR1", "a Parquet file"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"), (b"SQLite format 3\x00", "an SQLite database"),
    (b"\x7fELF", "a program (ELF)"), (b"MZ", "a Windows program"),
)  # fmt: skip
_HEIF = {
    b"heic": "a HEIC picture", b"heix": "a HEIC picture", b"heim": "a HEIC picture",
    b"heis": "a HEIC picture", b"hevc": "a HEIC animation", b"mif1": "a HEIF picture",
    b"msf1": "a HEIF animation",
}  # fmt: skip
_PICTURES = (
    (b"\xff\xd8", "JPEG"), (b"\x89PNG", "PNG"), (b"GIF8", "GIF"), (b"BM", "BMP"),
    (b"II*\x00", "TIFF"), (b"MM\x00*", "TIFF"), (b"\x00\x00\x00\x0cjP  ", "JPEG2000"),
)  # fmt: skip


def name_bytes(head: bytes) -> str | None:
    """What these first bytes of a file are ("an HTML page"), with its article; None if unknown.

    For what no image library reads: it is not asked about images that can be read.
    """
    if kind := impostor(head):
        return kind
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    if head[:4] == b"RIFF" and head[8:12] in (b"AVI ", b"WAVE"):
        return "a video (AVI)" if head[8:12] == b"AVI " else "WAV audio"
    if head[4:8] == b"ftyp":
        if heif := _HEIF.get(head[8:12]):
            return f"{heif}, which Pillow cannot read without pillow-heif"
        return "a video (MP4 or QuickTime)"
    if head[4:8] in (b"moov", b"mdat", b"wide"):
        return "a video (QuickTime)"
    if head[:2] == b"\xff\x0a" or head[:12] == b"\x00\x00\x00\x0cJXL \r\n\x87\n":
        return "a JPEG XL picture, which Pillow cannot read"
    if head[257:262] == b"ustar":
        return "a tar archive"
    if head and not head.strip(b"\x00"):
        return "nothing but zero bytes"
    return _name_text(head)


def name_picture(head: bytes) -> str | None:
    """The format of a picture whose beginning this is, as Pillow calls it, or None."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis"):
        return "AVIF"
    return next((name for magic, name in _PICTURES if head.startswith(magic)), None)


def _name_text(head: bytes) -> str | None:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    try:
        # The cut may go through the middle of a character.
        text = start.decode("utf-8", "strict" if len(head) < HEAD else "ignore")
    except UnicodeDecodeError:
        return None
    if not text or re.search(r"[\x00-\x08\x0e-\x1f]", text):
        return None
    if "<svg" in text:
        return "an SVG drawing, which Pillow cannot read"
    if text.startswith(("<?xml", "<Error")):
        code = re.search(r"<Code>(\w+)</Code>", text)
        return f"an XML error page ({code[1]})" if code else "an XML file"
    if text.startswith(("{", "[")):
        return "a JSON text"
    if text.startswith("data:image/"):
        return "a data URL in a text file"
    return "a text"
