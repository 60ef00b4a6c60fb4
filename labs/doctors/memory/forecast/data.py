"""The worst batch of a data set: the one that a run will meet some day, and die of.

Memory of a step grows with batch x longest row (activations, logits) and with the tiles and patches
that go through the vision tower. A shuffled epoch can put any samples together, so the worst batch is
the longest sample, which sets the padding, beside those with most to see. Only the headers of images
are read.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image

from labs.doctors.memory.plan import Plan
from labs.doctors.memory.setup.configs import Source, load_tokenizer
from labs.doctors.memory.setup.inputs import Sample, make_family, make_sample, takes_pictures
from labs.errors import InputError
from labs.formats import IMAGE, Conversation, parse_conversation, read_records, resolve_image

# Without a tokenizer: characters a token of English, and tokens a character of other scripts. Both
# err towards more tokens; a tokenizer.json beside the model's config replaces them.
LETTERS_A_TOKEN, TOKENS_A_SIGN = 3.5, 1.2
TOKENS_A_TURN = 6  # role names and marks of a chat template
MOST_SKIPPED = 0.01


@dataclasses.dataclass(frozen=True)
class Row:
    """One sample: where it stands, how long it gets, what it shows. `cut`: tokens beyond the limit."""

    id: str
    number: int
    length: int
    images: tuple[tuple[int, int], ...]
    visual_tokens: int
    seen: int  # pixels that go through the vision tower
    cut: int = 0


@dataclasses.dataclass(frozen=True)
class Worst:
    """What a data set can do to memory.

    rows: the worst batch, the longest first; count: samples that can be used; lengths: median, 95 %,
    99 % and longest; skipped: reason -> (how many, the first example); exact: whether tokens were
    counted by the model's tokenizer or estimated.
    """

    rows: tuple[Row, ...]
    count: int
    lengths: dict[str, int]
    skipped: dict[str, tuple[int, str]]
    cut: int
    exact: bool

    def plan(self, plan: Plan) -> Plan:
        """`plan` with this batch in place of its own."""
        samples = tuple({"length": row.length, "images": row.images} for row in self.rows)
        return plan.replace(
            samples=samples, batch=len(samples), sequence_length=self.rows[0].length
        )


def worst_batch(
    path: str | os.PathLike,
    source: Source,
    plan: Plan,
    image_root: str | os.PathLike | None = None,
    allow_skips: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Worst:
    """The worst batch of `plan.batch` samples in a LLaVA-like JSON or JSONL file.

    Samples longer than `plan.sequence_length` are cut to it, as trainers do. Raises InputError for a
    file that is no such data, for none that can be used, and where more than 1 % cannot be used
    (unless `allow_skips`): a prediction from the rest would be of another data set.
    """
    family = make_family(source, plan)
    count_tokens, exact = token_counter(source)
    pictures = takes_pictures(family)
    skipped: Counter[str] = Counter()
    examples: dict[str, str] = {}
    rows: list[Row] = []
    root = Path(image_root) if image_root is not None else Path(path).parent
    number = cut = 0
    for number, (line, record) in enumerate(read_records(path), 1):
        if progress and number % 5000 == 0:
            progress(number)
        where = f"{path}, line {line}" if line else f"{path}, record {number}"
        try:
            row = _row(record, number, where, root, family, pictures, count_tokens, plan)
        except _Unusable as error:
            skipped[error.reason] += 1
            examples.setdefault(error.reason, error.example)
            continue
        cut += row.cut > 0
        rows.append(row)
    if not rows:
        reason = next(iter(examples.values()), f"{path} holds no sample")
        raise InputError(
            f"No sample of {path} can be used: {reason}", "Check the file and the image folder."
        )
    unusable = sum(skipped.values())
    if unusable > MOST_SKIPPED * number and not allow_skips:
        reason, many = skipped.most_common(1)[0]
        raise InputError(
            f"{unusable:,} of {number:,} samples of {path} cannot be used; {many:,} for {reason}, the first: "
            f"{examples[reason]}",
            "Mend them or name the image folder with --image-root; --allow-skips predicts from the rest.",
        )
    lengths = sorted(row.length for row in rows)
    return Worst(
        rows=tuple(_worst(rows, plan.batch)),
        count=len(rows),
        lengths={
            "median": lengths[len(lengths) // 2],
            "95 %": lengths[int(0.95 * (len(lengths) - 1))],
            "99 %": lengths[int(0.99 * (len(lengths) - 1))],
            "longest": lengths[-1],
        },
        skipped={reason: (skipped[reason], examples[reason]) for reason in examples},
        cut=cut,
        exact=exact,
    )


def _worst(rows: list[Row], batch: int) -> Iterator[Row]:
    """The longest row, then those with most to see; of equals the longer, then the earlier."""
    longest = max(rows, key=lambda row: (row.length, row.seen, -row.number))
    yield longest
    others = sorted(
        (row for row in rows if row is not longest),
        key=lambda row: (-row.seen, -row.length, row.number),
    )
    yield from others[: batch - 1]


class _Unusable(Exception):
    def __init__(self, reason: str, example: str):
        super().__init__(reason, example)
        self.reason, self.example = reason, example


def _row(record, number, where, root, family, pictures, count_tokens, plan) -> Row:
    try:
        conversation = parse_conversation(record, where)
    except InputError as error:
        raise _Unusable("a broken record", str(error)) from None
    sizes = []
    for image in conversation.images if pictures else ():
        try:
            name = resolve_image(str(image), root, where)
            sizes.append(image_size(name))
        except (InputError, OSError, ValueError, SyntaxError) as error:
            raise _Unusable("an image that is missing or broken", f"{where}: {error}") from None
    try:
        visuals = make_sample(family, 0, sizes)
    except InputError as error:
        raise _Unusable("a picture that the model does not take", f"{where}: {error}") from None
    length = _text(conversation, count_tokens) + visuals.least_length - 1
    kept = min(length, plan.sequence_length)
    if visuals.least_length > kept:
        raise _Unusable(
            f"more visual tokens than the sequence length of {plan.sequence_length:,}",
            f"{where}: {visuals.visual_tokens:,} visual tokens",
        )
    return Row(
        conversation.id, number, kept, tuple(sizes), visuals.visual_tokens, _seen(family, visuals), length - kept
    )  # fmt: skip


def _seen(family, sample: Sample) -> int:
    """Pixels that go through the vision tower."""
    patch = getattr(getattr(family.config, "vision_config", None), "patch_size", 1)
    total = 0
    for visual in sample.visuals:
        area = math.prod(visual.grid) * patch**2 if visual.grid else math.prod(visual.tile)
        total += area if visual.grid else area * visual.tiles
    return total


def _text(conversation: Conversation, count_tokens: Callable[[str], int]) -> int:
    return sum(
        count_tokens(turn.text.replace(IMAGE, "")) + TOKENS_A_TURN for turn in conversation.turns
    )


def token_counter(source: Source) -> tuple[Callable[[str], int], bool]:
    """A function text -> tokens, and whether it is the model's own tokenizer."""
    tokenizer = load_tokenizer(source)
    if tokenizer is not None:
        return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids), True
    return estimate_tokens, False


def estimate_tokens(text: str) -> int:
    """About how many tokens a text becomes: by letters, other scripts counted a sign at a time."""
    latin = sum(character < "\u0250" for character in text)
    return math.ceil(latin / LETTERS_A_TOKEN + (len(text) - latin) * TOKENS_A_SIGN)


@functools.lru_cache(maxsize=65536)
def image_size(path: str) -> tuple[int, int]:
    """(width, height) of an image file from its header, turned as its EXIF orientation says."""
    if path.startswith("data:"):
        from labs.formats import load_image

        return load_image(path).size
    with Image.open(path) as image:
        width, height = image.size
        exif = image.info.get("exif")  # getexif() would decode a whole PNG to look for one
        if exif:
            found = Image.Exif()
            found.load(exif)
            if found.get(0x0112, 1) in (5, 6, 7, 8):
                return height, width
        return width, height
