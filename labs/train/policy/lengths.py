"""Whether a prompt leaves room for its answer. Chapter 5."""

from collections.abc import Sequence

from labs.errors import InputError
from labs.models.generation import encode_prompts, render_prompt
from labs.train.policy.config import PolicyConfig
from labs.train.policy.prompts import Prompt


class PromptLengths:
    """`fits(prompt)`: at most `limit` tokens, pictures included.

    The limit is `max_prompt_length`, or what the model's positions leave beside `max_new_tokens`. A
    prompt's text is counted always; its pictures are made into tokens only where the text and the
    most image tokens seen so far come near the limit, since that costs as much as encoding it.
    `keep` leaves the others out and counts them: `overlong` of the prompts `seen`.
    """

    def __init__(self, model, processor, policy: PolicyConfig):
        positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        room = positions - policy.max_new_tokens if positions else None
        self.limit = min(
            (n for n in (policy.max_prompt_length, room) if n is not None), default=None
        )
        self.processor = processor
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self.seen = self.overlong = 0
        self.most: int | None = None  # image tokens a picture, the most so far

    def fits(self, prompt: Prompt) -> bool:
        if self.limit is None:
            return True
        text = render_prompt(self.processor, prompt.messages)
        length = len(self.tokenizer(text)["input_ids"])
        if prompt.images:
            if self.most is not None and length + 2 * self.most * len(prompt.images) < self.limit:
                return True
            whole = encode_prompts(self.processor, [text], [prompt.images])["input_ids"].shape[1]
            self.most = max(self.most or 0, -(-(whole - length) // len(prompt.images)) + 1)
            length = whole
        return length <= self.limit

    def keep(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        """Those that fit. Raises InputError where none does, and for more than 1 % of at least 100."""
        fit = [p for p in prompts if self.fits(p)]
        self.seen += len(prompts)
        self.overlong += len(prompts) - len(fit)
        many = self.overlong > 0.01 * self.seen and self.seen >= 100
        if many or not fit:
            raise InputError(
                f"{self.overlong} of {self.seen} prompts are longer than the {self.limit} tokens "
                f"that fit (the last one seen: {prompts[-1].id}).",
                "Raise policy.max_prompt_length, shorten max_new_tokens, or mend the prompts.",
            )
        return fit
