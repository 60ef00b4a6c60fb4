"""A conversation as the text that a model reads, and where in it the assistant speaks.

A chat template is a program: nothing in it says which characters are the assistant's. They are
found by rendering. The text before turn i is the render of the turns before it, so for a template
that only ever appends, the difference of two renders is turn i. What the template puts around an
answer (header, end of turn) is learnt once from a conversation of unmistakable stand-in texts.
"""

import dataclasses
import re
import weakref
from collections.abc import Sequence
from typing import ClassVar

import jinja2

from labs.errors import InputError
from labs.formats import IMAGE, Conversation, Turn

_STAND_IN = "\ue0ab{}\ue0ba"  # private-use characters: no template and no data holds them


@dataclasses.dataclass(frozen=True)
class Rendered:
    """Text with one image token an image, and the [start, end) spans that the assistant says."""

    text: str
    spans: list[tuple[int, int]]


@dataclasses.dataclass(frozen=True)
class _Answer:
    """What a template writes around one answer, and how much of that the model says itself."""

    turn: int
    header: str
    footer: str
    lead: int  # characters at the end of the header: what the generation prompt leaves out
    tail: int  # characters at the start of the footer: up to the end-of-turn token


@dataclasses.dataclass(frozen=True)
class _Skeleton:
    """What a template writes around the texts of a conversation of given roles and parts."""

    literals: list[str]  # literals[0] text[0] literals[1] text[1] … literals[-1]
    answers: dict[int, _Answer]  # by the answer's index among the texts


