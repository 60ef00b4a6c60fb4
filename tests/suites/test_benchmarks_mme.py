"""MME as a suite: pairs of questions, its sums, the official script's files."""

import shutil

import numpy as np
import pytest

from labs.errors import InputError
from labs.formats.mme import COGNITION, PERCEPTION, read_mme
from labs.suites.benchmarks import Mme, write_world
from labs.suites.contract import Answer, row_of

N = 8
HERE = ("existence", "count", "position", "color")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("world"), n=N).mme


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    """All 14 tasks: the four, and copies of them under the other names."""
    target = tmp_path_factory.mktemp("whole") / "MME"
    for number, task in enumerate(PERCEPTION + COGNITION):
        shutil.copytree(folder / HERE[number % 4], target / task)
    return target


def answered(suite, say):
    return [row_of(suite, q, Answer(say(q), 1, True)) for q in suite.questions()]


def test_questions(folder):
    questions = list(Mme(folder).questions())
    assert len(questions) == 4 * N and len({q.id for q in questions}) == 4 * N
    first, second = questions[:2]
    assert (first.id, second.id) == ("color/0000.png/1", "color/0000.png/2")
    assert first.group == second.group == "color/0000.png" and first.images == second.images
    assert len({q.group for q in questions}) == 2 * N
    assert first.prompt == f"{first.about['question']}\nAnswer the question using a single word or phrase."  # fmt: skip
    assert {q.answer for q in questions} == {"yes", "no"}


def test_n_keeps_pairs_together(folder):
    for n, asked in ((2, 2), (3, 4), (100, N)):
        questions = list(Mme(folder, n=n).questions())
        assert len(questions) == 4 * asked
        assert [q.id[-1] for q in questions] == ["1", "2"] * (2 * asked)


def test_all_right_always_yes_and_half(whole):
    suite = Mme(whole)
    found = suite.measures(answered(suite, lambda q: q.answer.capitalize()))
    assert found["accuracy"].value == found["accuracy_plus"].value == 1
    assert found["perception"][:3] == (2000, 2000, 2000)
    assert found["cognition"][:3] == (800, 800, 800)
    assert all(found[f"task/{task}"].value == 200 for task in PERCEPTION + COGNITION)
    # Saying yes gets one question of each picture right, and no picture.
    found = suite.measures(answered(suite, lambda q: "Yes"))
    assert (found["accuracy"].value, found["accuracy_plus"].value, found["yes_rate"].value) == (0.5, 0, 1)  # fmt: skip
    assert (found["perception"].value, found["cognition"].value) == (500, 200)
    # Right about the first half of each task's pictures, wrong about the rest: acc 50, acc+ 50.
    half = suite.measures(
        answered(suite, lambda q: q.answer if int(q.about["image"][:4]) < N // 4 else "unclear")
    )
    assert half["perception"].value == pytest.approx(1000)
    assert half["perception"].low < 1000 < half["perception"].high
    assert half["task/OCR"].value == 100 and half["task/OCR"].n == N // 2


def test_the_interval_of_a_sum_is_that_of_independent_tasks(whole):
    """Against the normal one: the variances of the tasks' means add up."""
    suite, rng = Mme(whole), np.random.default_rng(1)
    rows = answered(suite, lambda q: q.answer if rng.random() < 0.7 else "unclear")
    measure = suite.measures(rows)["perception"]
    pictures = {}
    for row in rows:
        if row.about["task"] in PERCEPTION:
            pictures.setdefault(row.about["task"], {}).setdefault(row.group, []).append(row.score)
    worth = [
        [100 * np.mean(p) + 100 * min(p) for p in of_task.values()] for of_task in pictures.values()
    ]
    assert measure.value == pytest.approx(sum(map(np.mean, worth)))
    half = 1.96 * np.sqrt(sum(np.var(w) / len(w) for w in worth))
    assert measure.high - measure.low == pytest.approx(2 * half, rel=0.1)


def test_sums_need_all_their_tasks(folder, whole, tmp_path):
    suite = Mme(folder)
    found = suite.measures(answered(suite, lambda q: q.answer))
    assert "perception" not in found and "cognition" not in found
    assert [name for name in found if name.startswith("task/")] == [f"task/{t}" for t in sorted(HERE)]  # fmt: skip
    shutil.copytree(whole, tmp_path / "MME")
    shutil.rmtree(tmp_path / "MME" / "OCR")
    suite = Mme(tmp_path / "MME")
    found = suite.measures(answered(suite, lambda q: q.answer))
    assert "perception" not in found and found["cognition"].value == 800


def test_the_script_reads_four_letters(folder):
    suite = Mme(folder)
    # "now" begins with "no"; a yes further on is not seen.
    rows = answered(suite, lambda q: "It is there, yes." if q.answer == "yes" else "No.")
    found = suite.measures(rows)
    assert found["accuracy"].value == 1
    assert found["accuracy_official"].value == 0.5 and found["yes_rate_official"].value == 0
    script = Mme(folder, rule="official")
    official = script.measures(answered(script, lambda q: "now I see it"))
    assert official["accuracy"].value == 0.5 and official["yes_rate"].value == 0
    rows = answered(script, lambda q: "\n\n  Yes")  # the file has one line for it: "Yes"
    assert script.measures(rows)["yes_rate"].value == 1


def test_the_files_that_the_script_reads(folder, tmp_path):
    suite = Mme(folder)
    rows = answered(suite, lambda q: f"Yes,\tit is\n{q.id}")
    paths = suite.write_answers(rows, tmp_path)
    assert sorted(path.name for path in paths) == sorted(f"{task}.txt" for task in HERE)
    back = list(read_mme(tmp_path, image_root=folder))
    asked = list(read_mme(folder))
    key = lambda q: (q.task, q.image, q.question)  # noqa: E731
    for one, two in zip(sorted(back, key=key), sorted(asked, key=key), strict=True):
        assert (one.task, one.image, one.question, one.label) == (two.task, two.image, two.question, two.label)  # fmt: skip
        assert one.response.startswith("Yes, it is ")
    # A folder of answers can be scored as a suite of its own.
    again = list(Mme(tmp_path, image_root=folder).questions())
    assert [(q.prompt, q.answer) for q in again] == [(q.prompt, q.answer) for q in suite.questions()]  # fmt: skip


def test_mistakes(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "MME")
    text = tmp_path / "MME" / "color" / "questions_answers_YN" / "0000.txt"
    whole = text.read_text()
    first = whole.splitlines(keepends=True)[0]
    for change, sentence in [
        (whole + "Is it?\tYes\n", "3 questions on one picture"),
        (first, "1 questions on one picture"),
        (whole.replace("\tYes", "\tPerhaps"), "label is 'Perhaps'"),
        (first + first, "question .* was used before"),
    ]:
        text.write_text(change)
        with pytest.raises(InputError, match=sentence):
            list(Mme(tmp_path / "MME").questions())
    text.write_text(whole)
    (tmp_path / "MME" / "count").rename(tmp_path / "MME" / "counting")
    with pytest.raises(InputError, match="MME has no task 'counting'"):
        list(Mme(tmp_path / "MME").questions())


def test_settings_change_with_the_questions(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "MME")
    before = Mme(tmp_path / "MME").settings()["sha256"]
    assert before == Mme(folder).settings()["sha256"]
    text = tmp_path / "MME" / "color" / "questions_answers_YN" / "0000.txt"
    text.write_text(text.read_text().replace("Yes", "No"))
    assert Mme(tmp_path / "MME").settings()["sha256"] != before
