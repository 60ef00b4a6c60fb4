"""A data set of the shapes world with faults planted at known lines: what detectors are measured on.

A *variant* is one way in which a fault comes about. It changes a `Plant` in place: the record, the
text of its line, or files in the data folder. `plant` writes the whole set and returns what was
planted where.
"""

import itertools
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from labs.formats import atomic_write
from labs.shapes import Mix, stream_record


@dataclass
class Plant:
    """One sample that a fault is planted in.

    record: its LLaVA record, to be changed in place. line: the text to write instead of the record's
    JSON, where set. folder: the data folder; a damaged image gets a new name there, since another
    sample may use the old one. other: another, clean record. other_split: records that the test split
    is to hold besides its own. max_length: the limit that an answer is to lie beyond.
    """

    record: dict
    folder: Path
    rng: random.Random
    other: dict
    other_split: list[dict] = field(default_factory=list)
    line: str | None = None
    max_length: int = 512


Variant = Callable[[Plant], None]


@dataclass(frozen=True)
class Planted:
    """A fault at a line of train.jsonl (from 1): its kind, and which variant it is."""

    line: int
    kind: str
    variant: str


def records_of(
    folder: Path, count: int, split: str, seed: int, mix: Mix | None = None
) -> list[dict]:
    """`count` records of the world, their pictures written under `folder`/images.

    No two show the same: a scene that looks like an earlier one would be a near-duplicate that nobody
    planted.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    records, seen = [], set()
    for index in itertools.count():
        built = stream_record(mix or Mix(turns=3), index, split, seed)
        content = built["meta"]["scene"].content()
        if content in seen:
            continue
        seen.add(content)
        record = {"id": built["id"], "conversations": built["conversations"]}
        if "image" in built:
            record["image"] = f"images/{built['id']}.png"
            built["image"].save(folder / record["image"], compress_level=1)
        records.append(record)
        if len(records) == count:
            return records


def plant(
    folder: Path,
    variants: Mapping[str, Sequence[Variant]],
    samples: int = 20_000,
    share: float = 0.03,
    test: int = 500,
    seed: int = 0,
    max_length: int = 512,
) -> list[Planted]:
    """Write `folder`/train.jsonl, with faults in `share` of its samples, and a clean test.jsonl.

    Every variant is planted equally often; none without variants. Returns what was planted, by line;
    nothing else is wrong.
    """
    rng = random.Random(seed)
    records = records_of(folder, samples, "train", seed)
    held_out = records_of(folder, test, "test", seed)
    todo = [(kind, variant) for kind, ways in variants.items() for variant in ways]
    count = max(len(todo), round(share * samples)) if todo else 0
    faulty = rng.sample(range(20, samples), count)
    truth, lines = {}, {}
    clean = set(range(samples)) - set(faulty)
    for number, index in enumerate(sorted(faulty)):
        kind, variant = todo[number % len(todo)]
        # Of two copies the later one is the fault: the other record comes before.
        other = rng.choice([i for i in range(max(index - 500, 0), index) if i in clean])
        spot = Plant(records[index], folder, rng, records[other], held_out, None, max_length)
        variant(spot)
        truth[index], lines[index] = (kind, variant.__name__), spot.line
    with atomic_write(folder / "train.jsonl") as file:
        for index, record in enumerate(records):
            line = lines.get(index)
            file.write(line if line is not None else json.dumps(record, ensure_ascii=False))
            file.write("\n")
    with atomic_write(folder / "test.jsonl") as file:
        for record in held_out:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    return [Planted(index + 1, *found) for index, found in sorted(truth.items())]
