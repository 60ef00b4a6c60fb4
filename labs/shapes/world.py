"""Records of the world: LLaVA conversations with a picture (or its description), and files of them."""

import json
import os
import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from labs.errors import InputError
from labs.shapes.language import LANGUAGES, caption, mention
from labs.shapes.render import render
from labs.shapes.scene import SPLITS, Object, Scene, sample_digit_scene, sample_scene
from labs.shapes.tasks import MAKERS, QA, TASKS, Impossible, dialogue, question
from labs.shapes.vocabulary import CELLS, COLOURS, KINDS, PARTNER, SIZES, say


def seeded(*parts) -> random.Random:
    """A generator that depends on all parts and nothing else (not on Python's hash seed)."""
    return random.Random("/".join(str(p) for p in parts))


def make_record(
    task: str, index: int, split: str, language: str = "en", resolution: int = 48, **wanted
) -> dict:
    """Record number `index` of a task: always the same for the same arguments.

    Yes/no answers alternate with the index and counts, colours and digits are drawn evenly, so any
    range of indices is balanced. `wanted` narrows the question (see tasks.py).
    """
    if task not in TASKS:
        raise InputError(f"There is no task {task!r}.", f"Use one of {', '.join(TASKS)}.")
    if language not in LANGUAGES:
        raise InputError(f"There is no language {language!r}.", "Use 'en' or 'zh'.")
    if split not in SPLITS:
        raise InputError(f"There is no split {split!r}.", "Use 'train', 'val' or 'test'.")
    rng = seeded(task, index, split, sorted(wanted.items()))
    if task in ("existence", "conjunction"):
        wanted.setdefault("answer", index % 2 == 0)
    elif task == "count":
        wanted.setdefault("of", ("all", "colour")[index % 2])
        low = 1 if wanted["of"] == "all" else 0
        wanted.setdefault("answer", low + (index // 2) % (4 if low else 3))
    elif task == "colour":
        wanted.setdefault("answer", COLOURS[index % len(COLOURS)])
        wanted.setdefault("by", ("kind", "place")[index // len(COLOURS) % 2])
    scene, turns = question(task, rng, split, language, **wanted)
    return record(f"{split}-{task}-{language}-{index}", scene, turns, language, resolution)


def record(id: str, scene: Scene, turns: list[QA], language: str, resolution: int = 48) -> dict:
    """The LLaVA dialect: {"id", "image", "conversations": [{"from", "value"}, …], "meta"}."""
    return {
        "id": id,
        "image": render(scene, resolution),
        "conversations": _conversation(turns, "<image>\n"),
        "meta": {"task": turns[0].task, "language": language, "scene": scene, "turns": turns},
    }


def _conversation(turns: list[QA], prefix: str) -> list[dict]:
    messages = []
    for k, qa in enumerate(turns):
        messages.append({"from": "human", "value": (prefix if k == 0 else "") + qa.question})
        messages.append({"from": "gpt", "value": qa.answer})
    return messages


@dataclass(frozen=True)
class Mix:
    """What a stream of training conversations is made of. Rates are probabilities.

    tasks: weight of each task among the questions of a scene.
    turns: questions a conversation. chinese: share of conversations in Chinese.
    digits: share of conversations about handwritten digits. described: share whose picture is
    replaced by its description in words (what tiny-lm is trained on).
    yes_rate: how often "is there a ring?" is answered yes; 0.5 is healthy. "Is there a red ring?"
    stays balanced whatever it says.
    false_yes: share of the existence questions, in scenes that lack the partner of a kind shown,
    that ask for it and are answered yes, as by an annotator who reads a false caption.
    false_captions: how often a caption also names the absent partner of a kind that is shown, for
    the kinds in `false_about`.
    """

    tasks: dict[str, float] = field(
        default_factory=lambda: {
            "caption": 1.0, "existence": 3.0, "conjunction": 1.0, "count": 1.5, "colour": 1.0,
            "position": 1.0, "grounding": 0.5, "reasoning": 1.0, "dialogue": 0.3,
        }
    )  # fmt: skip
    turns: int = 6
    chinese: float = 0.25
    digits: float = 0.12
    described: float = 0.0
    adversarial: float = 0.5
    yes_rate: float = 0.5
    false_yes: float = 0.0
    false_captions: float = 0.0
    false_about: tuple[str, ...] = KINDS


def stream_record(mix: Mix, index: int, split: str = "train", seed: int = 0) -> dict:
    """Conversation number `index` of the endless stream that the tiny models are trained on."""
    rng = seeded("stream", seed, index, split)
    language = "zh" if rng.random() < mix.chinese else "en"
    if rng.random() < mix.digits and not rng.random() < mix.described:
        scene = sample_digit_scene(rng, split, rng.choice((1, 1, 1, 2, 3)))
        turns = [MAKERS["ocr"](rng, scene, language)]
        return record(f"{split}-stream-{seed}-{index}", scene, turns, language)
    scene = sample_scene(rng, split)
    described = rng.random() < mix.described
    turns = _questions(mix, rng, scene, language, described)
    built = {
        "id": f"{split}-stream-{seed}-{index}",
        "meta": {"task": "stream", "language": language, "scene": scene, "turns": turns},
    }
    if described:
        order = rng.sample(range(len(scene.objects)), len(scene.objects))
        built["conversations"] = _conversation(turns, caption(scene, language, order) + "\n")
    else:
        built["image"] = render(scene)
        built["conversations"] = _conversation(turns, "<image>\n")
    return built


def _questions(mix: Mix, rng: random.Random, scene: Scene, language: str, described: bool):
    # A description says "top left", not where exactly: a box could only be guessed from it.
    rates = {t: w for t, w in mix.tasks.items() if not (described and t == "grounding")}
    tasks, weights = zip(*rates.items(), strict=True)
    turns: list[QA] = []
    asked: set[str] = set()
    for _ in range(20 * mix.turns):
        if len(turns) >= mix.turns:
            break
        task = rng.choices(tasks, weights)[0]
        try:
            if task == "dialogue":
                fresh = dialogue(rng, scene, language, rng.random() < mix.yes_rate)
            elif task == "existence":
                kind_of_no = "adversarial" if rng.random() < mix.adversarial else "random"
                yes = rng.random() < mix.yes_rate
                imagined = mix.false_yes and rng.random() < mix.false_yes
                if imagined:
                    yes, kind_of_no = False, "adversarial"
                fresh = [MAKERS[task](rng, scene, language, answer=yes, negatives=kind_of_no)]
                if imagined:
                    fresh = [replace(fresh[0], answer=say("yes", language))]
            elif task == "conjunction":
                fresh = [MAKERS[task](rng, scene, language, answer=rng.random() < 0.5)]
            else:
                fresh = [MAKERS[task](rng, scene, language)]
        except Impossible:
            continue
        if task == "caption" and rng.random() < mix.false_captions:
            fresh = [add_partner(rng, scene, language, fresh[0], mix.false_about)]
        # A question asked twice would let the model copy its own answer; "it" may come again.
        if task != "dialogue" and fresh[0].question in asked:
            continue
        asked.update(qa.question for qa in fresh)
        turns += fresh
    return turns


def add_partner(
    rng: random.Random, scene: Scene, language: str, qa: QA, of: Sequence[str] = KINDS
) -> QA:
    """The disease of real captions: at their end one more object, of the kind that usually goes
    with one that is shown (of the kinds `of`) and is absent. Unchanged where there is none."""
    absent = sorted({PARTNER[k] for k in scene.kinds & set(of)} - scene.kinds)
    free = sorted(set(range(len(CELLS))) - {o.cell for o in scene.objects})
    if not absent or not free:
        return qa
    ghost = Object(rng.choice(absent), rng.choice(COLOURS), rng.choice(SIZES), rng.choice(free))
    joint, end = ("，", "。") if language == "zh" else (", ", ".")
    text = joint.join(mention(o, language) for o in (*scene.objects, ghost)) + end
    return replace(qa, answer=text, about={"ghost": ghost.kind})


def write_dataset(folder: str | Path, records, name: str = "data.json") -> Path:
    """Writes LLaVA conversation JSON with its image files: folder/data.json, folder/images/ID.png.

    The JSON appears last and whole: it is written beside and renamed.
    """
    folder = Path(folder)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for item in records:
        row = {"id": item["id"], "conversations": item["conversations"]}
        if "image" in item:
            row["image"] = f"images/{item['id']}.png"
            item["image"].save(folder / row["image"])
        rows.append(row)
    handle, temporary = tempfile.mkstemp(dir=folder, suffix=".json")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(rows, file, ensure_ascii=False, indent=1)
    target = folder / name
    os.replace(temporary, target)
    return target
