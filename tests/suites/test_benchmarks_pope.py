"""POPE as a suite: settings, the yes rate beside the score, pictures as groups, the script's file."""

import json
import shutil

import pytest

from labs.errors import InputError
from labs.evaluation import pope_scores
from labs.formats.pope import SETTINGS, read_pope, write_pope
from labs.suites.answerers import load_answerer
from labs.suites.benchmarks import Pope, write_world
from labs.suites.contract import Answer, row_of
from labs.suites.runner import run

N = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("world"), n=N).pope


def answered(suite, say):
    return [row_of(suite, q, Answer(say(q), 1, True)) for q in suite.questions()]


def test_a_folder_of_three_settings(folder):
    questions = list(Pope(folder).questions())
    assert len(questions) == 3 * N and len({q.id for q in questions}) == 3 * N
    assert [q.id for q in questions[::N]] == ["random/1", "popular/1", "adversarial/1"]
    assert [q.about["setting"] for q in questions[::N]] == list(SETTINGS)
    # Both questions of a picture are one group, in all settings.
    assert len({q.group for q in questions}) == N // 2
    assert questions[0].prompt == f"{questions[0].about['question']}\nAnswer the question using a single word or phrase."  # fmt: skip
    assert [q.id for q in Pope(folder, n=2).questions()] == [f"{s}/{i}" for s in SETTINGS for i in (1, 2)]  # fmt: skip


def test_one_file_and_llavas_file_with_a_category(folder, tmp_path):
    one = list(Pope(folder / "coco_pope_popular.json").questions())
    assert [q.id for q in one] == [str(i + 1) for i in range(N)]
    assert {q.about["setting"] for q in one} == {"popular"}
    lines, number = [], 0
    for setting in SETTINGS:
        for line in (folder / f"coco_pope_{setting}.json").read_text().splitlines():
            number += 1
            lines.append(json.dumps({**json.loads(line), "category": setting, "question_id": number}))  # fmt: skip
    (tmp_path / "llava_pope_test.jsonl").write_text("\n".join(lines))
    suite = Pope(tmp_path / "llava_pope_test.jsonl", image_root=folder)
    found = suite.measures(answered(suite, lambda q: "Yes"))
    whole = Pope(folder)
    again = whole.measures(answered(whole, lambda q: "Yes"))
    assert found == again


def test_always_yes(folder):
    suite = Pope(folder)
    found = suite.measures(answered(suite, lambda q: "Yes, there is."))
    assert suite.headline == next(iter(found)) == "accuracy"
    for prefix in ("", *(f"{s}/" for s in SETTINGS)):
        values = {k: found[f"{prefix}{k}"].value for k in ("accuracy", "precision", "recall", "f1", "yes_rate")}  # fmt: skip
        assert values == pytest.approx(
            {"accuracy": 0.5, "precision": 0.5, "recall": 1, "f1": 2 / 3, "yes_rate": 1}
        )


@pytest.mark.parametrize("rule", ["ours", "official"])
def test_the_five_numbers_are_those_of_pope_scores(folder, rule):
    suite = Pope(folder, rule=rule)
    says = ["Yes", "No.", "yes, a ring", "no", "There is no ring.", "maybe"]
    rows = answered(suite, lambda q: says[(q.about["question_id"] * 7) % len(says)])
    found = suite.measures(rows)
    scores = pope_scores([row.parsed for row in rows], [row.answer for row in rows])
    assert {k: found[k].value for k in scores._fields} == pytest.approx(scores._asdict())
    part = [row for row in rows if row.about["setting"] == "popular"]
    scores = pope_scores([row.parsed for row in part], [row.answer for row in part])
    assert found["popular/f1"].value == pytest.approx(scores.f1)
    for key in scores._fields:
        assert found[key].low <= found[key].value <= found[key].high


def test_what_says_neither_is_counted_apart_and_yes_to_the_script(folder):
    said = "The picture is blurry."
    ours, script = Pope(folder), Pope(folder, rule="official")
    rows = answered(ours, lambda q: said)
    assert {row.status for row in rows} == {"none"}
    found = ours.measures(rows)
    assert (found["accuracy"].value, found["yes_rate"].value) == (0, 0)
    assert (found["accuracy_official"].value, found["yes_rate_official"].value) == (0.5, 1)
    assert found["f1_official"].value == pytest.approx(2 / 3)
    official = script.measures(answered(script, lambda q: said))
    assert official["accuracy"].value == 0.5 and official["yes_rate"].value == 1
    assert not any(name.endswith("_official") for name in official)
    # Where both read alike nothing is said twice.
    plain = ours.measures(answered(ours, lambda q: q.answer))
    assert not any(name.endswith("_official") for name in plain)


def test_chinese_questions(tmp_path):
    suite = Pope(write_world(tmp_path, n=4, language="zh").pope)
    questions = list(suite.questions())
    assert all(q.prompt.endswith("\n请用一个词或短语回答问题。") for q in questions)
    found = suite.measures(answered(suite, lambda q: {"yes": "是的。", "no": "没有。"}[q.answer]))
    assert found["accuracy"].value == 1 and found["yes_rate"].value == 0.5


def test_the_file_that_the_script_reads(folder, tmp_path):
    suite = Pope(folder)
    rows = answered(suite, lambda q: f"Yes, {q.id}.\n")
    paths = suite.write_answers(rows, tmp_path)
    assert sorted(path.name for path in paths) == sorted(f"coco_pope_{s}_answers.json" for s in SETTINGS)  # fmt: skip
    for setting in SETTINGS:
        lines = (tmp_path / f"coco_pope_{setting}_answers.json").read_text().splitlines()
        labels = list(read_pope(folder / f"coco_pope_{setting}.json"))
        for number, (line, label) in enumerate(zip(lines, labels, strict=True), 1):
            assert json.loads(line) == {
                "question": label.question, "answer": f"Yes, {setting}/{number}.\n",
            }  # fmt: skip


def test_a_model_of_the_zoo_asked_by_the_runner(folder, tmp_path):
    suite = Pope(folder, instruction="")  # it has not seen LLaVA's sentence
    done = run(load_answerer("tiny-base"), suite, tmp_path / "run")
    assert done.headline == "accuracy" and len(done.rows) == 3 * N
    assert done.measures["accuracy"].value > 0.9 and done.measures["random/yes_rate"].n == N
    assert done.config["suite"]["settings"]["instruction"] == ""
    assert {row.group for row in done.rows} == {q.group for q in suite.questions()}


def test_mistakes(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no file of a POPE setting"):
        list(Pope(tmp_path / "empty").questions())
    shutil.copytree(folder, tmp_path / "two")
    shutil.copy(folder / "coco_pope_random.json", tmp_path / "two" / "seem_pope_random.json")
    with pytest.raises(InputError, match="two files of one setting"):
        list(Pope(tmp_path / "two").questions())
    rows = list(read_pope(folder / "coco_pope_random.json"))
    write_pope(rows, tmp_path / "a.json", folder)
    text = (tmp_path / "a.json").read_text().splitlines()
    (tmp_path / "a.json").write_text("\n".join([*text, text[0]]))
    with pytest.raises(InputError, match="question_id 1 was used before, at line 1"):
        list(Pope(tmp_path / "a.json", folder).questions())
    (tmp_path / "a.json").write_text(text[0].replace('"yes"', '"perhaps"'))
    with pytest.raises(InputError, match="label is 'perhaps'"):
        list(Pope(tmp_path / "a.json", folder).questions())
