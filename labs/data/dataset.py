"""Conversations as data sets: opened and encoded when asked for, alone or mixed by weight."""

import dataclasses
import os
from collections.abc import Iterable, Sequence

import numpy as np
from torch.utils.data import Dataset

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
        try:
            images = tuple(load_image(image) for image in conversation.images)
        except InputError as error:
            message = f"Sample {conversation.id}: {error.what}"
            raise Skip("broken_image", message) from None
        opened = dataclasses.replace(conversation, images=images)
        try:
            return encode(opened, self.processor, self.max_length, self.overlong)
        except InputError as error:
            if self.overlong == "error":
                raise
            raise Skip("template", error.what) from None

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


class MixtureDataset(Dataset):
    """Several data sets in given proportions, shuffled; the same for the same seed and epoch.

    Of `size` samples (default: all lengths together), data set i gives weights[i] / sum(weights),
    rounded so that the shares are exact; within one it goes through a new permutation each time
    round, so nothing repeats before everything was seen. `set_epoch(n)` draws the next mixture.
    """

    def __init__(
        self,
        datasets: Sequence[Dataset],
        weights: Sequence[float] | None = None,
        size: int | None = None,
        seed: int = 0,
    ):
        lengths = [len(dataset) for dataset in datasets]
        weights = lengths if weights is None else weights
        if len(weights) != len(datasets):
            raise InputError(
                f"The mixture has {len(datasets)} data sets, but {len(weights)} weights.",
                "Give one weight a data set.",
            )
        if not datasets or min(weights) < 0 or sum(weights) <= 0 or min(lengths) == 0:
            raise InputError(
                f"The mixture cannot be drawn: weights {list(weights)}, lengths {lengths}.",
                "Use weights of 0 or more, at least one above 0, and no empty data set.",
            )
        self.datasets, self.seed = list(datasets), seed
        self.counts = _shares(weights, sum(lengths) if size is None else size)
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draw the order of this epoch."""
        rng = np.random.default_rng([self.seed, epoch])
        pairs = []
        for source, count in enumerate(self.counts):
            length = len(self.datasets[source])
            rounds = [rng.permutation(length) for _ in range(-(-count // length))]
            indices = np.concatenate(rounds)[:count] if rounds else np.empty(0, dtype=np.int64)
            pairs.append(np.stack([np.full(count, source), indices], axis=1))
        self.order = rng.permutation(np.concatenate(pairs))

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> dict:
        source, at = self.order[index]
        return self.datasets[source][int(at)]

    def check(self, final: bool = False) -> None:
        """Check the skips of every part that counts them."""
        for dataset in self.datasets:
            if hasattr(dataset, "check"):
                dataset.check(final)


def _shares(weights: Sequence[float], size: int) -> list[int]:
    """Integers in proportion to the weights that sum to `size` (largest remainders round up)."""
    exact = np.array(weights, dtype=np.float64) / sum(weights) * size
    counts = np.floor(exact).astype(int)
    for i in np.argsort(counts - exact, kind="stable")[: size - counts.sum()]:
        counts[i] += 1
    return counts.tolist()
