"""Left becomes right in a text, where left and right are places; refused where that is not sure.

English says "right" for correct, for exactly ("right behind"), for a claim; "left" for gone and for
remaining. Each occurrence is judged by the words around it: a place, something else for certain (and
left alone), or unsure (and the whole text is refused). Chinese 左 and 右 likewise.
"""

import re

from labs.data.augment.refused import Refused

_ENGLISH = re.compile(
    r"\b(left|right)(?=(?:most|wards?|[- ]?hand(?:ed|er)?s?|[- ](?:facing|sided|leaning|most))?\b)",
    re.IGNORECASE,
)
_COMPOUND = re.compile(r"most\b|wards?\b|[- ]?hand(?:ed|er)?s?\b|-(?:facing|sided|leaning|most)\b")
_NOUN = (
    r"(?:sides?|arms?|legs?|foot|feet|eyes?|ears?|shoulders?|knees?|elbows?|wrists?|thumbs?|fingers?|cheeks?|hips?|ankles?"
    r"|paws?|wings?|edge|corner|half|part|portion|section|end|border|boundary|margin|wall|panel|column|page|third|quarter"
    r"|quadrant|bottom|top|upper|lower|foreground|background|lanes?|turn|arrow|front|rear|wheels?|tyres?|tires?|headlights?"
    r"|sleeves?|pocket|shoes?|gloves?|breast|chest|image|picture|photo|frame|cent(?:re|er)|middle)\b"
)
_STOP = r"(?:\s*(?:$|[.,;:!?…)\]}\"”'/|]|\n|—|–|-\s))"
_FUNCTION = (
    r"(?:\s+(?:of(?! way)|and|or|is|are|was|were|there|has|have|with|from|near|but|than|while|where|who|that|which"
    r"|a|an|the|we|you|i|it|he|she|they|as|if|when|so|because|appears?|seems?|shows?|stands?|sits?|holds?|does|do|can|also)\b)"
)
_EXACTLY = (
    r"(?:\s+(?:now|away|before|after|next|behind|beside|besides|in|at|on|above|below|beneath|under|underneath|over|across"
    r"|through|here|there|up|down|out|outside|inside|against|around|along|beyond|into|onto|by|past|off|between|where|when|as)\b)"
)
_DETERMINED = r"\b(?:the|its|his|her|their|my|your|our|whose|\w+['’]s|\w+s['’])\s+$"
_PREPOSITION = r"\b(?:to|on|at|in|from|towards?|along|off|onto|into|near|facing)\s+(?:the|its|his|her|their|my|your|our)\s+$"
_CORNER = r"\b(?:(?:top|bottom|upper|lower|far|extreme|cent(?:re|er)|middle|mid)|the (?:front|back|rear|near))(?:\s+|-)$"
_MOTION = (
    r"\b(?:turn(?:s|ed|ing)?|fac(?:e|es|ed|ing)|point(?:s|ed|ing)?|mov(?:e|es|ed|ing)|head(?:s|ed|ing)?|lean(?:s|ed|ing)?"
    r"|tilt(?:s|ed|ing)?|veer\w*|swerv\w*|steer\w*|shift\w*|slid\w*|look(?:ed|ing)?|glanc\w*|gaz\w*|bend\w*|curv\w*|slop\w*)"
    r"\s+(?:slightly\s+|sharply\s+|directly\s+|to\s+|towards?\s+)?$"
)
_PAIR_AFTER = r"^\s*(?:to|and|or|/|vs\.?|versus|than)\s*(?:(?:on|at|to|from|in)\s+)?(?:the\s+)?(?:left|right)\b"
_PAIR_BEFORE = r"\b(?:left|right)\s*(?:to|and|or|/|vs\.?|versus|than)\s*(?:(?:on|at|to|from|in)\s+)?(?:the\s+)?$"
_SUBJECT = r"\s+(?:of(?! way)|is|are|shows?|has|one)\b"
_ASKED = re.compile(r"\b(?:left|right|sides?|where|which way|direction|position)\b", re.IGNORECASE)

_CORRECT = (
    r"^[\s-]+(?:angles?|angled|triangles?|answers?|choices?|time|person|people|amount|size|words?|tools?|things?|way|conditions"
    r"|balance|kind|moment|price|equipment|ingredients|reasons?|temperature|decision)\b"
)
_AGREED = r"\b(?:that['’]s|that is|you['’]re|you are|i['’]m|i am|quite|exactly|absolutely|all|yes,|is that)\s+$"
_GONE = r"\b(?:has|have|had|having|just|never|already|recently|who|they|he|she|it|we|people|was|were|been|being|be|get|gets|got|getting)\s+$"
_REMAINING = r"\b(?:nothing|anything|something|none|one|two|three|four|five|\d+|few|little|much|some|any|time|what is|what['’]s|space|room)\s+$"


def mirror_words(text: str, question: str = "") -> str:
    """The text with "left" and "right", 左 and 右 exchanged wherever they are places.

    question: the turn before, by which an answer of one word ("right") is understood. Raises Refused
    ("left_or_right") where a place cannot be told from another meaning.
    """
    return _mirror_chinese(_mirror_english(text, question))


