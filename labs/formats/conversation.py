"""One conversation with its images, in whichever of the public dialects it was written."""

import base64
import dataclasses
import os
from typing import Any, Literal, get_args

from PIL import Image

from labs.errors import InputError
from labs.formats.dialects import (
    IMAGE,
    IMAGES,
    PART_IMAGE,
    PART_KINDS,
    ROLES,
    TEXT,
    TURNS,
    split_references,
)

Role = Literal["system", "user", "assistant"]


@dataclasses.dataclass(frozen=True)
class Turn:
    """One turn. `text` holds an "<image>" placeholder wherever an image is shown."""

    role: Role
    text: str

    def __post_init__(self):
        if self.role not in get_args(Role):
            raise ValueError(f"role must be one of {get_args(Role)}, not {self.role!r}")


@dataclasses.dataclass(frozen=True)
class Conversation:
    """Turns and images. The i-th "<image>" over all turns stands for images[i].

    An image is a path or an open PIL image; paths are opened by `labs.formats.load_image`.
    `meta` keeps whatever else the record held.
    """

    id: str
    images: tuple[str | Image.Image, ...]
    turns: tuple[Turn, ...]
    meta: dict = dataclasses.field(default_factory=dict)


def parse_conversation(record: dict, where: str = "record") -> Conversation:
    """Read one record of the LLaVA, ShareGPT, OpenAI/Transformers messages, or role-less dialect.

    - turns under `conversations`, `messages` or `conversation`; each `{"from", "value"}`,
      `{"role", "content"}`, or with no role at all (then user and assistant alternate); a bare
      string is a turn too;
    - `content` a string, or a list of `{"type": "text"|"image"|"image_url", …}`;
    - images under `image` or `images`: a string, a comma-separated string, a PIL image, or a list.

    Raises InputError, naming `where` and the sample's id, for: no turns, an unknown role, roles out
    of order (an optional system turn, then user and assistant in alternation), a turn without text,
    and a number of "<image>" placeholders other than the number of images.

    Dialects: LLaVA docs/Finetune_Custom_Data.md; ShareGPT; Transformers chat templates; chapter 3.
    """
    if not isinstance(record, dict):
        raise InputError(
            f"{where}: a conversation must be a JSON object, not {_kind(record)}.",
            'Write each sample as {"image": …, "conversations": [{"from": "human", "value": …}, …]}.',
        )
    name = str(record.get("id", where))
    where = f"{where} (id {name})" if "id" in record else where

    key = next((key for key in TURNS if key in record), None)
    raw_turns = record.get(key) if key else None
    if key is None or not isinstance(raw_turns, list | tuple):
        found = "none of these keys" if key is None else f"{_kind(raw_turns)} under `{key}`"
        raise InputError(
            f"{where}: expected a list of turns under `conversations` or `messages`, found {found}.",
            'Put the turns in a list: "conversations": [{"from": "human", "value": …}, …].',
        )
    if not raw_turns:
        raise InputError(
            f"{where}: the conversation is empty.",
            "Remove the sample or give it a question and an answer.",
        )

    inline: list = []  # images given inside the content of a turn
    turns, expected_role = [], "user"
    for number, raw in enumerate(raw_turns, 1):
        role, text = _turn(raw, expected_role, inline, f"{where}, turn {number}")
        turns.append(Turn(role, text))
        expected_role = "user" if role != "user" else "assistant"
    _check_order(turns, where)

    images = _images(record, where)
    if inline and images:
        # Hugging Face datasets give the images beside the messages and leave bare markers inside.
        raise InputError(
            f"{where}: images are given both inside the turns ({len(inline)}) and beside them ({len(images)}).",
            "Keep one of the two.",
        )
    images = images or inline
    count = sum(turn.text.count(IMAGE) for turn in turns)
    if count != len(images):
        raise InputError(
            f"{where}: {_plural(count, f'{IMAGE} placeholder')} in the text, but {_plural(len(images), 'image')}.",
            f"Write one {IMAGE} in the text for each image, at the place where it is shown.",
        )
    used = {"id", "meta", key, *IMAGES}
    meta = {**{k: v for k, v in record.items() if k not in used}, **(record.get("meta") or {})}
    return Conversation(name, tuple(images), tuple(turns), meta)


def _turn(raw: Any, expected: Role, inline: list, where: str) -> tuple[Role, str]:
    if isinstance(raw, str):
        return expected, raw
    if not isinstance(raw, dict):
        raise InputError(
            f"{where}: a turn must be an object or a string, not {_kind(raw)}.",
            'Write it as {"from": "human", "value": "…"}.',
        )
    name = raw.get("from", raw.get("role"))
    if name is None:
        role = expected
    else:
        role = ROLES.get(str(name).strip().lower())
        if role is None:
            raise InputError(
                f"{where}: unknown role {name!r}.",
                "Use human or user, gpt or assistant, or system; function and tool turns are not read.",
            )
    key = next((key for key in TEXT if raw.get(key) is not None), None)
    content = raw[key] if key else None
    if isinstance(content, str):
        return role, content
    if isinstance(content, list):
        return role, "".join(_part(part, inline, where) for part in content)
    raise InputError(
        f"{where}: no text under `value` or `content` (found {_kind(content)}).",
        "Give the turn a string, or a list of text and image parts.",
    )


def _part(part: Any, inline: list, where: str) -> str:
    """One element of a content list as text; an image becomes a placeholder, its file goes to `inline`."""
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return part["text"]
    if kind in PART_KINDS:
        reference = next(
            (part[k] for k in PART_IMAGE if part.get(k) is not None),
            None,
        )
        reference = (
            reference.get("url")
            if isinstance(reference, dict) and "url" in reference
            else reference
        )
        if reference is not None:
            inline.append(_reference(reference, where))
        return IMAGE
    raise InputError(
        f"{where}: a part of the content is neither text nor image: {str(part)[:60]!r}.",
        'Use {"type": "text", "text": …} and {"type": "image", "image": …}.',
    )


def _images(record: dict, where: str) -> list:
    value = next((record[key] for key in IMAGES if record.get(key) is not None), None)
    if value is None or value == "":
        return []
    if isinstance(value, str):
        return split_references(value)
    values = value if isinstance(value, list | tuple) else [value]
    return [_reference(item, where) for item in values]


def _reference(value: Any, where: str) -> str | Image.Image:
    if isinstance(value, str | Image.Image):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, dict) and isinstance(value.get("bytes"), bytes):  # Hugging Face datasets
        return "data:image/*;base64," + base64.b64encode(value["bytes"]).decode()
    if isinstance(value, dict) and isinstance(value.get("path"), str):
        return value["path"]
    raise InputError(
        f"{where}: an image must be a path or a PIL image, not {_kind(value)}.",
        'Write "image": "folder/name.jpg", or a list of such paths.',
    )


def _check_order(turns: list[Turn], where: str) -> None:
    expected = ("system", "user")
    for number, turn in enumerate(turns, 1):
        if turn.role not in expected:
            raise InputError(
                f"{where}: roles out of order: turn {number} is {turn.role} where {' or '.join(expected)} is expected.",
                "Order the turns as an optional system turn, then user and assistant in alternation.",
            )
        expected = ("user",) if turn.role != "user" else ("assistant",)


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", type(None): "nothing"}
    return names.get(type(value), f"a value of type {type(value).__name__}")


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
