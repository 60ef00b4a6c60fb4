"""Pairs written as LLaVA-RLHF reads them. Chapter 5."""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from labs.errors import InputError
from labs.formats import Preference, atomic_write, parse_conversation
from labs.formats.fields import reference
from labs.shapes import seeded

_FROM = {"system": "system", "user": "human", "assistant": "gpt"}
_FIELDS = (
    "id", "image", "images", "conversations", "messages", "conversation", "output_1", "output_2",
    "preference",
)  # fmt: skip


def write_llava_rlhf(
    pairs: Iterable[Preference],
    path: str | os.PathLike,
    image_root: str | os.PathLike | None = None,
    seed: int = 0,
) -> int:
    """Write pairs in LLaVA-RLHF's dialect; return how many. `read_preferences` reads them back.

        {"id", "image", "conversations": [..., {"from": "gpt", "value": output_1}],
         "output_1": {"from": "gpt", "value"}, "output_2": {...}, "preference": 1 or 2, meta...}

    The last turn of `conversations` is the one that the outputs stand for. Which output is the
    chosen one is drawn by `seed`: a file in which it is always the first would teach that. A JSON
    list, as LLaVA-Human-Preference-10K is, or JSONL for a name that ends in .jsonl. Images are
    relative to `image_root` (default: the file's folder); open ones are saved under images/.

    Raises InputError for no pairs, an empty answer, meta fields of these names, a system turn
    out of place, and placeholders that do not match the images. Nothing is left half written.

    LLaVA-RLHF (llava-rlhf/LLaVA-RLHF), RLHF/data_utils/data_utils_rm.py. Chapter 5.
    """
    path = Path(path)
    root = Path(image_root) if image_root is not None else path.parent
    count, lines = 0, path.suffix == ".jsonl"
    with atomic_write(path) as file:
        for row in _rows(pairs, path, root, seed):
            file.write("" if lines else "[\n" if count == 0 else ",\n")
            file.write(json.dumps(row, ensure_ascii=False) + ("\n" if lines else ""))
            count += 1
        if count == 0:
            raise InputError(
                f"There is nothing to write to {path}: not even a preference pair.",
                "Check what was selected.",
            )
        file.write("" if lines else "\n]\n")
    return count


def _rows(pairs: Iterable[Preference], path: Path, root: Path, seed: int) -> Iterator[dict]:
    for number, pair in enumerate(pairs, 1):
        where = f"{path}, record {number}"
        taken = [key for key in pair.meta if key in _FIELDS]
        if taken:
            raise InputError(f"{where}: `meta` holds `{taken[0]}`, a field of pairs.", "Rename it.")
        if not (pair.chosen.strip() and pair.rejected.strip()):
            raise InputError(f"{where}: an answer is empty.", "Drop such pairs before writing.")
        better = seeded("llava-rlhf", seed, number, pair.id).choice((1, 2))
        answers = (pair.chosen, pair.rejected) if better == 1 else (pair.rejected, pair.chosen)
        outputs = [{"from": "gpt", "value": text} for text in answers]
        turns = [{"from": _FROM[turn.role], "value": turn.text} for turn in pair.prompt]
        images = [
            reference(image, root, f"images/{number - 1:06d}_{index}.png", where)
            for index, image in enumerate(pair.images)
        ]
        row = {"id": pair.id}
        if images:
            row |= {"image": images[0]} if len(images) == 1 else {"images": images}
        row |= {
            "conversations": [*turns, outputs[0]], "output_1": outputs[0], "output_2": outputs[1],
            "preference": better, **pair.meta,
        }  # fmt: skip
        # What is written can be read.
        given = {"id": pair.id, "images": images, "conversations": row["conversations"]}
        parse_conversation(given, where)
        yield row
