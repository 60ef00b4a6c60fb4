"""A dual encoder as an answerer: it chooses among captions."""

from collections.abc import Sequence

import torch

from labs.errors import InputError
from labs.formats.images import load_image
from labs.suites.contract import Answer, Question
from labs.suites.machine import identity


class ClipAnswerer:
    """A dual encoder: it chooses the caption that is nearest to the picture.

    It answers questions that bring `about["captions"]`, a text for each option, and
    `about["letters"]`, what choosing it is called.
    """

    def __init__(self, model, processor, told: dict):
        self.model, self.processor = model.eval(), processor
        self.name = told["name"]
        self.told = told | {"pictures": "seen", **identity(model)}

    def describe(self) -> dict:
        return dict(self.told)

    def length(self, question: Question) -> int:
        captions, letters = question.about.get("captions"), question.about.get("letters")
        if not captions or not letters or len(captions) != len(letters):
            raise InputError(
                f"{self.name} is a dual encoder and can only choose among captions, which question "
                f"{question.id} does not have.",
                "Ask it a suite with captions, such as `choice`, or ask a model that talks.",
            )
        if len(question.images) != 1:
            raise InputError(
                f"{self.name} compares captions with one picture; question {question.id} has "
                f"{len(question.images)}.",
                "Ask it a suite with one picture a question.",
            )
        return len(captions)

    @torch.inference_mode()
    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        """The letter of the caption with the largest cosine similarity; of equal ones the first."""
        pictures = []
        for question in questions:
            self.length(question)
            try:
                pictures.append(load_image(question.images[0]))
            except InputError as error:
                raise InputError(
                    f"A picture of question {question.id} cannot be used: {error.what}", error.do
                ) from None
        texts = list(dict.fromkeys(c for q in questions for c in q.about["captions"]))
        place = {text: index for index, text in enumerate(texts)}
        images, captions = self._images(pictures), self._texts(texts)
        answers = []
        for image, question in zip(images, questions, strict=True):
            rows = captions[[place[c] for c in question.about["captions"]]]
            answers.append(Answer(question.about["letters"][int((rows @ image).argmax())], 0, True))
        return answers

    def _images(self, pictures: Sequence) -> torch.Tensor:
        batch = self.processor.image_processor(list(pictures), return_tensors="pt")
        pixels = batch["pixel_values"].to(self.model.device)
        features = self.model.get_image_features(pixel_values=pixels).pooler_output
        return torch.nn.functional.normalize(features.float(), dim=-1)

    def _texts(self, texts: Sequence[str]) -> torch.Tensor:
        tokenizer = self.processor.tokenizer
        # The state of the end token is read. CLIP's own tokenizer puts it there, tiny-clip's does not.
        ends = tokenizer("a")["input_ids"][-1] == tokenizer.eos_token_id
        batch = tokenizer(
            [text if ends else text + tokenizer.eos_token for text in texts],
            return_tensors="pt", padding=True, truncation=True,
            max_length=self.model.config.text_config.max_position_embeddings,
        )  # fmt: skip
        batch = {k: batch[k].to(self.model.device) for k in ("input_ids", "attention_mask")}
        features = self.model.get_text_features(**batch).pooler_output
        return torch.nn.functional.normalize(features.float(), dim=-1)
