"""Special tokens must survive: text -> one id -> the same text. Python 3.9 or newer."""

from __future__ import annotations

import re
from typing import Any

from labs.doctors.data.sample import Problem
from labs.doctors.data.tokens.dialogue import Dialogue

MOST = 50  # problems that are listed one by one
# What a chat template writes and means as one token. Not every <word>: some write plain tags.
_MEANT = re.compile(
    r"<\|[^<>|\s]+\|>|<｜[^<>｜\s]+｜>|</?s>|<(?:start|end)_of_\w+>|<(?:bos|eos|image|video)>"
)


def special_tokens(dialogue: Dialogue) -> list[str]:
    """All tokens that must stay whole: the tokenizer's special ones, those that stand for pictures,
    and those that the chat template writes."""
    tokenizer = dialogue.tokenizer
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    found = [str(token) for token in added if token.special]
    found += tokenizer.all_special_tokens
    if dialogue.image_token:
        found.append(dialogue.image_token)
    if dialogue.template:
        found += _MEANT.findall(dialogue.literals())
    return [token for token in dict.fromkeys(found) if token]


def split_tokens(tokenizer: Any, tokens: list[str]) -> list[Problem]:
    """One problem for each special token that does not come back whole.

    Each is encoded alone, and between letters, as it stands after an answer's last word.
    """
    if not tokens:
        return []
    alone = _encode(tokenizer, tokens)
    inside = _encode(tokenizer, [f"a{token}a" for token in tokens])
    problems = []
    for token, ids, around in zip(tokens, alone, inside):  # noqa: B905 - Python 3.9
        if fault := _fault(tokenizer, token, ids, around):
            problems.append(Problem("special_token_split", f"{token} {fault}"))
    if len(problems) > MOST:
        more = f"and {len(problems) - MOST:,} others"
        problems = [*problems[:MOST], Problem("special_token_split", more)]
    return problems


def _encode(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    return tokenizer(texts, add_special_tokens=False)["input_ids"]


def _fault(tokenizer: Any, token: str, ids: list[int], around: list[int]) -> str | None:
    if len(ids) != 1:
        pieces = tokenizer.convert_ids_to_tokens(ids)[:8]
        return f"is read as {len(ids)} tokens ({' '.join(map(str, pieces))})"
    if ids[0] == tokenizer.unk_token_id and token != tokenizer.unk_token:
        return "is unknown to the tokenizer"
    back = tokenizer.decode(ids, skip_special_tokens=False)
    if back.strip() != token.strip():
        return f"comes back as {back!r}"
    if around.count(ids[0]) != 1:
        return "is taken apart right after a word"
    return None
