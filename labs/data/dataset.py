"""Conversations as a data set: opened and encoded when asked for."""

import dataclasses
import os
from collections.abc import Callable, Iterable

from torch.utils.data import Dataset

from labs.data.cache import CachedImages
from labs.data.encode import Overlong, check_overlong, encode
from labs.data.skips import Skip, Skips
from labs.data.template import ChatFormat
from labs.errors import InputError
from labs.formats import Conversation, load_image, parse_conversation, read_conversations


class ConversationDataset(Dataset):
    """A map-style data set of encoded conversations.

    conversations: a path (LLaVA JSON or JSONL), or an iterable of Conversations or records. Only
    texts and paths are held; images are opened when a sample is asked for, also in DataLoader
    workers.
    max_length, overlong: as in `encode`; with overlong="error" every sample that cannot be encoded
    is an error, not a skip.
    images: a cache of decoded pictures to open images through, else `load_image`.

    A sample that cannot be used is counted in `skips` by reason, and the next usable one after it
    takes its place, so that batches keep their size and their number on every rank; a training loop
    calls `check()` now and then, which stops the run when more than 1 % are skipped.

    Raises InputError for an empty data set, and at once if the first conversation's template
    rewrites history.
    """

    def __init__(
        self,
        conversations: str | os.PathLike | Iterable[Conversation | dict],
        processor,
        max_length: int | None = None,
        overlong: Overlong = "skip",
        skips: Skips | None = None,
        images: CachedImages | None = None,
    ):
        if isinstance(conversations, str | os.PathLike):
            conversations = read_conversations(conversations)
        self.conversations = [
            item if isinstance(item, Conversation) else parse_conversation(item, f"record {number}")
            for number, item in enumerate(conversations, 1)
        ]
        if not self.conversations:
            raise InputError("The data set is empty.", "Check the path and what was selected.")
        check_overlong(overlong)
        self.processor, self.max_length, self.overlong = processor, max_length, overlong
        self.skips = skips if skips is not None else Skips()
        self.open_image = load_image if images is None else images.load
        ChatFormat.of(processor).locate(self.conversations[0])

    def __len__(self) -> int:
        return len(self.conversations)

    def __getitem__(self, index: int) -> dict:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        for step in range(len(self)):
            at = (index + step) % len(self)
            self.skips.seen()
            try:
                return self.encode(at)
            except Skip as skip:
                self.skips.add(skip.reason, at)
        raise InputError(
            f"None of the {len(self)} samples can be used; the first: {self.explain(0)}",
            "Mend the data or raise max_length.",
        )

    def encode(self, index: int) -> dict:
        """Encode exactly this sample; raises Skip if it cannot be used."""
        conversation = self.conversations[index]
        return encode_or_skip(
            conversation, self.processor, self.max_length, self.overlong, self.open_image
        )

    def explain(self, index: int) -> str:
        """Why a sample is skipped, in one sentence; "" if it is not."""
        try:
            self.encode(index)
        except Skip as skip:
            return str(skip)
        return ""

    def check(self, final: bool = False) -> None:
        """Raise InputError, with the first sample as the example, if too many were skipped."""
        self.skips.check(final, self.explain)


def encode_or_skip(
    conversation: Conversation,
    processor,
    max_length: int | None = None,
    overlong: Overlong = "skip",
    open_image: Callable = load_image,
) -> dict:
    """Open a conversation's images and encode it; raises Skip, with its reason, if it cannot be used.

    With overlong="error" what the template or the length refuses is an InputError.
    """
    try:
        images = tuple(open_image(image) for image in conversation.images)
    except InputError as error:
        message = f"Sample {conversation.id}: {error.what}"
        raise Skip("broken_image", message) from None
    opened = dataclasses.replace(conversation, images=images)
    try:
        return encode(opened, processor, max_length, overlong)
    except InputError as error:
        if overlong == "error":
            raise
        raise Skip("template", error.what) from None
