"""Numbers as they are written: digits, English words, Chinese numerals."""

import re

_UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
WORDS = {
    **{word: value for value, word in enumerate(_UNITS)},
    **{word: 10 * value for value, word in enumerate(_TENS, 2)},
}
_CHINESE = {c: v for v, c in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2}
_DIGIT = "([一二两三四五六七八九])"
_SECTION = re.compile(rf"(?:{_DIGIT}千)?(?:零?{_DIGIT}百)?(?:零?{_DIGIT}?(十))?(?:零?{_DIGIT})?")
_SHORT = re.compile(r"[千百][一二两三四五六七八九]$")  # 一百二 is said for 120; not read

# At most 15 digits: a longer row is no count, and Python refuses to read very long ones.
DIGITS = r"(?:\d{1,3}(?:,\d{3}){1,4}(?![\d,])|\d{1,15})(?:\.\d{1,15})?(?:[eE][+-]?\d{1,2})?"
_SMALL = rf"(?:{'|'.join(_UNITS[1:10])})"
_TEENS = "|".join(sorted(_UNITS, key=len, reverse=True))  # fourteen before four
_BELOW_100 = rf"(?:(?:{'|'.join(_TENS)})(?:[ -]{_SMALL}\b)?|{_TEENS})"
ENGLISH = rf"(?:(?:an?|{_SMALL})[ -]hundred\b(?:(?: and)? {_BELOW_100}\b)?|{_BELOW_100}\b)"
CHINESE = r"[零〇一二两三四五六七八九十百千万]{1,16}"


def digits_value(text: str) -> int | float:
    """1,234 is 1234; 3.0 is a float."""
    plain = text.replace(",", "")
    return int(plain) if plain.lstrip("-").isdigit() else float(plain)


def english_value(text: str) -> int:
    """ "twenty-one" is 21, "a hundred and five" is 105; all in lower case."""
    total = 0
    for word in re.findall("[a-z]+", text):
        if word == "hundred":
            total = 100 * max(total, 1)
        else:
            total += WORDS.get(word, 0)  # "a", "and"
    return total


def chinese_value(text: str) -> int | None:
    """十二 is 12, 两百零五 is 205, 二〇二六 is 2026; None for a row that is no number (三四)."""
    if not set(text) & set("十百千万"):
        if len(text) > 1 and not set(text) & {"〇", "零"}:
            return None
        return int("".join(str(_CHINESE[c]) for c in text))
    high, myriad, low = text.rpartition("万")
    parts = [_section(high) if myriad else 0, _section(low) if low else 0]
    if None in parts or (myriad and not parts[0]):
        return None
    return 10_000 * parts[0] + parts[1]


def _section(text: str) -> int | None:
    """The value of a numeral below 万."""
    match = _SECTION.fullmatch(text)
    if not match or _SHORT.search(text):
        return None
    thousands, hundreds, tens, ten, units = match.groups()
    return (
        1000 * _CHINESE.get(thousands, 0)
        + 100 * _CHINESE.get(hundreds, 0)
        + (10 * _CHINESE.get(tens, 1) if ten else 0)
        + _CHINESE.get(units, 0)
    )
