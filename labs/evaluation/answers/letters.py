"""Where an answer names a choice by its letter, and where an A is only an article."""

import re
from collections.abc import Mapping, Sequence

from labs.evaluation.answers.mentions import (
    AFFIRMED,
    CONCLUDED,
    POSSIBLE,
    SAID,
    Mention,
    after,
    before,
    concluded_before,
    denied_before,
    grouped,
)
from labs.evaluation.answers.normal import bare, sentences

# Letters of other scripts whose meaning is certain: they look like the Latin one and stand at the
# same place of their alphabet (А, Α, Β, Ε), or no list of choices gets as far as they stand (С).
# Cyrillic В looks like B but is the third letter, so it is not read.
LOOKALIKES = {"А": "A", "С": "C", "Α": "A", "Β": "B", "Ε": "E", "🅰": "A", "🅱": "B"}
STEMS = "甲乙丙丁戊己庚辛壬癸"  # the Chinese way of numbering: first, second, …

_STANDALONE = re.compile(
    rf"(?<![A-Za-z0-9])[A-Za-z0-9](?![A-Za-z0-9])|(?<!\w)[{''.join(LOOKALIKES)}](?!\w)|[{STEMS}](?!\w)"
)
_NOT_APPLICABLE = re.compile(r"(?<![A-Za-z])n ?/ ?a(?![A-Za-z])", re.IGNORECASE)

# "(B)"; "B." at the beginning of a line; "option B".
_OPEN, _CLOSE = re.compile(r"(?<!\w)[(\[【<] ?$"), re.compile(r"^ ?[)\]】>]")
_LINE = re.compile(r"(?:^|\n)[-•·> (\[]*$")
_LABEL = re.compile(r"^ ?(?:\.(?![A-Za-z])|[):、])")
_NAMED = re.compile(
    r"(?:\b(?:options?|choices?|letter|answer)|选项?|选择|答案)(?: ?[:#])? ?[\"'(\[]?$",
    re.IGNORECASE,
)
# A bare capital is a choice only at the beginning of a clause or after one of these words …
_FREE = re.compile(
    r"(?:^|[\n,;:!?。、…\"'(\[/=>→]|(?<!\b[A-Za-z])\. ?|(?<![A-Za-z0-9])-|"
    r"\b(?:is|be|it's|that's|not|nor|or|and|either|neither|both|between|than|so|then|thus|hence|therefore|choose|chose|pick|picked|select|"
    r"selected|with|think|say|guess|believe|eliminate|exclude|out|only|just|but|except|while|because|"
    r"since|whereas|definitely|probably|likely|maybe|perhaps|actually|wait|unlike)"
    r"|[选择为是不非和或与及就故除掉了应跟得说猜])[ \"'(\[]*$",
    re.IGNORECASE,
)
# … and where its clause ends or one of these follows: "A is", but not "A dog", "A can of soda".
_ENDS = re.compile(r"^[\"')\]]*(?:$|[\n,;:!?。、…)\]]|\.(?!\w))")
_FOLLOWS = re.compile(
    r"^[\"')\]]*(?:/| ?[-=→>] | (?:is|isn't|are|aren't|was|because|since|as|and|or|nor|but|looks|seems|"
    r"appears|matches|fits|shows|describes|would|should|could|might|may|does|doesn't|has|instead|than|"
    r"rather than|can't|cannot|can (?:not|be)|it is|i (?:think|believe|guess))\b"
    r"| ?[是选项正对错不更最显符和或与及因的有应也都可比看为在吧])",
    re.IGNORECASE,
)
_FOLLOWS_NO_ARTICLE = re.compile(r"^ (?:\(|(?:not|must|can|will|here|too)\b)", re.IGNORECASE)

_OPTION_RIGHT = re.compile(r"^选?项")

_AFFIRMED_LEFT = re.compile(
    r"(?:\b(?:choose|chose|pick|picked|select|selected|(?:go|going|went) with|(?:answer|option|choice|it|"
    r"that|this|one)(?: is|'s)|(?:must|should|would|has to) be)|[选择]|(?:答案|应该?|就)(?:是|为))"
    r" ?(?:the )?(?:option|choice|letter|answer|选项|答案)? ?[\"'(\[]*$",
    re.IGNORECASE,
)
_AFFIRMED_RIGHT = re.compile(
    r"^[\"')\].:]* ?(?:(?:is|looks|seems)(?: clearly| definitely| indeed)? (?:the )?(?:most )?"
    r"(?:correct|right|best|accurate|appropriate)"
    r"(?: answer| option| choice| one| match| description)?(?=$|[\s.,;!)\]])|is the (?:answer|one)\b|"
    r"(?:matches|fits|because|since|as)\b|"
    r"(?:选项|项)?(?:是|为|最|才)*(?:正确|对的|符合|合适|恰当|答案))",
    re.IGNORECASE,
)
_DENIED_RIGHT = re.compile(
    r"^[\"')\].:]* ?(?:(?:are|is|was|were|can|could|would|must|should|does|do)(?:n't| not)\b|cannot\b|"
    r"can't\b|(?:are|is|was|were|seems?|looks?) (?:\w+ ){0,2}?(?:wrong|incorrect|false|out|impossible|"
    r"eliminated|excluded|ruled out)\b|(?:can|could|should|must) be (?:ruled out|eliminated|excluded|"
    r"dismissed)\b|(?:选项|项)?(?:明显|显然|就|也|都|均|是|可以?|应该?|被)*(?:不|错|没|无|排除|有误|并非))",
    re.IGNORECASE,
)
_OWN = re.compile(r"[ \n.:,)\]\"'(-]{0,4}(?:(?:an?|the) )?", re.IGNORECASE)


