"""Which one of a few terms an answer names: a colour, a place, a kind, an option's text."""

import functools
import re
from bisect import bisect_right
from collections.abc import Hashable, Mapping, Sequence

from labs.errors import InputError
from labs.evaluation.answers.memory import remembered
from labs.evaluation.answers.mentions import (
    AFFIRMED,
    CONCLUDED,
    SAID,
    WINDOW,
    Mention,
    after,
    before,
    concluded_before,
    denied_before,
    grouped,
    settle,
)
from labs.evaluation.answers.normal import bare, normal, sentences
from labs.evaluation.answers.reader import read_final
from labs.evaluation.reading import Reading

_ARTICLE = re.compile(r"^(?:an?|the) (?=\S)", re.IGNORECASE)
_LEAD = re.compile(
    r"(?:(?:it|this|that)(?:'s| is| looks)|they(?:'re| are)|它?是|位?于|在)? ?"
    r"(?:(?:at|in|on|to) ?)?(?:an?|the)? ?",
    re.IGNORECASE,
)
_DENIED_AFTER = re.compile(
    r"^[\"')\]]* ?(?:(?:is|are|was|were)(?:n't| not) (?:the (?:correct |right )?(?:answer|one|colou?r)|"
    r"correct|right|there|present|visible|shown|it)\b|(?:is|are|was|were) (?:\w+ )?(?:wrong|incorrect|"
    r"false|absent|missing)\b|(?:是|也|都|并)?(?:不对|错的|错误|不正确|不存在|不是答案))",
    re.IGNORECASE,
)


def read_one_of(text: str, synonyms: Mapping[str, Sequence[str]]) -> Reading:
    """The one key of `synonyms` of which a synonym is named in the text.

    Latin terms are matched as whole words, any case, plural -s allowed; Chinese ones anywhere. Where
    terms overlap the longest counts: "top left" is not "top", 圆环 is not 圆. What is denied does not
    count ("not red but blue", "larger than the ring", 不是红色). An answer that is nothing but a
    term, or draws a conclusion ("so it is red"), goes before what else is mentioned. Status
    "several" where two are named alike, "none" where none is; else see
    `labs.evaluation.answers.refusals.unread`.

    Raises InputError for an empty mapping, a key whose synonyms are a bare string, a synonym without
    a letter or digit, or one that stands for two keys.

    >>> read_one_of("It is not red but blue.", {"red": ["red", "红"], "blue": ["blue", "蓝"]})
    Reading(value='blue', status='read')

    Chapter 7.
    """
    # A suite reads thousands of answers by one list: its pattern is made once.
    listed = tuple((k, v if isinstance(v, str) else tuple(v)) for k, v in synonyms.items())
    return _read(text, listed)


@remembered
def _read(text: str, synonyms: tuple) -> Reading:
    terms = _terms(synonyms)
    return read_final(text, lambda said: settle(terms.mentions(said)))


def fold(text: str) -> str:
    """What two spellings of a term share: any case, any white space, no article before it."""
    return _ARTICLE.sub("", " ".join(text.lower().split()))


class Terms:
    """Terms to find in normal texts; `values` gives each folded term's value."""

    def __init__(self, values: Mapping[str, Hashable]):
        terms = sorted(values, key=len, reverse=True)  # the longest wins
        self._values = [values[term] for term in terms]
        self._pattern = re.compile("|".join(f"({_whole(t)})" for t in terms), re.IGNORECASE)

    def mentions(self, text: str) -> list[Mention]:
        """The terms that a normal text mentions, in its order, weighed and grouped."""
        spans, found, previous = sentences(text), [], 0
        for match in self._pattern.finditer(text) if self._values else ():
            start, end = match.span()
            left = before(text, start, previous)
            weight = AFFIRMED if _alone(text, start, end, spans) else SAID
            weight = CONCLUDED if concluded_before(left) else weight
            denied = denied_before(left) or bool(_DENIED_AFTER.search(after(text, end)))
            found.append(Mention(self._values[match.lastindex - 1], start, end, weight, denied))
            previous = end
        return grouped(text, found)


def _whole(term: str) -> str:
    """The pattern of one term: a whole word where its ends are Latin letters or digits."""
    pattern = re.escape(term).replace(r"\ ", r"\s+")
    first, last = term[0], term[-1]
    if first.isascii() and first.isdigit():  # 3 is not named by 13, 1.3 or -3
        pattern = r"(?<![A-Za-z0-9-])(?<!\d[.,])" + pattern
    elif first.isascii() and first.isalpha():
        pattern = r"(?<![A-Za-z0-9])" + pattern
    if last.isascii() and last.isdigit():
        pattern += r"(?![A-Za-z0-9])(?![.,]\d)"
    elif last.isascii() and last.isalpha():
        pattern += r"(?:e?s)?(?![A-Za-z0-9])"
    return pattern


def _alone(text: str, start: int, end: int, spans: Sequence[tuple[int, int]]) -> bool:
    """Whether a mention's sentence says nothing else."""
    first, last = spans[bisect_right(spans, start, key=lambda span: span[0]) - 1]
    if last - first > end - start + WINDOW:
        return False
    return not bare(text[end:last]) and bool(_LEAD.fullmatch(bare(text[first:start])))


@functools.lru_cache(maxsize=64)
def _terms(synonyms: tuple[tuple[str, tuple[str, ...] | str], ...]) -> Terms:
    return Terms(_keys(dict(synonyms)))


def _keys(synonyms: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Folded synonym -> key."""
    keys: dict[str, str] = {}
    for key, words in synonyms.items():
        if isinstance(words, str):
            raise InputError(f"The synonyms of {key!r} are a bare string.", "Pass a list of them.")
        for word in words:
            term = fold(normal(word))
            if not any(c.isalnum() for c in term):
                raise InputError(
                    f"{word!r}, for {key!r}, has no letter or digit.",
                    "Pass words that can be said.",
                )
            if keys.setdefault(term, key) != key:
                raise InputError(
                    f"{word!r} stands for both {keys[term]!r} and {key!r}.",
                    "Give each synonym to one key.",
                )
    if not keys:
        raise InputError("There are no terms to look for.", "Pass at least one key with a synonym.")
    return keys