class ChatFormat:
    """The chat template of one processor or tokenizer. `ChatFormat.of(processor)` is cached."""

    _cache: ClassVar[weakref.WeakKeyDictionary] = weakref.WeakKeyDictionary()

    @classmethod
    def of(cls, processor) -> "ChatFormat":
        known = cls._cache.get(processor)
        if known is None or known.template != _template(processor):
            known = cls._cache[processor] = cls(processor)
        return known

    def __init__(self, processor):
        # A weak reference: the cache must not keep its own key alive.
        self._processor = weakref.ref(processor)
        self.template = _template(processor)
        tokenizer = getattr(processor, "tokenizer", processor)
        self.image_token = getattr(processor, "image_token", None)
        if self.image_token is None and hasattr(processor, "image_processor"):
            self.image_token = IMAGE
        added = getattr(tokenizer, "added_tokens_decoder", {}).values()
        special = {str(t) for t in added if t.special} | set(tokenizer.all_special_tokens)
        special -= {self.image_token}
        longest_first = sorted(special, key=len, reverse=True)
        self._end_of_turn = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._skeletons: dict[tuple, _Skeleton] = {}
        if not self.template:
            raise InputError(
                f"{_name(processor)} has no chat template.",
                "Set processor.chat_template, or use the model's instruction-tuned version.",
            )
        self.parts, self._newline = self._probe()

    def _probe(self) -> tuple[bool, bool]:
        """Whether the template wants a list of parts, and whether it breaks the line after an image.

        The plain string is preferred: it keeps the image token where the data puts it. Templates
        that write more than the bare token (Qwen2-VL's <|vision_start|>) need parts.
        """
        if self.image_token is None:
            return False, False
        word = _STAND_IN.format(0)
        if self.image_token == IMAGE:
            with_string = self._try([{"role": "user", "content": f"{IMAGE}\n{word}"}])
            if f"{IMAGE}\n{word}" in with_string and "'type'" not in with_string:
                return False, False
        content = [{"type": "image"}, {"type": "text", "text": word}]
        with_parts = self._try([{"role": "user", "content": content}])
        if with_parts.count(self.image_token) != 1 or with_parts.count(word) != 1:
            raise InputError(
                f"The chat template of {_name(self._processor())} does not write {self.image_token} "
                "for an image, neither from a string nor from a list of parts.",
                "Give it a template that does, for example the one its model card shows.",
            )
        between = with_parts.split(self.image_token)[1].split(word)[0]
        return True, between.endswith("\n")

    def _try(self, messages: list[dict]) -> str:
        try:
            return self._processor().apply_chat_template(messages, tokenize=False)
        except (jinja2.TemplateError, TypeError, KeyError, AttributeError, ValueError):
            return ""

    def messages(self, turns: Sequence[Turn]) -> list[dict]:
        """The turns as the list of dicts that this template wants."""
        return [{"role": turn.role, "content": self._content(turn.text)} for turn in turns]

    def _content(self, text: str) -> str | list[dict]:
        if not self.parts:
            return text
        content: list[dict] = []
        pieces = text.split(IMAGE)
        for i, piece in enumerate(pieces):
            if i:
                content.append({"type": "image"})
                # LLaVA's data writes "<image>\n"; where the template breaks the line, once is enough.
                piece = piece.removeprefix("\n") if self._newline else piece
            if piece or len(pieces) == 1:
                content.append({"type": "text", "text": piece})
        return content

    def render(self, turns: Sequence[Turn], generation_prompt: bool = False) -> str:
        """The text of the turns; with the generation prompt, what the model is asked to go on from."""
        return self._render(self.messages(turns), generation_prompt)

    def _render(self, messages: list[dict], generation_prompt: bool = False) -> str:
        try:
            return self._processor().apply_chat_template(
                messages, tokenize=False, add_generation_prompt=generation_prompt
            )
        except (jinja2.TemplateError, TypeError, KeyError) as error:
            roles = ", ".join(message["role"] for message in messages)
            raise InputError(
                f"The chat template of {_name(self._processor())} refuses the turns ({roles}): {error}.",
                "Many templates know no system turn: put its text into the first user turn.",
            ) from None

    def locate(self, conversation: Conversation) -> Rendered:
        """Render the whole conversation and find every answer with its end-of-turn token.

        Raises InputError, naming the turn, for a template that rewrites what came before (then no
        mask is right: the tokens that a turn is trained on are not those it is asked with).
        """
        messages = self.messages(conversation.turns)
        text = self._render(messages)
        skeleton = self._skeleton(messages)
        # Usual case, one render: the stand-ins' skeleton with the real texts in it is the real text.
        spans, pieces, position = [], [], 0
        for slot, piece in enumerate(_texts(messages)):
            position += len(skeleton.literals[slot])
            if answer := skeleton.answers.get(slot):
                spans.append((position - answer.lead, position + len(piece) + answer.tail))
            position += len(piece)
            pieces += (skeleton.literals[slot], piece)
        pieces.append(skeleton.literals[-1])
        if "".join(pieces) == text:
            return Rendered(text, spans)
        return Rendered(text, self._by_prefixes(messages, text, skeleton, conversation.id))

    def _by_prefixes(self, messages, text, skeleton, name) -> list[tuple[int, int]]:
        """The slow way, for templates that strip or change the texts: render every prefix."""
        spans = []
        for answer in skeleton.answers.values():
            turn, header, footer = answer.turn, answer.header, answer.footer
            before, after = self._render(messages[:turn]), self._render(messages[: turn + 1])
            if not (text.startswith(after) and after.startswith(before)):
                raise self._rewrites(turn, f" in sample {name}")
            said = after[len(before) :]
            around = len(header) + len(footer)
            if len(said) < around or not (said.startswith(header) and said.endswith(footer)):
                raise InputError(
                    f"The chat template writes something else than {header!r} and {footer!r} around "
                    f"the answer of turn {turn + 1} of sample {name}.",
                    "Use a template that treats every answer alike.",
                )
            start = len(before) + len(header) - answer.lead
            spans.append((start, len(after) - len(footer) + answer.tail))
        return spans

    def _skeleton(self, messages: list[dict]) -> _Skeleton:
        """What the template writes around stand-in texts for the same roles and parts."""
        key = tuple(
            (
                m["role"],
                "" if isinstance(m["content"], str) else tuple(p["type"] for p in m["content"]),
            )
            for m in messages
        )
        if key not in self._skeletons:
            if len(self._skeletons) > 1000:
                self._skeletons.clear()
            self._skeletons[key] = self._learn(messages)
        return self._skeletons[key]

    def _learn(self, messages: list[dict]) -> _Skeleton:
        stand_ins, slots = [], {}
        number = 0
        for turn, message in enumerate(messages):
            content = message["content"]
            if message["role"] == "assistant":
                slots[turn] = number
            if isinstance(content, str):
                new, number = _STAND_IN.format(number), number + 1
            else:
                new = []
                for part in content:
                    if part["type"] == "text":
                        part = {"type": "text", "text": _STAND_IN.format(number)}
                        number += 1
                    new.append(part)
            stand_ins.append({"role": message["role"], "content": new})
        text = self._render(stand_ins)
        literals, rest = [], text
        for slot in range(number):
            word = _STAND_IN.format(slot)
            if rest.count(word) != 1:
                raise self._rewrites(_turn_of(stand_ins, word), "")
            literal, rest = rest.split(word)
            literals.append(literal)
        literals.append(rest)

        answers = {}
        for turn, slot in slots.items():
            before, after = self._render(stand_ins[:turn]), self._render(stand_ins[: turn + 1])
            if not (text.startswith(after) and after.startswith(before)):
                raise self._rewrites(turn, "")
            header, footer = after[len(before) :].split(_STAND_IN.format(slot))
            # The model says whatever the generation prompt leaves to it: after Vicuna's
            # "ASSISTANT:" the space too. A template without that prompt leaves only the answer.
            prompt = self._render(stand_ins[:turn], True)
            given = len(prompt) - len(before)
            lead = len(header) - given if given and (before + header).startswith(prompt) else 0
            # The end-of-turn token stops generation; the line break that ChatML puts after it is
            # written by the next turn, not by the model. No such token: all that ends the turn.
            found = self._end_of_turn.search(footer)
            tail = found.end() if found else len(footer)
            answers[slot] = _Answer(turn, header, footer, lead, tail)
        return _Skeleton(literals, answers)

    def _rewrites(self, turn: int, where: str) -> InputError:
        return InputError(
            f"The chat template of {_name(self._processor())} rewrites history: the text up to turn "
            f"{turn + 1}{where} changes when later turns are added.",
            "Train on single turns, or use a template that only appends (chapter 3 shows one).",
        )


def _template(processor) -> str | None:
    template = getattr(processor, "chat_template", None)
    if not template and hasattr(processor, "tokenizer"):
        template = getattr(processor.tokenizer, "chat_template", None)
    return template if not isinstance(template, dict) else str(template)


def _texts(messages: list[dict]):
    for message in messages:
        if isinstance(message["content"], str):
            yield message["content"]
        else:
            yield from (part["text"] for part in message["content"] if part["type"] == "text")


def _turn_of(messages: list[dict], word: str) -> int:
    return next(i for i, m in enumerate(messages) if word in str(list(_texts([m]))))


def _name(processor) -> str:
    tokenizer = getattr(processor, "tokenizer", processor)
    return getattr(tokenizer, "name_or_path", "") or type(processor).__name__