def find_letters(text: str, letters: Sequence[str], texts: Sequence[Mention]) -> list[Mention]:
    """The choices that a normal text names by letter, in its order, weighed and grouped.

    `texts`: where the text mentions an option in the option's own words, with its letter as value; a
    letter inside them is part of the words. A letter that is no option's is reported too where it is
    named as if it were one ("(F)"): its value is then not in `letters`.
    """
    text = _NOT_APPLICABLE.sub(lambda match: "_" * len(match.group()), text)
    known = {letter.upper(): letter for letter in letters}
    own = {mention.start: mention.value for mention in texts}
    spans, ends = sentences(text), iter(texts)
    sentence, words = 0, next(ends, None)
    found, labels, previous = [], set(), 0
    for match in _STANDALONE.finditer(text):
        start, end = match.span()
        while words and words.end <= start:
            words = next(ends, None)
        if words and words.start <= start:
            continue
        while sentence + 1 < len(spans) and spans[sentence + 1][0] <= start:
            sentence += 1
        letter = _letter(match.group(), known)
        alone = _alone(text, spans[sentence], match.group())
        with_text = any(
            own.get(end + gap) == letter and _OWN.fullmatch(text[end : end + gap])
            for gap in range(9)
        )
        left, right = before(text, start, previous), after(text, end)
        if not _is_choice(match.group(), left, right, alone, with_text, letter in letters):
            if _is_possible(match.group(), right) and letter in letters:
                found.append(Mention(letter, start, end, POSSIBLE))
            continue
        weight = AFFIRMED if alone or with_text else _weight(left, right)
        if concluded_before(left) and (weight == AFFIRMED or _ENDS.search(right)):
            weight = CONCLUDED
        denied = denied_before(left) or (not with_text and bool(_DENIED_RIGHT.search(right)))
        if _LABEL.search(right) and (_LINE.search(left) or not right.startswith(".")):
            labels.add(letter)
        found.append(Mention(letter, start, end, weight, denied))
        previous = end
    # "B. The ring is …" at the very beginning is a verdict, unless other choices are labelled too.
    if len(labels) == 1 and _begins(text, found[0]):
        found[0] = found[0]._replace(weight=max(found[0].weight, AFFIRMED))
    return grouped(text, found)


def _letter(said: str, known: Mapping[str, str]) -> str:
    """The option's letter that a character stands for, or the character where it is no option's."""
    if said in STEMS:
        place = STEMS.index(said)
        return list(known.values())[place] if place < len(known) else said
    said = LOOKALIKES.get(said, said).upper()
    return known.get(said, said)


def _alone(text: str, sentence: tuple[int, int], said: str) -> bool:
    first, last = sentence
    return last - first < 40 and bare(text[first:last]) == said


def _begins(text: str, mention: Mention) -> bool:
    """Whether the text begins with the mention as a label."""
    left = text[: mention.start].strip("([-> ")
    return not left and bool(_LABEL.search(after(text, mention.end)))


def _is_choice(said: str, left: str, right: str, alone: bool, with_text: bool, known: bool) -> bool:
    """Whether a character that stands by itself is meant as a choice."""
    ends = bool(_ENDS.search(right))
    if said.isdigit() and not known:
        return False
    if alone or (_OPEN.search(left) and _CLOSE.search(right)):
        return True
    if (with_text or _LINE.search(left)) and _LABEL.search(right):
        return True
    follows = ends or bool(_FOLLOWS.search(right))
    if _NAMED.search(left):
        return said.isupper() or follows
    if not known or not (said.isupper() or said.isdigit()) or not said.isascii():
        return False
    if said == "I":  # a pronoun, almost anywhere
        return bool((ends and _AFFIRMED_LEFT.search(left)) or _OPTION_RIGHT.search(right))
    if said != "A":
        follows = follows or bool(_FOLLOWS_NO_ARTICLE.search(right))
    return bool(_FREE.search(left)) and (follows or with_text)


def _is_possible(said: str, right: str) -> bool:
    """Whether a capital that is read as no choice may have been one ("Then C"); no article is."""
    article = said in "AI" and right[:1] == " " and right[1:2].isalpha()
    return said.isascii() and said.isupper() and not article


def _weight(left: str, right: str) -> int:
    return AFFIRMED if _AFFIRMED_LEFT.search(left) or _AFFIRMED_RIGHT.search(right) else SAID
