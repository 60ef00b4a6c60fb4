"""What an answer names, how firmly, and what of it is denied; and the one value that follows."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from labs.evaluation.reading import Reading

# POSSIBLE: perhaps not meant as a value at all; it decides nothing, but it casts doubt.
POSSIBLE, SAID, AFFIRMED, CONCLUDED = range(4)
WINDOW = 60  # characters on either side that decide what a mention means

# A clause ends here; a negation does not reach further.
_BREAK = re.compile(
    r"[,;:!?\n。、…()\[\]]|\.(?:\s|$)|\b(?:but|so|because|since|while|whereas|however|although|"
    r"though|therefore|thus|hence|then)\b|但|所以|因此|因为|而|故|那么",
    re.IGNORECASE,
)
_NOT = (
    r"(?:\b(?:not|no|never|neither|nor|without|than|except|unlike|cannot|"
    r"exclud(?:e|es|ed|ing)|eliminat(?:e|es|ed|ing)|rul(?:e|es|ed|ing) out|instead of)"
    r"|n't)(?! (?:only|just|merely|doubt))"
    r"(?: (?:think|believe|say|guess)(?: that)?(?: (?:it is|it's|this is|that is|there is|there are|"
    r"the answer is))?)?"
)
# Up to three words may stand between: "not the red ring", but not "the one that is not big is red".
_DENIED = re.compile(
    _NOT + r"(?: (?!(?:is|are|was|were|it|it's|there)\b)[\w'-]+){0,3} ?[\"'(\[]*$"
    r"|(?:不(?:可能|会|应该?)?是|不(?![过仅但只光同少错论管知一是])|没有?(?!错|问题)|无(?![疑论])|非(?!常)|"
    r"排除[了掉]?|除了|比(?![较如例]))"
    r"[^是有而但就,。;:\sA-Za-z]{0,4} ?[\"'(\[]*$",
    re.IGNORECASE,
)
_ANYTHING_BUT = re.compile(r"\banything but(?: (?:an?|the))? ?$", re.IGNORECASE)
_CONCLUDED = re.compile(
    r"(?:\b(?:so|therefore|thus|hence|consequently|actually|wait|correction|i mean|on second thought)\b"
    r"|(?:^|[.!?\n]) ?no,|所以|因此|因而|故|综上|实际上|更正|应该是|=>|→)[^.;!?\n。]{0,40}$",
    re.IGNORECASE,
)
_JOINED = re.compile(
    r"[)\"'\]]{0,2} ?,? ?(?:\b(?:and|or|nor)\b|[/&、]|或者|以及|还是|[和或与及跟])"
    r" ?(?:(?:the|an?|option|choice|选项) ?)?[\"'(\[]{0,2}",
    re.IGNORECASE,
)
_LISTED = re.compile(r"[)\"'\]]{0,2} ?, ?[\"'(\[]{0,2}")


class Mention(NamedTuple):
    """A value that a text names, and how firmly. Mentions joined by "and" or "or" are one group."""

    value: Any
    start: int
    end: int
    weight: int = SAID  # POSSIBLE, SAID, AFFIRMED or CONCLUDED
    denied: bool = False
    group: int = 0


def settle(mentions: Sequence[Mention]) -> Reading:
    """The one value that the mentions, in the order of the text, come down to.

    The last mention of the greatest weight decides, unless it has a rival of another value: what is
    joined to it by "and" or "or"; if it is a conclusion, what is affirmed after it; if it is affirmed,
    what else is; if it is only said, any other mention. A rival, or its own denial later on, makes
    the answer "several".
    """
    held = [m for m in mentions if not m.denied]
    top = max((m.weight for m in held), default=POSSIBLE)
    if top == POSSIBLE:
        return Reading(None, "none")
    last = [m for m in held if m.weight == top][-1]
    for other in held:
        if top == CONCLUDED:
            rival = other.weight >= AFFIRMED and other.start > last.start
        else:
            rival = other.weight == top or top == SAID
        if (rival or other.group == last.group) and other.value != last.value:
            return Reading(None, "several")
    if any(m.denied and m.value == last.value and m.start > last.start for m in mentions):
        return Reading(None, "several")
    return Reading(last.value)


def before(text: str, start: int, previous: int = 0) -> str:
    """The last WINDOW characters before a mention, none of an earlier mention's."""
    return text[max(previous, start - WINDOW) : start]


def after(text: str, end: int) -> str:
    return text[end : end + WINDOW]


def clause_before(left: str) -> str:
    """Of what stands before a mention, the part that belongs to its clause."""
    start = 0
    for cut in _BREAK.finditer(left):
        start = cut.end()
    return left[start:]


def denied_before(left: str) -> bool:
    """Whether what stands before a mention denies it: "not the", "rather than", 不是."""
    return bool(_DENIED.search(clause_before(left)) or _ANYTHING_BUT.search(left))


def concluded_before(left: str) -> bool:
    """Whether what stands before a mention, in its sentence, draws a conclusion: "so", 所以."""
    return _CONCLUDED.search(left) is not None


def grouped(text: str, mentions: Sequence[Mention], joint: re.Pattern = _JOINED) -> list[Mention]:
    """The mentions with their groups; a denial holds for what is joined to it.

    Two mentions are joined where the text between them is a `joint`. "neither A nor B" denies both,
    and so does "A, B and C are wrong". But "not A, B" denies A only.
    """
    out: list[Mention] = []
    for mention in mentions:
        joined = out and joint.fullmatch(text[out[-1].end : mention.start])
        group = out[-1].group if joined else len(out) + 1
        denied = mention.denied or bool(joined and out[-1].denied)
        out.append(mention._replace(group=group, denied=denied))
    for i in range(len(out) - 2, -1, -1):
        here, there = out[i], out[i + 1]
        if there.denied and (
            here.group == there.group or _LISTED.fullmatch(text[here.end : there.start])
        ):
            out[i] = here._replace(denied=True)
    return out
