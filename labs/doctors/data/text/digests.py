"""Samples, questions and ids as short numbers, by which copies are found in little memory.

Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import hashlib

from labs.doctors.data.sample import Sample
from labs.formats.dialects import IMAGE

SIZE = 16  # bytes of a sample's digest: 128 bits, so that two of a billion samples never agree by chance
NONE = bytes(SIZE)
_SHORT = 16  # characters below which a question alone does not tell a text-only sample: "Hello."


def turns_digest(sample: Sample) -> bytes:
    """16 bytes of the turns; not of images, id and other fields.

    Outer white space does not count, nor where in its turn a placeholder stands: exporters put it first
    or last.
    """
    turns = [(role, _as_shown(text)) for role, text in sample.turns]
    parts = [str(len(turns))]
    for turn in turns:
        parts += turn
    parts += sample.alternatives
    text = "\0".join(parts)
    if text.count("\0") >= len(parts):  # a text holds the separator itself
        text = repr((turns, sample.alternatives))
    return hashlib.blake2b(_bytes(text), digest_size=SIZE).digest()


def _as_shown(text: str) -> str:
    shown = text.count(IMAGE) if "<" in text else 0
    if shown:
        text = f"{IMAGE * shown}{text.replace(IMAGE, '').strip()}"
    return text.strip()


def number(text: str) -> int:
    """64 bits of a text, never 0."""
    return int.from_bytes(hashlib.blake2b(_bytes(text), digest_size=8).digest(), "little") or 1


def question_numbers(sample: Sample) -> list[int]:
    """What a sample asks, one number a question; of one without questions, its first answer's.

    Placeholders, capitals and outer white space do not count. Without an image all questions together
    are one number, with the answers where they are short: "Hello." is asked by many.
    """
    asked = [_plain(text) for role, text in sample.turns if role == "user"]
    asked = [text for text in asked if text]
    if not asked:
        return [number(_plain(text)) for role, text in sample.turns[:1]]
    if sample.images:
        return [number(text) for text in dict.fromkeys(asked)]
    whole = "\n".join(asked)
    if len(whole) < _SHORT:
        whole = "\n".join(_plain(text) for _, text in sample.turns)
    return [number(whole)]


def _plain(text: str) -> str:
    if IMAGE in text:
        text = text.replace(IMAGE, "")
    return text.strip().lower()


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
