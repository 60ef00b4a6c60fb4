"""Whether an answer says yes or no."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from labs.errors import InputError
from labs.evaluation.answers.memory import remembered
from labs.evaluation.answers.mentions import AFFIRMED, SAID, Mention, settle
from labs.evaluation.answers.normal import has_han
from labs.evaluation.answers.reader import read_final
from labs.evaluation.reading import Reading

LANGUAGES = ("en", "zh")

# What means nothing by itself, and would mislead: it is taken out first.
_IDLE = {
    "en": r"\b(?:no doubt|no question|no problem|no matter|no wonder|not only|not just|not merely|"
    r"not to mention|without (?:a |any )?doubt|whether or not|if not|why not|"
    r"(?:there(?:'s| is| are) )?no (?:other|more|further|additional)\b[^,.;!?\n]*|"
    r"(?:there(?:'s| is| are) )?not [^,.;!?\n]{0,20}\b(?:other|else)\b[^,.;!?\n]*)",
    "zh": r"有没有|是不是|在不在|对不对|能不能|会不会|是否|能否|有无|对不起|不过|不仅|不但|不只|不光|不论|无论|不管|"
    r"毫?无疑问?|差不多|没问题|不错|没有(?:其他|别的|更多|任何其他)[^,。;!?\n]*|不一会",
}
_EITHER = re.compile(
    r"\byes ?(?:/|or|and) ?no\b|\bno ?(?:/|or|and) ?yes\b|是[或和/与]否|有或没有", re.IGNORECASE
)
_HEDGE = {
    "en": r"\b(?:maybe|perhaps|possibly|might|may|could(?! not)|not (?:\w+ )?(?:sure|certain|clear)|"
    r"n't (?:\w+ )?(?:sure|certain|clear)|unsure|uncertain|unclear|hard to (?:say|tell)|doubt|depends|if)\b",
    "zh": r"可能|也许|或许|大概|不确定|不一定|不能确定|说不定|不好说|难说|不太清楚|不清楚|如果",
}
# A clause that is nothing but a verdict.
_YES = {
    "en": r"(?:(?:well|oh|um|hmm|and|then|that is|i think|i(?:'d| would) say|probably|definitely|it is|it's|"
    r"the answer is|my answer is) )*(?:yes|yeah|yep|yup|yea|y|affirmative|indeed|certainly|absolutely|"
    r"definitely|sure|of course|it is|it does|there is|there are|they are|they do|i do|he is|she is|"
    r"(?:(?:that|this|it|which|the statement|the claim|the description)(?:'s| is| seems)? )?"
    r"(?:true|correct|right|accurate))(?: indeed)?",
    "zh": r"(?:嗯|哦|那么?|答案?是?|应该是?|确实是?|当然是?|的确是?)*(?:是|对|有|没错|正确|存在|确实|当然|是这样|属实|"
    r"相同|一样|对头|可以看到|能看到)[的了呢啊呀哦]*",
}
_NO = {
    "en": r"(?:(?:well|oh|um|hmm|and|then|i think|i(?:'d| would) say|probably|definitely|absolutely|certainly|"
    r"it is|it's|the answer is|my answer is) )*(?:no|nope|nah|nay|n|negative|false|incorrect|untrue|wrong|none|"
    r"not (?:really|at all|exactly|quite)|(?:absolutely|definitely|certainly|probably) not|not|never)"
    r"(?: sir| ma'am)?",
    "zh": r"(?:嗯|哦|那么?|答案?是|应该|确实|当然|的确)*(?:否|不|不是|没有|没|无|不对|错|错误|不正确|不存在|并没有|"
    r"并不是|并非|并非如此|不相同|不同|不一样|不在|不会|不可以|看不到)[的了呢啊呀哦]*",
}
# A verdict within a longer clause.
_YES_IN = {
    "en": r"\b(?:yes|yeah|yep|yup)\b|\b(?:that|this|it|statement|claim) (?:is|seems) (?:true|correct|accurate)\b",
    "zh": r"^(?:是的|对的|没错)",
}
_NO_IN = {
    "en": r"\b(?:nope|nah|nay)\b|^no(?= (?:there|it|the|this|that|i|they|we|you|he|she|its|not)\b)"
    r"|\b(?:is|say|answer|answered|be|so|therefore) no$"
    r"|\b(?:false|incorrect|untrue)\b|\bnot (?:true|correct|accurate)\b|\bi (?:don't|do not) think so\b",
    "zh": r"^(?:不是的|不对|并没有|不存在)|(?:是|为)(?:错误|不正确|不对|假)的?$",
}
# A clause that denies, or states that something is there.
_DENIES = {
    "en": r"\b(?:no|not|none|nothing|never|neither|nor|cannot|absent|missing|lacks?|nowhere)\b|n't\b|"
    r"\b(?:zero|0) [a-z]",
    "zh": r"没|无(?!法)|未|并非|不(?![一久])|(?<!\d)0个|零个",
}
_STATES = {
    "en": r"\bthere(?:'s| is| are| was| were| (?:seems?|appears?) to be)\b"
    r"|\bi (?:can |do )?(?:clearly )?see (?:an?|one|two|three|the|some|several)\b"
    r"|\b(?:is|are) (?:clearly )?(?:present|visible|shown|there)\b",
    "zh": r"(?<![没所只具还])有(?![可些关点的])|存在|[可能]以?看到|(?:相同|一样)的?$",
}
# What a sign says is no verdict.
_QUOTED = re.compile(
    r"(?:\b(?:says|signs? say|said|reads?|reading|words?|text|sign|written|saying|label(?:led|ed)?|titled|"
    r"an?|the)|写着|文字是?)(?: is)?[:,]? ?([\"'])[^\"'\n]{1,80}\1",
    re.IGNORECASE,
)
# "not a star but a ring", 不是…而是…: which of the two was asked about is not known.
_CONTRAST = re.compile(
    r"\b(?:not|n't) (?:an?|the)\b[^,.;!?\n]{1,40}?,? ?\b(?:but|rather) (?:an?|the|rather)\b[^,.;!?\n]*"
    r"|\b(?:is not|isn't) [^,.;!?\n]{1,30}?,? ?but (?!there\b|it\b|i\b|no\b)[^,.;!?\n]*"
    r"|不是[^,。;\n]{1,20},?而是[^,。;\n]*"
    # … and "a ring, not a star".
    r"|\b(?:is|are|it's|that's) [^,.;!?\n]{1,30}, ?(?:and )?not (?:an?|the)\b[^,.;!?\n]*"
    r"|(?<!不)是(?!的)[^,。;\n]{1,20},?(?:而)?不是[^,。;\n]*",
    re.IGNORECASE,
)
_SEPARATOR = re.compile(
    r"([,;:!?\n。、…()\"]+|\.(?=\s|$)| -+ |\b(?:and|but|however|although|though|because|since|while|so|"
    r"therefore|thus|hence)\b|但是?|因为|所以|因此|因而|然而|故)",
    re.IGNORECASE,
)
_CONCLUDES = ("so", "therefore", "thus", "hence", "所以", "因此", "因而", "故")
_TURNS = "but however although though because since while 但 但是 因为 然而".split()
_ENDS = frozenset(".!?\n。;")
_PLAIN_YES = "yes true correct 是 是的 对 有 正确 存在 相同 一样".split()
_PLAIN_NO = (
    "no false incorrect 否 不是 不 没有 没 无 错 错误 不对 不正确 不存在 不同 不相同 不一样".split()
)
_PLAIN = {**dict.fromkeys(_PLAIN_YES, True), **dict.fromkeys(_PLAIN_NO, False)}

_TABLES = (_IDLE, _HEDGE, _YES, _NO, _YES_IN, _NO_IN, _DENIES, _STATES)


class _Patterns(NamedTuple):
    idle: re.Pattern
    hedge: re.Pattern
    yes: re.Pattern
    no: re.Pattern
    yes_in: re.Pattern
    no_in: re.Pattern
    denies: re.Pattern
    states: re.Pattern


def _compiled(languages: tuple[str, ...]) -> _Patterns:
    return _Patterns(
        *(re.compile("|".join(table[l] for l in languages), re.IGNORECASE) for table in _TABLES)
    )


_PATTERNS = {None: _compiled(LANGUAGES), **{l: _compiled((l,)) for l in LANGUAGES}}


def read_yes_no(text: str, language: str | None = None) -> Reading:
    """True where an answer says yes, False where it says no, in English or Chinese.

    A verdict ("yes", "that is correct", 没错, "no", "nope", 不是) anywhere counts before statements.
    Without one, a denial is no ("I don't see a ring", 图中没有圆环) and a statement that something is
    there is yes ("There is a ring"); of both, a denial that comes first is the answer and the rest
    its correction ("There is no ring, but there is a star"). "several": two verdicts ("yes and
    no"), a yes whose next clause denies ("Yes, there is no ring"), a statement and then a denial.
    "none": hedges alone ("maybe", 可能有), and "not a star but a ring", which answers one question
    with no and another with yes. `language`: "en" or "zh" reads that language only and calls an
    answer in the other "script"; None reads both, so that 是 to an English question is a yes. Yes
    in any other language is not read: "script" (да, はい) or, in Latin letters, "none" (oui).

    Raises InputError for a language other than these.

    >>> read_yes_no("Is there a ring? I don't see one.")
    Reading(value=False, status='read')

    Chapter 7.
    """
    if language not in _PATTERNS:
        raise InputError(f"There is no language {language!r}.", "Use 'en', 'zh' or None.")
    return _read(text, language)


@remembered
def _read(text: str, language: str | None) -> Reading:
    reading = read_final(text, lambda said: verdict(said, language))
    if reading.status == "none" and language is not None:
        chinese = has_han(text)
        if chinese if language == "en" else (not chinese and any(c.isalpha() for c in text)):
            return Reading(None, "script")
    return reading


def verdict(text: str, language: str | None = None) -> Reading:
    """`read_yes_no` for a normal text without markers and refusals."""
    patterns, text = _PATTERNS[language], text.lower()
    text = _QUOTED.sub(" ", text)
    without = _EITHER.sub(" , ", text)
    found = list(_evidence(patterns.idle.sub(" ", _CONTRAST.sub(" , ", without)), patterns))
    if not found:
        return Reading(None, "none" if without == text else "several")
    if all(m.weight == SAID for m in found) and found[0].value is False:
        return Reading(False)
    return settle(found)


def plain_verdict(words: str) -> bool | None:
    """What an option means that is nothing but a yes or a no."""
    return _PLAIN.get(words)


def _evidence(text: str, patterns: _Patterns) -> Iterator[Mention]:
    """The verdicts (AFFIRMED) and statements (SAID) of a text, clause by clause."""
    parts = _SEPARATOR.split(text)
    after_yes = concluding = turned = False
    count = 0
    for index in range(0, len(parts), 2):
        clause = parts[index].strip(" '_-")
        separator = parts[index - 1].strip() if index else ""
        concluding = separator in _CONCLUDES or (concluding and not _ENDS & set(separator))
        turned = separator in _TURNS or (turned and not _ENDS & set(separator))
        if not clause:
            continue
        asked = "?" in "".join(parts[index + 1 : index + 2]) or clause[-1] in "吗呢么"
        said = _judge(clause, asked, patterns)
        for value, weight in said:
            # "Yes, there is no ring" contradicts itself; "yes, but it is not red" does not.
            contradicts = after_yes and not turned and not value
            firm = weight == AFFIRMED or concluding or contradicts
            yield Mention(value, count, count, AFFIRMED if firm else SAID, group=count)
            after_yes = after_yes or (value and weight == AFFIRMED)
            count += 1
        after_yes = (True, AFFIRMED) in said
        concluding = turned = False


def _judge(clause: str, asked: bool, patterns: _Patterns) -> list[tuple[bool, int]]:
    """What one clause says: its verdicts, and what it states or denies beside them."""
    if patterns.yes.fullmatch(clause):
        return [(True, AFFIRMED)]
    if patterns.no.fullmatch(clause):
        return [(False, AFFIRMED)]
    if asked:
        return []
    said = []
    for value, pattern in ((True, patterns.yes_in), (False, patterns.no_in)):
        if pattern.search(clause):
            said.append((value, AFFIRMED))
            clause = pattern.sub(" ", clause)
    if patterns.hedge.search(clause):
        return said
    if patterns.denies.search(clause):
        said.append((False, SAID))
    elif patterns.states.search(clause):
        said.append((True, SAID))
    return said
