"""The oracle: reads free text and says, against the scene, what is right, missing, hallucinated."""

import re
from dataclasses import dataclass

from labs.shapes.scene import Object, Scene
from labs.shapes.vocabulary import CELLS, COLOURS, KINDS, SIZES, SYNONYMS

ATTRIBUTES = {"kind": KINDS, "colour": COLOURS, "size": SIZES, "position": CELLS}
NUMBERS = {
    "zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5,
    "零": 0, "一": 1, "两": 2, "二": 2, "三": 3, "四": 4, "五": 5, "none": 0,
}  # fmt: skip
YES = ("yes", "yeah", "yep", "是", "有", "对", "相同")
NO = ("no", "not", "nope", "否", "没有", "不", "没", "无")


def _pattern() -> re.Pattern:
    """One alternation over every synonym, longest first so that 三角形 is not read as 三."""
    words = {s: (name, w) for name, ws in ATTRIBUTES.items() for w in ws for s in SYNONYMS[w]}
    parts = []
    for synonym in sorted(words, key=len, reverse=True):
        latin = synonym.isascii()
        plural = "(?:e?s)?" if latin and words[synonym][0] == "kind" else ""
        parts.append(rf"\b{re.escape(synonym)}{plural}\b" if latin else re.escape(synonym))
    return re.compile("|".join(parts), re.IGNORECASE)


_WORDS = _pattern()
_MEANING = {s: (name, w) for name, ws in ATTRIBUTES.items() for w in ws for s in SYNONYMS[w]}
_NEGATION = re.compile(r"\b(?:no|not|without|isn't|aren't)\b|没有|没|无|不", re.IGNORECASE)
_CLAUSE = re.compile(r"[.,;!?\n，。；！？、]|\band\b|\bbut\b|和|以及", re.IGNORECASE)


@dataclass(frozen=True)
class Mention:
    """An object as the text describes it; None where the text does not say."""

    kind: str
    colour: str | None = None
    size: str | None = None
    position: str | None = None

    def agreement(self, obj: Object) -> int | None:
        """How many stated attributes the object has; None where it contradicts one."""
        stated = [(n, getattr(self, n)) for n in ATTRIBUTES if getattr(self, n) is not None]
        if any(getattr(obj, name) != value for name, value in stated):
            return None
        return len(stated)


@dataclass(frozen=True)
class Judgement:
    """What a text gets right and wrong about a scene.

    right: objects described without contradiction. mistaken: (mention, object) of the right kind
    with a wrong colour, size or place. missing: objects nobody mentioned. hallucinated: mentions of
    a kind that is not there, or of more of them than there are.
    """

    right: tuple[Object, ...]
    mistaken: tuple[tuple[Mention, Object], ...]
    missing: tuple[Object, ...]
    hallucinated: tuple[Mention, ...]

    @property
    def perfect(self) -> bool:
        return not (self.mistaken or self.missing or self.hallucinated)


def _canonical(text: str) -> tuple[str, str]:
    """(attribute, word) of a matched synonym, plural or not."""
    text = text.lower()
    for candidate in (text, text[:-1], text[:-2]):
        if candidate in _MEANING:
            return _MEANING[candidate]
    raise KeyError(text)


def mentions(text: str) -> list[Mention]:
    """The objects a text says are there. A clause that denies ("no ring") mentions none."""
    found = []
    for clause in _CLAUSE.split(text):
        if _NEGATION.search(clause):
            continue
        words: dict[str, str] = {}
        group: list[dict[str, str]] = []
        for match in _WORDS.finditer(clause):
            name, word = _canonical(match.group())
            if name in words:  # a second object in the same clause
                group.append(words)
                words = {}
            words[name] = word
        group.append(words)
        found += [Mention(**g) for g in group if "kind" in g]
    return found


def judge(scene: Scene, text: str) -> Judgement:
    """Matches the text's mentions to the scene's objects: the best agreement first, each once."""
    said, left = mentions(text), list(scene.objects)
    right, mistaken, hallucinated = [], [], []
    pairs = sorted(
        ((m.agreement(o), i, j) for i, m in enumerate(said) for j, o in enumerate(left)
         if m.agreement(o) is not None),
        key=lambda p: (-p[0], p[1], p[2]),
    )  # fmt: skip
    used_mentions, used_objects = set(), set()
    for _, i, j in pairs:
        if i not in used_mentions and j not in used_objects:
            used_mentions.add(i)
            used_objects.add(j)
            right.append(left[j])
    for i, m in enumerate(said):
        if i in used_mentions:
            continue
        same = [j for j, o in enumerate(left) if j not in used_objects and o.kind == m.kind]
        if same:
            used_objects.add(same[0])
            mistaken.append((m, left[same[0]]))
        else:
            hallucinated.append(m)
    missing = tuple(o for j, o in enumerate(left) if j not in used_objects)
    return Judgement(tuple(right), tuple(mistaken), missing, tuple(hallucinated))


def parse_yes_no(text: str) -> str | None:
    """ "yes", "no", or None where the text says neither (or both)."""
    lowered = text.lower()
    latin = re.findall(r"[a-z']+", lowered)
    no = any(w in latin for w in NO) or any(w in lowered for w in NO if not w.isascii())
    lowered = re.sub("没有|不是|不相同", "", lowered)
    yes = any(w in latin for w in YES) or any(w in lowered for w in YES if not w.isascii())
    if yes == no:
        return None
    return "yes" if yes else "no"


def parse_number(text: str) -> int | None:
    """The first number in digits or words, or None."""
    match = re.search(
        r"\d+|\b(?:zero|one|two|three|four|five|none)\b|[零一两二三四五]", text.lower()
    )
    if not match:
        return None
    return int(match.group()) if match.group().isdigit() else NUMBERS[match.group()]


def parse_word(text: str, attribute: str) -> str | None:
    """The one colour, kind, size or position named in the text; None for none or several."""
    named = {w for n, w in (_canonical(m.group()) for m in _WORDS.finditer(text)) if n == attribute}
    return named.pop() if len(named) == 1 else None


def parse_box(text: str) -> tuple[float, float, float, float] | None:
    """[left, top, right, bottom] in percent, as shares of the side; None where there is no box."""
    match = re.search(r"\[\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*\]", text)
    return tuple(int(v) / 100 for v in match.groups()) if match else None


def is_correct(task: str, scene: Scene, answer: str, text: str) -> bool | None:
    """Whether the text gives the exact answer; None where it cannot be read as an answer at all.

    Captions are correct when every object is described without a mistake and none is added; boxes
    when they overlap the true one by half (IoU >= 0.5).
    """
    if task == "caption":
        return judge(scene, text).perfect
    if task == "ocr":
        digits = "".join(re.findall(r"\d", text))
        return digits == answer if digits else None
    if task == "grounding":
        box = parse_box(text)
        return None if box is None else iou(box, parse_box(answer)) >= 0.5
    for parse in (
        parse_yes_no,
        parse_number,
        lambda t: parse_word(t, "colour"),
        lambda t: parse_word(t, "position"),
        lambda t: parse_word(t, "kind"),
    ):
        wanted = parse(answer)
        if wanted is not None:
            given = parse(text)
            return None if given is None else given == wanted
    raise ValueError(f"the answer {answer!r} is not one the world gives")


def iou(a, b) -> float:
    """Intersection over union of two (left, top, right, bottom) boxes."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    shared = width * height
    total = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / total if total > 0 else 0.0
