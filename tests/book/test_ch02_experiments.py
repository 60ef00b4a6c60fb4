"""What chapter 2's experiments train on is what they say: the oracle, not the author, checks it."""

import importlib
import sys
from collections import Counter
from pathlib import Path

import pytest

from labs.models import load_vlm
from labs.shapes import is_correct, judge

FOLDER = Path(__file__).parents[2] / "chapters" / "ch02_data"
MODULES = ("faults", "cleaning", "lessons", "turns")


@pytest.fixture(scope="module")
def chapter():
    """The chapter's modules, which know each other by their bare names."""
    sys.path.insert(0, str(FOLDER))
    hidden = {name: sys.modules.pop(name, None) for name in MODULES}
    yield {name: importlib.import_module(name) for name in MODULES}
    sys.path.remove(str(FOLDER))
    for name, module in hidden.items():
        sys.modules.pop(name, None)
        if module is not None:
            sys.modules[name] = module


@pytest.fixture(scope="module")
def dirty(chapter):
    return chapter["faults"].collect(400, 7)


def wrong_answers(row: dict) -> int:
    """How many answers of a question row the oracle refuses, about the scene that is shown."""
    said = [t["value"] for t in row["conversations"] if t["from"] == "gpt"]
    scene, turns = row["meta"]["scene"], row["meta"]["turns"]
    count = 0
    for text, qa in zip(said, turns, strict=True):
        # What the world would answer about this scene; the record's own answer may be false.
        count += not text or not answers_truly(scene, qa, text)
    return count


def answers_truly(scene, qa, text: str) -> bool:
    about = qa.about
    if qa.task == "count":
        field, word = (
            ("colour", about["colour"]) if "colour" in about else ("kind", about.get("kind"))
        )
        true = (
            len(scene.objects)
            if about["of"] == "all"
            else sum(getattr(o, field) == word for o in scene.objects)
        )
        return text == str(true)
    fitting = [o for o in scene.objects if o.kind == about["kind"]]
    if qa.task == "position":
        return any(is_correct("position", scene, text, o.position) for o in fitting)
    if about["by"] == "place":
        fitting = [o for o in scene.objects if f"object at the {o.position}?" in qa.question
                   or ("centre" in qa.question and o.position == "centre")]  # fmt: skip
    return any(text == o.colour for o in fitting)


def test_the_oracle_finds_every_fault_and_no_other(dirty):
    for p in dirty:
        caption = p.caption["conversations"][1]["value"]
        perfect = judge(p.caption["meta"]["scene"], caption).perfect
        if p.fault == "cut":
            assert not caption.endswith(".")
        else:
            assert perfect == (not p.wrong[0]), (p.fault, caption)
        if p.fault in ("miscounted", "empty"):
            assert wrong_answers(p.questions) >= 1
        elif p.fault not in ("swapped", "ghost"):
            assert wrong_answers(p.questions) == 0, p.questions["conversations"]


def test_rates_are_as_stated(chapter, dirty):
    faults = chapter["faults"]
    copies = sum(p.source != p.number for p in dirty)
    assert abs(copies / len(dirty) - faults.COPIES) < 0.08
    own = [p for p in dirty if p.source == p.number]
    found = Counter(p.fault for p in own)
    for name, rate in faults.RATES.items():
        assert abs(found[name] / len(own) - rate) < 0.08
    assert all(p.fault is None and p.source == p.number for p in faults.collect(60, 7, dirty=False))


def test_cleaning_takes_what_it_can_see_and_leaves_what_is_good(chapter, dirty):
    rows, taken = chapter["cleaning"].clean(dirty)
    assert taken["kept"] == len(rows) < sum(len(p.rows) for p in dirty)
    for name in ("empty", "junk", "swapped", "copy"):
        assert taken[name]["removed"] >= 0.95 * taken[name]["rows"], name
    assert taken["good"]["removed"] <= 0.1 * taken["good"]["rows"]
    assert taken["miscounted"]["removed"] <= 0.3 * taken["miscounted"]["rows"]
    # Its account, against a count of what is left.
    left = Counter(row["id"].split("-copy")[0] for row in rows)
    good = {r["id"] for p in dirty for r, w in zip(p.rows, p.wrong, strict=True)
            if not w and p.source == p.number}  # fmt: skip
    assert taken["good"]["rows"] == len(good)
    assert taken["good"]["removed"] == len(good - left.keys())


def test_the_three_forms_ask_the_same(chapter):
    turns = chapter["turns"]
    asked, pictures = {}, {}
    for form in turns.FORMS:
        rows = turns.rows(form, 6, 0)
        asked[form] = Counter(
            (q["value"].removeprefix("<image>\n"), a["value"])
            for row in rows
            for q, a in zip(row["conversations"][::2], row["conversations"][1::2], strict=True)
        )
        pictures[form] = sum(len(row["image"]) for row in rows)
        for row in rows:
            text = "".join(t["value"] for t in row["conversations"])
            assert text.count("<image>") == len(row["image"])
    assert asked["merged"] == asked["single"] == asked["interleaved"]
    assert pictures == {"merged": 6, "single": 36, "interleaved": 18}


def test_equal_tokens_are_equal(chapter):
    _, processor = load_vlm("tiny-base")
    costs = {
        form: chapter["turns"].budget(form, processor, 4, 2146, 0)[2]
        for form in chapter["turns"].FORMS
    }
    tokens = [cost["tokens"] for cost in costs.values()]
    assert max(tokens) < 1.04 * min(tokens)
    assert costs["single"]["pictures_encoded"] > 2.5 * costs["merged"]["pictures_encoded"]
    assert costs["merged"]["questions"] > 1.9 * costs["single"]["questions"]


def test_an_exam_in_a_conversation_ends_with_the_same_question(chapter):
    from labs.shapes import make_record

    record = make_record("count", 3, "test")
    for form, pictures in (("single", 1), ("merged", 1), ("interleaved", 3)):
        messages, images = chapter["turns"].prompt(form, record, 3)
        assert messages[-1]["content"][-1]["text"] == record["meta"]["turns"][0].question
        assert sum(part["type"] == "image" for m in messages for part in m["content"]) == pictures
        assert len(images) == pictures and images[-1] == record["image"]


def test_order_shows_each_row_once_before_any_twice(chapter):
    order = chapter["lessons"].order(7, 17, 3)
    assert sorted(order[:7]) == sorted(order[7:14]) == list(range(7)) and len(order) == 17
    assert order[:7] != order[7:14]
