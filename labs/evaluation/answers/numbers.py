"""Which number an answer gives."""

import re
from collections.abc import Iterator

from labs.evaluation.answers.memory import remembered
from labs.evaluation.answers.mentions import (
    AFFIRMED,
    CONCLUDED,
    SAID,
    Mention,
    after,
    before,
    concluded_before,
    denied_before,
    grouped,
    settle,
)
from labs.evaluation.answers.normal import bare, sentences
from labs.evaluation.answers.numerals import (
    CHINESE,
    DIGITS,
    ENGLISH,
    chinese_value,
    digits_value,
    english_value,
)
from labs.evaluation.answers.reader import read_final
from labs.evaluation.reading import Reading

_CLASSIFIERS = (
    "个只条张颗块枚件名位辆种处朵本把头匹座棵根支双对次元岁年月日天点米层间台部幅组排行列人"
)
_NUMBER = re.compile(
    rf"(?P<digits>(?<![A-Za-z\d.])(?:(?<![\w)])-)?{DIGITS}(?![A-Za-z\d]|\.\d|-[A-Za-z]))"
    rf"|(?P<english>(?<![A-Za-z-]){ENGLISH}(?!-[A-Za-z]))"
    r"|(?P<single>(?<!not )\ba single\b)"
    # No number, and yet one: nothing is there.
    r"|(?P<zero>\bnone\b|\bnothing\b(?! (?:else|but)\b)|\bnot a single\b"
    r"|(?:n't|\b(?:not|cannot)) (?:\w+ ){0,2}?any\b"
    r"|(?:n't|\b(?:not|cannot)) (?:see|find|contain|have|show|include) an?\b"
    r"|\bthere is(?:n't| not) an?\b|\bno (?!(?:one|doubt|question|more|less|fewer|other|"
    r"matter|longer|there|it|the|i|they|this|that|we|not)\b)[a-z]+|一[个只]?[也都]没有?"
    r"|(?<!有)没有(?!其他|别的|更多|任何其他|问题)(?![\d一二两三四五六七八九十])"
    r"|(?:^|(?<=[中里并均,.。:; ]))无(?![法论疑人线])|不存在)"
    rf"|(?P<chinese>(?<![第唯统之同单万专期周零〇一二两三四五六七八九十百千]){CHINESE}"
    rf"(?=[{_CLASSIFIERS}]|[\s,.;:!?。、)\]\"']|$))",
    re.IGNORECASE,
)
# What is no count: ordinals, names of pictures and steps, bounds, thousands that are not read.
_NOT_COUNTED = re.compile(
    r"(?:\b(?:image|picture|photo|figure|fig\.|step|page|question|no\.) ?|[图第]|步骤"
    r"|\b(?:at least|at most|(?:more|less|fewer) than|up to|over|under) |至少|最多|超过|不到|不止|多于|少于)$",
    re.IGNORECASE,
)
_NOT_EXACT = re.compile(
    r"^(?:\^| ?(?:thousand|hundred|million|billion|dozen)\b| or (?:more|fewer|less)\b|\+(?! ?\d)| ?[万亿千百]"
    r"|[^\W\d_a-z]?以[上下]|[多余几]|分之)",
    re.IGNORECASE,
)
# "the red one", "one of them", "one is red": not a count of one.
_PRONOUN_LEFT = re.compile(
    r"\b(?:the|this|that|each|every|another|other|which|no|any|second|third|last)"
    r"(?: (?!(?:is|are|has|have|contains|shows|only|exactly|just)\b)\w+){0,2} $",
)
_PRONOUN_RIGHT = re.compile(r"^(?:$|[,.;:)!?]| (?:on|at|in|with|and|or|that|which|to)\b)")
_PRONOUN = re.compile(r"^ (?:of|is|being|has|looks)\b")
_TOTAL_BEFORE = re.compile(
    r"(?:\b(?:total(?:s|ing)?|altogether|in all|equals?|makes?)\b|=|[总一]共|共计|合计|总计|总数|等于|共有?)[^\d]{0,40}$",
    re.IGNORECASE,
)
_TOTAL_AFTER = re.compile(
    r"^[^.;:!?\n。,\d]{0,25}?\b(?:in total|altogether|in all|total)\b", re.IGNORECASE
)
# "5 rings and 2 stars": two counts side by side.
_BESIDE = re.compile(
    r" ?(?:[\w-]+ ){0,3}(?:and|or|to|&) (?:[\w-]+ )?|[^\W\d]{0,8}[和与或及、到至][^\W\d]{0,3}"
)
_ENUMERATED = re.compile(r"(?:(?<=\n)|^)[-( ]*(\d{1,2})(?=[.):、] ?\D)")
_OBJECTS = re.compile(r"一[张幅][^,。\n]{0,3}(?:图|照片|画)")


