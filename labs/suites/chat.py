"""A model with a chat template, asked a batch at a time.

Answers are greedy, and nothing else: what a model's own generation_config.json adds (a temperature, a
penalty on repetition) is set aside, so that two models are asked in the same way.
"""

import copy
import functools
import hashlib
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch

from labs.errors import InputError
from labs.formats.images import load_image
from labs.models.generation import assistant_message, encode_prompts, render_prompt, user_message
from labs.suites.contract import Answer, Question
from labs.suites.machine import identity

Pictures = Literal["seen", "described", "dropped"]

THOUGHT_TOKENS = 112  # room for an answer to `before`: a whole description
PICTURE_TOKENS = 64  # what a picture counts for where questions are sorted by length
GREEDY = {
    "do_sample": False, "num_beams": 1, "temperature": 1.0, "top_p": 1.0, "top_k": 50,
    "repetition_penalty": 1.0, "no_repeat_ngram_size": 0,
}  # fmt: skip


class Prepared(NamedTuple):
    """A batch whose pictures are open and, where nothing is asked before, whose prompts are tensors."""

    pictures: list[list]
    batch: dict | None


class ChatAnswerer:
    """A model with a chat template. pictures: "seen", "described" (in words), or "dropped"."""

    def __init__(self, model, processor, told: dict, pictures: Pictures = "seen"):
        self.model, self.processor, self.pictures = model.eval(), processor, pictures
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self.name = told["name"]
        template = getattr(processor, "chat_template", None) or self.tokenizer.chat_template
        if not template:
            raise InputError(
                f"{self.name} has no chat template: it is not made to be asked.",
                "Use a model that is tuned to answer.",
            )
        if model.config.is_encoder_decoder:
            raise InputError(
                f"{self.name} is an encoder-decoder, which `labs eval` does not ask.",
                "Use a model that goes on from its prompt, such as LLaVA or Qwen-VL.",
            )
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        ends = model.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        self.ends = {e for e in (*ends, self.tokenizer.eos_token_id) if e is not None}
        self.told = told | {
            "pictures": pictures,
            "template": hashlib.sha256(str(template).encode()).hexdigest()[:16],
            **identity(model),
        }

    def describe(self) -> dict:
        """Names, digests of weights and chat template, dtype, and what becomes of pictures."""
        return dict(self.told)

    def length(self, question: Question) -> int:
        texts = [*question.before, self._words(question, question.prompt)]
        tokens = self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        seen = len(question.images) if self.pictures == "seen" else 0
        return sum(map(len, tokens)) + PICTURE_TOKENS * seen

    def prepare(self, questions: Sequence[Question]) -> Prepared:
        """What of `answer` needs no model; it may run in another thread while `answer` does."""
        pictures = [self._open(q) for q in questions]
        if any(q.before for q in questions):
            return Prepared(pictures, None)
        talks = [[self._turn(q, q.prompt, True)] for q in questions]
        everyone = range(len(questions))
        return Prepared(
            pictures, self._encode(everyone, questions, talks, pictures, self._processor_beside)
        )

    @functools.cached_property
    def _processor_beside(self):
        # A fast tokenizer that pads in one thread while it decodes in another panics.
        return copy.deepcopy(self.processor)

    def answer(
        self, questions: Sequence[Question], prepared: Prepared | None = None
    ) -> list[Answer]:
        """Greedy answers, a batch in one go, each cut at its own question's limit of tokens.

        Turns of `before` are asked first, and the model reads its own answers to them. An answer is
        finished where it ends with an end token, which counts as one of its tokens.
        """
        pictures = prepared.pictures if prepared else [self._open(q) for q in questions]
        talks: list[list[dict]] = [[] for _ in questions]
        thoughts: list[list[str]] = [[] for _ in questions]
        tokens = [0] * len(questions)
        for turn in range(max((len(q.before) for q in questions), default=0)):
            asked = [i for i, q in enumerate(questions) if len(q.before) > turn]
            for i in asked:
                talks[i].append(self._turn(questions[i], questions[i].before[turn], turn == 0))
            limits = [max(THOUGHT_TOKENS, questions[i].max_new_tokens) for i in asked]
            batch = self._encode(asked, questions, talks, pictures, self.processor)
            for i, said in zip(asked, self._generate(batch, limits), strict=True):
                talks[i].append(assistant_message(said.text))
                thoughts[i].append(said.text)
                tokens[i] += said.tokens
        batch = prepared.batch if prepared else None
        if batch is None:
            for talk, q in zip(talks, questions, strict=True):
                talk.append(self._turn(q, q.prompt, not talk))
            everyone = range(len(questions))
            batch = self._encode(everyone, questions, talks, pictures, self.processor)
        answers = self._generate(batch, [q.max_new_tokens for q in questions])
        return [
            Answer(said.text, before + said.tokens, said.finished, tuple(thought))
            for said, before, thought in zip(answers, tokens, thoughts, strict=True)
        ]

    def _open(self, question: Question) -> list:
        """The question's pictures, where the model sees any."""
        if self.pictures != "seen":
            return []
        try:
            return [load_image(image) for image in question.images]
        except InputError as error:
            raise InputError(
                f"A picture of question {question.id} cannot be used: {error.what}", error.do
            ) from None

    def _turn(self, question: Question, text: str, first: bool) -> dict:
        """What the user says. The pictures, or the words in their place, come with the first turn."""
        if not first:
            return user_message(text)
        seen = len(question.images) if self.pictures == "seen" else 0
        return user_message(self._words(question, text), images=seen)

    def _words(self, question: Question, text: str) -> str:
        description = question.about.get("description") if self.pictures == "described" else None
        return f"{description}\n{text}" if description else text

    def _encode(self, asked, questions, talks, pictures, processor) -> dict:
        """The conversations with the numbers `asked` as tensors, ready for the model to go on."""
        prompts = [render_prompt(processor, talks[i]) for i in asked]
        try:
            batch = encode_prompts(processor, prompts, [pictures[i] for i in asked])
        except ValueError as error:
            refused = error
        else:
            self._check_lengths([questions[i].id for i in asked], batch["attention_mask"])
            return batch
        # Some picture or prompt is not for this model: find which, to name it.
        for i, prompt in zip(asked, prompts, strict=True):
            try:
                encode_prompts(processor, [prompt], [pictures[i]])
            except ValueError as error:
                raise InputError(
                    f"Question {questions[i].id} cannot be put to {self.name}: {error}",
                    "Mend its picture or its prompt, or leave it out of the suite.",
                ) from None
        raise refused

    def _check_lengths(self, ids: Sequence[str], mask: torch.Tensor) -> None:
        """InputError for a prompt that the model was not made to read: it would answer, with noise."""
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        for id, tokens in zip(ids, mask.sum(1).tolist(), strict=True):
            if limit is not None and tokens > limit:
                raise InputError(
                    f"Question {id} has {tokens:,} tokens; {self.name} reads {limit:,}.",
                    "Shorten the prompt, show fewer pictures, or use a model with a longer context.",
                )

    @torch.inference_mode()
    def _generate(self, batch: dict, limits: Sequence[int]) -> list[Answer]:
        device = self.model.device
        batch = {k: v.to(device) for k, v in batch.items() if hasattr(v, "to")}
        output = self.model.generate(
            **batch, **GREEDY, max_new_tokens=max(limits), pad_token_id=self.tokenizer.pad_token_id,
            eos_token_id=sorted(self.ends),
        )  # fmt: skip
        new = output[:, batch["input_ids"].shape[1] :].tolist()
        cut, counts, finished = [], [], []
        for ids, limit in zip(new, limits, strict=True):
            ids = ids[:limit]
            end = next((k for k, token in enumerate(ids) if token in self.ends), None)
            cut.append(ids[:end])
            counts.append(len(ids) if end is None else end + 1)
            finished.append(end is not None)
        texts = self.tokenizer.batch_decode(cut, skip_special_tokens=True)
        return [Answer(*said) for said in zip(texts, counts, finished, strict=True)]
