"""A model that is not asked to write its choice: the most likely of the candidates is taken."""

from collections.abc import Sequence

import torch

from labs.data import Collator, encode
from labs.errors import InputError
from labs.formats import Conversation, Turn, load_image
from labs.formats.dialects import IMAGE
from labs.losses import sequence_logprobs
from labs.suites.contract import Answer, Question
from labs.suites.machine import identity


class LikelihoodAnswerer:
    """Chooses the candidate that the model finds most likely as the answer to the bare question.

        letter = argmax_k log p(candidate_k, end of turn | pictures, about["question"])

    A model that has never seen "A. red" cannot say "A", though it may know that the ring is red: here
    it needs no letters, no instruction and no reading of free text. Questions must bring
    `about["question"]`, `about["candidates"]` and `about["letters"]`, as the suite `choice` does. The
    end of the turn is part of a candidate, or "at the top" would always be likelier than "at the top
    left", which begins with it.

    average: log-probability a token, which does not favour short candidates. (lm-evaluation-harness
    calls the two `acc` and `acc_norm`; it divides by bytes.) described: the picture is replaced by
    its description in words, `about["description"]`; by default where the model is text-only.
    batch_size: candidates a forward pass. told: what else `describe` says.

    Brown et al. 2020 (GPT-3), arXiv:2005.14165, section 2.4. Chapter 7.
    """

    def __init__(
        self,
        model,
        processor,
        name: str,
        *,
        average: bool = False,
        described: bool | None = None,
        batch_size: int = 32,
        told: dict | None = None,
    ):
        self.model, self.processor, self.name = model.eval(), processor, name
        self.tokenizer = getattr(processor, "tokenizer", processor)
        text_only = not hasattr(processor, "image_processor")
        self.described = text_only if described is None else described
        if text_only and not self.described:
            raise InputError(
                f"{name} is a text-only model and cannot be shown pictures.",
                "Leave described=False out.",
            )
        self.average, self.batch_size = average, batch_size
        self.collate = Collator(processor)
        self.told = {
            **(told or {}), "name": name, "answers": "likelihood", "average": average,
            "pictures": "described" if self.described else "seen", **identity(model),
        }  # fmt: skip

    def describe(self) -> dict:
        return dict(self.told)

    def length(self, question: Question) -> int:
        self._check(question)
        texts = [self._text(question), *question.about["candidates"]]
        tokens = self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        return len(tokens[0]) + max(map(len, tokens[1:]))

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        """The letters; of equally likely candidates the first. What each candidate got, and the
        margin between the best two (in nats), is told as the answer's thought."""
        answers = []
        for question, scores in zip(questions, self.log_probabilities(questions), strict=True):
            letters = question.about["letters"]
            best = max(range(len(scores)), key=scores.__getitem__)
            first, second = sorted(scores, reverse=True)[:2]
            told = ", ".join(f"{x} {s:.3f}" for x, s in zip(letters, scores, strict=True))
            answers.append(
                Answer(letters[best], 0, True, (f"log p: {told}; margin {first - second:.3f}",))
            )
        return answers

    @torch.inference_mode()
    def log_probabilities(self, questions: Sequence[Question]) -> list[list[float]]:
        """The log-probability of each question's candidates, in their order; a token, if `average`."""
        samples, owners = [], []
        for number, question in enumerate(questions):
            self._check(question)
            images = self._open(question)
            turn = Turn("user", f"{IMAGE}\n" * len(images) + self._text(question))
            for candidate in question.about["candidates"]:
                turns = (turn, Turn("assistant", candidate))
                samples.append(encode(Conversation(question.id, images, turns), self.processor))
                owners.append(number)
        # Rows of like length share a batch: less padding, same numbers.
        order = sorted(range(len(samples)), key=lambda i: len(samples[i]["input_ids"]))
        scores = [0.0] * len(samples)
        for start in range(0, len(order), self.batch_size):
            chosen = order[start : start + self.batch_size]
            batch = self.collate([samples[i] for i in chosen])
            batch = {key: value.to(self.model.device) for key, value in batch.items()}
            labels = batch.pop("labels")
            logits = self.model(**batch).logits
            found = sequence_logprobs(logits, labels, average=self.average)
            for i, score in zip(chosen, found.tolist(), strict=True):
                scores[i] = score
        grouped: list[list[float]] = [[] for _ in questions]
        for number, score in zip(owners, scores, strict=True):
            grouped[number].append(score)
        return grouped

    def _check(self, question: Question) -> None:
        about = question.about
        missing = [k for k in ("question", "candidates", "letters") if not about.get(k)]
        if self.described and not about.get("description"):
            missing.append("description")
        if missing:
            raise InputError(
                f"Likelihood compares candidates, and question {question.id} has no {missing[0]}.",
                "Ask a suite that brings them, such as `choice`.",
            )
        if len(about["candidates"]) != len(about["letters"]) or len(about["letters"]) < 2:
            raise InputError(
                f"Question {question.id} has {len(about['candidates'])} candidates and "
                f"{len(about['letters'])} letters.",
                "Give one letter a candidate, and two candidates at least.",
            )
        if question.before:
            raise InputError(
                f"Question {question.id} asks for a turn before, which likelihood does not take.",
                "Ask a model that talks.",
            )

    def _open(self, question: Question) -> tuple:
        if self.described:
            return ()
        try:
            return tuple(load_image(image) for image in question.images)
        except InputError as error:
            raise InputError(
                f"A picture of question {question.id} cannot be used: {error.what}", error.do
            ) from None

    def _text(self, question: Question) -> str:
        bare = question.about["question"]
        return f"{question.about['description']}\n{bare}" if self.described else bare
