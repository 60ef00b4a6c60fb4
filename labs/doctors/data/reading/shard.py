"""A sample of a WebDataset shard. Standard library only, Python 3.9 or newer."""

from __future__ import annotations

from labs.doctors.data.reading.conversation import conversation, nothing
from labs.doctors.data.reading.records import caption
from labs.doctors.data.sample import Place, Problem, Sample
from labs.formats.dialects import PAIR_TEXTS, TURNS
from labs.formats.row import kind_of
from labs.formats.shard_fields import IMAGE_SUFFIXES


def shard_sample(row: dict, place: Place, shard: str) -> Sample:
    """A row of `labs.doctors.data.reading.sources.shard_rows`: a conversation or a caption.

    Its images are the pictures beside it in the shard, as "shard.tar/name.jpg".
    """
    place = place._replace(member=row["key"])
    images = [
        f"{shard}/{name}"
        for extension, (name, _, _) in row["members"].items()
        if extension.rpartition(".")[2] in IMAGE_SUFFIXES
    ]
    record = row.get("json")
    if isinstance(record, dict) and any(key in record for key in TURNS):
        own = {key: value for key, value in record.items() if key not in ("image", "images")}
        sample = conversation({"id": row["key"], **own}, place)
        sample.images, sample.raw = images or sample.images, row
        return sample
    if "json" in row and not isinstance(record, dict):
        return nothing(row, place, f"its JSON is {kind_of(record)}, not an object")
    text = row.get("text")
    if text is None and record:
        text = next((record[key] for key in PAIR_TEXTS if record.get(key) is not None), None)
    problems: list[Problem] = []
    if not images:
        problems.append(Problem("not_a_sample", "no picture beside the text"))
    elif text is None:
        problems.append(Problem("not_a_sample", "no text beside the picture"))
    sample = caption(row, place, images, text, problems)
    sample.id = row["key"]
    if text is None:
        sample.turns = []
    return sample
