"""MMBench's TSV: quoted cells, pictures as base64 or as another row's index, and what breaks it."""

import base64
import csv
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from labs.errors import InputError
from labs.formats import load_image
from labs.formats.mmbench import MMBenchQuestion, read_mmbench, write_mmbench


def encoded(colour, form="JPEG"):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, form)
    return base64.b64encode(buffer.getvalue()).decode()


RED, BLUE = encoded("red"), encoded("blue", "PNG")
HEADER = "index\tquestion\thint\tA\tB\tC\tD\tanswer\tcategory\timage\tsource\tl2-category\tcomment\tsplit\n"
# One question with two options under index 241, its rotation, and one with four options and a
# picture of its own; cells with line breaks and tabs are quoted, as pandas writes them.
PUBLIC = (
    HEADER
    + f'241\tWhich is it?\t"The passage below.\n\n""Read"" it."\tring\tdisk\t\t\tB\tidentity_reasoning\t{RED}\tscienceqa\tattribute_reasoning\t\tdev\n'
    + '1000241\tWhich is it?\t"The passage below.\n\n""Read"" it."\tdisk\tring\t\t\tA\tidentity_reasoning\t241\tscienceqa\tattribute_reasoning\t\tdev\n'
    + f'242\t这是什么？\t\t"for x in y:\n\tprint(x)"\tNone\tNA\tnan\tD\tocr\t{BLUE}\t\tcoarse_perception\tchecked\tdev\n'
)


