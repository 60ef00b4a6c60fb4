"""The model behind a judge: what it says, which letter it would say next, how likely it finds a text."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from labs.data.collate import Collator
from labs.data.encode import encode
from labs.errors import InputError
from labs.formats import Conversation, Turn, load_image
from labs.formats.dialects import IMAGE
from labs.formats.fields import question_turn
from labs.losses import sequence_logprobs
from labs.models.generation import encode_prompts, generate, render_prompt, user_message
from labs.suites.judge.base import Request, batches

Progress = Callable[[int], None] | None


class JudgeModel:
    """A model and its processor, as `load_vlm` gives them, asked in batches.

    calls: requests answered so far. answer_tokens: what it said in them. Each way of asking takes
    `progress`, called after a batch with the number of requests in it.
    """

    def __init__(self, model, processor, name: str):
        self.model, self.processor, self.name = model.eval(), processor, name
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self.calls = self.answer_tokens = 0

    def plain(self, text: str) -> str:
        """`text` without the model's own markup.

        An answer that holds "<|im_end|>" or "<image>" would end the judge's turn or ask for another
        picture. A space inside takes the meaning away and leaves the words to be judged.
        """
        added = getattr(self.tokenizer, "added_tokens_decoder", {}).values()
        special = {*self.tokenizer.all_special_tokens, *(str(t) for t in added if t.special)}
        special |= {IMAGE, str(getattr(self.processor, "image_token", None) or IMAGE)}
        for token in sorted(filter(None, special), key=len, reverse=True):
            text = text.replace(token, f"{token[0]} {token[1:]}")
        return text

    def say(self, requests: Sequence[Request], batch_size: int, progress: Progress = None):
        """What the model says to each request, greedily: a list of texts."""
        if not requests:
            return []
        told = 0

        def advance(done: int) -> None:
            nonlocal told
            if progress:
                progress(done - told)
            told = done

        texts = generate(
            self.model, self.processor,
            [[user_message(r.prompt, len(r.images))] for r in requests],
            [_open(r.images) for r in requests],
            max_new_tokens=max(r.max_new_tokens for r in requests), batch_size=batch_size,
            progress=advance,
        )  # fmt: skip
        self.calls += len(requests)
        for request, text in zip(requests, texts, strict=True):
            self.answer_tokens += min(
                request.max_new_tokens, 1 + len(self._ids(text))
            )  # 1: the end
        return texts

    @torch.inference_mode()
    def next_token(
        self, requests: Sequence[Request], letters: str, batch_size: int, progress: Progress = None
    ) -> list[list[float]]:
        """The log-probability of each of `letters` as the next token, one list a request.

        Through `generate`, which knows what positions and masks a model wants with left padding.
        """
        ids = [self._letter(letter) for letter in letters]
        if len({token for group in ids for token in group}) < sum(map(len, ids)):
            raise InputError(
                f"The tokenizer of {self.name} writes two of {letters!r} with the same first token.",
                "Read the judge's words instead of its logits (by text).",
            )
        prompts = [self._rendered(r) for r in requests]
        out: dict[int, list[float]] = {}
        for chosen in batches(requests, batch_size, lambda i: len(prompts[i])):
            batch = self._encoded([prompts[i] for i in chosen], [requests[i] for i in chosen])
            step = self.model.generate(
                **batch, max_new_tokens=1, do_sample=False,
                output_logits=True, return_dict_in_generate=True,
            )  # fmt: skip
            scores = step.logits[0].float().log_softmax(-1)
            for row, i in zip(scores, chosen, strict=True):
                out[i] = [row[group].logsumexp(0).item() for group in ids]
            self.calls += len(chosen)
            if progress:
                progress(len(chosen))
        return [out[i] for i in range(len(requests))]

    @torch.inference_mode()
    def logprobs(
        self, requests: Sequence[Request], average: bool, batch_size: int, progress: Progress = None
    ) -> list[float]:
        """log p(answer | picture, prompt) of each request, in nats (a token, with `average`)."""
        collate = Collator(self.processor)
        out: dict[int, float] = {}
        size = [len(r.prompt) + len(r.answer or "") for r in requests]
        for chosen in batches(requests, batch_size, size.__getitem__):
            samples = [encode(_conversation(requests[i]), self.processor) for i in chosen]
            batch = {k: v.to(self.model.device) for k, v in collate(samples).items()}
            labels = batch.pop("labels")
            values = sequence_logprobs(self.model(**batch).logits, labels, average)
            out.update(zip(chosen, values.tolist(), strict=True))
            self.calls += len(chosen)
            if progress:
                progress(len(chosen))
        return [out[i] for i in range(len(requests))]

    def lengths(self, requests: Sequence[Request]) -> list[int]:
        """Tokens of each request with its picture: those that are read, not those that are said."""
        found = []
        for request in requests:
            if request.answer is not None:
                found.append(len(encode(_conversation(request), self.processor)["input_ids"]))
            else:
                batch = self._encoded([self._rendered(request)], [request])
                found.append(int(batch["attention_mask"].sum()))
        return found

    def _rendered(self, request: Request) -> str:
        return render_prompt(self.processor, [user_message(request.prompt, len(request.images))])

    def _encoded(self, prompts: list[str], requests: Sequence[Request]) -> dict[str, Any]:
        batch = encode_prompts(self.processor, prompts, [_open(r.images) for r in requests])
        return {k: v.to(self.model.device) for k, v in batch.items() if hasattr(v, "to")}

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _letter(self, letter: str) -> list[int]:
        """The tokens that say the letter at once, with or without a space; else its first token."""
        found = [self._ids(text) for text in (letter, f" {letter}")]
        return sorted({ids[0] for ids in found if len(ids) == 1}) or [found[0][0]]


def _open(images: tuple) -> list:
    return [load_image(image) for image in images]


def _conversation(request: Request) -> Conversation:
    turns = (
        Turn("user", question_turn(request.prompt, len(request.images))),
        Turn("assistant", request.answer or ""),
    )
    return Conversation("pair", request.images, turns)
