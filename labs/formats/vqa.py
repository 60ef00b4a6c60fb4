"""VQAv2: open questions about COCO's pictures, each with the answers of ten people.

Two JSON files, v2_OpenEnded_mscoco_val2014_questions.json and v2_mscoco_val2014_annotations.json:

    {"info": {…}, "task_type": "Open-Ended", "data_type": "mscoco", "license": {…}, "data_subtype": "val2014",
     "questions": [{"image_id": 262148, "question": "Where is he looking?", "question_id": 262148000}]}

    {"info": {…}, "license": {…}, "data_subtype": "val2014", "data_type": "mscoco",
     "annotations": [{"question_type": "none of the above", "multiple_choice_answer": "down",
                      "answers": [{"answer": "down", "answer_confidence": "yes", "answer_id": 1}, … ten of them],
                      "image_id": 262148, "answer_type": "other", "question_id": 262148000}]}

The picture's name follows from the file: COCO_val2014_000000262148.jpg. A model's answers, as the
evaluation server and script take them, are one JSON list:

    [{"question_id": 262148000, "answer": "down"}]

Sources: visualqa.org, pages "download" (the structures) and "evaluation" (results); GT-Vision-Lab/VQA,
README.md, PythonHelperTools/vqaDemo.py (names of files and pictures), PythonHelperTools/vqaTools/vqa.py
(`loadRes`). arXiv:1612.00837.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from PIL import Image

from labs.errors import InputError
from labs.formats import fields
from labs.formats.conversation import Conversation, Turn
from labs.formats.files import atomic_write
from labs.formats.llava import resolve_image

PEOPLE = 10  # answers a question; VQA accuracy is an average over sets of nine of them
ANSWER_TYPES = ("yes/no", "number", "other")


@dataclasses.dataclass(frozen=True)
class VqaAnswer:
    """What one person answered. confidence: "yes", "maybe" or "no", as that person said."""

    id: int
    text: str
    confidence: str | None = None


@dataclasses.dataclass(frozen=True)
class VqaQuestion:
    """One question. answers: ten, or none in a test split. answer: the one given most often.

    answer_type: "yes/no", "number" or "other"; question_type: its first words ("how many").
    """

    id: int
    image_id: int
    image: str | Image.Image
    question: str
    answers: tuple[VqaAnswer, ...] = ()
    answer: str | None = None
    answer_type: str | None = None
    question_type: str | None = None

    def to_conversation(self, instruction: str = "") -> Conversation:
        """The question, `instruction` on a line of its own after it, and the most common answer.

        Raises InputError where the split keeps its answers back.
        """
        if self.answer is None:
            raise InputError(
                f"The question with question_id {self.id} has no answer: a test split is not for training.",
                "Take train2014 or val2014, with their annotations.",
            )
        asked = fields.question_turn(self.question) + (f"\n{instruction}" if instruction else "")
        turns = (Turn("user", asked), Turn("assistant", self.answer))
        return Conversation(str(self.id), (self.image,), turns, {"image_id": self.image_id})


def read_vqa(
    questions: str | os.PathLike,
    annotations: str | os.PathLike | None = None,
    image_root: str | os.PathLike | None = None,
) -> Iterator[VqaQuestion]:
    """Yield the questions in their order, each with its picture and its ten answers.

    Both files are read whole. Without `annotations` no question has an
    answer, as in a test split. Pictures are looked for in `image_root`, by default the folder of the
    questions; test-dev2015 asks about pictures of test2015.

    Raises InputError, naming the record, for bad JSON (with its line), a missing list or field, a
    question_id used before, a question without annotation and an annotation without question, an
    annotation about another picture, other than ten answers or one answer_id twice (the official
    script would count both as one person), files of two subsets, pictures that are not COCO's, a
    picture that is not there, and a file without questions.
    """
    path = Path(questions)
    root = Path(image_root) if image_root is not None else path.parent
    data = _load(path, "questions")
    records, prefix = _list(data, "questions", path), _prefix(data, path)
    if not records:
        raise fields.nothing(path, "a question")
    answered = None
    if annotations is not None:
        given = _load(Path(annotations), "annotations")
        answered = _annotations(_list(given, "annotations", annotations), Path(annotations))
        one, two = data["data_subtype"], given.get("data_subtype")
        if two not in (one, None):
            raise InputError(
                f"{annotations} answers the questions of {two}, and {path} asks those of {one}.",
                "Give the two files of one subset.",
            )
    return iter(_join(records, answered, path, root, prefix))


def _join(
    records: list[dict], answered: dict | None, path: Path, root: Path, prefix: str
) -> list[VqaQuestion]:
    seen: dict = {}
    joined = []
    for number, record in enumerate(records, 1):
        where = f"{path}, question {number}"
        key = fields.whole(record, "question_id", where)
        fields.claim(seen, key, where, "question_id")
        image_id = fields.whole(record, "image_id", where)
        image = _picture(root, prefix, image_id, where)
        asked = fields.text(record, "question", where)
        extra: tuple = ()
        if answered is not None:
            about, extra, there = answered.pop(key, (None, (), ""))
            if not there:
                raise InputError(
                    f"{where}: the question_id {key} has no annotation.",
                    "Give the annotations of the same subset, or none for a split without answers.",
                )
            if about != image_id:
                raise InputError(
                    f"{there}: the answers to question_id {key} are about image {about}, "
                    f"the question about {image_id}.",
                    "Fetch both files again: they are of two releases.",
                )
        joined.append(VqaQuestion(key, image_id, image, asked, *extra))
    for key, (_, _, there) in (answered or {}).items():
        raise InputError(
            f"{there}: the annotation is for question_id {key}, which is not among the questions.",
            "Remove the annotation, or add the question to `questions`.",
        )
    return joined


def _annotations(records: list[dict], path: Path) -> dict[int, tuple[int, tuple, str]]:
    """(image_id, what the question gains, place) by question_id."""
    seen: dict = {}
    found = {}
    for number, record in enumerate(records, 1):
        where = f"{path}, annotation {number}"
        key = fields.whole(record, "question_id", where)
        fields.claim(seen, key, where, "question_id")
        answers = _answers(_list(record, "answers", where), f"{where} (question_id {key})")
        types = (fields.text(record, name, where) for name in ("answer_type", "question_type"))
        common = _text(record, "multiple_choice_answer", where)
        found[key] = (fields.whole(record, "image_id", where), (answers, common, *types), where)
    return found


def _answers(records: list[dict], where: str) -> tuple[VqaAnswer, ...]:
    if len(records) != PEOPLE:
        raise InputError(
            f"{where}: {len(records)} answers, where VQA has those of {PEOPLE} people.",
            "Restore the missing ones: VQA accuracy averages over sets of nine of the ten.",
        )
    seen: dict = {}
    answers = []
    for number, record in enumerate(records, 1):
        place = f"{where}, answer {number}"
        key = fields.whole(record, "answer_id", place)
        fields.claim(seen, key, place, "answer_id")
        text = _text(record, "answer", place)
        answers.append(VqaAnswer(key, text, record.get("answer_confidence")))
    return tuple(answers)


def _text(record: dict, key: str, where: str) -> str:
    """A string that may be empty: normalising "A" to no article left some people's answers empty."""
    value = fields.required(record, key, where)
    return value if value == "" else fields.text(record, key, where)


