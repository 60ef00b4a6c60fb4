"""Boxes in texts: [left, top, right, bottom], found and rewritten in the form they were written in."""

import re
from collections.abc import Callable
from decimal import Decimal

from labs.data.augment.refused import Refused

_NUMBER = r"\s*(-?\d+(?:\.\d+)?)\s*"
_BOX = re.compile(rf"\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]")
# Coordinates of a form that is not understood: Qwen's and others' tags, points, boxes in round brackets.
_OTHER = re.compile(
    r"</?(?:box|quad|point|loc\d*|bbox|ref)\b[^>]*>|<\|(?:box|point)_\w+\|>|\(\s*-?\d+(?:\.\d+)?\s*,\s*-?\d+(?:\.\d+)?\s*"
    r"(?:,\s*-?\d+(?:\.\d+)?\s*)*\)|bbox|\"points?\"",
    re.IGNORECASE,
)

Box = tuple[Decimal, Decimal, Decimal, Decimal]


def rewrite_boxes(text: str, change: Callable[[Box, Decimal], Box], scale: int) -> str:
    """The text with every box changed. `change` gets the box and the scale it is written in.

    A box of numbers up to 1, one of them with a decimal point, is written in shares of the side, any
    other in `scale` units a side (100: percent). The result is rounded to as many decimals as there
    were. Raises Refused for numbers that do not make a box in that scale, and for coordinates of
    another form.
    """
    other = _OTHER.search(text)
    if other:
        raise Refused("coordinates", f"coordinates of a form that is not known: {other.group()!r}")
    return _BOX.sub(lambda match: _changed(match, change, scale), text)


def find_boxes(text: str) -> list[str]:
    """The boxes of a text as they are written."""
    return [match.group() for match in _BOX.finditer(text)]


def _changed(match: re.Match, change: Callable[[Box, Decimal], Box], scale: int) -> str:
    written = match.groups()
    values = tuple(Decimal(number) for number in written)
    shares = any("." in number for number in written) and max(values) <= 1
    unit = Decimal(1 if shares else scale)
    left, top, right, bottom = values
    if not (0 <= left < right <= unit and 0 <= top < bottom <= unit):
        raise Refused("coordinates", f"{match.group()} is no box in units of 1/{unit}")
    pieces, at, whole = [], 0, match.group()
    for number, value, group in zip(written, change(values, unit), range(1, 5), strict=True):
        start, end = match.start(group) - match.start(), match.end(group) - match.start()
        exponent = Decimal(1).scaleb(-len(number.partition(".")[2]))
        pieces += [whole[at:start], str(value.quantize(exponent))]
        at = end
    return "".join([*pieces, whole[at:]])
