"""Reading a judge's words: which of the answers labelled A and B it prefers, in English or Chinese."""

import re

# "[[A]]" is how MT-Bench's judges end (Zheng et al. 2023, arXiv:2306.05685); C is its tie.
_MARK = re.compile(r"\[\[\s*(A|B|C|tie|平局)\s*\]\]", re.IGNORECASE)
_MARKS = {"a": "first", "b": "second", "c": "tie", "tie": "tie", "平局": "tie"}

# A label: "A", "answer B", "(A)", "**B**", 答案A. Capital letters only: "a" is a word. Between Han
# characters \b finds no edge, so the edges are spelt out.
_NOUN = r"(?:(?:[Aa]nswer|[Rr]esponse|[Aa]ssistant|[Cc]aption|[Dd]escription|[Oo]ption|ANSWER)\s+)?"
_HAN_NOUN = r"(?:答案|回答|描述|选项)?"
_LABEL = rf"{_NOUN}{_HAN_NOUN}[\"'“(\[*\s]*(?<![A-Za-z])([AB])(?![A-Za-z])[\"'”)\]*]*"
_GOOD = r"(?:better|best|more accurate|more correct|more complete|superior|preferable|preferred|correct|the winner|stronger)"
_BAD = r"(?:worse|worst|less accurate|less correct|less complete|inferior|weaker|incorrect|wrong)"
_BE = r"\s+(?:is|was|seems|looks|appears)\s+(?!not\b)(?:to be\s+)?(?:(?!not\b|less\b)\w+\s+){0,3}?"
_HAN_GOOD = r"(?:更好|更准确|更正确|更佳|更优|更全面|较好|最好|胜出|获胜|赢|优于|好于|胜过|强于)"
_HAN_BAD = r"(?:更差|较差|不如|劣于|差于|更不准确)"

_WINS = [
    re.compile(_LABEL + _BE + _GOOD),
    re.compile(_LABEL + r"\s+(?:wins|describes the (?:picture|image) better|beats)\b"),
    re.compile(
        r"(?:\b(?:[Pp]refer|[Cc]hoose|[Pp]ick|[Ss]elect|[Ww]inner|[Vv]erdict|[Vv]ote(?: for)?|[Cc]hoice"
        r"|[Bb]etter|[Bb]est|[Ff]inal answer|[Jj]udge?ment))(?:\s+(?:answer|one|response|caption))?"
        r"(?:\s+(?:is|goes to|would be|for))?\s*[:=]?\s*" + _LABEL
    ),
    re.compile(_LABEL + r"\s*(?:明显|显然|稍|略|要|是|的)*\s*" + _HAN_GOOD),
    re.compile(r"(?:选择?|更好的(?:答案|回答|描述)?是|胜者是?|结论是?|判断是?|更喜欢|偏好)\s*[:：]?\s*" + _LABEL),
]  # fmt: skip
_LOSES = [
    re.compile(_LABEL + _BE + _BAD),
    re.compile(_LABEL + r"\s*(?:明显|显然|稍|略|要|是)*\s*" + _HAN_BAD),
]
# "A比B更好" also holds "B更好": what compares is read first, and taken out.
_THAN = re.compile(
    rf"{_LABEL}\s*比\s*{_HAN_NOUN}\s*[AB]\s*(?:更|要|稍|略|还)*\s*(?:(差)|好|准确|正确|优|佳|强|全面)"
)
_NEITHER = re.compile(
    r"\bneither\b[^.!?]*\b(?:better|best|worse|wins?)\b|\b(?:no|not a) winner\b", re.IGNORECASE
)
_TIE = re.compile(
    r"\btied?\b|\bdraw\b|\bequally\b|\bequal\b|\bequivalent\b|\bcomparable\b|\bno difference\b"
    r"|(?<!not )\bthe same\b|\bboth (?:answers |responses |captions )?(?:are )?(?:good|bad|right|wrong"
    r"|correct|fine|poor)\b"
    r"|平局|平手|(?<!不)一样|差不多|不相上下|难分(?:高下|伯仲)|(?<!不)相同|同样(?:好|差|准确|正确)"
    r"|(?:都|均)(?:很|不|正确|错|可以|好|差)",
    re.IGNORECASE,
)
_ALONE = re.compile(rf"{_LABEL}\s*(?:$|[.:;,!。：；，！)\-\n])")
_ANY = re.compile(_LABEL)


def read_verdict(text: str) -> str | None:
    """ "first" (answer A), "second" (answer B), "tie", or None where the text says none of them.

    In this order: a marker [[A]], [[B]], [[C]] or [[tie]], the same wherever it stands; a statement
    of who is better or worse ("B is more accurate than A", "A不如B"); words for a tie; a label that
    stands alone at the beginning ("A", "Answer B: …"). Two markers that differ, statements against
    each other, and two labels without a word on which is better are unreadable. The article in
    "A large ring" is no label.
    """
    marks = {_MARKS[mark.lower()] for mark in _MARK.findall(text)}
    if marks:
        return marks.pop() if len(marks) == 1 else None
    text = text.strip()
    if _NEITHER.search(text):
        return "tie"
    compared = [(match.group(1), bool(match.group(2))) for match in _THAN.finditer(text)]
    rest = _THAN.sub(" ", text)
    won = {label for label, worse in compared if not worse}
    lost = {label for label, worse in compared if worse}
    won |= {match.group(1) for pattern in _WINS for match in pattern.finditer(rest)}
    lost |= {match.group(1) for pattern in _LOSES for match in pattern.finditer(rest)}
    won |= {"B" if label == "A" else "A" for label in lost}
    if won:
        return _MARKS[won.pop().lower()] if len(won) == 1 else None
    if _TIE.search(text):
        return "tie"
    alone = _ALONE.match(text)
    if alone and {match.group(1) for match in _ANY.finditer(text)} == {alone.group(1)}:
        return _MARKS[alone.group(1).lower()]
    return None