def written(tmp_path, text, name="MMBench_DEV_EN.tsv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_public_layout(tmp_path):
    first, turned, other = read_mmbench(written(tmp_path, PUBLIC))
    assert first.options == ("ring", "disk") and first.letters == "AB" and first.answer == "B"
    assert first.hint == 'The passage below.\n\n"Read" it.' and first.split == "dev"
    assert (first.category, first.l2_category) == ("identity_reasoning", "attribute_reasoning")
    assert first.extra == {"source": "scienceqa"} and other.extra == {"comment": "checked"}
    assert other.options == ("for x in y:\n\tprint(x)", "None", "NA", "nan") and other.hint is None
    assert (first.group, turned.group, other.group) == (241, 241, 242)
    assert turned.image == first.image != other.image
    assert load_image(turned.image).getpixel((0, 0)) == load_image(first.image).getpixel((0, 0))
    assert load_image(other.image).getpixel((0, 0)) == (0, 0, 255)


def test_prompt_and_conversation(tmp_path):
    first, _, other = read_mmbench(written(tmp_path, PUBLIC))
    asked = first.to_conversation("Letter?").turns[0].text
    assert asked == '<image>\nThe passage below.\n\n"Read" it.\nWhich is it?\nA. ring\nB. disk\nLetter?'  # fmt: skip
    conversation = other.to_conversation()
    assert conversation.turns[1].text == "D" and conversation.id == "242"
    assert "\nD. nan\nAnswer with" in conversation.turns[0].text


def test_a_test_split_has_no_answers(tmp_path):
    rows = [line.split("\t") for line in ("index\tquestion\tA\tB\timage", f"0\tq\ta\tb\t{RED}")]
    (row,) = read_mmbench(written(tmp_path, "\n".join("\t".join(r) for r in rows)))
    assert row.answer is None
    with pytest.raises(InputError, match="index 0 has no answer"):
        row.to_conversation()


def test_a_picture_further_down_and_in_a_file(tmp_path):
    text = f"index\tquestion\tA\tB\timage\timage_path\n1000005\tq\tb\ta\t5\t\n5\tq\ta\tb\t{RED}\t\n6\tr\ta\tb\t\tpics/a.png\n"
    one, two, three = read_mmbench(written(tmp_path, text))
    assert one.image == two.image
    assert three.image == str(tmp_path / "pics" / "a.png") and three.extra == {}


def test_byte_order_mark_windows_line_ends_and_capital_names(tmp_path):
    text = "\ufeffIndex\tQuestion\tA\tB\tAnswer\tImage\r\n0\tq\ta\tb\tA\t" + RED + "\r\n"
    (row,) = read_mmbench(written(tmp_path, text))
    assert (row.index, row.options, row.answer) == (0, ("a", "b"), "A")


def test_a_cell_above_the_limit_of_the_csv_module(tmp_path):
    picture = Image.effect_noise((400, 400), 90).convert("RGB")
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    text = (
        "index\tquestion\tA\tB\timage\n0\tq\ta\tb\t" + base64.b64encode(buffer.getvalue()).decode()
    )
    assert len(text) > 131_072
    (row,) = read_mmbench(written(tmp_path, text))
    assert load_image(row.image).size == (400, 400)


ROW = "7\tq\t\ta\tb\t\t\tA\tc\t" + RED + "\t\t\t\tdev\n"


@pytest.mark.parametrize(
    ("text", "line", "sentence"),
    [
        (HEADER.replace("question\t", ""), 1, "the column question is missing"),
        (HEADER.replace("\timage", ""), 1, "the column image is missing"),
        (HEADER.replace("\tB\tC", "\tC"), 1, "the column B is missing"),
        (HEADER.replace("comment", "source"), 1, "a column is there twice"),
        (HEADER.replace("\t", ","), 1, "the column index is missing"),
        (HEADER + ROW + ROW.replace("\tdev", ""), 3, "13 columns, where the header has 14"),
        (HEADER + ROW + ROW.replace("\tq\t", "\tq\tq\t"), 3, "15 columns"),
        (PUBLIC + ROW + ROW, 11, "the index 7 was used before, at line 10"),
        (HEADER + ROW.replace("7", "x", 1), 2, "`index` must be a whole number"),
        (HEADER + ROW.replace("7", "", 1), 2, "`index` is missing"),
        (HEADER + ROW.replace("\tq\t", "\t\t"), 2, "`question` must be a text"),
        (HEADER + ROW.replace("\tA\tc", "\tC\tc"), 2, "the answer 'C' is none of the options A, B"),
        (HEADER + ROW.replace("\tA\tc", "\tAB\tc"), 2, "the answer 'AB' is none of"),
        (HEADER + ROW.replace("\tA\tc", "\ta\tc"), 2, "the answer 'a' is none of"),
        (HEADER + ROW.replace("\ta\tb\t", "\ta\t\t"), 2, "(A) are no choice"),
        (HEADER + ROW.replace("\ta\tb\t\t", "\ta\t\tc\t"), 2, "(A, C) are no choice"),
        (HEADER + ROW.replace(RED, "5"), 2, "`image` refers to row 5, which is not there"),
        (HEADER + ROW.replace(RED, "7"), 2, "row 7, which holds no picture itself"),
        (HEADER + ROW.replace(RED, "abc"), 2, "`image` must be a whole number"),
        (HEADER + ROW.replace(RED, "*" * 100), 2, "neither base64 nor the index"),
        (HEADER + ROW.replace(RED, ""), 2, "the field `image_path` is missing"),
        (HEADER + ROW + '8\t"q\t\ta\tb\t\t\tA\tc\td\n', 3, "not a row of a TSV file"),
        (HEADER, None, "not even a question"),
        ("", None, "zero bytes"),
        ("qué\n".encode("latin-1"), None, "not UTF-8"),
    ],
)
def test_mistakes(tmp_path, text, line, sentence):
    path = written(tmp_path, text)
    with pytest.raises(InputError) as error:
        list(read_mmbench(path))
    assert sentence in error.value.what and str(path) in error.value.what
    assert line is None or f"line {line}:" in error.value.what


cell = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=15).filter(str.strip)  # fmt: skip


