"""Which box an answer gives."""

import math
import re

from labs.errors import InputError
from labs.evaluation.answers.markers import after_marker
from labs.evaluation.answers.normal import shorten
from labs.evaluation.answers.refusals import unread
from labs.evaluation.reading import Reading

_COORDINATE = (
    r"[+-]?(?:\d{1,12}(?:\.\d{0,12})?|\.\d{1,12}|nan|inf(?:inity)?)(?:e[+-]?\d{1,3})?\s{0,3}%?"
)
_COMMA = r"\s{0,3}[,;，、\s]\s{0,3}"
_FOUR = rf"({_COORDINATE}){_COMMA}({_COORDINATE}){_COMMA}({_COORDINATE}){_COMMA}({_COORDINATE})"
_PAIRS = (
    rf"\(\s{{0,3}}({_COORDINATE}){_COMMA}({_COORDINATE})\s{{0,3}}\)\s{{0,3}}[,;，]?\s{{0,3}}"
    rf"\(\s{{0,3}}({_COORDINATE}){_COMMA}({_COORDINATE})\s{{0,3}}\)"
)
_BOX = re.compile(
    rf"(?P<key>(?<![A-Za-z])box_2d[\"']?\s{{0,3}}[:=]\s{{0,3}})?[\[({{【]\s{{0,3}}{_FOUR}\s{{0,3}}[\])}}】]|{_PAIRS}",
    re.IGNORECASE,
)
_BARE = re.compile(rf"{_FOUR}\s{{0,3}}[.。]?", re.IGNORECASE)
SLACK = 0.05  # of the side: so far outside the picture a corner is still taken to be its edge


def read_box(text: str, *, scale: int | float | tuple) -> Reading:
    """The one box of an answer as (left, top, right, bottom), shares of the picture's sides.

    `scale` is what the far edge is called: 1 (shares), 100 (percent), 1000 (Qwen-VL, InternVL),
    or (width, height) in pixels. Written [x1, y1, x2, y2] in any brackets, alone or in JSON
    ("bbox_2d"), as (x1, y1), (x2, y2) with or without Qwen's <box> tags, or as four numbers and
    nothing else. Under the key "box_2d" the order is Gemini's, [y1, x1, y2, x2]. Percent signs on
    all four say percent whatever the scale is.

    Corners up to 5 % of the side outside the picture are moved to its edge. Status "none": corners
    further out (the scale is another one, most likely), a box whose right is not right of its left
    or whose bottom is not below its top (it may be left, top, width and height), and numbers that
    are not finite. "several": different boxes.

    Raises InputError for a scale that is not positive and finite.

    >>> read_box("<box>(100,250),(500,750)</box>", scale=1000)
    Reading(value=(0.1, 0.25, 0.5, 0.75), status='read')

    Chapter 7.
    """
    width, height = scale if isinstance(scale, tuple) else (scale, scale)
    if not all(math.isfinite(side) and side > 0 for side in (width, height)):
        raise InputError(
            f"A scale of {scale} is no size.", "Pass for instance 1, 100 or (640, 480)."
        )
    said, _ = after_marker(text)
    said = shorten(said)
    rows = [_row(match) for match in _BOX.finditer(said)]
    if not rows:
        bare = _BARE.fullmatch(said.strip()[:200])
        rows = [_row(bare)] if bare and len(said.strip()) < 200 else []
    boxes = {_shares(row, width, height) for row in rows}
    if len(boxes) > 1:
        return Reading(None, "several")
    box = boxes.pop() if boxes else None
    return unread(text) if box is None else Reading(box)


def _row(match: re.Match) -> list[str]:
    """x1, y1, x2, y2 as they are written."""
    row = [number for number in match.groups()[-8:] if number and not number.endswith(":")]
    groups = match.groupdict()
    return [row[i] for i in (1, 0, 3, 2)] if groups.get("key") else row


def _shares(row: list[str], width: int | float, height: int | float) -> tuple[float, ...] | None:
    """The box as shares, None where it is no box in the picture."""
    percent = all("%" in number for number in row)
    values = [float(number.replace("%", "").strip()) for number in row]
    sides = (100, 100) if percent else (width, height)
    shares = [value / sides[i % 2] for i, value in enumerate(values)]
    if not all(-SLACK <= share <= 1 + SLACK for share in shares):  # nan too
        return None
    left, top, right, bottom = (min(1.0, max(0.0, share)) for share in shares)
    return (left, top, right, bottom) if left < right and top < bottom else None