def _prefix(data: dict, path: Path) -> str:
    """What the names of the pictures begin with: "COCO_val2014_"."""
    kind = data.get("data_type", "mscoco")
    if kind != "mscoco":
        raise InputError(
            f"{path}: the pictures are of data_type {str(kind)[:40]!r}, not COCO's.",
            "Give the questions about real images (mscoco).",
        )
    return f"COCO_{fields.text(data, 'data_subtype', str(path)).replace('-dev', '')}_"


def _picture(root: Path, prefix: str, image_id: int, where: str) -> str:
    place = resolve_image(f"{prefix}{image_id:012d}.jpg", root, where)
    if not os.path.isfile(place):
        raise InputError(
            f"{where}: the picture {os.path.basename(place)} is not in {root}.",
            "Fetch the images too, and name the folder that holds them as the image root.",
        )
    return place


def write_vqa(
    questions: Iterable[VqaQuestion],
    path: str | os.PathLike,
    annotations: str | os.PathLike | None = None,
    image_root: str | os.PathLike | None = None,
    subtype: str = "val2014",
) -> int:
    """Write the pair of files (the first alone without `annotations`); return how many questions.

    A picture in memory becomes image_root/COCO_{subtype}_{image_id}.jpg, one for each image_id; a path
    must be that one already, for the format says no other. The questions' file appears last.
    """
    path = Path(path)
    root = Path(image_root) if image_root is not None else path.parent
    head = {"info": {"description": "VQA v2 layout", "version": "2.0"}, "license": {"name": "", "url": ""},
            "task_type": "Open-Ended", "data_type": "mscoco", "data_subtype": subtype}  # fmt: skip
    asked, answered, drawn, seen = [], [], {}, {}
    for number, item in enumerate(questions, 1):
        where = f"{path}, question {number}"
        fields.claim(seen, item.id, where, "question_id")
        text = fields.text({"question": item.question}, "question", where)
        _place(item, root, _prefix(head, path), drawn, where)
        asked.append({"image_id": item.image_id, "question": text, "question_id": item.id})
        if annotations is not None:
            answered.append(_annotation(item, where))
    if not asked:
        raise InputError(f"There is no question to write to {path}.", "Check what was selected.")
    if annotations is not None:
        with atomic_write(annotations) as file:
            json.dump({**head, "annotations": answered}, file, ensure_ascii=False)
    with atomic_write(path) as file:
        json.dump({**head, "questions": asked}, file, ensure_ascii=False)
    return len(asked)


