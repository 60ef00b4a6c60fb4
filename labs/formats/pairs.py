"""Pictures with one text each: the data of alignment and of contrastive training.

One JSON object a line, or one JSON list of them:

    {"file_name": "0001.png", "text": "a red ring above a blue square"}

Sources: Hugging Face Datasets, "Create an image dataset", metadata.jsonl of an ImageFolder
(`file_name`, `text`); salesforce/BLIP, data/coco_karpathy_dataset.py (`image`, `caption`, `image_id`;
in its files for validation `caption` is a list, one pair for each).
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from PIL import Image

from labs.errors import InputError
from labs.formats import fields
from labs.formats.conversation import Conversation, Turn
from labs.formats.llava import resolve_image

IMAGES = ("image", "file_name", "image_path")
TEXTS = ("text", "caption")


@dataclasses.dataclass(frozen=True)
class ImageText:
    """A picture and its text; `meta` keeps whatever else the record held."""

    image: str | Image.Image
    text: str
    meta: dict = dataclasses.field(default_factory=dict)

    def to_conversation(self, question: str = "Describe the image.") -> Conversation:
        """The text as the answer to `question`; the same question for all is what alignment uses."""
        name = str(
            self.meta.get("id", self.meta.get("image_id", os.path.basename(self.image)[:80]))
        )
        turns = (Turn("user", fields.question_turn(question)), Turn("assistant", self.text))
        return Conversation(name, (self.image,), turns, dict(self.meta))


def read_pairs(
    path: str | os.PathLike, image_root: str | os.PathLike | None = None
) -> Iterator[ImageText]:
    """Yield the pairs of one file; image paths are resolved under `image_root` (default: its folder).

    The image is under `image`, `file_name` or `image_path`, the text under `text` or `caption`; one
    of each. Raises InputError, with the line, for bad JSON, a missing or an empty field, two fields
    that both could be meant, an `id` used before (`image_id` may repeat: a picture may have several
    texts), an image outside the root, and a file without pairs.
    """
    path = Path(path)
    root = Path(image_root) if image_root is not None else path.parent
    return _read(root, fields.read_objects(path, "a pair of image and text"))


def _read(root: Path, objects: Iterator) -> Iterator[ImageText]:
    seen: dict = {}
    for where, record in objects:
        image_key, text_key = _key(record, IMAGES, where), _key(record, TEXTS, where)
        image = resolve_image(fields.text(record, image_key, where), root, where)
        meta = {key: value for key, value in record.items() if key not in (image_key, text_key)}
        if meta.get("id") is not None:
            fields.claim(seen, meta["id"], where)
        texts = record[text_key] if isinstance(record[text_key], list) else [record[text_key]]
        if not texts:
            raise InputError(f"{where}: `{text_key}` is an empty list.", "Remove the record.")
        for text in texts:
            yield ImageText(image, fields.text({text_key: text}, text_key, where), dict(meta))


def _key(record: dict, keys: tuple[str, ...], where: str) -> str:
    found = [key for key in keys if record.get(key) is not None]
    if len(found) > 1:
        names = " and ".join(f"`{key}`" for key in found)
        raise InputError(f"{where}: both {names} are given.", "Keep the one that is meant.")
    if not found:
        fields.required(record, keys[0], where)
    return found[0]


def write_pairs(
    pairs: Iterable[ImageText],
    path: str | os.PathLike,
    image_root: str | os.PathLike | None = None,
) -> int:
    """Write metadata.jsonl lines (`meta`, then `file_name` and `text`), images relative to `image_root`.

    Returns how many. Datasets looks for the images beside a file named metadata.jsonl.
    """
    path = Path(path)
    root = Path(image_root) if image_root is not None else path.parent
    rows = fields.checked(_rows(pairs, path, root), partial(_read, root), path)
    return fields.write_objects(rows, path, "a pair of image and text")


def _rows(pairs: Iterable[ImageText], path: Path, root: Path) -> Iterator[dict]:
    for number, pair in enumerate(pairs, 1):
        where = f"{path}, record {number}"
        taken = [key for key in (*IMAGES, *TEXTS) if key in pair.meta]
        if taken:
            raise InputError(f"{where}: `meta` holds `{taken[0]}`, a field of pairs.", "Rename it.")
        image = fields.reference(pair.image, root, f"images/{number - 1:08d}.png", where)
        yield {
            **pair.meta,
            "file_name": image,
            "text": fields.text({"text": pair.text}, "text", where),
        }
