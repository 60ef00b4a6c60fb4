"""One picture, looked at in this process: opened as training opens it, decoded once, told about.

JPEGs are decoded at a smaller scale (Pillow's `draft`). That reads and entropy-decodes every byte
that full decoding does, so it finds every cut and every damage that full decoding finds (tested at
each length of a file), and spares most of the arithmetic of pixels.

What training opens without complaint is no finding: bytes after a JPEG's end, where cameras and
editors append previews. A missing end marker is one: Pillow waits for it, and training stops.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO, Any

from labs.doctors.data.images.first_bytes import name_bytes, name_picture
from labs.doctors.data.images.source import (
    Fault,
    Source,
    open_source,
    orientation_of,
    read_head,
    shown,
)
from labs.doctors.data.images.verdict import ImageVerdict
from labs.doctors.data.options import Options
from labs.doctors.data.sample import Problem
from labs.formats.files import impostor
from labs.formats.images import ImageError, has_alpha, open_image, to_rgb

LONGEST = 300  # characters of a detail

_ORDINARY = ("RGB", "L", "P", "1", "YCbCr")


@dataclass(frozen=True)
class Limits:
    """The part of the options that looking needs. megabytes: what decoding may take, for messages."""

    max_pixels: int
    min_side: int
    max_aspect: float
    megabytes: int
    fingerprint: bool

    @classmethod
    def of(cls, options: Options) -> Limits:
        return cls(
            options.max_pixels,
            options.min_side,
            options.max_aspect,
            options.image_memory_mb,
            options.near_duplicates,
        )


def look(source: Source, limits: Limits) -> ImageVerdict:
    """Everything about one picture but what only shows from outside: that it never ends, or kills."""
    verdict = ImageVerdict()
    try:
        with open_source(source) as (file, size):
            verdict.bytes = size
            if not size:
                raise Fault("empty_image", "zero bytes")
            head = read_head(file)
            if kind := impostor(head):
                raise Fault("not_an_image", f"is {kind}")
            _decode(file, head, limits, verdict)
    except Fault as fault:
        _add(verdict, *fault.args)
    except ImageError as error:
        _add(verdict, error.kind, error.detail)
    except MemoryError:  # of what was done with the decoded picture, or of the bytes themselves
        _add(verdict, "image_too_slow", _out_of_memory(limits))
    return verdict


def _decode(file: IO[bytes], head: bytes, limits: Limits, verdict: ImageVerdict) -> None:
    """Fills the verdict. Raises Fault or ImageError where there is no picture."""
    stored = thumbnail = None
    try:
        with open_image(file, max_pixels=limits.max_pixels) as image:
            stored = verdict.size = image.size
            verdict.mode, verdict.format = image.mode, image.format
            deep = _is_deep(image)
            # Pillow turns TIFFs by itself while it loads them.
            orientation = orientation_of(image) if image.format == "TIFF" else 1
            drafted = _draft(image, limits)
            image.load()
            size = stored if drafted else image.size
            verdict.size = shown(size, orientation_of(image))
            orientation = max(orientation, orientation_of(image))
            unusual = _unusual(image, deep)
            if limits.fingerprint:
                thumbnail = _thumbnail(image)
            frames = _frames(image)
    except ImageError as error:
        if error.kind == "not_an_image":
            raise _name(head, error, verdict.bytes) from None
        if error.kind == "image_too_slow":
            raise Fault("image_too_slow", _out_of_memory(limits)) from None
        if error.kind == "truncated_image" and _may_be_memory(error, stored, limits):
            # libjpeg and libwebp call any failure "broken", also that they got no memory.
            raise Fault(
                "image_too_slow",
                f"{error.detail}: {stored[0]} x {stored[1]} pixels are either damaged or need more "
                f"than the limit of {limits.megabytes:,} MB of memory to decode",
            ) from None
        raise
    _judge_shape(verdict, limits)
    if orientation != 1:
        _add(verdict, "exif_rotated", f"EXIF orientation {orientation}")
    if unusual:
        _add(verdict, "unusual_mode", unusual)
    if frames:
        _add(verdict, "animated_image", frames)
    if thumbnail is not None:
        from labs.formats.fingerprints import picture_hash

        verdict.fingerprint = picture_hash(thumbnail)


FINGERPRINT_SIDE = 48  # pixels that a picture's short side keeps before it is fingerprinted


def _draft(image: Any, limits: Limits) -> bool:
    """Ask JPEG's decoder for a smaller picture, large enough still for the fingerprint."""
    if image.format not in ("JPEG", "MPO"):
        return False
    least = FINGERPRINT_SIDE if limits.fingerprint else 1
    return image.draft(None, tuple(min(least, side) for side in image.size)) is not None


