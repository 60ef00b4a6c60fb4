"""Prompts of the offline world, without end, and prompts of a file. Chapter 5."""

import os
from collections.abc import Sequence
from dataclasses import replace

from labs.errors import InputError
from labs.formats import IMAGE, Turn, read_conversations, read_preferences, read_records
from labs.formats.dialects import record_format
from labs.models.generation import user_message
from labs.shapes import Mix, seeded, stream_record
from labs.train.policy.prompts import Prompt

_VERDICTS = {"yes": True, "是": True, "no": False, "否": False}


class WorldPrompts(Sequence):
    """Map-style: `prompts[i]` is prompt i, always the same for (mix, split, seed, i).

    One question about one picture, drawn from the same stream of scenes as the training data
    (`labs.shapes.stream_record`); a dialogue is asked up to its last turn, with true answers before
    it. `answer` is the true one: the mix's faults (yes_rate, false_yes, false_captions) and its
    described pictures are left out.

    Half of the yes/no questions are answered yes, task by task. A plain stream of single questions is
    not balanced: where a scene has no room for an adversarial "no" it asks something else, and 60 %
    of its existence questions are true. A reward on such prompts pays for saying yes.

    length: how many an epoch has. about: "scene", "qa" (`labs.shapes.QA`) and "language", for the
    oracle. Raises IndexError past the end, so that plain iteration stops. Chapter 5.
    """

    def __init__(self, length: int, mix: Mix | None = None, split: str = "train", seed: int = 0):
        if length < 1:
            raise InputError(f"{length} prompts are asked for.", "Ask for one at least.")
        self.length, self.mix, self.split, self.seed = length, mix or Mix(), split, seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Prompt:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self.length))]
        if not -self.length <= index < self.length:
            raise IndexError(index)
        index %= self.length
        task, record = self._draw(index)
        turns, about = record["meta"]["turns"], record["meta"]
        messages = []
        for number, qa in enumerate(turns):
            messages.append(user_message(qa.question, images=int(number == 0)))
            if number < len(turns) - 1:
                text = [{"type": "text", "text": qa.answer}]
                messages.append({"role": "assistant", "content": text})
        return Prompt(
            id=f"{self.split}-prompt-{self.seed}-{index}",
            messages=tuple(messages),
            images=(record["image"],),
            task=task,
            answer=turns[-1].answer,
            about={"scene": about["scene"], "qa": turns[-1], "language": about["language"]},
        )

    def _draw(self, index: int) -> tuple[str, dict]:
        """What is asked is drawn first, then scenes until one carries the question and the verdict."""
        rng = seeded("prompts", self.seed, index, self.split)
        tasks, weights = zip(*self.mix.tasks.items(), strict=True)
        task, wanted = rng.choices(tasks, weights)[0], rng.random() < 0.5
        mix = replace(
            self.mix, tasks={task: 1.0}, turns=1, yes_rate=float(wanted),
            digits=float(rng.random() < self.mix.digits),
            adversarial=float(rng.random() < self.mix.adversarial),
            described=0.0, false_yes=0.0, false_captions=0.0,
        )  # fmt: skip
        for attempt in range(1000):
            record = stream_record(mix, index, self.split, f"prompts-{self.seed}-{attempt}")
            turns = record["meta"]["turns"]
            if turns and _VERDICTS.get(turns[-1].answer, wanted) == wanted:
                return "dialogue" if len(turns) > 1 else turns[0].task, record
        raise InputError(
            f"No scene of the split {self.split!r} carries a question of the task {task!r}.",
            "Take it out of the mix.",
        )


class FilePrompts(Sequence):
    """Prompts of a file of conversations or of preference pairs, in its order.

    Of a conversation the last question is asked; the assistant's last turn becomes `answer`. A pair's
    answers are no truth: they are in `about` as "chosen" and "rejected", and `answer` is the pair's
    `answer` field or None. `about` holds the record's further fields (`options` for choices); its
    field `task` names the prompt's task. Images stay paths under `image_root` (default: the file's
    folder) until they are needed.

    Raises InputError for what `labs.formats.read_conversations` and `read_preferences` refuse. Chapter 5.
    """

    def __init__(self, path: str | os.PathLike, image_root: str | os.PathLike | None = None):
        conversations = read_conversations(path, image_root)  # looks at the file at once
        if record_format(next(iter(read_records(path)), (None, None))[1]) == "preference":
            self._prompts = [_of_pair(pair) for pair in read_preferences(path, image_root)]
        else:
            self._prompts = [_of_conversation(c) for c in conversations]

    def __len__(self) -> int:
        return len(self._prompts)

    def __getitem__(self, index: int) -> Prompt:
        return self._prompts[index]


def _of_conversation(conversation) -> Prompt:
    *before, last = conversation.turns
    answered = last.role == "assistant"
    return _prompt(
        conversation, tuple(before) if answered else conversation.turns,
        last.text if answered else None, conversation.meta,
    )  # fmt: skip


def _of_pair(pair) -> Prompt:
    about = {**pair.meta, "chosen": pair.chosen, "rejected": pair.rejected}
    answer = pair.meta.get("answer")
    return _prompt(pair, pair.prompt, answer if isinstance(answer, str) else None, about)


def _prompt(record, turns: Sequence[Turn], answer: str | None, about: dict) -> Prompt:
    if not turns or turns[-1].role != "user":
        raise InputError(
            f"The record {record.id} asks nothing: no user's turn is left to answer.",
            "Give it a question, or take it out of the prompts.",
        )
    messages = tuple({"role": turn.role, "content": _parts(turn.text)} for turn in turns)
    task = about.get("task")
    return Prompt(
        record.id, messages, record.images, task if isinstance(task, str) else "", answer,
        dict(about),
    )  # fmt: skip


def _parts(text: str) -> list[dict]:
    """A turn as parts, an image where its "<image>" stands; templates break the line after it."""
    parts: list[dict] = []
    for number, piece in enumerate(text.split(IMAGE)):
        if number:
            parts.append({"type": "image"})
            piece = piece.removeprefix("\n")
        if piece:
            parts.append({"type": "text", "text": piece})
    return parts or [{"type": "text", "text": ""}]
