"""Special tokens inside a text: what a tokenizer reads as the real thing, in the middle of a sentence.

Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from labs.formats.dialects import IMAGE

# What tokenizers of vision-language models and their language models parse out of plain text, from
# tokenizer_config.json (`added_tokens_decoder`) of the models named; and the marks of Llama 2's and
# Mistral's templates, which are no tokens of theirs, but open and close a turn all the same.
KNOWN = {
    "ChatML (Qwen, Yi, InternLM)": ("<|im_start|>", "<|im_end|>", "<|endoftext|>"),
    "Qwen2-VL": ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
    "Llama 2, Vicuna": ("<s>", "</s>", "<unk>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"),
    "Llama 3": ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
                "<|eot_id|>", "<|eom_id|>", "<|python_tag|>", "<|image|>"),
    "Gemma": ("<bos>", "<eos>", "<pad>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>",
              "<end_of_image>", "<image_soft_token>"),
    "Phi-3": ("<|user|>", "<|assistant|>", "<|system|>", "<|end|>"),
    "DeepSeek": ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<｜▁pad▁｜>"),
    "Mistral": ("[AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[TOOL_RESULTS]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
    "Idefics, SmolVLM": ("<end_of_utterance>", "<fake_token_around_image>"),
    "InternVL": ("<IMG_CONTEXT>",),
    "GLM": ("[gMASK]", "<sop>"),
}  # fmt: skip
# Whatever is written so is a token of some model (GLM, gpt-oss, Llama 4, Phi-4 …). Not those of
# grounding, which are written into training texts on purpose: Qwen-VL's boxes and names of objects.
_FAMILY = r"<\|(?!(?:object_ref|box|quad)_(?:start|end)\|>)[A-Za-z][A-Za-z0-9_\-]{1,40}\|>"


class Tokens:
    """The special tokens to look for: a tokenizer's own, or those known here.

    `<image>` is left out: it is the placeholder, and counted as that. others: beside a tokenizer's
    own, those of other families, which it reads as letters; None where none are a tokenizer's own.
    """

    def __init__(self, own: Iterable[str] | None = None, besides: Iterable[str] = ()) -> None:
        self.own = own is not None
        tokens = {token for group in KNOWN.values() for token in group} - set(besides)
        if own is not None:
            tokens = set(own)
        self.others = Tokens(besides=tokens) if own is not None else None
        # A tokenizer may have declared a word or a blank as special: found everywhere, it says nothing.
        listed = {
            t for t in tokens if t != IMAGE and not t.strip().isalnum() and len(t.strip()) > 2
        }
        parts = [re.escape(token) for token in sorted(listed, key=lambda t: (-len(t), t))]
        self._search = re.compile(
            "|".join(parts + ([] if self.own else [_FAMILY])) or r"(?!)"
        ).search
        # The characters that one of them starts with: where none is in a text, neither is a token.
        self.starts = "".join(sorted({token[0] for token in listed} | set("" if self.own else "<")))

    def find(self, text: str) -> str | None:
        """The first special token in `text`; None where there is none."""
        match = self._search(text)
        return match.group() if match else None

    def break_up(self, text: str) -> str:
        """`text` with a space after the first character of each special token: `< |im_end|>`.

        A space is visible, and no normaliser takes it out, as some do with characters of no width.
        """
        position = 0
        while True:
            match = self._search(text, position)
            if match is None:
                return text
            position = match.start() + 1
            text = f"{text[:position]} {text[position:]}"
