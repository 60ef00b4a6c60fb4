"""COCO captions: pictures with several human captions each, in one JSON object.

    {"info": {…}, "licenses": […],
     "images": [{"id": 391895, "file_name": "COCO_val2014_000000391895.jpg", "height": 360, "width": 640, …}],
     "annotations": [{"image_id": 391895, "id": 770337, "caption": "A man with a red helmet …"}]}

and what a model answered, as the caption evaluation takes it, in one JSON list:

    [{"image_id": 391895, "caption": "…"}]

Sources: cocodataset.org, "Data format" 1 and 5; cocodataset/cocoapi, PythonAPI/pycocotools/coco.py and
results/captions_val2014_fakecap_results.json.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from PIL import Image

from labs.errors import InputError
from labs.formats import fields
from labs.formats.conversation import Conversation, Turn
from labs.formats.files import atomic_write, check_file
from labs.formats.llava import resolve_image


@dataclasses.dataclass(frozen=True)
class CocoCaption:
    """One caption by one person; `id` is the annotation's, unique in the file."""

    id: int
    text: str


@dataclasses.dataclass(frozen=True)
class CocoImage:
    """A picture with its captions, in the order of the file (none in a test set).

    width, height: pixels, if the file says them. meta: the other fields of the image.
    """

    id: int
    image: str | Image.Image
    captions: tuple[CocoCaption, ...]
    width: int | None = None
    height: int | None = None
    meta: dict = dataclasses.field(default_factory=dict)

    def to_conversations(self, question: str = "Describe the image.") -> Iterator[Conversation]:
        """One conversation for each caption: the caption is the answer to `question`."""
        for caption in self.captions:
            asked = Turn("user", fields.question_turn(question))
            turns = (asked, Turn("assistant", caption.text))
            yield Conversation(str(caption.id), (self.image,), turns, {"image_id": self.id})


def read_coco(
    path: str | os.PathLike, image_root: str | os.PathLike | None = None
) -> Iterator[CocoImage]:
    """Yield the pictures with their captions; `file_name` is resolved under `image_root`.

    The captions of a picture may stand anywhere in the file, so the whole of it is read first
    (train2017 has 92 MB). The default root is the folder of the file; the public archive keeps
    annotations/ and train2017/ side by side, so name the latter.

    Raises InputError, naming the record, for bad JSON (with its line), a missing list or field, an id
    used before, a caption for a picture that is not there, annotations that are no captions (boxes of
    instances_*.json), an image outside the root, and a file without pictures.
    """
    path = Path(path)
    root = Path(image_root) if image_root is not None else path.parent
    data = _load(path)
    if not isinstance(data, dict):
        raise InputError(
            f"{path}: COCO annotations are one JSON object, not {fields.kind(data)}.",
            "Results of a model are read by read_coco_results.",
        )
    images = _list(data, "images", path)
    captions = _captions(_list(data, "annotations", path), path)
    if not images:
        raise fields.nothing(path, "a picture")
    return iter(_join(images, captions, path, root))


def _join(images: list, captions: dict, path: Path, root: Path) -> list[CocoImage]:
    seen: dict = {}
    joined = []
    for number, record in enumerate(images, 1):
        where = f"{path}, image {number}"
        key = fields.whole(record, "id", where)
        fields.claim(seen, key, where, "image id")
        size = [
            fields.whole(record, name, where) if record.get(name) is not None else None
            for name in ("width", "height")
        ]
        used = ("id", "file_name", "width", "height")
        meta = {name: value for name, value in record.items() if name not in used}
        file = resolve_image(fields.text(record, "file_name", where), root, where)
        own = tuple(caption for caption, _ in captions.pop(key, ()))
        joined.append(CocoImage(key, file, own, *size, meta))
    for key, lost in captions.items():
        raise InputError(
            f"{lost[0][1]}: the caption is for image {key}, which is not among the images.",
            "Remove the caption, or add the image to `images`.",
        )
    return joined


def _captions(annotations: list, path: Path) -> dict[int, list[tuple[CocoCaption, str]]]:
    """The captions by image id, each with its place."""
    seen: dict = {}
    captions: dict[int, list] = {}
    for number, record in enumerate(annotations, 1):
        where = f"{path}, annotation {number}"
        if "caption" not in record and ("bbox" in record or "category_id" in record):
            raise InputError(
                f"{where}: a box, not a caption: this is an instances file.",
                "Read captions_*.json of the same archive.",
            )
        key = fields.whole(record, "id", where)
        fields.claim(seen, key, where, "annotation id")
        caption = CocoCaption(key, fields.text(record, "caption", where))
        captions.setdefault(fields.whole(record, "image_id", where), []).append((caption, where))
    return captions


def write_coco(
    images: Iterable[CocoImage],
    path: str | os.PathLike,
    image_root: str | os.PathLike | None = None,
    info: dict | None = None,
) -> int:
    """Write pictures and captions as one COCO object, file names relative to `image_root`.

    `info` goes to the object's own `info`. Returns the number of pictures.
    """
    path = Path(path)
    root = Path(image_root) if image_root is not None else path.parent
    records, annotations, seen, used = [], [], {}, {}
    for number, item in enumerate(images, 1):
        where = f"{path}, image {number}"
        fields.claim(seen, item.id, where, "image id")
        name = fields.reference(item.image, root, f"images/{item.id:012d}.png", where)
        size = {"height": item.height, "width": item.width}
        known = {key: value for key, value in size.items() if value is not None}
        records.append({**item.meta, "id": item.id, "file_name": name, **known})
        for caption in item.captions:
            fields.claim(used, caption.id, where, "annotation id")
            text = fields.text({"caption": caption.text}, "caption", where)
            annotations.append({"image_id": item.id, "id": caption.id, "caption": text})
    if not records:
        raise InputError(f"There is no picture to write to {path}.", "Check what was selected.")
    data = {"info": info or {}, "licenses": [], "images": records, "annotations": annotations}
    with atomic_write(path) as file:
        json.dump(data, file, ensure_ascii=False)
    return len(records)


def read_coco_results(path: str | os.PathLike) -> dict[int, str]:
    """Return a model's captions by image id. One caption for each picture; a second is an error."""
    seen, captions = {}, {}
    for where, record in fields.read_objects(path, "a caption"):
        key = fields.whole(record, "image_id", where)
        fields.claim(seen, key, where, "image_id")
        captions[key] = record.get("caption")
        if not isinstance(captions[key], str):  # a model may well answer nothing
            fields.text(record, "caption", where)
    return captions


def write_coco_results(captions: dict[int, str], path: str | os.PathLike) -> int:
    """Write a model's captions as the list that pycocotools' `loadRes` takes; return how many."""
    if not captions:
        raise InputError(f"There is no caption to write to {path}.", "Check what was selected.")
    records = [{"image_id": key, "caption": caption} for key, caption in captions.items()]
    with atomic_write(path) as file:
        json.dump(records, file, ensure_ascii=False)
    return len(records)


def _load(path: Path):
    check_file(path, "annotation file")
    try:
        with open(path, encoding="utf-8-sig") as file:
            return json.load(file)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8 text (byte {error.start}: {error.reason}).",
            "Convert it to UTF-8, or check that it is a JSON file at all.",
        ) from None
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}, line {error.lineno}: bad JSON: {error.msg[:1].lower() + error.msg[1:]}.",
            "Fetch the file again: a copy that was cut off ends like this.",
        ) from None


def _list(data: dict, key: str, path: Path) -> list[dict]:
    values = fields.required(data, key, str(path))
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise InputError(f"{path}: `{key}` must be a list of objects.", "Check the file's origin.")
    return values
