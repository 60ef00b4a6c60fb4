"""The questions of a run before any is asked: checked, fingerprinted, planned into batches."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from labs.errors import InputError
from labs.suites.contract import Answerer, Question, Suite

# What of `about` a model may be shown: a picture in words, and options to choose from.
SHOWN = ("description", "captions", "candidates", "question", "letters")


def prepare(suite: Suite, *, pictures: bool = True) -> list[Question]:
    """The suite's questions, checked as far as that is possible without opening a picture.

    Raises InputError where there are none, an id is used twice, something that would be written to
    items.jsonl is not JSON, or (with `pictures`) an image file does not exist; each names the
    question.
    """
    questions = list(suite.questions())
    if not questions:
        raise InputError(f"The suite {suite.name} has no questions.", "Ask for more than none.")
    seen: set[str] = set()
    for question in questions:
        if question.id in seen:
            raise InputError(
                f"Two questions of the suite {suite.name} have the id {question.id!r}.",
                "Give each question an id of its own: answers are kept by id.",
            )
        seen.add(question.id)
        try:
            json.dumps([question.answer, question.about], allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise InputError(
                f"Question {question.id} of {suite.name} cannot be written as JSON: {error}.",
                "`answer` and `about` hold texts, numbers, lists and objects only.",
            ) from None
        if question.max_new_tokens < 1:
            raise InputError(
                f"Question {question.id} of {suite.name} leaves no room for an answer "
                f"(max_new_tokens is {question.max_new_tokens}).",
                "Allow at least one token.",
            )
    if pictures:
        _check_files(suite.name, questions)
    return questions


def _check_files(name: str, questions: Sequence[Question]) -> None:
    """Hours into a run is late to learn that a folder of pictures was not unpacked."""
    missing = [
        (question.id, image)
        for question in questions
        for image in question.images
        if _is_path(image) and not os.path.exists(image)
    ]
    if missing:
        id, image = missing[0]
        raise InputError(
            f"{len(missing)} pictures of the suite {name} are not there; the first is {image}, "
            f"of question {id}.",
            "Check the folder of the pictures: every question needs its own.",
        )


def _is_path(image) -> bool:
    return not isinstance(image, Image.Image) and not str(image).startswith("data:")


def limited(questions: Sequence[Question], max_new_tokens: int | None) -> list[Question]:
    """The questions with another limit of tokens, where one is given."""
    if max_new_tokens is None:
        return list(questions)
    if max_new_tokens < 1:
        raise InputError(
            f"An answer of {max_new_tokens} tokens is none.", "Give --max-new-tokens 1 or more."
        )
    return [dataclasses.replace(q, max_new_tokens=max_new_tokens) for q in questions]


def fingerprint(questions: Sequence[Question]) -> str:
    """SHA-256 over all that is asked: ids, prompts, earlier turns, pictures, right answers, order.

    Two runs with the same fingerprint can be compared item by item. Of a picture in memory the
    pixels count, of a data URL its text, of a file its name: folders differ between machines. The
    limit of tokens is no part of it, nor is what of `about` a model never sees.
    """
    total = hashlib.sha256()
    for q in questions:
        shown = {key: q.about[key] for key in SHOWN if key in q.about}
        parts = [q.id, q.prompt, q.before, q.answer, q.group, [_image(x) for x in q.images], shown]
        total.update(json.dumps(parts, sort_keys=True).encode() + b"\n")
    return total.hexdigest()


def _image(image) -> str:
    if isinstance(image, Image.Image):
        head = f"{image.mode} {image.size} ".encode()
        try:
            return hashlib.sha256(head + image.tobytes()).hexdigest()
        except OSError:  # opened, but its pixels cannot be had: its question will tell
            return head.decode()
    if _is_path(image):
        return Path(image).name
    return hashlib.sha256(str(image).encode()).hexdigest()


def plan(questions: Sequence[Question], answerer: Answerer, batch_size: int) -> list[list[int]]:
    """Batches of question numbers, planned once over the whole suite.

    Questions that take equally many turns, may be answered at equal length and have prompts of like
    length share a batch: little padding, and none waits long for the rest. The longest come first,
    so that a batch that does not fit into memory shows at once. The plan depends on the questions,
    the tokenizer and the batch size only: a run that goes on makes the same batches.
    """

    def weight(number: int):
        q = questions[number]
        return len(q.before), q.max_new_tokens, len(q.images), answerer.length(q)

    weights = [weight(number) for number in range(len(questions))]
    order = sorted(range(len(questions)), key=weights.__getitem__, reverse=True)
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
