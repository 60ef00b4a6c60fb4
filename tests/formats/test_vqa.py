"""VQAv2's pair of files and its results, as published and as written."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from labs.errors import InputError
from labs.formats import load_image
from labs.formats.vqa import (
    VqaAnswer,
    VqaQuestion,
    read_vqa,
    read_vqa_results,
    write_vqa,
    write_vqa_results,
)

HEAD = {
    "info": {"description": "This is v2.0 of the VQA dataset.", "url": "http://visualqa.org", "version": "2.0",
             "year": 2017, "contributor": "VQA Team", "date_created": "2017-04-26 17:00:44"},
    "license": {"url": "http://creativecommons.org/licenses/by/4.0/", "name": "Creative Commons Attribution 4.0 International License"},
    "data_subtype": "val2014", "data_type": "mscoco",
}  # fmt: skip
QUESTIONS = {
    **HEAD,
    "task_type": "Open-Ended",
    "questions": [
        {"image_id": 262148, "question": "Where is he looking?", "question_id": 262148000},
        {"image_id": 262148, "question": "What are the people doing?", "question_id": 262148001},
        {"image_id": 393225, "question": "Is this a creamy soup?", "question_id": 393225001},
    ],
}


def people(*texts):
    """Ten answers: the texts, the last one repeated."""
    told = [*texts, *[texts[-1]] * (10 - len(texts))]
    return [
        {"answer": text, "answer_confidence": ("yes", "maybe", "no")[i % 3], "answer_id": i + 1}
        for i, text in enumerate(told)
    ]


# The annotations stand in another order than the questions.
ANNOTATIONS = {
    **HEAD,
    "annotations": [
        {"question_type": "is this a", "multiple_choice_answer": "no", "answers": people("yes", "no"),
         "image_id": 393225, "answer_type": "yes/no", "question_id": 393225001},
        {"question_type": "none of the above", "multiple_choice_answer": "down", "answers": people("at table", "skateboard", "down"),
         "image_id": 262148, "answer_type": "other", "question_id": 262148000},
        {"question_type": "what are the", "multiple_choice_answer": "spectating", "answers": people("", "spectating"),
         "image_id": 262148, "answer_type": "other", "question_id": 262148001},
    ],
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    for number in (262148, 393225):
        (tmp_path / "val2014").mkdir(exist_ok=True)
        Image.new("RGB", (8, 6), "red").save(
            tmp_path / "val2014" / f"COCO_val2014_{number:012d}.jpg"
        )
    return tmp_path


def written(folder, questions=QUESTIONS, annotations=ANNOTATIONS):
    places = []
    for name, data in [
        ("v2_OpenEnded_mscoco_val2014_questions.json", questions),
        ("v2_mscoco_val2014_annotations.json", annotations),
    ]:
        text = data if isinstance(data, str) else json.dumps(data)
        (folder / name).write_text(text, encoding="utf-8")
        places.append(folder / name)
    return *places, folder / "val2014"


def test_public_layout(folder):
    first, second, third = read_vqa(*written(folder))
    assert [q.id for q in (first, second, third)] == [262148000, 262148001, 393225001]
    assert first.image == second.image == str(folder / "val2014/COCO_val2014_000000262148.jpg")
    assert load_image(third.image).size == (8, 6)
    assert first.question == "Where is he looking?" and first.image_id == 262148
    assert (first.answer, first.answer_type, first.question_type) == ("down", "other", "none of the above")  # fmt: skip
    assert [a.text for a in first.answers] == ["at table", "skateboard", *["down"] * 8]
    assert first.answers[1] == VqaAnswer(2, "skateboard", "maybe")
    assert second.answers[0].text == ""  # some are, in the release
    assert (third.answer, third.answer_type) == ("no", "yes/no")


def test_a_test_split_has_no_answers_and_other_pictures(folder):
    (folder / "val2014/COCO_val2014_000000262148.jpg").rename(
        folder / "COCO_test2015_000000262148.jpg"
    )
    data = {**QUESTIONS, "data_subtype": "test-dev2015", "questions": QUESTIONS["questions"][:1]}
    path, _, _ = written(folder, data)
    (row,) = read_vqa(path)
    assert row.image == str(folder / "COCO_test2015_000000262148.jpg")
    assert row.answers == () and row.answer is row.answer_type is None
    with pytest.raises(InputError, match="262148000 has no answer"):
        row.to_conversation()


def test_conversation(folder):
    first, *_ = read_vqa(*written(folder))
    conversation = first.to_conversation("Answer the question using a single word or phrase.")
    asked, said = conversation.turns
    assert asked.text == "<image>\nWhere is he looking?\nAnswer the question using a single word or phrase."  # fmt: skip
    assert said.text == "down" and conversation.images == (first.image,)


def changed(data, change):
    data = json.loads(json.dumps(data))
    change(data)
    return data


def asked(change):
    return changed(QUESTIONS, lambda d: change(d["questions"]))


def told(change):
    return changed(ANNOTATIONS, lambda d: change(d["annotations"]))


@pytest.mark.parametrize(
    ("questions", "sentence"),
    [
        ("", "zero bytes"),
        ('{"questions": [', "line 1: bad JSON"),
        ('{\n"questions": [}\n', "line 2: bad JSON"),
        ([{"question_id": 1, "answer": "x"}], "the field `questions` is missing (there is `question_id`"),
        ({**QUESTIONS, "questions": {}}, "`questions` must be a list of objects"),
        ({**QUESTIONS, "questions": ["x"]}, "`questions` must be a list of objects"),
        ({**QUESTIONS, "questions": []}, "not even a question"),
        (changed(QUESTIONS, lambda d: d.pop("data_subtype")), "is missing"),
        ({**QUESTIONS, "data_type": "abstract_v002"}, "data_type 'abstract_v002', not COCO's"),
        ({**QUESTIONS, "data_subtype": "train2014"}, "answers the questions of val2014, and"),
        (asked(lambda q: q[1].update(question_id=262148000)), "question 2: the question_id 262148000 was used before, at question 1"),
        (asked(lambda q: q[1].update(question_id="x")), "question 2: `question_id` must be a whole number"),
        (asked(lambda q: q[2].pop("image_id")), "question 3: the field `image_id` is missing"),
        (asked(lambda q: q[0].update(question=" ")), "question 1: `question` must be a text, not an empty one"),
        (asked(lambda q: q[2].update(image_id=7)), "question 3: the picture COCO_val2014_000000000007.jpg is not in"),
        (asked(lambda q: q.append({"image_id": 393225, "question": "Why?", "question_id": 5})), "question 4: the question_id 5 has no annotation"),
        (asked(lambda q: q.pop(0)), "annotation 2: the annotation is for question_id 262148000, which is not among"),
        (asked(lambda q: q[0].update(image_id=393225)), "annotation 2: the answers to question_id 262148000 are about image 262148, the question about 393225"),
    ],
)  # fmt: skip
def test_mistakes_in_the_questions(folder, questions, sentence):
    with pytest.raises(InputError) as error:
        list(read_vqa(*written(folder, questions)))
    assert sentence in error.value.what and str(folder) in error.value.what


@pytest.mark.parametrize(
    ("annotations", "sentence"),
    [
        ('{"annotations": [\n1,', "bad JSON"),
        ({**HEAD, "annotations": 5}, "`annotations` must be a list of objects"),
        (told(lambda a: a[2].update(question_id=262148000)), "annotation 3: the question_id 262148000 was used before, at annotation 2"),
        (told(lambda a: a[0]["answers"].pop()), "annotation 1 (question_id 393225001): 9 answers, where VQA has those of 10"),
        (told(lambda a: a[0]["answers"].append(a[0]["answers"][0])), "11 answers"),
        (told(lambda a: a[0].update(answers=[])), "0 answers"),
        (told(lambda a: a[0].update(answers=["no"] * 10)), "`answers` must be a list of objects"),
        (told(lambda a: a[1]["answers"][4].update(answer_id=1)), "answer 5: the answer_id 1 was used before, at answer 1"),
        (told(lambda a: a[1]["answers"][4].update(answer=3)), "answer 5: `answer` must be a text"),
        (told(lambda a: a[1]["answers"][4].pop("answer")), "answer 5: the field `answer` is missing"),
        (told(lambda a: a[1].pop("multiple_choice_answer")), "annotation 2: the field `multiple_choice_answer` is missing"),
        (told(lambda a: a[1].update(answer_type="")), "annotation 2: `answer_type` must be a text"),
        (told(lambda a: a[1].pop("image_id")), "annotation 2: the field `image_id` is missing"),
    ],
)  # fmt: skip
def test_mistakes_in_the_annotations(folder, annotations, sentence):
    with pytest.raises(InputError) as error:
        list(read_vqa(*written(folder, annotations=annotations)))
    assert sentence in error.value.what and str(folder) in error.value.what


def test_a_picture_behind_a_link_that_leaves_the_root(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other") / "a.jpg"
    picture = folder / "val2014/COCO_val2014_000000393225.jpg"
    picture.rename(other)
    picture.symlink_to(other)
    with pytest.raises(InputError, match="leaves the data folder"):
        list(read_vqa(*written(folder)))


texts = st.text(max_size=12).filter(lambda t: t == "" or t.strip())
named = st.sampled_from(("yes/no", "number", "other"))


@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.text(min_size=1, max_size=20).filter(str.strip),
                  st.lists(texts, min_size=10, max_size=10), named),
        min_size=1, max_size=4,
    )
)  # fmt: skip
def test_round_trip(tmp_path_factory, drawn):
    folder = tmp_path_factory.mktemp("vqa")
    pictures = [Image.new("RGB", (4, 4), colour) for colour in ("red", "green", "blue")]
    records = [
        VqaQuestion(
            1000 * n + i, n, pictures[n], text,
            tuple(VqaAnswer(k + 1, t, "yes") for k, t in enumerate(answers)), answers[0], kind, "is",
        )
        for i, (n, text, answers, kind) in enumerate(drawn)
    ]  # fmt: skip
    places = folder / "q.json", folder / "a.json", folder / "images"
    assert write_vqa(records, *places) == len(records)
    back = list(read_vqa(*places))
    for record, other in zip(records, back, strict=True):
        assert other == VqaQuestion(**{**vars(record), "image": other.image})
        here, there = load_image(other.image).getpixel((1, 1)), record.image.getpixel((1, 1))
        assert max(abs(a - b) for a, b in zip(here, there, strict=True)) < 8
    # Paths that have the format's names are taken as they are.
    again = folder / "again.json", folder / "answers.json", folder / "images"
    assert write_vqa(back, *again) == len(back)
    assert again[0].read_text() == places[0].read_text()
    assert again[1].read_text() == places[1].read_text()


def test_nothing_bad_is_written(folder):
    row = next(iter(read_vqa(*written(folder))))
    root, out = folder / "val2014", folder / "out"
    cases = [
        ([], "no question"),
        ([row, row], "question_id 262148000 was used before"),
        ([VqaQuestion(**{**vars(row), "question": ""})], "`question` must be a text"),
        ([VqaQuestion(**{**vars(row), "answers": row.answers[:9]})], "9 answers"),
        ([VqaQuestion(**{**vars(row), "answer": None})], "`multiple_choice_answer` is missing"),
        ([VqaQuestion(**{**vars(row), "answer_type": None})], "`answer_type` is missing"),
        ([VqaQuestion(**{**vars(row), "image_id": 393225})], "is not called COCO_val2014_000000393225.jpg"),
        ([VqaQuestion(**{**vars(row), "image_id": 9})], "COCO_val2014_000000000009.jpg is not in"),
        ([VqaQuestion(**{**vars(row), "image": "../a.jpg"})], "leaves the data folder"),
    ]  # fmt: skip
    for bad, sentence in cases:
        with pytest.raises(InputError) as error:
            write_vqa(bad, out / "q.json", out / "a.json", root)
        assert sentence in error.value.what
    pictures = [Image.new("RGB", (4, 4), colour) for colour in ("red", "green")]
    two = [VqaQuestion(**{**vars(row), "id": i, "image": p}) for i, p in enumerate(pictures)]
    with pytest.raises(InputError, match="image_id 262148 stands for two pictures"):
        write_vqa(two, out / "q.json", out / "a.json", out / "images")
    assert not list(out.glob("*.json"))


def test_results(tmp_path):
    path = tmp_path / "results.json"
    path.write_text('[{"question_id": 1, "answer": "两个"}, {"question_id": 2, "answer": ""}]')
    assert read_vqa_results(path) == {1: "两个", 2: ""}
    assert write_vqa_results(read_vqa_results(path), tmp_path / "again.json") == 2
    assert json.loads((tmp_path / "again.json").read_text()) == json.loads(path.read_text())
    for text, sentence in [
        ('[{"question_id": 1, "answer": "a"}, {"question_id": 1, "answer": "b"}]', "question_id 1 was used before"),
        ('[{"question_id": 1}]', "`answer` is missing"),
        ('[{"question_id": 1, "answer": 3}]', "`answer` must be a text"),
        ('[{"answer": "a"}]', "`question_id` is missing"),
    ]:  # fmt: skip
        path.write_text(text)
        with pytest.raises(InputError, match=sentence):
            read_vqa_results(path)
    with pytest.raises(InputError, match="no answer to write"):
        write_vqa_results({}, tmp_path / "none.json")
