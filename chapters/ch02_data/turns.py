"""The same questions in three forms: merged, single, interleaved; training rows and exams of each."""

from collections.abc import Sequence

from lessons import encoded, tokens
from PIL import Image

from labs.data import IGNORE
from labs.models import generate, user_message
from labs.models.generation import assistant_message
from labs.shapes import make_record, sample_scene, seeded
from labs.shapes.tasks import MAKERS, QA, Impossible
from labs.shapes.world import render

FORMS = ("merged", "single", "interleaved")
PER_PICTURE = 6  # questions
TOGETHER = 3  # pictures of an interleaved conversation, PER_PICTURE / TOGETHER questions about each
ASKED = ("caption", "count", "colour", "position")
Part = tuple[Image.Image, list[QA]]


def asked_about(number: int, seed: int, split: str = "train", count: int = PER_PICTURE) -> Part:
    """A picture with `count` different questions."""
    rng = seeded("turns", seed, number, split)
    while True:
        scene, turns = sample_scene(rng, split), []
        for _ in range(50):
            try:
                qa = MAKERS[rng.choice(ASKED)](rng, scene, "en")
            except Impossible:
                continue
            # Two wordings of "describe" are one question.
            if qa.question not in [t.question for t in turns] and not (
                qa.task == "caption" and "caption" in [t.task for t in turns]
            ):
                turns.append(qa)
            if len(turns) == count:
                return render(scene), turns


def rows(form: str, pictures: int, seed: int, split: str = "train") -> list[dict]:
    """All questions about `pictures` pictures as conversations of one form, shuffled."""
    parts = [asked_about(i, seed, split) for i in range(pictures)]
    if form == "merged":
        groups = [[part] for part in parts]
    elif form == "single":
        groups = [[(image, [qa])] for image, turns in parts for qa in turns]
    else:
        share, groups = PER_PICTURE // TOGETHER, []
        for first in range(0, len(parts) - TOGETHER + 1, TOGETHER):
            some = parts[first : first + TOGETHER]
            for k in range(TOGETHER):  # each picture stands first once
                turned = some[k:] + some[:k]
                groups.append([(i, turns[k * share : (k + 1) * share]) for i, turns in turned])
    seeded("shuffled", seed, form).shuffle(groups)
    return [conversation(f"{form}-{seed}-{i}", group) for i, group in enumerate(groups)]


def budget(form: str, processor, steps: int, per_step: int, seed: int) -> tuple[list, int, dict]:
    """Samples of the form for `steps` batches of about `per_step` tokens, rows a batch, and the cost.

    The set is that of the merged form, of which all is used; the others end where the tokens do.
    """
    length = {f: tokens(encoded(rows(f, 48, seed + 1000), processor)) for f in FORMS}
    per_row = {"merged": 48, "single": 48 * PER_PICTURE, "interleaved": 48}
    batch = {f: round(per_step * per_row[f] / length[f]) for f in FORMS}
    pictures = -(-steps * batch["merged"] // TOGETHER) * TOGETHER
    chosen = rows(form, pictures, seed)[: steps * batch[form]]
    samples = encoded(chosen, processor)
    cost = {
        "rows": len(chosen),
        "batch": batch[form],
        "tokens": tokens(samples),
        "questions": sum(len(row["conversations"]) // 2 for row in chosen),
        "pictures_encoded": sum(len(row["image"]) for row in chosen),
        "tokens_learnt": sum(int((s["labels"] != IGNORE).sum()) for s in samples),
    }
    return samples, batch[form], cost


def conversation(name: str, parts: Sequence[Part]) -> dict:
    """Each picture at the first question about it."""
    messages = []
    for _, turns in parts:
        for k, qa in enumerate(turns):
            messages.append({"from": "human", "value": ("" if k else "<image>\n") + qa.question})
            messages.append({"from": "gpt", "value": qa.answer})
    return {"id": name, "image": [image for image, _ in parts], "conversations": messages}


def answered(model, processor, form: str, name: str, n: int, first: int) -> list[tuple[dict, str]]:
    """(record, answer) for the questions of `labs.suites`, at the end of a conversation of the form.

    merged: after three other questions about the picture, with their true answers, never the caption,
    which would tell; interleaved: after two other pictures with two questions each.
    """
    records = [make_record(name, i, "test") for i in range(first, first + n)]
    prompts = [prompt(form, record, i) for i, record in enumerate(records, first)]
    said = generate(
        model, processor, [m for m, _ in prompts], [i for _, i in prompts],
        max_new_tokens=112 if name == "caption" else 12, batch_size=100,
    )  # fmt: skip
    return list(zip(records, said, strict=True))


def prompt(form: str, record: dict, number: int) -> tuple[list[dict], list]:
    """Messages and pictures that end with the record's question."""
    qa, image = record["meta"]["turns"][0], record["image"]
    before: list[Part] = []
    if form == "merged":
        before = [(image, others(record, number, 3))]
    elif form == "interleaved":
        share = PER_PICTURE // TOGETHER
        before = [asked_about(TOGETHER * number + k, 0, "test", share) for k in range(TOGETHER - 1)]
    messages = []
    for _, turns in before:
        for k, turn in enumerate(turns):
            messages += [user_message(turn.question, int(k == 0)), assistant_message(turn.answer)]
    shown = form == "merged" and bool(messages)
    messages.append(user_message(qa.question, int(not shown)))
    images = [i for i, turns in before if turns]
    return messages, images if shown else [*images, image]


def others(record: dict, number: int, count: int) -> list[QA]:
    """Other questions about the record's scene, at most `count`."""
    rng, found = seeded("others", number), []
    for _ in range(30):
        try:
            qa = MAKERS[rng.choice(ASKED[1:])](rng, record["meta"]["scene"], "en")
        except Impossible:
            continue
        if qa.question not in [t.question for t in (*found, record["meta"]["turns"][0])]:
            found.append(qa)
        if len(found) == count:
            break
    return found
