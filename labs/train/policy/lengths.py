"""Whether a prompt leaves room for its answer. Chapter 5."""

from labs.models.generation import encode_prompts, render_prompt
from labs.train.policy.config import PolicyConfig
from labs.train.policy.prompts import Prompt


class PromptLengths:
    """`fits(prompt)`: at most `limit` tokens, pictures included.

    The limit is `max_prompt_length`, or what the model's positions leave beside `max_new_tokens`. A
    prompt's text is counted always; its pictures are made into tokens only where the text and the
    most image tokens seen so far come near the limit, since that costs as much as encoding it.
    """

    def __init__(self, model, processor, policy: PolicyConfig):
        positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        room = positions - policy.max_new_tokens if positions else None
        self.limit = min(
            (n for n in (policy.max_prompt_length, room) if n is not None), default=None
        )
        self.processor = processor
        self.tokenizer = getattr(processor, "tokenizer", processor)
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
