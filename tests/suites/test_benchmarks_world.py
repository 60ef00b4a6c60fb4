"""The world written in four benchmarks' formats: read back, balanced, true, and the same every time."""

import importlib
from collections import Counter

import pytest

from labs.errors import InputError
from labs.formats import load_image, read_mmbench, read_mme, read_pope
from labs.formats.vqa import read_vqa
from labs.shapes import is_correct
from labs.shapes.scene import split_of
from labs.shapes.vocabulary import CELLS, COLOURS, KINDS, PARTNER, SIZES
from labs.suites.benchmarks import write_world

MODULE = importlib.import_module("labs.suites.benchmarks.write_world")  # its function hides it
N = 12


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The files, and the scenes that were drawn for them in their order."""
    scenes = []
    render = MODULE.render

    def remembered(scene):
        scenes.append(scene)
        return render(scene)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MODULE, "render", remembered)
        files = write_world(tmp_path_factory.mktemp("world"), n=N)
    assert all(split_of(scene) == "test" for scene in scenes)
    pope = N + 3 * (N // 2)
    return files, {
        "mmbench": scenes[:N], "pope": scenes[N:pope],
        "mme": scenes[pope : pope + 4 * (N // 2)], "vqa": scenes[pope + 4 * (N // 2) :],
    }  # fmt: skip


def one(words, text):
    """The word of a list that a text names; the longest where one is part of another."""
    return max((w for w in words if w in text), key=len)


def test_mmbench(drawn):
    files, scenes = drawn
    rows = list(read_mmbench(files.mmbench))
    assert [row.index for row in rows] == list(range(N))
    assert {row.category for row in rows} == {"attribute_recognition", "object_localization", "attribute_comparison"}  # fmt: skip
    letters = Counter(row.answer for row in rows if len(row.options) == 4)
    assert set(letters) <= set("ABCD") and max(letters.values()) - min(letters.values()) <= 1
    for row, scene in zip(rows, scenes["mmbench"], strict=True):
        right = row.options[row.letters.index(row.answer)]
        assert len(set(row.options)) == len(row.options)
        things = {o.kind: o for o in scene.objects if [p.kind for p in scene.objects].count(o.kind) == 1}  # fmt: skip
        for option in row.options:
            if row.category == "attribute_recognition":
                true = things[one(KINDS, row.question)].colour == option
            elif row.category == "object_localization":
                thing = things[one(KINDS, row.question)]
                true = one(CELLS, option) == thing.position
            else:
                asked = [things[kind] for kind in KINDS if kind in row.question]
                larger = max(asked, key=lambda o: SIZES.index(o.size))
                assert len({o.size for o in asked}) == 2
                true = option == larger.kind
            assert true == (option == right), row


def test_pope(drawn):
    files, scenes = drawn
    settings = {}
    for number, name in enumerate(("random", "popular", "adversarial")):
        rows = list(read_pope(files.pope / f"coco_pope_{name}.json"))
        settings[name] = rows
        assert [row.label for row in rows] == ["yes", "no"] * (N // 2)
        assert {row.setting for row in rows} == {name}
        assert len({row.image for row in rows}) == N // 2
        shown = scenes["pope"][number * N // 2 : (number + 1) * N // 2]
        for i, row in enumerate(rows):
            kind = one(KINDS, row.question)
            assert (kind in shown[i // 2].kinds) == (row.label == "yes")
        if name == "adversarial":
            for i, row in enumerate(rows[1::2]):
                assert PARTNER[one(KINDS, row.question)] in shown[i].kinds
    for name in ("popular", "adversarial"):  # the settings share their pictures and yes-questions
        for a, b in zip(settings["random"], settings[name], strict=True):
            assert a.image == b.image and (a.label == "no" or a.question == b.question)


def test_mme(drawn):
    files, scenes = drawn
    rows = list(read_mme(files.mme))
    assert Counter(row.task for row in rows) == dict.fromkeys(("existence", "count", "position", "color"), N)  # fmt: skip
    assert [row.label for row in rows] == ["yes", "no"] * (2 * N)
    by_task = {task: [r for r in rows if r.task == task] for task in ("existence", "count", "position", "color")}  # fmt: skip
    shown = iter(scenes["mme"])
    for task, of_task in by_task.items():
        for i in range(N // 2):
            scene = next(shown)
            for row in of_task[2 * i : 2 * i + 2]:
                assert true(task, row.question, scene) == (row.label == "yes"), row


def true(task, text, scene):
    """The answer by the scene alone."""
    words = text.rstrip("?").split()
    if task == "existence":
        return words[-1] in scene.kinds
    if task == "color":
        return tuple(words[-2:]) in {(o.colour, o.kind) for o in scene.objects}
    if task == "count":
        more, less = [word for word in words if word in COLOURS]
        return sum(o.colour == more for o in scene.objects) > sum(o.colour == less for o in scene.objects)  # fmt: skip
    a, b = (next(o for o in scene.objects if o.kind == word) for word in words if word in KINDS)
    return a.cell % 3 < b.cell % 3


def test_vqa(drawn):
    files, scenes = drawn
    rows = list(read_vqa(files.vqa_questions, files.vqa_annotations, files.vqa_images))
    assert len(rows) == N and len({row.image for row in rows}) == N // 2
    assert {row.answer_type for row in rows} == {"yes/no", "number", "other"}
    assert {row.question_type for row in rows} == {"how many", "is there a", "where is the", "what"}
    for i, row in enumerate(rows):
        scene = scenes["vqa"][i // 2]
        told = Counter(answer.text for answer in row.answers)
        assert told.most_common(1)[0][0] == row.answer and told[row.answer] > 5
        kind = next((k for k in KINDS if k in row.question), None)
        if row.answer_type == "number":
            assert row.answer == str(len(scene.objects))
        elif row.answer_type == "yes/no":
            assert (kind in scene.kinds) == (row.answer == "yes")
        else:
            (thing,) = [o for o in scene.objects if o.kind == kind]
            assert row.answer in (thing.colour, f"at the {thing.position}", f"in the {thing.position}")  # fmt: skip
            task = "colour" if "colour" in row.question else "position"
            assert is_correct(task, scene, row.answer, row.answer)
    assert any(len({a.text for a in row.answers}) > 1 for row in rows), "people always agree"


def test_the_same_bytes_every_time(drawn, tmp_path):
    files, _ = drawn
    again = write_world(tmp_path, n=N)
    root = files.mmbench.parents[1]
    names = sorted(p.relative_to(root) for p in root.rglob("*") if p.is_file())
    assert names == sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file())
    for name in names:
        assert (root / name).read_bytes() == (tmp_path / name).read_bytes(), name
    assert again.mme == tmp_path / "mme" / "MME_Benchmark_release_version"


def test_rotations_chinese_and_mistakes(tmp_path):
    files = write_world(tmp_path / "a", n=4, language="zh", rotations=True)
    assert files.mmbench.name == "MMBench_DEV_CN.tsv"
    rows = list(read_mmbench(files.mmbench))
    passes = Counter(row.group for row in rows)
    first = {row.group: row for row in rows if row.index == row.group}
    assert all(passes[g] == len(row.options) for g, row in first.items())
    for row in rows:
        assert row.options[row.letters.index(row.answer)] == first[row.group].options[first[row.group].letters.index(first[row.group].answer)]  # fmt: skip
        assert load_image(row.image).size == (48, 48)
    vqa = list(read_vqa(files.vqa_questions, files.vqa_annotations, files.vqa_images))
    assert {row.question_type for row in vqa} == {"none of the above"}
    assert all(any("一" <= c <= "鿿" for c in q.question) for q in (*rows, *vqa))
    for n in (0, 3):
        with pytest.raises(InputError, match="even number"):
            write_world(tmp_path / "b", n=n)
    with pytest.raises(InputError, match="is there already"):
        write_world(tmp_path / "a", n=2)
