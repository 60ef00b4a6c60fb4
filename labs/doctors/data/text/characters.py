"""Characters that no text should hold: left over from a wrong decoding. Standard library only, Python 3.9."""

from __future__ import annotations

import re

from labs.formats.text_signs import mojibake

# C0 and C1 controls but tab and line breaks, DEL, byte order marks in mid-text, U+FFFD, noncharacters.
_BAD = "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufeff\ufffd-\uffff"
_CONTROL = re.compile(f"[{_BAD}]")
_ASCII_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_NOT_TEXT = re.compile(f"[{_BAD}\ud800-\udfff]")
# White space of all alphabets and characters of no width: a text of these alone is empty.
BLANK = (
    " \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f\x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008"
    "\u2009\u200a\u2028\u2029\u202f\u205f\u3000\u200b\u200c\u200d\u2060\ufeff\u00ad\u180e\u2800"
)


def control(text: str) -> str | None:
    """What is wrong with the characters of `text`, in words; None where nothing is."""
    match = (_ASCII_CONTROL if text.isascii() else _CONTROL).search(text)
    if match:
        return f"U+{ord(match.group()):04X}"
    found = mojibake(text)
    return f"UTF-8 read in another encoding ({found})" if found else None


def surrogate(text: str) -> str | None:
    """Half of a surrogate pair, which JSON can escape and no encoding can hold; None where there is none."""
    if text.isascii():
        return None
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return f"half of a surrogate pair, U+{ord(text[error.start]):04X}"
    return None


def clean(text: str) -> str:
    """`text` without its control characters, replacement characters and halves of surrogate pairs."""
    return _NOT_TEXT.sub("", text)


def is_blank(text: str) -> bool:
    """Whether a text shows nothing: white space and characters of no width, if anything."""
    return not text.strip(BLANK)