@st.composite
def questions(draw):
    options = tuple(draw(st.lists(cell, min_size=2, max_size=5)))
    letters = "ABCDE"[: len(options)]
    return MMBenchQuestion(
        draw(st.integers(0, 3_000_000)), draw(cell), options,
        "data:image/*;base64," + draw(st.sampled_from([RED, BLUE])),
        draw(st.none() | st.sampled_from(letters)),
        *(draw(st.none() | cell) for _ in range(4)),
        draw(st.dictionaries(st.sampled_from(["source", "comment", "来源"]), cell)),
    )  # fmt: skip


sets = st.lists(questions(), min_size=1, max_size=5, unique_by=lambda q: q.index)


@settings(max_examples=40)
@given(sets)
def test_round_trip(tmp_path_factory, questions):
    path = tmp_path_factory.mktemp("mmbench") / "out.tsv"
    assert write_mmbench(questions, path) == len(questions)
    assert list(read_mmbench(path)) == questions
    # Each picture is in the file once.
    text = path.read_text()
    assert all(text.count(picture) <= 1 for picture in (RED, BLUE))


@settings(max_examples=40)
@given(sets)
def test_pandas_reads_what_was_written(tmp_path_factory, questions):
    """pandas is what VLMEvalKit reads the file with."""
    pandas = pytest.importorskip("pandas")
    path = tmp_path_factory.mktemp("mmbench") / "out.tsv"
    write_mmbench(questions, path)
    table = pandas.read_csv(path, sep="\t", keep_default_na=False, dtype=str)
    assert list(table["index"]) == [str(q.index) for q in questions]
    assert list(table["question"]) == [q.question for q in questions]
    assert list(table["A"]) == [q.options[0] for q in questions]
    assert list(table["answer"]) == [q.answer or "" for q in questions]


def test_pictures_from_files_and_from_memory(tmp_path):
    Image.new("RGB", (8, 8), "green").save(tmp_path / "a.jpg")
    rows = [
        MMBenchQuestion(0, "q", ("a", "b"), "a.jpg", "A"),
        MMBenchQuestion(1, "q", ("a", "b"), Image.new("RGB", (8, 8), "blue"), "A"),
    ]
    write_mmbench(rows, tmp_path / "out.tsv")
    one, two = read_mmbench(tmp_path / "out.tsv")
    assert base64.b64decode(one.image.partition(",")[2]) == (tmp_path / "a.jpg").read_bytes()
    assert load_image(two.image).getpixel((0, 0)) == (0, 0, 255)


def test_nothing_bad_is_written(tmp_path):
    def row(**change):
        base = {
            "index": 0,
            "question": "q",
            "options": ("a", "b"),
            "image": "data:image/*;base64," + RED,
        }
        return MMBenchQuestion(**{**base, **change})  # fmt: skip

    for bad, sentence in [
        ([], "no question to write"),
        ([row(), row()], "index 0 was used before"),
        ([row(question=" ")], "must be a text"),
        ([row(options=("a",))], r"\(A\) are no choice"),
        ([row(answer="C")], "the answer 'C' is none"),
        ([row(image="data:image/*;base64,####")], "neither base64"),
        ([row(image="data:image/*;base64,R0lGODlhAQABAAAAACw=")], "reads as an index"),
        ([row(image="../a.jpg")], "leaves the data folder"),
        ([row(image="none.jpg")], "does not exist"),
        ([row(extra={"hint": "x"})], "column of MMBench's own"),
        ([row(extra={"Note": "x"})], "one with capitals"),
    ]:
        with pytest.raises(InputError, match=sentence):
            write_mmbench(bad, tmp_path / "bad.tsv")
    assert not list(tmp_path.iterdir())


def test_the_limit_of_the_csv_module_is_only_ever_raised(tmp_path):
    before = csv.field_size_limit(1 << 30)
    try:
        list(read_mmbench(written(tmp_path, PUBLIC)))
        assert csv.field_size_limit() == 1 << 30
    finally:
        csv.field_size_limit(before)
