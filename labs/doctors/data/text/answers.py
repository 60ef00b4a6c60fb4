"""Questions that ask for a description, and answers of yes and no, in English and Chinese.

Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import re

_DESCRIBE = re.compile(
    r"\b(?:describe|description|caption|depict(?:ed)?|summari[sz]e the (?:image|picture|visual)"
    r"|what (?:is|do you see|can you see|is happening|is shown) in (?:this|the) (?:image|picture|photo)"
    r"|(?:explain|analy[sz]e|illustrate|narrate|portray|characterize|write|share|give|provide|render)[^.?\n]{0,40}"
    r"(?:image|picture|photo|scene|visual))\b"
    r"|描述|描写|说明(?:这|图)|图(?:片|像|中|里)?(?:里|中|上)?(?:有|是)什么|标题|看图说话",
    re.IGNORECASE,
)
YES_NO = {
    "yes": ("en", "yes"), "yeah": ("en", "yes"), "no": ("en", "no"), "nope": ("en", "no"),
    "是": ("zh", "yes"), "是的": ("zh", "yes"), "对": ("zh", "yes"), "对的": ("zh", "yes"), "有": ("zh", "yes"),
    "有的": ("zh", "yes"), "存在": ("zh", "yes"), "没错": ("zh", "yes"),
    "不": ("zh", "no"), "不是": ("zh", "no"), "不是的": ("zh", "no"), "不对": ("zh", "no"), "否": ("zh", "no"),
    "没有": ("zh", "no"), "无": ("zh", "no"), "不存在": ("zh", "no"), "没": ("zh", "no"),
}  # fmt: skip
_END = ",.!;:，。！；：、 \n\t"
_LONGEST = 4  # characters of the longest key


def asks_for_description(question: str) -> bool:
    """Whether a question asks to describe the picture, so that its answer is a caption."""
    return len(question) < 400 and _DESCRIBE.search(question) is not None


def yes_no(answer: str) -> tuple[str, str] | None:
    """(language, "yes" or "no") of an answer that is, or begins with, a plain yes or no.

    "Yes, there is a ring" and 是的，图中有 count; "No parking" does not: a comma or an end must follow.
    """
    head = answer[: _LONGEST + 1].lower()
    if not head or head[0] not in _FIRST:
        head = answer.lstrip()[: _LONGEST + 1].lower()
        if not head or head[0] not in _FIRST:
            return None
    for end, letter in enumerate(head):
        if letter in _END:
            return None if letter == " " else YES_NO.get(head[:end])
    return YES_NO.get(head) if len(answer.strip()) <= _LONGEST else None


_FIRST = frozenset(key[0] for key in YES_NO)
