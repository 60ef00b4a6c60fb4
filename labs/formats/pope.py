"""POPE: yes/no questions about whether an object is in a picture.

One JSON object a line (the public files end in .json all the same):

    {"question_id": 1, "image": "COCO_val2014_000000310196.jpg",
     "text": "Is there a snowboard in the image?", "label": "yes"}

Source: RUCAIBox/POPE, output/coco/coco_pope_{random,popular,adversarial}.json (3,000 questions each);
the files of output/seem are one JSON list of the same objects. arXiv:2305.10355.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from PIL import Image

from labs.errors import InputError
from labs.formats import fields
from labs.formats.conversation import Conversation, Turn
from labs.formats.llava import resolve_image

SETTINGS = ("random", "popular", "adversarial")


@dataclasses.dataclass(frozen=True)
class PopeQuestion:
    """One question. label: "yes" or "no". setting: how the absent objects were drawn, if known."""

    id: int
    image: str | Image.Image
    question: str
    label: str
    setting: str | None = None

    def to_conversation(self, instruction: str = "") -> Conversation:
        """The question, `instruction` on a line of its own after it, and the label as the answer."""
        asked = fields.question_turn(self.question) + (f"\n{instruction}" if instruction else "")
        meta = {"setting": self.setting} if self.setting else {}
        turns = (Turn("user", asked), Turn("assistant", self.label))
        return Conversation(str(self.id), (self.image,), turns, meta)


def read_pope(
    path: str | os.PathLike, image_root: str | os.PathLike | None = None
) -> Iterator[PopeQuestion]:
    """Yield the questions of one file; image paths are resolved under `image_root` (default: its folder).

    The label may be written with capitals and with spaces around it. `setting` comes from the file's
    name, or from a field `category` (LLaVA's llava_pope_test.jsonl, all three settings in one file).

    Raises InputError, with the line, for bad JSON, a missing field, a label other than yes and no, a
    question_id used before, an image outside the root, and a file without questions.
    """
    path = Path(path)
    root = Path(image_root) if image_root is not None else path.parent
    return _read(path, root, fields.read_objects(path, "a POPE question"))


def _read(path: Path, root: Path, objects: Iterator) -> Iterator[PopeQuestion]:
    named, seen = _setting(path), {}
    for where, record in objects:
        number = fields.whole(record, "question_id", where)
        fields.claim(seen, number, where, "question_id")
        label = yes_no(fields.text(record, "label", where), where)
        yield PopeQuestion(
            number,
            resolve_image(fields.text(record, "image", where), root, where),
            fields.text(record, "text", where),
            label,
            record.get("category") or named,
        )


def write_pope(
    questions: Iterable[PopeQuestion],
    path: str | os.PathLike,
    image_root: str | os.PathLike | None = None,
) -> int:
    """Write questions as POPE's JSON lines, images relative to `image_root`; return how many.

    A setting that the file's name does not say is written as the field `category`.
    """
    path = Path(path)
    root = Path(image_root) if image_root is not None else path.parent
    rows = fields.checked(_rows(questions, path, root), partial(_read, path, root), path)
    return fields.write_objects(rows, path, "a POPE question")


def _rows(questions: Iterable[PopeQuestion], path: Path, root: Path) -> Iterator[dict]:
    named = _setting(path)
    for number, item in enumerate(questions, 1):
        image = fields.reference(
            item.image, root, f"images/{item.id}.png", f"{path}, record {number}"
        )
        row = {"question_id": item.id, "image": image, "text": item.question, "label": item.label}
        if item.setting and item.setting != named:
            row["category"] = item.setting
        yield row


def yes_no(label: str, where: str) -> str:
    """ "yes" or "no" for a label with any capitals and spaces; InputError for anything else."""
    plain = label.strip().lower()
    if plain not in ("yes", "no"):
        raise InputError(f"{where}: the label is {label!r}.", "Write yes or no.")
    return plain


def _setting(path: Path) -> str | None:
    found = re.search(rf"({'|'.join(SETTINGS)})$", path.stem)
    return found.group(1) if found else None
