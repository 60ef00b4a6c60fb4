"""How many tokens a text is, and where in them a character stands. Python 3.9 or newer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


class Lengths:
    """Counts with a Transformers tokenizer: a fast one directly, in Rust; a slow one as it is."""

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self._backend = (
            tokenizer.backend_tokenizer if getattr(tokenizer, "is_fast", False) else None
        )

    def many(self, texts: Sequence[str], add_special: bool) -> list[int]:
        """The number of tokens of each text."""
        if not texts:
            return []
        if self._backend is None:
            found = self._tokenizer(list(texts), add_special_tokens=add_special)["input_ids"]
            return [len(ids) for ids in found]
        # Whoever used the tokenizer before may have left these on.
        self._backend.no_truncation()
        self._backend.no_padding()
        # The quick one leaves out where each token stands, which costs a quarter of the time.
        encode = getattr(self._backend, "encode_batch_fast", self._backend.encode_batch)
        return [len(found) for found in encode(list(texts), add_special_tokens=add_special)]

    def finder(self, text: str, add_special: bool) -> Callable[[int], int]:
        """A function: position of a character -> index of the first token that ends after it.

        Exact for fast tokenizers. A slow one cannot say where its tokens stand: then the beginning of
        the text is tokenised by itself, which may be wrong by the token that crosses the border.
        """
        if self._backend is None:
            return lambda at: self.many([text[:at]], add_special)[0]
        self._backend.no_truncation()
        self._backend.no_padding()
        offsets = self._backend.encode(text, add_special_tokens=add_special).offsets
        ends = [end for _, end in offsets]

        def find(at: int) -> int:
            return next((i for i, end in enumerate(ends) if end > at), len(ends))

        return find