def read_number(text: str) -> Reading:
    """The one number that an answer gives, int or float (float where it is written with a point).

    Digits (full-width too, thousands with commas, a minus sign), English words up to nine hundred,
    Chinese numerals (两, 十二) before a measure word or the end of a clause: the 三 of 三角形 is no
    number. "None", "no rings", "not any", 没有 are 0. Bounds ("at least 3"), ordinals ("the 2nd",
    第二), fractions, "Figure 2", the "one" of "the red one" and the labels of a numbered list are no
    counts; "about 3" is 3. Of several different numbers the last that is announced as the sum or
    the conclusion counts ("in total", "=", "so", 共), or one that is a whole sentence, or the first
    if it is the sum of all others ("five: two red and three blue"); else the status is "several".

    >>> read_number("2 red and 3 blue rings, so 5.")
    Reading(value=5, status='read')

    Chapter 7.
    """
    return _read(text)


@remembered
def _read(text: str) -> Reading:
    return read_final(text, number_in)


def number_in(text: str) -> Reading:
    """`read_number` for a normal text without markers and refusals."""
    text = _masked(text.lower())
    found = grouped(text, list(_mentions(text)), _BESIDE)
    reading = settle(found)
    if reading.status == "several" and _is_sum(text, found):
        return Reading(found[0].value)
    return reading


def _is_sum(text: str, found: list[Mention]) -> bool:
    """Whether the first number is the sum of all that follow: "five: two red and three blue"."""
    first, *rest = found
    if len(rest) < 2 or any(m.denied for m in found):
        return False
    apart = any(c.isalpha() or c == ":" for c in text[first.end : rest[0].start])
    return apart and first.value == sum(m.value for m in rest)


def whole_number(text: str) -> int | float | None:
    """The number that a normal text is, or None where it says anything else too."""
    match = _NUMBER.fullmatch(text.lower())
    return _value(match) if match and match.lastgroup not in ("zero", "single") else None


def _value(match: re.Match) -> int | float | None:
    kind, said = match.lastgroup, match.group()
    if kind in ("zero", "single"):
        return int(kind == "single")
    if kind == "digits":
        return digits_value(said)
    return english_value(said) if kind == "english" else chinese_value(said)


def _mentions(text: str) -> Iterator[Mention]:
    spans, sentence, previous = sentences(text), 0, 0
    for match in _NUMBER.finditer(text):
        start, end = match.span()
        value, said = _value(match), match.group()
        left, right = before(text, start, previous), after(text, end)
        if value is None or _NOT_COUNTED.search(left) or _NOT_EXACT.search(right):
            continue
        if said == "one" and _is_pronoun(left, right):
            continue
        while sentence + 1 < len(spans) and spans[sentence + 1][0] <= start:
            sentence += 1
        first, last = spans[sentence]
        if concluded_before(left) or _TOTAL_BEFORE.search(left) or _TOTAL_AFTER.search(right):
            weight = CONCLUDED
        else:
            alone = last - first < len(said) + 20 and bare(text[first:last]) == bare(said)
            weight = AFFIRMED if alone else SAID
        denied = match.lastgroup != "zero" and denied_before(left)
        yield Mention(value, start, end, weight, denied)
        previous = end


def _is_pronoun(left: str, right: str) -> bool:
    if _PRONOUN.search(right):
        return True
    return bool(_PRONOUN_LEFT.search(left) and _PRONOUN_RIGHT.search(right))


def _masked(text: str) -> str:
    """The text with spaces for the labels of a numbered list, and for 一张图片."""
    labels = list(_ENUMERATED.finditer(text))
    if {"1", "2"} <= {label.group(1) for label in labels}:
        text = _ENUMERATED.sub(lambda match: " " * len(match.group()), text)
    return _OBJECTS.sub(lambda match: " " * len(match.group()), text)
