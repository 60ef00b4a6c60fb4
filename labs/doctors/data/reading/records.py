# ruff: noqa: B905  (Python 3.9 has no zip(strict=); every zip here is of pairs)
"""Records of the other formats as Samples: captions, preference pairs, benchmarks, notes.

Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import json
import string
from typing import Any

from labs.doctors.data.reading.conversation import (
    id_of,
    images_of,
    keys_of,
    nothing,
    turns_of,
)
from labs.doctors.data.sample import Place, Problem, Sample
from labs.formats.dialects import IMAGES, PAIR_IMAGES, PAIR_TEXTS, TURNS
from labs.formats.row import kind_of, printable

_ALL_IMAGES = tuple(dict.fromkeys((*IMAGES, *PAIR_IMAGES)))


def text_of(value: Any, what: str, problems: list[Problem]) -> str:
    """A field that is to be a text; where it is not, that is a problem (but nothing is an empty one)."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    problems.append(Problem("bad_field", f"{what}: {kind_of(value)} where text is expected"))
    return str(value)


def pair(record: Any, place: Place) -> Sample:
    """An image and its text. Of several texts the first is the answer, the others alternatives."""
    if not isinstance(record, dict):
        return nothing(record, place, f"{kind_of(record)}, not an object")
    problems: list[Problem] = []
    images = images_of(record, PAIR_IMAGES, problems)
    if not images and not problems:
        return nothing(record, place, f"no image (the keys are {keys_of(record)})")
    value = next((record[key] for key in PAIR_TEXTS if record.get(key) is not None), None)
    return caption(record, place, images, value, problems)


def caption(
    record: Any, place: Place, images: list[str], value: Any, problems: list[Problem]
) -> Sample:
    values = value if isinstance(value, list) and value else [value]
    texts = [text_of(text, "the text", problems) for text in values]
    name = id_of(record) if isinstance(record, dict) else None
    return Sample(place, name, images, [("assistant", texts[0])], texts[1:], problems, record)


def coco_caption(record: Any, place: Place, names: dict[str, str]) -> Sample:
    """An annotation of COCO. names: the file name of each image id (as text)."""
    if not isinstance(record, dict):
        return nothing(record, place, f"{kind_of(record)}, not an object")
    name = names.get(str(record.get("image_id")))
    if name is None:
        known = printable(str(record.get("image_id")))
        return nothing(record, place, f"its image_id {known} is not among the images")
    return caption(record, place, [name], record.get("caption"), [])


def preference(record: Any, place: Place) -> Sample:
    """A prompt with a better answer (its last turn) and a worse one (`alternatives`).

    Dialects as in `labs.formats.preference`: TRL's, LLaVA-RLHF's, RLHF-V's.
    """
    if not isinstance(record, dict):
        return nothing(record, place, f"{kind_of(record)}, not an object")
    problems: list[Problem] = []
    images = images_of(record, _ALL_IMAGES, problems)
    fields = record
    if "chosen" not in record and isinstance(record.get("text"), (str, dict)):
        fields = _inner(record["text"])
        if fields is None:
            return nothing(record, place, "`text` holds no JSON object with chosen and rejected")
    if "output_1" in record or "output_2" in record:
        prompt, answers = _compared(record, problems)
    else:
        prompt = fields.get("prompt", fields.get("question"))
        answers = [fields.get("chosen"), fields.get("rejected")]
    lost = [name for name, value in zip(("chosen", "rejected"), answers) if value is None]
    if lost:
        return nothing(record, place, f"no {' and no '.join(lost)} answer")
    inline: list[str] = []
    turns, texts = _prompt(prompt, inline, problems), []
    for name, value in zip(("chosen", "rejected"), answers):
        if isinstance(value, list):
            found = turns_of(value, inline, problems)
            before, text = found[:-1], found[-1][1] if found else ""
            if name == "chosen" and prompt is None:
                turns = before
            elif before != (turns if prompt is None else []):
                detail = f"`{name}` holds messages that are not in the prompt"
                problems.append(Problem("bad_field", detail))
        else:
            text = text_of(value, f"`{name}`", problems)
        texts.append(text)
    turns = [*turns, ("assistant", texts[0])]
    name = id_of(record, ("id", "idx"))
    return Sample(place, name, images or inline, turns, texts[1:], problems, record)


def _prompt(prompt: Any, inline: list[str], problems: list[Problem]) -> list[tuple[str, str]]:
    if isinstance(prompt, list):
        return turns_of(prompt, inline, problems)
    return [("user", text_of(prompt, "the prompt", problems))] if prompt is not None else []


def _inner(text: Any) -> dict | None:
    """RLHF-V's `text`: question, chosen and rejected, as JSON in a string."""
    if isinstance(text, str):
        try:
            text = json.loads(text)
        except (ValueError, RecursionError):
            return None
    return text if isinstance(text, dict) else None