def _mirror_english(text: str, question: str) -> str:
    alone = re.fullmatch(r"\W*(?:left|right)\W*", text, re.IGNORECASE)

    def swap(match: re.Match) -> str:
        word, low = match.group(), text.lower()
        before, after = low[: match.start()], low[match.end() :]
        if alone:
            place = True if _ASKED.search(question) else None
        else:
            place = _is_place(word.lower(), before, after)
        if place is None:
            around = text[max(0, match.start() - 25) : match.end() + 25].replace("\n", " ")
            raise Refused("left_or_right", f"{word!r} may be a place or not: …{around}…")
        return _like(word, "right" if word.lower() == "left" else "left") if place else word

    return _ENGLISH.sub(swap, text)


def _like(word: str, other: str) -> str:
    if word.isupper():
        return other.upper()
    return other.capitalize() if word[0].isupper() else other


def _is_place(word: str, before: str, after: str) -> bool | None:
    """Whether "left" or "right" between these (lower-case) texts is a place; None where it is not sure."""
    exactly = word == "right" and re.match(_EXACTLY, after)
    ends = re.match(_STOP, after) or re.match(_FUNCTION, after)
    if _COMPOUND.match(after) or re.match(r"^[\s-]+" + _NOUN, after):
        return True
    if re.search(_PAIR_AFTER, after) or re.search(_PAIR_BEFORE, before):
        return True
    if re.search(_CORNER, before):
        return None if exactly and not re.match(r"\s+(?:in|at|on)\b", after) else True
    if word == "right" and re.match(_CORRECT, after):
        return False
    if word == "right" and re.search(_AGREED, before) and (ends or before.endswith("all ")):
        return False
    if re.search(_DETERMINED, before):
        if re.search(_PREPOSITION, before):
            # "on the right" goes on with anything but a noun: "at the right time" is no place.
            return True if ends or re.match(_EXACTLY, after) else None
        # "the left of the picture", but "the right of the people".
        return True if word == "left" and re.match(_SUBJECT, after) else None
    if re.match(r"\s+of(?! way)\b", after):
        return (
            None if re.search(r"\b(?:an?|no|any|every|each|this|that|equal)\s+$", before) else True
        )
    if exactly:
        return False if not re.search(_MOTION, before) else None
    if re.search(_MOTION, before):
        return True if ends or word == "left" else None
    if word == "right":
        if re.search(r",\s*$", before) and re.match(r"\s*\?", after):
            return False
    else:
        if re.match(
            r"[\s-]+(?:overs?|behind|alone|out|unattended|untouched|blank|open|empty)\b", after
        ):
            return False
        if re.search(_GONE, before) and not re.search(r"\b(?:on|at|to|in|from)\s+$", before):
            return False
        if re.search(_REMAINING, before) or re.search(r"\bhow (?:many|much)\b[^.?!]*$", before):
            return False if ends or re.match(r"\s+(?:in|on|at|to|for)\b", after) else None
    if re.match(r"\s*:", after) or re.search(r"\b(?:on|at|to|from)\s+$", before):
        return True if ends else None
    return None


_CHINESE = re.compile("[左右]")
_PLACE_AFTER = re.compile(
    "侧|边|面|方|上|下|半|手|脚|眼|臂|腿|耳|肩|端|部|角|数|起|前|后|转|拐|车道|中|栏|图|列|脸|颊|膝|胸|腕|掌|翅|墙|门牙|页|窗"
)
_PLACE_BEFORE = re.compile(
    "(?:最|偏|靠|往|向|朝|从|由|自|到|至|居|在|是|的|中|上|下|前|后|，|。|：|^)$"
)
_PAIR = re.compile("^(?:侧|边|面|方)?[和与或、/]")
_NOT_A_PLACE = re.compile(
    "[左右](?:派|倾|翼分子|键|撇子|思|顾|邻|舍|膀|券)|座右|其右|极[左右]|左右(?:为难|逢源|手|开弓|脑|摇摆)|左.右|右.左"
)


def _mirror_chinese(text: str) -> str:
    odd = _NOT_A_PLACE.search(text)
    if odd and not re.fullmatch("左[到至和与或、/]右|右[到至和与或、/]左", odd.group()):
        raise Refused("left_or_right", f"{odd.group()!r} may be a place or not")

    def swap(match: re.Match) -> str:
        here, other = match.group(), "右" if match.group() == "左" else "左"
        before, after = text[: match.start()], text[match.end() :]
        if here == "左" and after.startswith("右"):
            return _both(before, after[1:], here)
        if here == "右" and before.endswith("左"):
            return here  # the second half of 左右, which `_both` has judged
        alone = not before.strip() and not after.strip("。！？.!? \n")
        if _PLACE_AFTER.match(after) or _PLACE_BEFORE.search(before) or _PAIR.match(after) or alone:
            return other
        raise Refused("left_or_right", f"{text[max(0, match.start() - 8) : match.end() + 8]!r}")

    return _CHINESE.sub(swap, text)


def _both(before: str, after: str, here: str) -> str:
    """左右: the two sides (the same after a flip), or "about" after a number."""
    sides = re.match("两|各|对称|双|二|的两|都|均", after)
    about = re.search(
        r"[\d零一二两三四五六七八九十百千万半几][个只岁米年月日天点分元人名张件次成倍公斤厘毫度时小钟]*$",
        before,
    )
    if sides or about:
        return here
    raise Refused("left_or_right", f"{(before[-6:] + '左右' + after[:6])!r}")
