"""Preference pairs as tokens: prompt, picture and two answers, each encoded once. Chapter 6."""

from collections.abc import Sequence

import torch
from PIL import Image
from torch.utils.data import Dataset

from labs.data.encode import process_images
from labs.data.labels import IGNORE, build_labels
from labs.data.preference.keys import image_key
from labs.data.skips import Skip
from labs.errors import InputError
from labs.formats import Preference, load_image
from labs.shapes import seeded

REASONS = {
    "no_difference": "two answers that are the same tokens",
    "truncated": "answers that are the same tokens within max_length",
    "prompt_eaten": "a prompt that alone fills max_length",
    "different_images": "answers to different images",
}
CROP = (0.01, 0.2)  # of a picture's area


def crop(image: Image.Image, rng, area: tuple[float, float] = CROP) -> Image.Image:
    """mDPO's corrupted image: a random piece of 1 to 20 % of the area, at the old size.

    `rng` is a random.Random. What is left rarely shows what the answer tells of. Wang et al. 2024,
    arXiv:2406.11839 ("Crop 0-20 %"), section 4. Chapter 6.
    """
    side = rng.uniform(*area) ** 0.5
    width, height = (max(1, round(n * side)) for n in image.size)
    left, top = rng.randint(0, image.width - width), rng.randint(0, image.height - height)
    return image.crop((left, top, left + width, top + height)).resize(image.size)


def encode_preference(
    pair: Preference,
    processor,
    max_length: int | None = None,
    corrupted: bool = False,
    seed: int = 0,
) -> dict:
    """One pair: {"prompt" [P], "chosen" [C], "rejected" [R], "pixels", "corrupted"}.

    prompt: token ids up to the answer, image placeholders included; chosen, rejected: the answers'
    ids, the token that ends the turn included, cut so that prompt and answer fit `max_length`.
    pixels: the image processor's tensors (none without images). corrupted: with `corrupted`, the
    same tensors of `meta["corrupted_images"]`, or else of a random `crop` of each image, drawn by
    `seed` and the pair's id.

    Raises Skip for a pair that teaches nothing (REASONS): the same tokens, as it is or once cut; a
    prompt that leaves no room for an answer; `meta` that gives its answers `chosen_images` and
    `rejected_images`, and these differ (they differ in what they answer). InputError for a missing
    image, a template that puts the answers behind different prompts, and, with `corrupted`, a
    pair without an image.
    """
    _same_images(pair)
    images = [load_image(image) for image in pair.images]
    pixels, replacements = process_images(images, processor, pair.id)
    prompt, chosen, rejected = _split(pair, processor, replacements)
    if torch.equal(chosen, rejected):
        raise Skip("no_difference", f"Pair {pair.id}: both answers are the same.")
    if max_length is not None:
        room = max_length - len(prompt)
        if room < 1:
            raise Skip(
                "prompt_eaten",
                f"Pair {pair.id}: its prompt has {len(prompt)} tokens, max_length is {max_length}.",
            )
        chosen, rejected = chosen[:room], rejected[:room]
        if torch.equal(chosen, rejected):
            raise Skip(
                "truncated",
                f"Pair {pair.id}: both answers are the same within max_length = {max_length}.",
            )
    made = {"prompt": prompt, "chosen": chosen, "rejected": rejected, "pixels": pixels}
    if corrupted:
        made["corrupted"] = _corrupted(pair, images, processor, replacements, seed)
    return made


def _same_images(pair: Preference) -> None:
    for side in ("chosen", "rejected"):
        shown = pair.meta.get(f"{side}_images")
        if shown is None:
            continue
        shown = shown if isinstance(shown, list | tuple) else [shown]
        if [image_key(i) for i in shown] != [image_key(i) for i in pair.images]:
            raise Skip(
                "different_images",
                f"Pair {pair.id}: the {side} answer is to other images than the pair's.",
            )


def _split(pair: Preference, processor, replacements: Sequence[str]):
    """(prompt, chosen, rejected): where the last answer begins, and the same before it in both."""
    prompts, answers = [], []
    for side in (True, False):
        tokens = build_labels(pair.to_conversation(side), processor, replacements)
        said = tokens.labels != IGNORE
        end = int(said.nonzero()[-1]) + 1
        before = (~said[:end]).nonzero()
        start = int(before[-1]) + 1 if len(before) else 0
        prompts.append(tokens.input_ids[:start])
        answers.append(tokens.input_ids[start:end])
    if not torch.equal(*prompts) or not len(prompts[0]):
        raise InputError(
            f"Pair {pair.id}: its answers do not stand behind the same prompt once rendered.",
            "Use a chat template that renders the prompt alike whatever the answer.",
        )
    return prompts[0], *answers


