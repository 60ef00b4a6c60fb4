"""Answers that decline to answer, and why an answer could not be read."""

import re

from labs.evaluation.answers.markers import after_thoughts
from labs.evaluation.answers.normal import normal, other_script, sentences
from labs.evaluation.reading import Reading

_PICTURE = r"(?:images?|pictures?|photos?|photographs?|attachments?|files?)"
# Inability to see a picture, or to answer. "I cannot see a ring" is neither: it says no.
REFUSALS = (
    r"\b(?:can(?:not|'t)|can not|could(?:n't| not)|unable to|not able to|won't|will not) (?:\w+ )?"
    r"(?:answer|determine|tell|say|assist|help|comment|decide|provide|process|analy[sz]e|verify)\b",
    r"\b(?:can(?:not|'t)|can not|unable to|not able to) (?:\w+ )?(?:see|view|access|open|load|read|"
    rf"identify|recogni[sz]e)(?: (?:the|any|an|this|that|your|of|what|who|which|whether))*"
    rf"(?: {_PICTURE}\b|\s*[.,;!]|$)",
    r"\b(?:can(?:not|'t)|can not|unable to) (?:see|tell|identify|recogni[sz]e) "
    r"(?:what|who|which|whether|if)\b",
    r"\b(?:can(?:not|'t)|could not) be (?:determined|answered|identified|seen clearly)\b",
    rf"\b(?:no|without (?:the|an|any)) {_PICTURE}(?: (?:is|was|were|has been|have been))?"
    r" (?:provided|attached|uploaded|given|available|to look at)\b",
    rf"\b(?:don't|do not|didn't|did not) (?:see|have|receive) (?:an?|any|the) {_PICTURE}\b",
    r"\bi (?:do not|don't) (?:really )?know\b",
    r"\bno (?:way (?:to|of) (?:tell|say|know)|information|idea|clue|comment)\w*\b",
    r"\b(?:do not|don't) have (?:access|the ability|enough|sufficient|any information)\b",
    rf"\b{_PICTURE} (?:is|was|are|were)(?: not|n't) (?:available|visible|provided|attached|accessible)\b",
    r"\b(?:not enough|insufficient) (?:information|context|detail)",
    r"\b(?:decline|refuse) to (?:answer|say)\b",
    r"\bas an? (?:ai|artificial intelligence|language model|text-based)\b",
    rf"\bplease (?:provide|upload|share|attach|send) (?:\w+ ){{0,3}}{_PICTURE}\b",
    r"(?:无法|不能|没法|难以)(?:直接|准确|清楚地?|具体|为您|为你)*"
    r"(?:回答|判断|确定|提供|辨认|得知|看清|分辨|处理|作答|给出|帮|协助)",
    r"(?:无法|不能|没法)(?:直接|准确)*(?:看到|看见|查看|读取|访问|打开|识别)"
    r"(?:这张|该|此|任何|您的|你的|您提供的)?(?:图|照片|画面|[。,!]|$)",
    r"看不(?:到|见|清)(?:这张|该|任何|您的|你的|您提供的)?(?:图|照片|画面)",
    r"(?:没有|未)(?:看到|收到|提供|上传|附上|接收到)(?:任何|这张|该)?(?:图|照片)",
    r"不知道|不清楚|信息不足|作为(?:一个|一名)?(?:人工智能|语言模型|ai)",
    r"请(?:您|你)?(?:先|重新)?(?:提供|上传|发送)",
)
_REFUSAL = re.compile("|".join(f"(?:{pattern})" for pattern in REFUSALS), re.IGNORECASE)
_APOLOGY = re.compile(
    r"^(?:(?:i am|i'm) )?(?:so |very |really )?(?:sorry|apologi[sz]e|my apologies)\b|^(?:很)?(?:抱歉|对不起)",
    re.IGNORECASE,
)
_BUT = re.compile(r"\b(?:but|however|although|though)\b|但是?|不过|然而", re.IGNORECASE)


def is_refusal(text: str) -> bool:
    """Whether the text says, anywhere, that it cannot or will not answer. Chapter 7.

    >>> is_refusal("I cannot see the image."), is_refusal("I cannot see a ring in the image.")
    (True, False)
    """
    return _REFUSAL.search(normal(text)) is not None


def without_refusals(text: str) -> tuple[str, bool]:
    """The sentences of a normal text that do not refuse, and whether any does.

    "I cannot see it well, but there are 3." still answers. Where a sentence refuses, the apology
    before it goes too.
    """
    kept, refused = [], False
    for start, end in sentences(text):
        parts, last = [], start
        for but in _BUT.finditer(text, start, end):
            parts.append(text[last : but.start()])
            last = but.start()
        parts.append(text[last:end])
        for part in parts:
            if _REFUSAL.search(part):
                refused = True
            else:
                kept.append(part)
    if not refused:
        return text, False
    rest = "".join(part for part in kept if not _APOLOGY.search(part.strip()))
    return rest.strip(), True


def unread(text: str) -> Reading:
    """Why there is no value in an answer of which nothing could be read.

    "empty", "refused", "script" (a third of its letters or more are neither Latin nor Chinese), or
    "none". Thoughts between <think> and </think> are no refusal.
    """
    said = normal(text)
    if not said:
        return Reading(None, "empty")
    answer = after_thoughts(text)
    if answer is not None and is_refusal(answer):
        return Reading(None, "refused")
    return Reading(None, "script" if other_script(said) else "none")
