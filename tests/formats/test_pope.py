"""POPE's question files: read as they are published, written so that they read the same."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from labs.errors import InputError
from labs.formats import load_image
from labs.formats.pope import PopeQuestion, read_pope, write_pope

PUBLIC = """\
{"question_id": 1, "image": "COCO_val2014_000000310196.jpg", "text": "Is there a snowboard in the image?", "label": "yes"}
{"question_id": 2, "image": "COCO_val2014_000000310196.jpg", "text": "Is there a car in the image?", "label": "no"}
"""


def written(tmp_path, text, name="coco_pope_random.json"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_public_layout(tmp_path):
    first, second = read_pope(written(tmp_path, PUBLIC), image_root=tmp_path / "val2014")
    image = str(tmp_path / "val2014" / "COCO_val2014_000000310196.jpg")
    assert first == PopeQuestion(1, image, "Is there a snowboard in the image?", "yes", "random")
    assert (second.id, second.label, second.setting) == (2, "no", "random")


def test_windows_line_ends(tmp_path):
    """coco_pope_popular.json and coco_pope_adversarial.json are published with them."""
    path = written(tmp_path, PUBLIC.replace("\n", "\r\n"), "coco_pope_popular.json")
    assert [q.label for q in read_pope(path)] == ["yes", "no"]


def test_the_list_of_the_seem_files(tmp_path):
    records = [json.loads(line) for line in PUBLIC.splitlines()]
    path = written(tmp_path, json.dumps(records, indent=4), "gqa_pope_seem_adversarial.json")
    assert [q.setting for q in read_pope(path)] == ["adversarial", "adversarial"]


@pytest.mark.parametrize("label", [" Yes", "YES\n", "yes ", "\tyEs"])
def test_labels_with_capitals_and_spaces(tmp_path, label):
    path = written(tmp_path, PUBLIC.replace('"yes"', json.dumps(label), 1), "llava_pope_test.jsonl")
    first, _ = read_pope(path)
    assert first.label == "yes" and first.setting is None


def test_conversation(tmp_path):
    first, _ = read_pope(written(tmp_path, PUBLIC))
    conversation = first.to_conversation("Answer yes or no.")
    assert [turn.text for turn in conversation.turns] == [
        "<image>\nIs there a snowboard in the image?\nAnswer yes or no.",
        "yes",
    ]
    assert conversation.images == (first.image,) and conversation.meta == {"setting": "random"}


MISTAKES = {
    "maybe": ('{"question_id": 3, "image": "a.jpg", "text": "q", "label": "maybe"}', "label is 'maybe'"),
    "yes.": ('{"question_id": 3, "image": "a.jpg", "text": "q", "label": "Yes."}', "label is 'Yes.'"),
    "no label": ('{"question_id": 3, "image": "a.jpg", "text": "q"}', "`label` is missing"),
    "empty": ('{"question_id": 3, "image": "a.jpg", "text": " ", "label": "no"}', "`text` must be a text"),
    "id": ('{"question_id": "x", "image": "a.jpg", "text": "q", "label": "no"}', "`question_id` must be a"),
    "true": ('{"question_id": true, "image": "a.jpg", "text": "q", "label": "no"}', "must be a whole"),
    "again": ('{"question_id": 2, "image": "a.jpg", "text": "q", "label": "no"}', "2 was used before, at line 2"),
    "outside": ('{"question_id": 3, "image": "../a.jpg", "text": "q", "label": "no"}', "leaves the data folder"),
    "list": ('["question_id", 3]', "must be a JSON object, not a list"),
    "json": ('{"question_id": 3,', "bad JSON"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_name_their_line(tmp_path, name):
    line, sentence = MISTAKES[name]
    path = written(tmp_path, PUBLIC + "\n" + line + "\n")
    with pytest.raises(InputError) as error:
        list(read_pope(path))
    assert sentence in str(error.value) and f"{path}, line 4" in error.value.what


def test_no_questions(tmp_path):
    with pytest.raises(InputError, match="zero bytes"):  # on the call, before the first question
        read_pope(written(tmp_path, ""))
    for text in ("\n\n", "[]"):
        with pytest.raises(InputError, match="not even a POPE question"):
            list(read_pope(written(tmp_path, text)))


texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=30)
questions = st.lists(
    st.builds(
        PopeQuestion,
        st.integers(0, 10**6),
        st.integers(0, 99).map("images/{}.jpg".format),
        texts.filter(str.strip),
        st.sampled_from(["yes", "no"]),
        st.sampled_from(["random", "popular", "adversarial", None]),
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda q: q.id,
)


@given(questions, st.sampled_from(["pope.jsonl", "coco_pope_popular.json"]))
def test_round_trip(tmp_path_factory, questions, name):
    folder = tmp_path_factory.mktemp("pope")
    assert write_pope(questions, folder / name) == len(questions)
    named = "popular" if "popular" in name else None
    back = list(read_pope(folder / name))
    for question, read in zip(questions, back, strict=True):
        assert read.image == str(folder / question.image)
        assert (read.id, read.question, read.label) == (question.id, question.question, question.label)  # fmt: skip
        assert read.setting == (question.setting or named)
    # What was read can be written to the same bytes: paths are relative again.
    write_pope(back, folder / "again" / name, image_root=folder)
    assert (folder / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_what_is_written_is_the_public_layout(tmp_path):
    path = written(tmp_path, PUBLIC)
    write_pope(read_pope(path), tmp_path / "out" / "coco_pope_random.json", image_root=tmp_path)
    assert (tmp_path / "out" / "coco_pope_random.json").read_text() == PUBLIC


def test_a_picture_in_memory_is_saved(tmp_path):
    image = Image.new("RGB", (3, 2), "red")
    write_pope([PopeQuestion(7, image, "q", "no")], tmp_path / "a.jsonl")
    (back,) = read_pope(tmp_path / "a.jsonl")
    assert load_image(back.image).getcolors() == [(6, (255, 0, 0))]


def test_nothing_that_cannot_be_read_again_is_written(tmp_path):
    good = PopeQuestion(1, "a.jpg", "q", "yes")
    for bad, sentence in [
        ([good, good], "question_id 1 was used before"),
        ([PopeQuestion(1, "/elsewhere/a.jpg", "q", "yes")], "leaves the data folder"),
        ([PopeQuestion(1, "a.jpg", "q", "perhaps")], "label is 'perhaps'"),
        ([], "nothing to write"),
    ]:
        with pytest.raises(InputError, match=sentence):
            write_pope(bad, tmp_path / "bad.jsonl")
    assert not list(tmp_path.iterdir())
