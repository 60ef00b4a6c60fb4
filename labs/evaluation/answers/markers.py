"""The final answer of a chain of thought: what stands after the marker that announces it."""

import re

_THINK = re.compile(r"<(/?)(?:think|thinking|thought|reasoning)>|◁(/?)think▷", re.IGNORECASE)
_TAG = re.compile(r"<(/?)answer>|<\|(begin|end)_of_box\|>", re.IGNORECASE)
_BOX = re.compile(r"\\f?boxed\s{0,3}\{")
# "Answer: B", "the correct answer is **B**", "Final answer" on a line of its own, 答案：B, 正确答案是B.
_GAP = r"[\s*_`\"'”’)]{0,6}"
_END = r"(?:[*_`]{1,3}(?=\s))?[\s:：]{0,6}"  # closing markup goes, opening markup stays
_LABEL = re.compile(
    rf"""
    \banswers?(?:\s(?:to|for)\s(?:the|this|your)\squestion)?{_GAP}
        (?::|：|=|\b(?:is|would\sbe|should\sbe|must\sbe|will\sbe)\b){_END}
    |\b(?:correct|right|best)\s(?:option|choice){_GAP}(?::|：|=|\bis\b){_END}
    |\bfinal\sanswer[*_`]{{0,4}}\s*\n
    |答案(?:应该|应当|应)?{_GAP}(?::|：|=|是|为|选){_END}
    |(?:(?<=\n)|^)\s{{0,3}}回?答[:：]
    """,
    re.IGNORECASE | re.VERBOSE,
)


def after_thoughts(text: str) -> str | None:
    """What follows the last </think>; the whole text where nothing was thought aloud.

    None where <think> is opened and never closed: there is no answer yet.
    """
    tags = list(_THINK.finditer(text)) if "<" in text or "◁" in text else []
    if not tags:
        return text
    return text[tags[-1].end() :] if "/" in tags[-1].group() else None


def after_marker(text: str) -> tuple[str, bool]:
    r"""(the final answer, whether a marker announced it); the whole text where there is none.

    In this order: what follows the last </think>; in it the inside of the last <answer>…</answer>
    (or of GLM's <|begin_of_box|>…<|end_of_box|>); in that what follows the last label ("Final
    Answer:", "Answer:", "the answer is", 答案：, 答案是) or is inside the last \boxed{…},
    whichever comes later. The last one is taken because models correct themselves. An <answer>
    that is never closed reaches to the end; a <think> or a \boxed{ that is never closed has not
    come to its answer: ("", True). Time grows linearly with the text.

    >>> after_marker("It has a hole. Final Answer: **C**")
    ('**C**', True)
    >>> after_marker("<think>A or B")
    ('', True)

    Chapter 7.
    """
    answer = after_thoughts(text)
    if answer is None:
        return "", True
    marked = len(answer) < len(text)
    inside = _tagged(answer)
    if inside is not None:
        answer, marked = inside, True
    label = _last(_LABEL, answer)
    box = _last(_BOX, answer)
    if box and (not label or box.start() > label.start()):
        answer, marked = _braced(answer, box.end()), True
        label = _last(_LABEL, answer)
    if label:
        answer, marked = answer[label.end() :], True
    return answer, marked


def _last(pattern: re.Pattern, text: str) -> re.Match | None:
    return max(pattern.finditer(text), key=re.Match.start, default=None)


def _tagged(text: str) -> str | None:
    """The inside of the last pair of answer tags, either of which may be missing."""
    start, inside = 0, None
    for tag in _TAG.finditer(text) if "<" in text else ():
        closes = tag.group(1) == "/" or (tag.group(2) or "").lower() == "end"
        if closes:
            inside = text[start : tag.start()]
        else:
            inside = text[tag.end() :]
            start = tag.end()
    return inside


def _braced(text: str, start: int) -> str:
    """What the brace before `start` encloses; nothing where it is not closed."""
    depth = 1
    for index in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[index], 0)
        if depth == 0:
            return text[start:index]
    return ""
