"""VQAv2 as a suite: thirds, answer types, a folder that is found, a split without answers."""

import json
from collections import Counter
from dataclasses import replace

import pytest

from labs.errors import InputError
from labs.formats.vqa import read_vqa, read_vqa_results
from labs.suites.benchmarks import VqaV2, write_world
from labs.suites.contract import Answer, row_of

N = 24


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("world"), n=N)


def suite_of(files, **options):
    return VqaV2(files.vqa_questions, files.vqa_annotations, files.vqa_images, **options)


def answered(suite, say):
    return [row_of(suite, q, Answer(say(q), 1, True)) for q in suite.questions()]


def test_questions(files):
    questions = list(suite_of(files).questions())
    read = list(read_vqa(*files[3:]))
    assert [q.id for q in questions] == [str(r.id) for r in read]
    first = questions[0]
    assert first.prompt == f"{read[0].question}\nAnswer the question using a single word or phrase."
    assert first.answer == [a.text for a in read[0].answers] and len(first.answer) == 10
    assert first.group == questions[1].group == str(read[0].image_id)
    assert len(list(suite_of(files, n=5).questions())) == 5


def test_a_folder_is_enough(files):
    folder = files.vqa_questions.parent
    assert [q.images for q in VqaV2(folder).questions()] == [q.images for q in suite_of(files).questions()]  # fmt: skip
    assert VqaV2(folder).settings()["sha256"] == suite_of(files).settings()["sha256"]
    assert VqaV2(folder).settings()["file"] == files.vqa_questions.name
    with pytest.raises(InputError, match="holds 0 files of VQA questions"):
        VqaV2(files.pope)


def test_scores_are_thirds_of_agreement(files):
    """Whoever answers like k people gets min(1, k/3), averaged over leaving each of the ten out."""
    suite = suite_of(files)
    expected = {0: 0, 1: 0.3, 2: 0.6, 3: 0.9, **dict.fromkeys(range(4, 11), 1)}
    seen = set()
    for q in suite.questions():
        for text, k in Counter(q.answer).items():
            row = row_of(suite, q, Answer(text, 1, True))
            assert row.score == pytest.approx(expected[k]) and row.status == "read"
            seen.add(k)
        assert row_of(suite, q, Answer("a purple elephant", 1, True)).score == 0
    assert seen >= {1, 2} and max(seen) > 5
    three = replace(q, answer=["red"] * 3 + ["blue"] * 7)
    assert row_of(suite, three, Answer("Red", 1, True)).score == pytest.approx(0.9)


def test_measures_by_answer_type(files):
    suite = suite_of(files)
    rows = answered(suite, lambda q: q.about["common_answer"])
    found = suite.measures(rows)
    assert suite.headline == next(iter(found)) == "accuracy" and found["accuracy"].value > 0.95
    rows = answered(suite, lambda q: "yes")
    found = suite.measures(rows)
    parts = {name: m for name, m in found.items() if name.startswith("answer_type/")}
    assert list(parts) == ["answer_type/number", "answer_type/other", "answer_type/yes/no"]
    assert parts["answer_type/number"].value == 0 and parts["answer_type/yes/no"].value > 0
    assert sum(m.n for m in parts.values()) == N
    assert sum(m.n * m.value for m in parts.values()) == pytest.approx(N * found["accuracy"].value)


def test_a_sentence_around_the_answer(files):
    suite, script = suite_of(files), suite_of(files, rule="official")
    say = lambda q: f"The answer is {q.about['common_answer']}."  # noqa: E731
    found = suite.measures(answered(suite, say))
    assert found["accuracy"].value > 0.95 and found["accuracy_official"].value == 0
    assert script.measures(answered(script, say))["accuracy"].value == 0
    plain = lambda q: q.about["common_answer"]  # noqa: E731
    ours, theirs = suite.measures(answered(suite, plain)), script.measures(answered(script, plain))
    assert ours == theirs


def test_what_is_handed_in(files, tmp_path):
    for rule, said in (("ours", "yes"), ("official", "The answer is yes.")):
        suite = suite_of(files, rule=rule)
        rows = answered(suite, lambda q: "The answer is yes." if q.about["question_id"] % 2 else "")
        (path,) = suite.write_answers(rows, tmp_path / rule)
        assert path.name == "v2_OpenEnded_mscoco_val2014_results.json"
        told = read_vqa_results(path)
        assert told == {int(row.id): said if int(row.id) % 2 else "" for row in rows}


def test_a_split_without_answers(files, tmp_path):
    suite = VqaV2(files.vqa_questions, image_root=files.vqa_images)
    assert "answers are held back" in suite.title and suite.headline == "answered"
    rows = answered(suite, lambda q: "yes" if q.about["question_id"] % 2 else "")
    assert list(suite.measures(rows)) == ["answered"]
    assert suite.measures(rows)["answered"].value == 0.5
    assert {row.answer for row in rows} == {None} and not any(row.score for row in rows)
    (path,) = suite.write_answers(rows, tmp_path)
    assert len(read_vqa_results(path)) == N
    json.dumps([q.about for q in suite.questions()])


def test_missing_answers_and_ids_used_twice(files, tmp_path):
    data = json.loads(files.vqa_annotations.read_text())
    gone = {**data, "annotations": data["annotations"][1:]}
    (tmp_path / "gone.json").write_text(json.dumps(gone))
    with pytest.raises(InputError, match="question 1: the question_id 1000000 has no annotation"):
        list(VqaV2(files.vqa_questions, tmp_path / "gone.json", files.vqa_images).questions())
    asked = json.loads(files.vqa_questions.read_text())
    asked["questions"].append(asked["questions"][0])
    (tmp_path / "twice.json").write_text(json.dumps(asked))
    with pytest.raises(InputError, match="question_id 1000000 was used before, at question 1"):
        list(VqaV2(tmp_path / "twice.json", files.vqa_annotations, files.vqa_images).questions())


def test_chinese(tmp_path):
    suite = VqaV2(write_world(tmp_path, n=4, language="zh").vqa_questions.parent)
    questions = list(suite.questions())
    assert all(q.prompt.endswith("\n请用一个词或短语回答问题。") for q in questions)
    found = suite.measures(answered(suite, lambda q: f"答案是{q.about['common_answer']}。"))
    assert found["accuracy"].value > 0.95
