"""MME's folders in both shapes, and the files of answers that its calculation reads."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from labs.errors import InputError
from labs.formats.mme import MmeQuestion, read_mme, write_mme, write_mme_answers

OCR = 'Is the word in the logo "angie\'s"? Please answer yes or no.\tYes\nIs the word in the logo "angle\'s"? Please answer yes or no.\tNo\n'
ART = "Does this artwork exist in the form of painting? Please answer yes or no.\tYes\nDoes this artwork exist in the form of glassware? Please answer yes or no.\tNo\n"


def save(path, colour="red"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (3, 2), colour).save(path)


def put(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@pytest.fixture
def release(tmp_path):
    root = tmp_path / "MME_Benchmark_release_version"
    save(root / "artwork" / "images" / "10002.jpg")
    put(root / "artwork" / "questions_answers_YN" / "10002.txt", ART)
    save(root / "OCR" / "0001.png")
    put(root / "OCR" / "0001.txt", OCR)
    (root / "OCR" / ".DS_Store").write_text("x")
    (root / "eval_tool").mkdir()
    return root


def test_both_shapes(release):
    a, b, c, d = read_mme(release)
    assert a == MmeQuestion(
        "OCR", str(release / "OCR" / "0001.png"),
        'Is the word in the logo "angie\'s"? Please answer yes or no.', "yes",
    )  # fmt: skip
    assert (b.label, c.label, d.label) == ("no", "yes", "no")
    assert c.task == "artwork" and c.image == str(release / "artwork" / "images" / "10002.jpg")
    conversation = d.to_conversation()
    assert conversation.id == "artwork/10002.jpg" and conversation.turns[1].text == "No"
    assert conversation.turns[0].text == "<image>\n" + d.question


def test_windows_line_ends_blank_lines_and_stray_spaces(release):
    put(release / "OCR" / "0001.txt", "\ufeff" + OCR.replace("Yes\n", " yes \r\n\r\n") + "\n")
    assert [q.label for q in read_mme(release)][:2] == ["yes", "no"]


def test_answers(release, tmp_path):
    """The template has three columns, a filled one four; pictures are found in either shape."""
    line = "0001.png\tIs it? Please answer yes or no.\tYes{}\n0001.png\tIs it not? Please answer yes or no.\tNo{}\n"
    put(tmp_path / "Your_Results" / "OCR.txt", line.format("", ""))
    put(tmp_path / "Your_Results" / "artwork.txt", line.format("\tYes, it is.", "\tno").replace("0001.png", "10002.jpg"))  # fmt: skip
    put(tmp_path / "Your_Results" / "readme.txt", "how to")
    questions = list(read_mme(tmp_path / "Your_Results", image_root=release))
    assert [q.response for q in questions] == [None, None, "Yes, it is.", "no"]
    assert questions[0].image == str(release / "OCR" / "0001.png")
    assert questions[2].image == str(release / "artwork" / "images" / "10002.jpg")
    one = list(read_mme(tmp_path / "Your_Results" / "artwork.txt", image_root=release))
    assert one == questions[2:]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("q Yes\nr\tNo\n", "line 1: 0 tabs where 1"),
        ("q\tYes\nr\t\tNo\n", "line 2: 2 tabs where 1"),
        ("q\tYes\nr\tNot sure\n", "line 2: the label is 'Not sure'"),
        ("q\tYes\n", "1 questions on one picture"),
        ("q\tYes\nr\tNo\ns\tNo\n", "3 questions on one picture"),
        ("q\tYes\nq\tNo\n", "line 2: the question q was used before"),
        ("\tYes\nq\tNo\n", "line 1: `question` must be a text"),
        ("\n\n", "not even a question"),
        ("", "zero bytes"),
    ],
)
def test_mistakes_in_a_release(release, text, sentence):
    path = release / "OCR" / "0001.txt"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        list(read_mme(release))
    assert sentence in error.value.what and str(path) in error.value.what


def test_mistakes_in_answers(tmp_path):
    for text, sentence in [
        ("a.jpg\tq\n", "line 1: 1 tabs where 2 or 3"),
        ("a.jpg\tq\tYes\tr\tmore\n", "line 1: 4 tabs"),
        ("a.jpg\tq\tYes\na.jpg\tr\tNo\nb.jpg\tq\tYes\nb.jpg\tr\tNo\na.jpg\ts\tNo\n", "line 5: the picture a.jpg was used before"),
        ("a.jpg\tq\tYes\nb.jpg\tr\tNo\n", "1 questions on one picture"),
        ("../a.jpg\tq\tYes\n../a.jpg\tr\tNo\n", None),  # still inside the root
        ("../../a.jpg\tq\tYes\n../../a.jpg\tr\tNo\n", "leaves the data folder"),
    ]:  # fmt: skip
        put(tmp_path / "OCR.txt", text)
        if sentence is None:
            assert next(iter(read_mme(tmp_path / "OCR.txt"))).image == str(tmp_path / "a.jpg")
            continue
        with pytest.raises(InputError, match=sentence):
            list(read_mme(tmp_path / "OCR.txt"))


def test_a_missing_picture_bytes_and_an_empty_folder(release, tmp_path):
    (release / "OCR" / "0001.png").unlink()
    with pytest.raises(InputError, match="there is no picture of that name"):
        list(read_mme(release))
    save(release / "OCR" / "0001.png")
    (release / "OCR" / "0001.txt").write_bytes("qué\tYes\nr\tNo\n".encode("latin-1"))
    with pytest.raises(InputError, match="not UTF-8"):
        list(read_mme(release))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="not even a task"):
        read_mme(tmp_path / "empty")
    with pytest.raises(InputError, match="does not exist"):
        read_mme(tmp_path / "none")


cell = st.text(
    st.characters(codec="utf-8", exclude_characters="\t\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029\ufeff\0"),
    min_size=1, max_size=15,
).filter(str.strip)  # fmt: skip
sets = st.dictionaries(
    st.tuples(st.sampled_from(["OCR", "artwork", "color"]), st.integers(1, 3)),
    st.tuples(st.lists(cell, min_size=2, max_size=2, unique=True), st.sampled_from(["yes", "no"]), st.sampled_from(["yes", "no"])),
    min_size=1, max_size=3,
)  # fmt: skip


@settings(max_examples=40)
@given(sets)
def test_round_trip(tmp_path_factory, sets):
    folder = tmp_path_factory.mktemp("mme")
    questions = []
    for (task, number), (texts, *labels) in sorted(sets.items()):
        image = folder / "pictures" / f"{number}.jpg"
        save(image)
        questions += [MmeQuestion(task, str(image), *pair) for pair in zip(texts, labels, strict=True)]  # fmt: skip
    assert write_mme(questions, folder / "set") == len(questions)
    back = list(read_mme(folder / "set"))
    plain = [(q.task, q.image.rsplit("/")[-1], q.question, q.label) for q in questions]
    assert [(q.task, q.image.rsplit("/")[-1], q.question, q.label) for q in back] == plain
    for asked, read in zip(questions, back, strict=True):
        with open(asked.image, "rb") as one, open(read.image, "rb") as other:
            assert one.read() == other.read()
    assert sorted(p.name for p in folder.iterdir()) == ["pictures", "set"]


def test_answers_round_trip(release, tmp_path):
    said = itertools.cycle(["Yes", "No,\tit is\nnot.", ""])
    answered = [
        MmeQuestion(q.task, q.image, q.question, q.label, next(said)) for q in read_mme(release)
    ]
    assert write_mme_answers(answered, tmp_path / "answers") == 4
    back = list(read_mme(tmp_path / "answers", image_root=release))
    assert [(q.image, q.question, q.label) for q in back] == [(q.image, q.question, q.label) for q in answered]  # fmt: skip
    assert [q.response for q in back] == ["Yes", "No, it is not.", "", "Yes"]


def test_nothing_bad_is_written(release, tmp_path):
    good = list(read_mme(release))
    out = tmp_path / "out"
    change = [MmeQuestion(q.task, q.image, q.question + "\t", q.label) for q in good]
    for bad, sentence in [
        (good[:1], "1 questions on one picture"),
        (good + good[:2], "was used before"),
        (change, "holds a tab"),
        ([MmeQuestion("../x", q.image, q.question, q.label) for q in good[:2]], "no name of a task"),
        ([MmeQuestion("..", q.image, q.question, q.label) for q in good[:2]], "no name of a task"),
        ([MmeQuestion("x", "/none.jpg", q.question, q.label) for q in good[:2]], "does not exist"),
        ([], "no question to write"),
    ]:  # fmt: skip
        with pytest.raises(InputError, match=sentence):
            write_mme(bad, out)
    with pytest.raises(InputError, match="is there already"):
        write_mme(good, release)
    assert sorted(p.name for p in tmp_path.iterdir()) == [release.name]
