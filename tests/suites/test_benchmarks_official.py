"""Scores under the official rule, held to what the benchmarks' own scripts said of the same files.

official/*.json holds questions, answers made to be misread, and the scores that the script named in
`source` printed for the files which the suites write of them. The scripts themselves are not here.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from labs.formats.mmbench import MMBenchQuestion, write_mmbench
from labs.formats.mme import MmeQuestion, write_mme
from labs.formats.pope import PopeQuestion, write_pope
from labs.formats.vqa import VqaAnswer, VqaQuestion, write_vqa
from labs.suites.benchmarks import MMBench, Mme, Pope, VqaV2
from labs.suites.contract import Answer, row_of

RECORDED = Path(__file__).parent / "official"


def picture(folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), "red").save(folder / "a.png")
    return str(folder / "a.png")


def mmbench(folder: Path, items: list, **options) -> MMBench:
    shown = picture(folder)
    rows = [
        MMBenchQuestion(i["index"], i["question"], tuple(i["options"]), shown, i["answer"],
                        category=i["category"], l2_category=i["l2_category"], split="dev")
        for i in items
    ]  # fmt: skip
    write_mmbench(rows, folder / "MMBench_DEV_EN.tsv")
    return MMBench(folder / "MMBench_DEV_EN.tsv", **options)


def pope(folder: Path, items: list, **options) -> Pope:
    shown = picture(folder)
    for setting in ("random", "popular", "adversarial"):
        rows = [
            PopeQuestion(i["question_id"], shown, i["question"], i["label"], setting)
            for i in items
            if i["setting"] == setting
        ]
        write_pope(rows, folder / f"coco_pope_{setting}.json")
    return Pope(folder, **options)


def mme(folder: Path, items: list, **options) -> Mme:
    shown = Path(picture(folder))
    rows = []
    for i in items:
        copy = folder / i["task"] / i["image"]
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(shown.read_bytes())
        rows.append(MmeQuestion(i["task"], str(copy), i["question"], i["label"]))
    write_mme(rows, folder / "MME")
    return Mme(folder / "MME", **options)


def vqa(folder: Path, items: list, **options) -> VqaV2:
    shown = Image.new("RGB", (8, 8), "red")
    rows = [
        VqaQuestion(i["question_id"], 1, shown, i["question"],
                    tuple(VqaAnswer(k, text, "yes") for k, text in enumerate(i["people"], 1)),
                    i["people"][0], i["answer_type"], "what")
        for i in items
    ]  # fmt: skip
    write_vqa(rows, folder / "v2_OpenEnded_mscoco_val2014_questions.json",
              folder / "v2_mscoco_val2014_annotations.json", folder / "val2014")  # fmt: skip
    return VqaV2(folder, **options)


# benchmark -> (what makes its suite of recorded items, what names an item)
MADE: dict[str, tuple[Callable, Callable]] = {
    "mmbench": (mmbench, lambda i: str(i["index"])),
    "pope": (pope, lambda i: f"{i['setting']}/{i['question_id']}"),
    "mme": (mme, lambda i: f"{i['task']}/{i['image']}/{i['number']}"),
    "vqa": (vqa, lambda i: str(i["question_id"])),
}


def answered(name: str, folder: Path, items: list, **options):
    """The suite of the items, and a row for each with what was said."""
    make, id_of = MADE[name]
    suite = make(folder, items, **options)
    said = {id_of(item): item["said"] for item in items}
    questions = list(suite.questions())
    assert {q.id for q in questions} == said.keys()
    return suite, [row_of(suite, q, Answer(said[q.id], 1, True)) for q in questions]


@pytest.mark.parametrize("name", MADE)
def test_the_scripts_scores(name, tmp_path):
    recorded = json.loads((RECORDED / f"{name}.json").read_text(encoding="utf-8"))
    suite, rows = answered(name, tmp_path, recorded["items"], rule="official")
    found = suite.measures(rows)
    assert len(recorded["scores"]) > 3
    for key, value in recorded["scores"].items():
        assert found[key].value == pytest.approx(value, abs=1e-9), key
    # Under our own rule the same number stands beside ours, where they differ.
    (tmp_path / "ours").mkdir()
    suite, rows = answered(name, tmp_path / "ours", recorded["items"])
    found = suite.measures(rows)
    for key in suite.told:
        if key in recorded["scores"]:
            shown = found.get(f"{key}_official", found[key]).value
            assert shown == pytest.approx(recorded["scores"][key], abs=1e-9), key
    assert f"{suite.headline}_official" in found, "the answers were made to be misread"