def _corrupted(pair: Preference, images: list, processor, replacements: list, seed: int) -> dict:
    if not images:
        raise InputError(
            f"Pair {pair.id} has no image to corrupt.", "mDPO needs one; use dpo for text."
        )
    given = pair.meta.get("corrupted_images")
    if given is not None:
        given = given if isinstance(given, list | tuple) else [given]
        others = [load_image(image) for image in given]
    else:
        rng = seeded("corrupted image", seed, pair.id)
        others = [crop(image, rng) for image in images]
    pixels, theirs = process_images(others, processor, pair.id)
    if theirs != replacements:
        raise InputError(
            f"Pair {pair.id}: the corrupted images take other image tokens than the pair's.",
            "Give corrupted images of the same number and size.",
        )
    return pixels


class PreferencePairs(Dataset):
    """A map-style data set of encoded pairs; each is encoded when asked for.

    An item is what `encode_preference` makes, with "index", its place in `pairs`, and with
    "reference" [2 or 3] where `stored` [N, 2 or 3] holds log-probabilities of a reference.

    A pair that cannot be used is counted in `skipped`, by reason, and the next usable one takes its
    place. `check()`, which the training loop calls, raises InputError once more than `limit` of the
    pairs seen were skipped, of 100 at least or of all; limit=1 never does. `keep=True` holds what
    was encoded, pixels too: for small pictures.
    """

    def __init__(
        self,
        pairs: Sequence[Preference],
        processor,
        max_length: int | None = None,
        *,
        corrupted: bool = False,
        limit: float = 0.05,
        keep: bool = False,
        seed: int = 0,
        stored: torch.Tensor | None = None,
    ):
        self.pairs = list(pairs)
        if not self.pairs:
            raise InputError("There are no preference pairs.", "Check the path and the selection.")
        self.processor, self.max_length = processor, max_length
        self.corrupted, self.limit, self.seed, self.stored = corrupted, limit, seed, stored
        self.kept: dict[int, dict] | None = {} if keep else None
        # One cell a pair, shared with a DataLoader's workers: 0 not seen, 1 usable, else a reason.
        self.state = torch.zeros(len(self.pairs), dtype=torch.uint8).share_memory_()

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        for step in range(len(self)):
            at = (index + step) % len(self)
            made = self.usable(at)
            if made is not None:
                return made if self.stored is None else made | {"reference": self.stored[at]}
        raise InputError(
            f"None of the {len(self)} pairs can be used: {self.skipped}.",
            "Raise max_length, or look at how the pairs were made.",
        )

    def usable(self, at: int) -> dict | None:
        """Pair `at`, encoded, or None where it is skipped (and counted)."""
        if self.state[at] > 1:
            return None
        if self.kept is not None and at in self.kept:
            return self.kept[at]
        try:
            made = encode_preference(
                self.pairs[at], self.processor, self.max_length, self.corrupted, self.seed
            )
        except Skip as skip:
            self.state[at] = 2 + list(REASONS).index(skip.reason)
            return None
        made["index"] = at
        self.state[at] = 1
        if self.kept is not None:
            self.kept[at] = made
        return made

    @property
    def skipped(self) -> dict[str, int]:
        """Pairs skipped so far, by reason."""
        counts = torch.bincount(self.state.long(), minlength=2 + len(REASONS)).tolist()[2:]
        return {r: n for r, n in zip(REASONS, counts, strict=True) if n}

    def check(self) -> None:
        """Raise InputError if too many of the pairs seen were skipped."""
        seen, skipped = int((self.state > 0).sum()), int((self.state > 1).sum())
        if seen >= min(100, len(self)) and skipped > self.limit * seen:
            reasons = "; ".join(f"{n} with {REASONS[r]}" for r, n in self.skipped.items())
            raise InputError(
                f"{skipped} of {seen} pairs cannot be used ({reasons}); the limit is "
                f"{100 * self.limit:g} %.",
                "Raise max_length, drop such pairs where they are made, or raise the limit.",
            )