def _thumbnail(image: Any) -> Any:
    """A small RGB picture that stands for a large one: averaged over blocks, the right way up."""
    factor = min(image.size) // FINGERPRINT_SIDE
    if factor > 1:
        if image.mode.startswith("I;16"):
            image = image.convert("I")
        elif has_alpha(image):
            image = image.convert("RGBA")
        elif image.mode not in ("RGB", "L", "CMYK", "YCbCr", "I", "F"):
            image = image.convert("RGB")
        image = image.reduce(factor)
    return to_rgb(image)


def _judge_shape(verdict: ImageVerdict, limits: Limits) -> None:
    width, height = verdict.size
    short, long = min(width, height), max(width, height)
    if short < limits.min_side:
        _add(verdict, "absurd_image", f"{width} x {height}, a side below {limits.min_side} pixels")
    elif long > limits.max_aspect * short:
        _add(
            verdict,
            "absurd_image",
            f"{width} x {height}, one side {long / short:.0f} times the other (limit {limits.max_aspect:g})",
        )


def _unusual(image: Any, deep: bool) -> str | None:
    """What about the pixels becomes RGB in more ways than one."""
    mode = image.mode
    words = []
    if deep or mode.startswith("I;16"):
        words.append("16 bits a channel")
    elif mode == "I":
        words.append("32-bit integers")
    elif mode == "F":
        words.append("floating point")
    if has_alpha(image):
        words.append("a palette with transparency" if mode == "P" else "transparency")
    elif mode not in _ORDINARY and not words:
        words.append(mode)
    return ", ".join(words) or None


def _is_deep(image: Any) -> bool:
    """16 bits a channel in the file, also where Pillow's mode no longer says so."""
    return any(";16" in str(tile[3]) for tile in image.tile)


def _frames(image: Any) -> str | None:
    """ "an animation of 3 frames"; None for a single picture. MPO is a camera's JPEG with previews."""
    if image.format == "MPO":
        return None
    try:
        if not getattr(image, "is_animated", False):
            return None
        what = "pages" if image.format == "TIFF" else "frames"
        # Counting a GIF's frames would read the whole file.
        return f"several {what}" if image.format == "GIF" else f"{image.n_frames:,} {what}"
    except Exception:  # whatever damage Pillow meets in later frames, which training never reads
        return "an animation, whose later frames are damaged"


def _name(head: bytes, error: ImageError, size: int) -> Fault:
    """What a file is that Pillow cannot identify."""
    if picture := name_picture(head):
        return Fault(
            "truncated_image", f"a {picture} of {size:,} bytes whose header is cut off or damaged"
        )
    named = name_bytes(head)
    return Fault("not_an_image", f"is {named}" if named else error.detail)


def _may_be_memory(error: ImageError, stored: Any, limits: Limits) -> bool:
    # A progressive JPEG holds 6 bytes a pixel of coefficients and 4 of pixels while it is decoded.
    return (
        stored is not None
        and "truncated" not in error.detail
        and 10 * stored[0] * stored[1] > limits.megabytes * 1_000_000
    )


def _out_of_memory(limits: Limits) -> str:
    return f"decoding needs more than the limit of {limits.megabytes:,} MB of memory"


def _add(verdict: ImageVerdict, kind: str, detail: str) -> None:
    verdict.problems.append(Problem(kind, " ".join(detail.split())[:LONGEST]))