def _annotation(item: VqaQuestion, where: str) -> dict:
    answers = [
        {"answer": a.text, "answer_confidence": a.confidence or "yes", "answer_id": a.id}
        for a in item.answers
    ]
    _answers(answers, f"{where} (question_id {item.id})")
    record = {
        "question_type": item.question_type, "multiple_choice_answer": item.answer, "answers": answers,
        "image_id": item.image_id, "answer_type": item.answer_type, "question_id": item.id,
    }  # fmt: skip
    _text(record, "multiple_choice_answer", where)
    for name in ("question_type", "answer_type"):
        fields.text(record, name, where)
    return record


def _place(item: VqaQuestion, root: Path, prefix: str, drawn: dict, where: str) -> None:
    """Sees to it that the picture is where the format says it is."""
    name = f"{prefix}{item.image_id:012d}.jpg"
    if isinstance(item.image, str):
        if resolve_image(item.image, root, where) != _picture(root, prefix, item.image_id, where):
            raise InputError(
                f"{where}: the picture {item.image} is not called {name}.",
                "Rename it: the format has no other way to say which picture is meant.",
            )
    elif item.image_id not in drawn:
        drawn[item.image_id] = item.image
        with atomic_write(root / name, "wb") as file:
            item.image.convert("RGB").save(file, format="JPEG", quality=95, subsampling=0)
    elif drawn[item.image_id] is not item.image:
        raise InputError(
            f"{where}: image_id {item.image_id} stands for two pictures.",
            "Give each picture its own image_id.",
        )


def read_vqa_results(path: str | os.PathLike) -> dict[int, str]:
    """Return a model's answers by question_id. One answer a question; a second is an error."""
    seen, answers = {}, {}
    for where, record in fields.read_objects(path, "an answer"):
        key = fields.whole(record, "question_id", where)
        fields.claim(seen, key, where, "question_id")
        answers[key] = record.get("answer")
        if not isinstance(answers[key], str):  # a model may well answer nothing
            fields.text(record, "answer", where)
    return answers


def write_vqa_results(answers: dict[int, str], path: str | os.PathLike) -> int:
    """Write a model's answers as the list that the evaluation's `loadRes` takes; return how many.

    It takes them only if every question of the subset has one: write "" where nothing was said.
    """
    if not answers:
        raise InputError(f"There is no answer to write to {path}.", "Check what was selected.")
    records = [{"question_id": key, "answer": answer} for key, answer in answers.items()]
    with atomic_write(path) as file:
        json.dump(records, file, ensure_ascii=False)
    return len(records)


def _load(path: Path, key: str) -> dict:
    """The one object of the file."""
    return next(iter(fields.read_objects(path, f"one JSON object with `{key}`")))[1]


def _list(data: dict, key: str, where: object) -> list[dict]:
    values = fields.required(data, key, str(where))
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise InputError(
            f"{where}: `{key}` must be a list of objects.", "Check that the file is of VQA v2."
        )
    return values
