"""Small data sets with faults at known places, for the tests of check, report, repair and command."""

import json
from collections.abc import Iterable
from pathlib import Path

from tests.doctors.data.images_helpers import picture


def record(number: int, image: str | None = None, turns: int = 1) -> dict:
    """A sound LLaVA record: question and answer, `turns` times."""
    conversations = []
    for turn in range(turns):
        asked = f"How many rings are in picture {number}, part {turn}?"
        conversations += [
            {"from": "human", "value": asked if turn else f"<image>\n{asked}"},
            {"from": "gpt", "value": f"In part {turn} of {number} there are {number % 7}."},
        ]
    return {
        "id": f"{number:04d}",
        "image": image or f"images/{number}.png",
        "conversations": conversations,
    }


def write_images(folder: Path, numbers: Iterable[int]) -> None:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for number in numbers:
        picture(number).save(folder / "images" / f"{number}.png", compress_level=1)


def write_records(path: Path, records: Iterable[dict]) -> Path:
    """JSON where the name ends in .json, else JSONL."""
    records = list(records)
    if path.suffix == ".json":
        path.write_text(json.dumps(records, ensure_ascii=False, indent=1), "utf-8")
    else:
        lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
        path.write_text("".join(lines), "utf-8")
    return path


def clean_set(folder: Path, count: int = 12, name: str = "train.jsonl") -> Path:
    """`count` sound samples, each with a picture of its own; returns the data file."""
    write_images(folder, range(count))
    return write_records(folder / name, map(record, range(count)))


def read_records(path: Path) -> list[dict]:
    text = path.read_text("utf-8")
    return json.loads(text) if path.suffix == ".json" else list(map(json.loads, text.splitlines()))
