"""Conversations as a stream: what shards or JSON Lines hold, encoded as ConversationDataset does it."""

import os
import re
from pathlib import Path
from typing import Any

from labs.data.cache import CachedImages
from labs.data.dataset import encode_or_skip
from labs.data.encode import Overlong, check_overlong
from labs.data.streaming import StreamingDataset
from labs.errors import InputError
from labs.formats import IMAGE, Conversation, load_image, parse_conversation
from labs.formats.llava import resolve_image
from labs.formats.shard_fields import IMAGE_SUFFIXES, decode_image, decode_sample, kind_of


def stream_conversations(
    source: Any,
    processor,
    max_length: int | None = None,
    overlong: Overlong = "skip",
    image_root: str | os.PathLike | None = None,
    images: CachedImages | None = None,
    **options: Any,
) -> StreamingDataset:
    """A StreamingDataset of encoded conversations; `options` are its own.

    image_root: the folder that the images of JSON records are relative to; by default that of the
    first file.
    """
    if image_root is None and isinstance(source, str | os.PathLike):
        image_root = Path(source).parent
    encoder = ConversationEncoder(processor, max_length, overlong, image_root, images)
    return StreamingDataset(source, encoder, **options)


class ConversationEncoder:
    """Encodes what a stream holds: a Conversation, a record of any dialect, or a sample of a shard.

    A sample of a shard holds its record under `json` (what `parse_conversation` reads) and its pictures
    beside it, in the order of their extensions ("jpg", or "0.jpg", "1.jpg", …), whatever names the
    record gives them; without a record, `txt` or `caption` is the caption of its picture.

    Relative paths of a record are resolved under `image_root` and must not leave it. images: a cache of
    decoded pictures, for files and for members of shards.

    Called with an item it returns what `encode` does, or raises Skip or InputError. Picklable, for
    workers.
    """

    def __init__(
        self,
        processor,
        max_length: int | None = None,
        overlong: Overlong = "skip",
        image_root: str | os.PathLike | None = None,
        images: CachedImages | None = None,
    ):
        check_overlong(overlong)
        self.processor, self.max_length, self.overlong = processor, max_length, overlong
        self.image_root, self.images = image_root, images

    def __call__(self, item: Any) -> dict:
        if isinstance(item, dict) and "__key__" in item:
            conversation = self._of_shard(item)
        elif isinstance(item, Conversation):
            conversation = item
        else:
            conversation = self._of_record(item)
        return encode_or_skip(
            conversation, self.processor, self.max_length, self.overlong, self._open
        )

    def _of_record(self, record: dict) -> Conversation:
        conversation = parse_conversation(record)
        images = [
            self._resolved(image, conversation.id) if isinstance(image, str) else image
            for image in conversation.images
        ]
        return Conversation(conversation.id, tuple(images), conversation.turns, conversation.meta)

    def _resolved(self, image: str, name: str) -> str:
        if self.image_root is None and not image.startswith("data:"):
            raise InputError(
                f"Sample {name} names the image {image}, and it is not said where images are.",
                "Give image_root, the folder that they are relative to.",
            )
        return resolve_image(image, Path(self.image_root or "."), f"sample {name}")

    def _of_shard(self, sample: dict) -> Conversation:
        name = str(sample["__key__"])
        texts = decode_sample(sample, images=False)
        record = next((texts[k] for k in ("json", "jsn") if k in texts), None)
        if record is None:
            caption = next((texts[k] for k in ("txt", "caption", "text") if k in texts), None)
            if caption is None:
                raise InputError(f"Sample {name} has no json and no txt.", "Give it one of them.")
            record = {"conversations": [IMAGE, caption.strip()]}
        if not isinstance(record, dict):
            raise InputError(
                f"The json of sample {name} is no object.", "Write one record a sample."
            )
        members = sorted((k for k in sample if kind_of(k) in IMAGE_SUFFIXES), key=_natural)
        pictures = [_Picture(sample, member) for member in members]
        # Placeholders and pictures are counted by parse_conversation, which takes paths.
        record = {**record, "id": record.get("id", name), "image": list(members)}
        record.pop("images", None)
        conversation = parse_conversation(record, f"sample {name}")
        return Conversation(conversation.id, tuple(pictures), conversation.turns, conversation.meta)

    def _open(self, image: Any) -> Any:
        if isinstance(image, _Picture):
            if self.images is None:
                return image.decode()
            return self.images.get(image.identity(), image.decode)
        return load_image(image) if self.images is None else self.images.load(image)


class _Picture:
    """A picture inside a shard's sample."""

    def __init__(self, sample: dict, extension: str):
        self.sample, self.extension = sample, extension

    def decode(self) -> Any:
        where = f"{self.sample['__key__']}.{self.extension} in {self.sample['__url__']}"
        return decode_image(self.sample[self.extension], where)

    def identity(self) -> tuple:
        """What a cache knows it by: the shard as it is now, and the name in it."""
        stat = os.stat(self.sample["__url__"])
        shard = os.path.abspath(self.sample["__url__"]), stat.st_size, stat.st_mtime_ns
        return (*shard, self.sample["__key__"], self.extension)


def _natural(name: str) -> tuple[list[int], str]:
    """2 before 10, and names without a number first."""
    return [int(part) if part.isdigit() else -1 for part in re.split(r"(\d+)", name)], name