def _compared(record: dict, problems: list[Problem]) -> tuple[Any, list]:
    """LLaVA-RLHF: the last turn is to be replaced by output_1 or output_2."""
    turns = next((record[key] for key in TURNS if isinstance(record.get(key), list)), [])
    outputs = [record.get("output_1"), record.get("output_2")]
    texts = [output.get("value") if isinstance(output, dict) else output for output in outputs]
    better = record.get("preference")
    if better not in (1, 2):
        detail = f"`preference` is {printable(str(better))}, not 1 or 2"
        problems.append(Problem("bad_field", detail))
    return turns[:-1], texts if better != 2 else texts[::-1]


def pope(record: Any, place: Place) -> Sample:
    """A yes/no question about an object."""
    if not isinstance(record, dict):
        return nothing(record, place, f"{kind_of(record)}, not an object")
    problems: list[Problem] = []
    images = images_of(record, IMAGES, problems)
    if not images and not problems:
        problems.append(Problem("bad_field", "there is no image"))
    turns = [("user", text_of(record.get("text"), "the question", problems))]
    if record.get("label") is not None:
        turns.append(("assistant", _label(record["label"], problems)))
    return Sample(place, id_of(record, ("question_id", "id")), images, turns, [], problems, record)


def _label(value: Any, problems: list[Problem]) -> str:
    label = text_of(value, "the label", problems)
    if isinstance(value, str) and label.strip().lower() not in ("yes", "no"):
        detail = f"the label {printable(label, 30)!r} is neither yes nor no"
        problems.append(Problem("bad_field", detail))
    return label


def mme(record: dict, place: Place) -> Sample:
    """A question of MME: a row of `labs.doctors.data.reading.sources.mme_rows`."""
    problems: list[Problem] = []
    label = _label(record["label"], problems)
    turns = [("user", record["question"]), ("assistant", label)]
    return Sample(place, None, [record["image"]], turns, [], problems, record)


def mmbench(record: dict, place: Place) -> Sample:
    """A row of MMBench's table. A picture inside it is a data URL; one of another row is not repeated."""
    problems: list[Problem] = []
    letters = [letter for letter in string.ascii_uppercase if (record.get(letter) or "").strip()]
    answer = (record.get("answer") or "").strip()
    if len(letters) < 2 or letters != list(string.ascii_uppercase[: len(letters)]):
        given = ", ".join(letters) or "none"
        problems.append(Problem("bad_field", f"the options ({given}) are no choice from A on"))
    elif answer and answer not in letters:
        detail = f"the answer {printable(answer, 30)!r} is none of the options"
        problems.append(Problem("bad_field", detail))
    options = [f"{letter}. {record[letter]}" for letter in letters]
    question = record.get("question") or ""
    lines = [record.get("hint") or "", question, *options] if question.strip() else [question]
    turns = [("user", "\n".join(line for line in lines if line))]
    if answer:
        turns.append(("assistant", answer))
    images = []
    image = record.get("image") or ""
    if len(image) > 64:  # VLMEvalKit's rule: what is shorter is the index of another row
        images = [f"data:image/*;base64,{image}"]
    elif not image and record.get("image_path"):
        images = [record["image_path"]]
    elif not image:
        problems.append(Problem("bad_field", "there is no image"))
    return Sample(place, record.get("index") or None, images, turns, [], problems, record)


def qilin(record: Any, place: Place) -> Sample:
    """A note, or a request of search or recommendation, as one turn of text."""
    if not isinstance(record, dict):
        return nothing(record, place, f"{kind_of(record)}, not an object")
    problems: list[Problem] = []
    if "note_idx" in record:
        keys = ("note_title", "note_content")
        texts = [text_of(record.get(key), f"`{key}`", problems) for key in keys]
        value = _unpacked(record.get("image_path"))
        images = images_of({"image_path": value}, ("image_path",), problems)
        turns = [("user", "\n".join(text for text in texts if text))]
        return Sample(place, id_of(record, ("note_idx",)), images, turns, [], problems, record)
    if "query" not in record and "request_idx" not in record:
        return nothing(record, place, f"neither note nor request (the keys are {keys_of(record)})")
    for key in ("search_result_details_with_idx", "rec_result_details_with_idx"):
        shown = _unpacked(record.get(key))
        if shown is None:
            continue
        whole = isinstance(shown, list) and all(
            isinstance(item, dict) and "note_idx" in item for item in shown
        )
        if not whole:
            problems.append(Problem("bad_field", f"`{key}` is no list of what was shown"))
    query = text_of(record.get("query"), "the query", problems)
    if "query" in record and not query.strip():
        problems.append(Problem("empty_question", "the query is empty"))
    turns = [("user", query)]
    return Sample(
        place, id_of(record, ("search_idx", "request_idx")), [], turns, [], problems, record
    )


def _unpacked(value: Any) -> Any:
    """A nested field, which may be JSON in a string."""
    if isinstance(value, str) and value[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value
