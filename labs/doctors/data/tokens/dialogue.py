"""The turns of a sample as the text that a model's chat template makes of them. Python 3.9 or newer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from labs.formats.dialects import IMAGE

Turns = Sequence["tuple[str, str]"]
_WORD = "\ue0abword\ue0ba"  # private-use characters: no template and no data holds them


class TemplateFails(Exception):
    """The chat template refuses the turns; the argument says why."""


class Dialogue:
    """The chat template of a processor or tokenizer.

    template: its source, None where there is none. image_token: what stands for a picture in the
    rendered text, None for a language model. parts: whether contents are lists of parts (where the
    template writes more than the bare token for a picture) or strings.
    """

    def __init__(self, processor: Any):
        self._processor = processor
        self.tokenizer = getattr(processor, "tokenizer", processor)
        template = getattr(processor, "chat_template", None) or getattr(
            self.tokenizer, "chat_template", None
        )
        self.template = str(template) if template else None
        self.image_token = None
        if hasattr(processor, "image_processor"):
            self.image_token = getattr(processor, "image_token", None) or IMAGE
        self.parts, self._breaks = (False, False) if not self.template else self._probe()
        bos = self.tokenizer.bos_token
        self._bos = bos if self.tokenizer is not processor else None

    def _probe(self) -> tuple[bool, bool]:
        """Whether the template wants parts, and whether it breaks the line after a picture."""
        if self.image_token in (None, IMAGE):
            content = _WORD if self.image_token is None else f"{IMAGE}\n{_WORD}"
            text = self._try(content)
            if content in text and "'type'" not in text:
                return False, False
        text = self._try([{"type": "image"}, {"type": "text", "text": _WORD}])
        if self.image_token and self.image_token in text and _WORD in text:
            between = text.split(self.image_token)[-1].split(_WORD)[0]
            return True, between.endswith("\n")
        return self.image_token is None and _WORD in text, False

    def _try(self, content: Any) -> str:
        try:
            return self._render([{"role": "user", "content": content}])
        except TemplateFails:
            return ""

    def messages(self, turns: Turns) -> list[dict[str, Any]]:
        return [{"role": role, "content": self._content(text)} for role, text in turns]

    def _content(self, text: str) -> Any:
        if not self.parts:
            return text
        content: list[dict[str, Any]] = []
        pieces = text.split(IMAGE)
        for i, piece in enumerate(pieces):
            if i:
                content.append({"type": "image"})
                # Data writes "<image>\n"; where the template breaks the line, once is enough.
                if self._breaks and piece.startswith("\n"):
                    piece = piece[1:]
            if piece or len(pieces) == 1:
                content.append({"type": "text", "text": piece})
        return content

    def render(self, turns: Turns, generation_prompt: bool = False) -> str:
        """The text of these turns. Raises TemplateFails where the template refuses them."""
        return self._render(self.messages(turns), generation_prompt)

    def _render(self, messages: list, generation_prompt: bool = False) -> str:
        try:
            return self._processor.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=generation_prompt
            )
        except Exception as error:  # a template is a program: it may raise anything
            raise TemplateFails(
                " ".join(str(error).split())[:200] or type(error).__name__
            ) from None

    def adds_special(self, text: str) -> bool:
        """Whether the processor lets its tokenizer add the beginning of text to this one.

        As Transformers does: a processor does unless the template wrote it already; a tokenizer's chat
        template writes everything itself.
        """
        return self.tokenizer is not self._processor and not (
            self._bos and text.startswith(self._bos)
        )

    def answer(self, turns: Turns, text: str, k: int) -> int:
        """Where in `text`, the render of `turns`, the answer that is turn `k` begins.

        What the generation prompt writes before an answer is given to the model; all after is said by it.
        """
        before = self._or_nothing(turns[:k])
        prompt = self._or_nothing(turns[:k], True)
        if len(prompt) > len(before) and text.startswith(prompt):
            return len(prompt)
        marked = self._or_nothing([*turns[:k], ("assistant", _WORD)]).split(_WORD)[0]
        # The same text up to there, unless the template rewrites what came before.
        return next((i for i in range(len(marked)) if marked[i] != text[i : i + 1]), len(marked))

    def _or_nothing(self, turns: Turns, generation_prompt: bool = False) -> str:
        """A part of a conversation, which some templates refuse where they take the whole."""
        try:
            return self.render(turns, generation_prompt) if turns else ""
        except TemplateFails:
            return ""

    def literals(self) -> str:
        """All that the template writes of its own accord, around texts, for later search."""
        talk = [("user", _WORD), ("assistant", _WORD), ("user", _WORD), ("assistant", _WORD)]
        found = []
        for turns in ([("system", _WORD), *talk], talk):
            for prompt in (False, True):
                try:
                    found.append(self.render(turns, prompt).replace(_WORD, "\0"))
                except TemplateFails:  # many know no system turn
                    continue
        return "\0".join(found)
