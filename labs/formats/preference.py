"""Preference pairs: one prompt with its images, a better and a worse answer.

Three public dialects, told apart record by record, in JSONL or in a JSON list:

- TRL (docs/source/dataset_formats.md, "Preference" and "Vision datasets"; examples/datasets/rlaif-v.py):
  `prompt`, `chosen`, `rejected` as strings or as lists of messages, `images` or `image`; without
  `prompt` the two lists share their first messages ("implicit prompt").
- LLaVA-RLHF (llava-rlhf/LLaVA-RLHF, RLHF/data_utils/data_utils_rm.py): `conversations` whose last turn
  is to be replaced by `output_1` or `output_2`, and `preference`, 1 or 2.
- RLHF-V and RLAIF-V (openbmb/RLHF-V-Dataset, openbmb/RLAIF-V-Dataset on the Hugging Face hub):
  `question`, `chosen`, `rejected`, in RLHF-V as one JSON text under `text`; `image` or `image_path`.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from PIL import Image

from labs.errors import InputError
from labs.formats import fields
from labs.formats.conversation import Conversation, Turn, parse_conversation
from labs.formats.dialects import IMAGE
from labs.formats.llava import resolve_image

_TRL = ("id", "prompt", "chosen", "rejected", "images", "image", "image_path")
_RESERVED = (*_TRL, "question", "output_1", "output_2")


@dataclasses.dataclass(frozen=True)
class Preference:
    """A prompt (its last turn is the user's, its "<image>"s stand for `images`) and two answers."""

    id: str
    images: tuple[str | Image.Image, ...]
    prompt: tuple[Turn, ...]
    chosen: str
    rejected: str
    meta: dict = dataclasses.field(default_factory=dict)

    @property
    def tied(self) -> bool:
        """Both answers are the same text: nothing can be learnt, and DPO's loss stays at log 2."""
        return self.chosen == self.rejected

    def to_conversation(self, chosen: bool = True) -> Conversation:
        """The prompt with the chosen (or the rejected) answer as the last turn."""
        answer = Turn("assistant", self.chosen if chosen else self.rejected)
        return Conversation(self.id, self.images, (*self.prompt, answer), dict(self.meta))


def read_preferences(
    path: str | os.PathLike, image_root: str | os.PathLike | None = None
) -> Iterator[Preference]:
    """Yield the pairs of one file; image paths are resolved under `image_root` (default: its folder).

    A prompt without "<image>" gets one before its first user turn for each image. Where the record
    has no id, the id is its place. Ids may repeat (LLaVA-RLHF's are those of the pictures), and a pair
    of two equal answers is read too: ask `tied`, the trainer decides.

    Raises InputError, with the line, for bad JSON, a missing or an empty field, a preference other
    than 1 and 2, answers to different prompts, more than one turn in an answer, and whatever
    `parse_conversation` refuses.
    """
    path = Path(path)
    root = Path(image_root) if image_root is not None else path.parent
    return _read(root, fields.read_objects(path, "a preference pair"))


def _read(root: Path, objects: Iterator) -> Iterator[Preference]:
    for where, record in objects:
        if "output_1" in record or "output_2" in record:
            pair = _llava_rlhf(record, where)
        elif "prompt" not in record and ("question" in record or _nested(record)):
            pair = _rlhf_v(record, where)
        else:
            pair = _trl(record, where)
        images = tuple(
            resolve_image(image, root, where) if isinstance(image, str) else image
            for image in pair.images
        )
        yield dataclasses.replace(pair, images=images)


def _nested(record: dict) -> bool:
    return "text" in record and "chosen" not in record


def _trl(record: dict, where: str) -> Preference:
    chosen, rejected = (fields.required(record, key, where) for key in ("chosen", "rejected"))
    meta = {key: record[key] for key in record if key not in _TRL}
    prompt = record.get("prompt")
    if prompt is None:
        if isinstance(chosen, str) or isinstance(rejected, str):
            fields.required(record, "prompt", where)  # two strings do not say where the prompt ends
        chosen = _messages(chosen, "chosen", where)
        rejected = _messages(rejected, "rejected", where)
        if chosen[:-1] != rejected[:-1]:
            raise InputError(
                f"{where}: `chosen` and `rejected` differ before their last message.",
                "Give the shared messages as `prompt`, and one answer each.",
            )
        prompt, chosen, rejected = chosen[:-1], chosen[-1:], rejected[-1:]
    elif isinstance(prompt, str):
        prompt = [{"role": "user", "content": fields.text(record, "prompt", where)}]
    answers = []
    for key, value in (("chosen", chosen), ("rejected", rejected)):
        if isinstance(value, str):
            value = [{"role": "assistant", "content": fields.text(record, key, where)}]
        if len(_messages(value, key, where)) != 1:
            raise InputError(
                f"{where}: `{key}` has {len(value)} messages after the prompt.",
                "Give one answer, and move what goes before it into `prompt`.",
            )
        answers.append(value[0])
    return _pair(record, _messages(prompt, "prompt", where), answers, _images(record), meta, where)


def _llava_rlhf(record: dict, where: str) -> Preference:
    turns = _messages(fields.required(record, "conversations", where), "conversations", where)
    outputs = [fields.required(record, key, where) for key in ("output_1", "output_2")]
    for number, output in enumerate(outputs, 1):
        if not isinstance(output, dict) or not isinstance(output.get("value"), str):
            raise InputError(
                f"{where}: `output_{number}` has no text under `value`.",
                'Write it as {"from": "gpt", "value": "…"}.',
            )
    better = fields.whole(record, "preference", where)
    if better not in (1, 2):
        raise InputError(f"{where}: `preference` is {better}.", "Write 1 or 2.")
    answers = [{"from": "gpt", "value": output["value"]} for output in outputs]
    answers = answers if better == 1 else answers[::-1]
    used = ("id", "conversations", "output_1", "output_2", "preference", "image", "images")
    meta = {key: record[key] for key in record if key not in used}
    given = {"id": record.get("id"), "images": _images(record), "conversations": turns}
    if parse_conversation(given, where).turns[-1].role != "assistant":
        raise InputError(
            f"{where}: the conversation ends with the user, where an answer is to be replaced.",
            "End it with the turn that output_1 and output_2 stand for.",
        )
    return _pair(record, turns[:-1], answers, _images(record), meta, where)


def _rlhf_v(record: dict, where: str) -> Preference:
    inner = record
    if "question" not in record:
        inner = record["text"]
        if isinstance(inner, str):
            try:
                inner = json.loads(inner)
            except json.JSONDecodeError as error:
                raise InputError(
                    f"{where}: `text` is not JSON: {error.msg[:1].lower() + error.msg[1:]}.",
                    "It holds question, chosen and rejected as one JSON object.",
                ) from None
        if not isinstance(inner, dict):
            raise InputError(f"{where}: `text` is no JSON object.", "See RLHF-V's data card.")
    question, *answers = (fields.text(inner, k, where) for k in ("question", "chosen", "rejected"))
    used = ("id", "text", "question", "chosen", "rejected", "image", "images", "image_path")
    meta = {key: record[key] for key in record if key not in used}
    messages = [{"role": "assistant", "content": answer} for answer in answers]
    asked = [{"role": "user", "content": question}]
    return _pair({"id": record.get("idx"), **record}, asked, messages, _images(record), meta, where)


def _pair(record, prompt: list, answers: list, images, meta: dict, where: str) -> Preference:
    """Both conversations, checked and brought to one form by the reader of conversations."""
    name = record["id"] if record.get("id") is not None else fields.short(where)
    prompt = _with_placeholders(prompt, images)
    made = [
        parse_conversation({"id": name, "images": images, "messages": [*prompt, answer]}, where)
        for answer in answers
    ]
    for key, conversation in (("chosen", made[0]), ("rejected", made[1])):
        turns = conversation.turns
        if len(turns) < 2 or turns[-1].role != "assistant" or not turns[-1].text.strip():
            raise InputError(
                f"{where}: the {key} answer is missing or empty.",
                "Give the prompt's last turn to the user, and both answers to the assistant.",
            )
    chosen, rejected = made
    texts = chosen.turns[-1].text, rejected.turns[-1].text
    return Preference(chosen.id, chosen.images, chosen.turns[:-1], *texts, meta)


def _with_placeholders(messages: list, images: list | None) -> list:
    """The messages, with placeholders in the first user turn if images are given and none is placed."""
    if not images or any(_shows_image(message) for message in messages):
        return messages
    messages = [dict(message) for message in messages]
    for message in messages:
        key = _content_key(message)
        if key and str(message.get("role", message.get("from"))).lower() in ("user", "human"):
            before, content = IMAGE * len(images) + "\n", message[key]
            message[key] = before + content if isinstance(content, str) else [before, *content]
            break
    return messages


def _shows_image(message: dict) -> bool:
    key = _content_key(message)
    content = message[key] if key else ""
    for part in [content] if isinstance(content, str) else content:
        if isinstance(part, dict) and part.get("type") in ("image", "image_url"):
            return True
        if IMAGE in str(part.get("text") if isinstance(part, dict) else part):
            return True
    return False


def _content_key(message: dict) -> str | None:
    keys = (
        key for key in ("value", "content", "text") if isinstance(message.get(key), (str, list))
    )
    return next(keys, None)


def _images(record: dict) -> list | None:
    """The images as they are given; RLHF-V's `image_path` only where there is no image."""
    keys = (key for key in ("images", "image", "image_path") if record.get(key) is not None)
    value = next((record[key] for key in keys), None)
    return value if value is None or isinstance(value, list) else [value]


def _messages(value, key: str, where: str) -> list[dict]:
    if not isinstance(value, list) or not value or not all(isinstance(m, dict) for m in value):
        raise InputError(
            f"{where}: `{key}` must be a text or a list of messages, not {fields.kind(value)}.",
            'Write it as [{"role": "user", "content": …}].',
        )
    return value


def write_preferences(
    pairs: Iterable[Preference],
    path: str | os.PathLike,
    image_root: str | os.PathLike | None = None,
) -> int:
    """Write pairs in TRL's conversational vision dialect, one JSON object a line; return how many.

    Images are relative to `image_root` (default: the file's folder). `meta` follows as further fields.
    """
    path = Path(path)
    root = Path(image_root) if image_root is not None else path.parent
    rows = fields.checked(_rows(pairs, path, root), partial(_read, root), path)
    return fields.write_objects(rows, path, "a preference pair")


def _rows(pairs: Iterable[Preference], path: Path, root: Path) -> Iterator[dict]:
    for number, pair in enumerate(pairs, 1):
        where = f"{path}, record {number}"
        taken = [key for key in pair.meta if key in _RESERVED]
        if taken:
            raise InputError(f"{where}: `meta` holds `{taken[0]}`, a field of pairs.", "Rename it.")
        yield {
            "id": pair.id,
            "images": [
                fields.reference(image, root, f"images/{number - 1:06d}_{index}.png", where)
                for index, image in enumerate(pair.images)
            ],
            "prompt": [{"role": turn.role, "content": _parts(turn.text)} for turn in pair.prompt],
            "chosen": [{"role": "assistant", "content": _parts(pair.chosen)}],
            "rejected": [{"role": "assistant", "content": _parts(pair.rejected)}],
            **pair.meta,
        }


def _parts(text: str) -> list[dict]:
    """A turn's text as TRL's parts: a marker for each "<image>", the text between them."""
    parts: list[dict] = []
    for number, piece in enumerate(text.split(IMAGE)):
        if number:
            parts.append({"type": "image"})
        if piece:
            parts.append({"type": "text", "text": piece})
    return parts or [{"type": "text", "text": ""}]
