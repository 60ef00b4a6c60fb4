"""What every reader does to an answer before it looks: one form of each character, no markup."""

import re
import unicodedata

# Characters that are read of one answer: half of them from its beginning, half from its end, where
# verdicts stand. The time of every reader grows with the text's length, so this bounds it.
LIMIT = 4_000

# Hard spaces and typographers' quotes and dashes, and what is not seen at all.
_PLAIN = str.maketrans(
    {
        **dict.fromkeys("‘’‛′＇`´", "'"),
        **dict.fromkeys("“”„‟″「」『』", '"'),
        **dict.fromkeys("‐‑‒–—―−", "-"),
        **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\u00ad\u200e\u200f\ufe0f"),
        **dict.fromkeys("{}~", " "),
        **dict.fromkeys("$#"),
    }
)
# NFKC would make 33 of 3³.
_RAISED = str.maketrans(dict.fromkeys("⁰¹²³⁴⁵⁶⁷⁸⁹₀₁₂₃₄₅₆₇₈₉", "^"))
SPECIAL = re.compile(r"<\|[^|<>\n]{1,40}\|>|</?s>|<(?:eos|bos|pad|unk|end_of_turn)>", re.IGNORECASE)
# **bold**, \text{B}, \( … \). A single star or underscore becomes a space: 2*3 is no 23.
_MARKUP = re.compile(r"\*\*|__|\\(?:text|mathrm|mathbf)[a-z]{0,3}\b|\\[()\[\]]")
_SPACES = re.compile(r"[^\S\n]+")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")

DECORATION = " \t\n*_'\"<>[](){}.,;:!?。、…·|/\\-【】《》〈〉"

# A sentence ends at a line break and after . ! ? ; but not after the dot of "B. a red ring".
_SENTENCE_END = re.compile(r"\n+|(?<=[!?;。])|(?<!\b[A-Za-z])\.(?=\s|$)")


def shorten(text: str) -> str:
    """The text itself, or the two ends of one that is longer than LIMIT."""
    if len(text) <= LIMIT:
        return text
    return text[: LIMIT // 2] + "\n" + text[-(LIMIT // 2) :]


def normal(text: str) -> str:
    """The text in one form: NFKC (full-width Ｂ is B), plain quotes, no markup, single spaces.

    Line breaks stay. A chat template's special tokens, invisible and control characters go. Of a
    text longer than LIMIT characters the two ends are kept.
    """
    text = SPECIAL.sub(" ", shorten(text)).translate(_RAISED)
    text = shorten(unicodedata.normalize("NFKC", text)).translate(_PLAIN)
    text = _MARKUP.sub("", _CONTROL.sub(" ", text))
    text = _SPACES.sub(" ", text.replace("*", " "))
    return "\n".join(line.strip() for line in text.split("\n")).strip()


def bare(text: str) -> str:
    """The text without the brackets, quotes and stops around it."""
    return text.strip(DECORATION)


def sentences(text: str) -> list[tuple[int, int]]:
    """Where each sentence or line of a normal text begins and ends, blank ones left out."""
    spans, start = [], 0
    for end in _SENTENCE_END.finditer(text):
        spans.append((start, end.end()))
        start = end.end()
    spans.append((start, len(text)))
    return [(a, b) for a, b in spans if text[a:b].strip()]


def other_script(text: str) -> bool:
    """Whether a third or more of the text's letters are neither Latin nor Chinese characters.

    A third, because Japanese and Korean answers hold Chinese characters and Latin names.
    """
    known = foreign = 0
    for character in text:
        if character.isalpha():
            if _known(ord(character)):
                known += 1
            else:
                foreign += 1
    return foreign > 0 and 2 * foreign >= known


def _known(point: int) -> bool:
    latin = point < 0x250 or 0x1E00 <= point < 0x1F00
    return (
        latin or 0x3400 <= point < 0xA000 or 0xF900 <= point < 0xFB00 or 0x20000 <= point < 0x40000
    )


def has_han(text: str) -> bool:
    return any(0x3400 <= ord(c) < 0xA000 for c in text)
