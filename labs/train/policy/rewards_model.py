"""A trained reward model as a reward. Chapter 5."""

from collections.abc import Sequence

import torch

from labs.data import Collator
from labs.data.template import ChatFormat
from labs.errors import InputError
from labs.formats import IMAGE, Conversation, Turn
from labs.models.generation import render_prompt
from labs.models.scalar_head import RewardEnsemble, RewardModel
from labs.train.facts import facts_of
from labs.train.policy.completion import Completion
from labs.train.policy.prompts import Prompt
from labs.train.reward import encode_rated


class ModelReward:
    """The normalised reward of a RewardModel (or an ensemble) for each completion.

    processor: the policy's; one that reads text in another way is refused at once (InputError), for a
    reward model would rate other words than were said. facts: for a model trained with them
    (`labs.train.facts`): taken from `Prompt.about`, InputError where there are none. pessimism: for an
    ensemble, k in mean - k · std.

    A completion that did not end by itself is rated without an end token, as it was said; an empty
    one is rated too. Answers are rated in batches of like length, `batch_size` at a time, without
    gradients. Chapter 5.
    """

    name = "reward_model"

    def __init__(
        self,
        model: RewardModel | RewardEnsemble,
        processor,
        batch_size: int = 32,
        facts: bool = False,
        pessimism: float = 0.0,
    ):
        if batch_size < 1:
            raise InputError(f"A batch of {batch_size} cannot be rated.", "Give 1 or more.")
        if pessimism and not isinstance(model, RewardEnsemble):
            raise InputError(
                f"A pessimism of {pessimism:g} needs several opinions, and here is one model.",
                "Give a RewardEnsemble, or pessimism=0.",
            )
        model.check_tokenizer(processor)
        self.model, self.processor = model, processor
        self.batch_size, self.facts, self.pessimism = batch_size, facts, pessimism
        self.collate = Collator(processor, require_labels=False)

    @torch.no_grad()
    def __call__(
        self, prompts: Sequence[Prompt], completions: Sequence[Completion]
    ) -> list[float | None]:
        rows = [self._encode(p, c) for p, c in zip(prompts, completions, strict=True)]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]["input_ids"]))
        device, training = next(self.model.parameters()).device, self.model.training
        rewards: list[float | None] = [None] * len(rows)
        self.model.eval()
        for start in range(0, len(order), self.batch_size):
            chosen = order[start : start + self.batch_size]
            batch = self.collate([rows[i] for i in chosen])
            del batch["labels"]
            found = self.model(**{k: v.to(device) for k, v in batch.items()})
            if found.ndim == 2:
                found = RewardEnsemble.pessimistic(found, self.pessimism)
            for i, reward in zip(chosen, found.tolist(), strict=True):
                rewards[i] = reward
        self.model.train(training)
        return rewards

    def _encode(self, prompt: Prompt, completion: Completion) -> dict:
        told = facts_of(prompt.about, f"Prompt {prompt.id}") if self.facts else None
        # A policy may spell the placeholder; as text it would stand for a picture that is not there.
        answer = Turn("assistant", completion.text.replace(IMAGE, ""))
        turns = (*turns_of(prompt.messages, self.processor), answer)
        conversation = Conversation(prompt.id, tuple(prompt.images), turns)
        return encode_rated(conversation, self.processor, None, told, completion.finished)


def turns_of(messages: Sequence[dict], processor) -> tuple[Turn, ...]:
    """Chat messages as turns that the processor's template renders to the same prompt.

    Whether a line break stands between a picture and the words is the template's doing or the
    data's: both are tried, and the one that gives the policy's own prompt is taken.
    """
    chat, wanted = ChatFormat.of(processor), render_prompt(processor, messages)
    for after in ("\n", ""):
        turns = tuple(Turn(m["role"], _text(m["content"], after)) for m in messages)
        if chat.render(turns, generation_prompt=True) == wanted:
            return turns
    raise InputError(
        "The chat template lays out this prompt in a way that data for training cannot have.",
        "Give messages of text and pictures only, the pictures first.",
    )


def _text(content, after: str) -> str:
    if isinstance(content, str):
        return content
    return "".join(
        IMAGE + after if part["type"] == "image" else part.get("text", "") for part in content
    )
