"""What is wrong with the turns of one sample. Standard library only, Python 3.9 or newer."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field

from labs.doctors.data.sample import Problem, Sample
from labs.doctors.data.text.answers import asks_for_description
from labs.doctors.data.text.characters import BLANK, control, surrogate
from labs.doctors.data.text.special_tokens import Tokens
from labs.formats.dialects import IMAGE
from labs.formats.row import printable
from labs.formats.text_signs import junk, refusal

_ROLES = frozenset(("system", "user", "assistant"))


@dataclass(frozen=True)
class Rules:
    """What may be asked of a format.

    turns: whether roles must alternate and every question have an answer. answer: whether the last
    answer must be there. placeholders: "all" where each image has its <image>, "some" where they may be
    left out as a whole (preference pairs, whose trainers put them in), "none" where there are none.
    captions: whether every answer is a caption. copies: whether samples are compared.
    """

    turns: bool = False
    answer: bool = True
    placeholders: str = "none"
    captions: bool = False
    copies: bool = True
    tokens: Tokens = field(default_factory=Tokens)


_RULES = {
    "llava": {"turns": True, "placeholders": "all"},
    "preference": {"turns": True, "placeholders": "some"},
    "pairs": {"captions": True},
    "coco": {"captions": True},
    "webdataset": {"turns": True, "placeholders": "some", "captions": True},
    "pope": {},
    "mme": {},
    "mmbench": {"answer": False},  # its test split keeps the answers back
    "qilin": {"answer": False, "copies": False},  # one query is asked by many
}


def rules_for(format: str, special_tokens: list[str] | None = None) -> Rules:
    """The rules of a format. special_tokens: those of the tokenizer, if there is one."""
    return Rules(**_RULES[format], tokens=Tokens(special_tokens))


def look(sample: Sample, rules: Rules) -> list[Problem]:
    """What reading found wrong with a sample, and what its turns show."""
    problems = list(sample.problems)
    turns = sample.turns
    if not turns:
        if not problems:
            problems.append(Problem("no_turns", "the list of turns is empty"))
        return problems
    conversation = rules.turns and not (rules.captions and len(turns) == 1)
    faults = _roles(tuple([role for role, _ in turns]), conversation, rules.answer)
    problems += faults
    texts = [text for _, text in turns]
    joined = "\n".join(texts)
    shown = joined.count(IMAGE)
    if shown or sample.images:
        # Where roles are out of order, nobody knows which turn was meant as an answer.
        disordered = any(fault.kind in ("role_order", "unknown_role") for fault in faults)
        problems += _placeholders(sample, rules, shown, disordered)
    for text in texts:
        if not text.strip(BLANK):
            problems += _empty(sample, rules)
            break
    if sample.alternatives:
        problems += _alternatives(sample, rules)
        joined = "\n".join((joined, *sample.alternatives))
    # Of all turns at once first: nearly all samples are clean.
    if surrogate(joined):
        problems += _in_turns(sample, "bad_encoding", surrogate)
    elif control(joined) and not any(p.kind == "bad_encoding" for p in problems):
        problems += _in_turns(sample, "control_characters", control)
    if _may_hold(joined, rules.tokens.starts, shown) and rules.tokens.find(joined):
        problems += _in_turns(sample, "special_token_in_text", rules.tokens.find)
    elif rules.tokens.others is not None:
        others = rules.tokens.others
        if _may_hold(joined, others.starts, shown) and others.find(joined):
            problems += _in_turns(sample, "foreign_special_token", others.find)
    return problems + _words(sample, rules)


def _may_hold(text: str, starts: str, shown: int) -> bool:
    """Whether any of the characters that begin a special token is in the text, placeholders aside."""
    for start in starts:
        if start == "<":
            if text.count("<") > shown:
                return True
        elif start in text:
            return True
    return False


@functools.lru_cache(maxsize=4096)
def _roles(roles: tuple[str, ...], turns: bool, answer: bool) -> tuple[Problem, ...]:
    """Problems of the order of roles; of each order that occurs it is found out once."""
    unknown = [role for role in roles if role not in _ROLES]
    if unknown:
        number = roles.index(unknown[0]) + 1
        return (Problem("unknown_role", f"turn {number}: {unknown[0]}"),)
    if turns:
        expected: tuple[str, ...] = ("system", "user")
        for number, role in enumerate(roles, 1):
            if role not in expected:
                wanted = " or ".join(expected)
                detail = f"turn {number} is {role} where {wanted} is expected"
                return (Problem("role_order", detail),)
            expected = ("user",) if role != "user" else ("assistant",)
    if answer and roles[-1] != "assistant":
        if "assistant" not in roles:
            return (Problem("no_answer", "there is no assistant turn"),)
        return (Problem("no_answer", f"turn {len(roles)}, the last, is a question"),)
    return ()


_MISSPELT = re.compile(r"<\s*/?\s*(?:image|img|picture|photo)s?[\s_-]*\d*\s*/?\s*>|\[image\]", re.I)


def _placeholders(sample: Sample, rules: Rules, shown: int, disordered: bool) -> list[Problem]:
    images = len(sample.images)
    said = 0
    problems = []
    if not disordered:
        for number, (role, text) in enumerate(sample.turns, 1):
            if role == "assistant" and IMAGE in text:
                if not said:
                    problems.append(Problem("placeholder_in_answer", f"turn {number}"))
                said += text.count(IMAGE)
    asked = shown - said
    count = f"{images} image{'' if images == 1 else 's'}, {shown} {IMAGE}"
    if rules.placeholders == "none" or (rules.placeholders == "some" and not shown):
        return problems
    if asked > images:
        problems.append(Problem("surplus_placeholder", count))
    elif shown < images:
        match = _MISSPELT.search("\n".join(text for _, text in sample.turns).replace(IMAGE, ""))
        hint = f"; {match.group()} is read as text" if match else ""
        problems.append(Problem("missing_placeholder", count + hint))
    return problems


def _empty(sample: Sample, rules: Rules) -> list[Problem]:
    """The first empty answer and the first empty question, each told of once a sample."""
    found: dict[str, Problem] = {}
    kinds = {"assistant": "empty_answer", "user": "empty_question"}
    if not rules.answer and not rules.turns:
        kinds.pop("user")  # a note without words has its pictures
    for number, (role, text) in enumerate(sample.turns, 1):
        kind = kinds.get(role)
        if kind and kind not in found and not text.strip(BLANK):
            found[kind] = Problem(kind, f"turn {number}" + (" (not a sign)" if not text else ""))
    return list(found.values())


def _alternatives(sample: Sample, rules: Rules) -> list[Problem]:
    problems = []
    if any(not text.strip(BLANK) for text in sample.alternatives):
        problems.append(Problem("empty_answer", "the other answer"))
    if not rules.captions:
        last = sample.turns[-1][1].strip()
        if last and any(text.strip() == last for text in sample.alternatives):
            problems.append(Problem("tied_preference", printable(last)))
    return problems


def _in_turns(sample: Sample, kind: str, find) -> list[Problem]:
    for number, (role, text) in enumerate(sample.turns, 1):
        found = find(text)
        if found:
            return [Problem(kind, f"turn {number} ({role}): {printable(found)}")]
    for text in sample.alternatives:
        found = find(text)
        if found:
            return [Problem(kind, f"the other answer: {printable(found)}")]
    return []  # it came about where two turns were joined


def _words(sample: Sample, rules: Rules) -> list[Problem]:
    """Refusals, and captions that say nothing."""
    answers = [text for role, text in sample.turns if role == "assistant"]
    problems = []
    if refusal("\n".join(answers)):
        found = next((words for words in map(refusal, answers) if words), None)
        if found:
            problems.append(Problem("refusal", printable(found)))
    caption = caption_of(sample, rules)
    if caption:
        sign = junk(caption)
        # Broken letters have a kind of their own.
        if sign and sign[0] != "mojibake":
            problems.append(
                Problem("junk_caption", f"{sign[0].replace('_', ' ')}: {printable(sign[1])}")
            )
    return problems


def caption_of(sample: Sample, rules: Rules) -> str | None:
    """The text that is to describe the picture: the caption, or the one answer to "describe it"."""
    turns = sample.turns
    if len(turns) == 1:
        return turns[0][1] if rules.captions and turns[0][0] == "assistant" else None
    if len(turns) == 2 and turns[1][0] == "assistant" and sample.images:
        if asks_for_description(turns[0][1]):
            return turns[1][1]
    return None
