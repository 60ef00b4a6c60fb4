"""The text of a short free answer: what a sign says, a word for VQA."""

import re

from labs.evaluation.answers.markers import after_marker
from labs.evaluation.answers.normal import SPECIAL, normal
from labs.evaluation.answers.refusals import unread, without_refusals
from labs.evaluation.reading import Reading

_AROUND = (
    ("**", "**"), ("*", "*"), ("__", "__"), ("`", "`"), ("$", "$"), ('"', '"'), ("'", "'"), ("“", "”"),
    ("‘", "’"), ("「", "」"), ("『", "』"), ("«", "»"), (r"\text{", "}"),
)  # fmt: skip
_FENCE = re.compile(r"```[^\n`]{0,20}\n(.*?)\n?```", re.DOTALL)


def read_text(text: str) -> Reading:
    """What a free answer says, without its marker, markup, quotes and a final full stop.

    Nothing else is changed: case, spacing and script are the metric's business (`labs.evaluation.anls`
    ignores case and spacing). A full stop goes where it is the text's only one ("407." but not
    "U.S."). It is kept whole, however long. Statuses: "empty"; "refused" where every sentence
    refuses; "none" where a marker announces an answer that does not come.

    >>> read_text('The answer is "407".')
    Reading(value='407', status='read')

    Chapter 7.
    """
    said, _ = after_marker(text)
    said = SPECIAL.sub(" ", said).strip()
    kept, refused = without_refusals(normal(said))
    if refused and not any(character.isalnum() for character in kept):
        return Reading(None, "refused")
    said = _unwrapped(said)
    if not said:
        reading = unread(text)
        return Reading(None, "none") if reading.status == "script" else reading
    return Reading(said)


def _unwrapped(text: str) -> str:
    """The text without what is wrapped around all of it."""
    fence = _FENCE.fullmatch(text)
    text = fence.group(1).strip() if fence else text
    while True:
        inner = text
        if text.endswith(("。", ".")) and text.count(text[-1]) == 1:
            inner = text[:-1].rstrip()
        for left, right in _AROUND:
            if (
                len(inner) > len(left) + len(right)
                and inner.startswith(left)
                and inner.endswith(right)
            ):
                middle = inner[len(left) : -len(right)]
                if left not in middle and right not in middle:
                    inner = middle.strip()
        if inner == text:
            return text
        text = inner
