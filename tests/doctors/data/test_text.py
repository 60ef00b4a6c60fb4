"""Checks of one sample's turns and words, and of its image references."""

import os
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labs.doctors.data.kinds import KINDS
from labs.doctors.data.reading.records import coco_caption, pair
from labs.doctors.data.sample import Place, Problem, Sample
from labs.doctors.data.text import references
from labs.doctors.data.text.answers import asks_for_description, yes_no
from labs.doctors.data.text.characters import clean, control, is_blank, surrogate
from labs.doctors.data.text.collect import lower_edge, upper_edge
from labs.doctors.data.text.references import Folder
from labs.doctors.data.text.special_tokens import KNOWN, Tokens
from labs.doctors.data.text.turns import look, rules_for
from labs.formats.sniff import FORMATS

HERE = Place("x.json", 1, 0)
LLAVA = rules_for("llava")


def sample(*texts, images=("a.jpg",), others=(), roles=None) -> Sample:
    """A conversation: texts in alternation, or with these roles."""
    roles = roles or [("user", "assistant")[i % 2] for i in range(len(texts))]
    return Sample(HERE, "1", list(images), list(zip(roles, texts, strict=True)), list(others))


def kinds(found: Sample, rules=LLAVA) -> list[str]:
    return [problem.kind for problem in look(found, rules)]


GOOD = ("<image>\nWhat is it?", "A ring.", "What colour?", "Red.")


def test_a_sound_conversation():
    assert kinds(sample(*GOOD)) == []
    assert kinds(sample("你好，图里有什么？<image>", "一个红色的圆环。")) == []
    assert kinds(sample("Hi!", "Hello. x < y, a[0], <b>bold</b> ~ 5 > 3", images=())) == []
    assert (
        kinds(sample("Be brief.", *GOOD, roles="system user assistant user assistant".split()))
        == []
    )


@pytest.mark.parametrize(
    ("roles", "expected"),
    [
        ("user assistant", []),
        ("system user assistant", []),
        ("assistant user", ["role_order"]),
        ("assistant user assistant", ["role_order"]),
        ("user user assistant", ["role_order"]),
        ("user assistant assistant", ["role_order"]),
        ("user assistant system user assistant", ["role_order"]),
        ("system system user assistant", ["role_order"]),
        ("system assistant", ["role_order"]),
        ("user", ["no_answer"]),
        ("user assistant user", ["no_answer"]),
        ("system", ["no_answer"]),
        ("user bing", ["unknown_role"]),
        ("function assistant", ["unknown_role"]),
    ],
)
def test_roles(roles, expected):
    """One fault of order each: a sample that starts with an answer is not also one that ends in a question."""
    roles = roles.split()
    assert kinds(sample(*["x"] * len(roles), images=(), roles=roles)) == expected


@given(st.lists(st.sampled_from(["system", "user", "assistant"]), min_size=1, max_size=7))
def test_the_order_of_roles_against_a_pattern(roles):
    import re

    word = "".join(role[0] for role in roles)
    found = kinds(sample(*["x"] * len(roles), images=(), roles=roles))
    if re.fullmatch(r"s?(ua)+", word):
        assert found == []
    elif re.fullmatch(r"s?(ua)*u?", word):
        assert found == ["no_answer"]
    else:
        assert found == ["role_order"]


@pytest.mark.parametrize(
    ("texts", "images", "expected"),
    [
        (("<image>q", "a"), 1, []),
        (("q", "a"), 0, []),
        (("q", "a"), 1, ["missing_placeholder"]),
        (("<image>q", "a"), 2, ["missing_placeholder"]),
        (("<image>q", "a"), 0, ["surplus_placeholder"]),
        (("<image><image>q", "a"), 1, ["surplus_placeholder"]),
        (("<image>q", "a", "<image>", "b"), 2, []),
        (("<image>q", "a", "<image>", "b"), 1, ["surplus_placeholder"]),
        (("q", "<image>a"), 1, ["placeholder_in_answer"]),
        (("<image>q", "a <image>"), 1, ["placeholder_in_answer"]),
        (("<image>q", "<image>a"), 2, ["placeholder_in_answer"]),
        (("q", "<image>"), 2, ["placeholder_in_answer", "missing_placeholder"]),
        (("<Image>q", "a"), 1, ["missing_placeholder"]),
        (("<img>q", "a"), 1, ["missing_placeholder"]),
    ],
)
def test_placeholders(texts, images, expected):
    assert kinds(sample(*texts, images=["a.jpg"] * images)) == expected


def test_a_placeholder_that_is_misspelt_is_shown():
    (problem,) = look(sample("<IMG>\nq", "a"), LLAVA)
    assert problem.detail == "1 image, 0 <image>; <IMG> is read as text"


def test_turns_in_disorder_are_not_blamed_for_placeholders_in_answers():
    assert kinds(sample("<image>q", "a", roles=["assistant", "user"])) == ["role_order"]


def test_placeholders_by_format():
    bare = sample("q", "a", others=["b"])
    assert kinds(bare, rules_for("preference")) == []
    two = sample("<image>q", "a", images=["a", "b"], others=["b"])
    assert kinds(two, rules_for("preference")) == ["missing_placeholder"]
    for format in ("pope", "mme", "mmbench"):
        assert kinds(sample("Is it?", "yes"), rules_for(format)) == []


@pytest.mark.parametrize(
    "blank", ["", " ", "\n", "\u3000\u00a0", "\u200b", "\ufeff", "\u200b " * 9]
)
def test_blank_texts(blank):
    assert is_blank(blank)
    extra = ["control_characters"] * ("\ufeff" in blank)
    assert kinds(sample("<image>q", blank)) == ["empty_answer", *extra]
    assert kinds(sample("<image>q", "a", blank, "b")) == ["empty_question", *extra]
    assert kinds(sample("<image>q", "a", blank, blank)) == [
        "empty_question",
        "empty_answer",
        *extra,
    ]
    assert kinds(pair({"image": "a.jpg", "text": blank}, HERE), rules_for("pairs"))[:1] == [
        "empty_answer"
    ]


def test_an_image_alone_is_a_question():
    assert kinds(sample("<image>", "A ring.")) == []


def test_no_turns():
    assert kinds(sample(images=())) == ["no_turns"]
    told = Sample(HERE, None, [], [], [], [Problem("not_a_sample", "x")])
    assert kinds(told) == ["not_a_sample"]


# Special tokens.


@pytest.mark.parametrize("token", sorted({token for group in KNOWN.values() for token in group}))
def test_known_special_tokens(token):
    for number in (0, 1):
        texts = list(GOOD)
        texts[number] += f" and {token} then"
        (problem,) = look(sample(*texts), LLAVA)
        assert problem.kind == "special_token_in_text"
        assert problem.detail == f"turn {number + 1} ({('user', 'assistant')[number]}): {token}"
    broken = Tokens().break_up(f"x {token}{token} y")
    assert Tokens().find(broken) is None
    assert broken.replace(" ", "") == f"x{token}{token}y".replace(" ", "")


@pytest.mark.parametrize(
    "text",
    [
        "a < b and b > c", "x <| f |> g", "<p>para</p>", "<sub>2</sub>", "[1] and [INSTANCE]", "<-->", "<|>",
        "<|object_ref_start|>a ring<|object_ref_end|><|box_start|>(1,2),(3,4)<|box_end|>", "if a<b|c>d",
        "<ref>ring</ref><box>(1,2)</box>", "list[int]", "|im_end|", "<s", "</section>", "<start>",
    ],
)  # fmt: skip
def test_what_only_looks_like_a_special_token(text):
    assert kinds(sample("<image>" + text, text)) == []


def test_unknown_tokens_of_the_usual_form():
    assert Tokens().find("so <|reserved_special_token_7|> it") == "<|reserved_special_token_7|>"


def test_a_tokenizers_own_tokens_replace_the_table():
    own = Tokens(["<image>", "<|im_end|>", "<turn>", "the", "a", " ", "##"])
    rules = rules_for("llava", ["<image>", "<|im_end|>", "<turn>", "the", "a", " ", "##"])
    assert own.find("the <image> a </s>") is None
    assert own.find("x<turn>") == "<turn>"
    assert kinds(sample("<image>the q", "a"), rules) == []
    assert kinds(sample("<image>q", "a<turn>"), rules) == ["special_token_in_text"]
    assert Tokens([]).find("<|im_end|>") is None


def test_tokens_of_other_families_are_told_apart_from_the_tokenizers_own():
    rules = rules_for("llava", ["<|im_end|>"])
    assert kinds(sample("<image>q", "a</s>"), rules) == ["foreign_special_token"]
    assert kinds(sample("<image>q", "a<|eot_id|>"), rules) == ["foreign_special_token"]
    assert kinds(sample("<image>q", "a<|im_end|> and </s>"), rules) == ["special_token_in_text"]
    assert kinds(sample("<image>q", "a</s>"), LLAVA) == ["special_token_in_text"]
    assert KINDS["foreign_special_token"].severity == "warning"


# Characters.


@pytest.mark.parametrize(
    "letter", ["\0", "\x07", "\x1b", "\x7f", "\x85", "\x9d", "\ufffd", "\ufeff", "\uffff"]
)
def test_control_characters(letter):
    assert kinds(sample(f"<image>q{letter}?", "a")) == ["control_characters"]
    assert control(clean(f"a{letter}b")) is None and clean(f"a{letter}b") == "ab"


@pytest.mark.parametrize("text", ["Itâ€™s", "cafÃ©", "锟斤拷"])
def test_letters_of_another_encoding(text):
    assert kinds(sample("<image>q", text)) == ["control_characters"]


@pytest.mark.parametrize(
    "text", ["tab\tand\r\nline", "naïve café Ångström", "한국어 العربية", "👩\u200d🔬", "“—”…"]
)
def test_letters_of_all_alphabets(text):
    assert kinds(sample("<image>q", text)) == [] and clean(text) == text


def test_half_of_a_surrogate_pair():
    assert kinds(sample("<image>q", "a\ud83d")) == ["bad_encoding"]
    assert surrogate("\U0001f600") is None and "U+D83D" in surrogate("a\ud83d")
    assert clean("a\ud83db") == "ab"


@given(st.text())
def test_clean_text_has_no_control_characters(text):
    assert surrogate(clean(text)) is None
    found = control(clean(text))
    assert found is None or "another encoding" in found


# Words.


@pytest.mark.parametrize(
    "answer",
    [
        "As an AI language model, I cannot see the image.",
        "I'm sorry, but I can't assist with that.",
        "抱歉，我无法查看图片。",
        "作为一个人工智能语言模型，我没有视觉。",
    ],
)
def test_refusals(answer):
    assert kinds(sample("<image>q", "A ring.", "And?", answer)) == ["refusal"]
    assert kinds(sample("<image>\n" + answer, "A ring.")) == []  # asked about, not said


@pytest.mark.parametrize(
    "answer",
    [
        "I cannot see any ring.",
        "It is unclear.",
        "No, there is no language on the sign.",
        "看不清楚。",
        "She is sorry.",
    ],
)
def test_honest_answers(answer):
    assert kinds(sample("<image>q", answer)) == []


@pytest.mark.parametrize(
    "caption",
    [
        "IMG_20240102.jpg",
        "https://example.com/a.jpg",
        "<a href='x'>ring</a>",
        "a a a a a a a a",
        "null",
        "图片",
    ],
)
def test_captions_that_say_nothing(caption):
    for found, rules in (
        (pair({"image": "a.jpg", "text": caption}, HERE), "pairs"),
        (coco_caption({"image_id": 5, "caption": caption}, HERE, {"5": "5.jpg"}), "coco"),
        (sample("<image>\nDescribe the image.", caption), "llava"),
    ):
        assert kinds(found, rules_for(rules)) == ["junk_caption"]
    assert kinds(sample("<image>\nWhich word is on the sign?", caption)) == []


def test_questions_for_a_description():
    for question in (
        "Describe the image.",
        "<image>\nWhat is in this picture?",
        "请描述这张图片。",
        "Write a caption.",
    ):
        assert asks_for_description(question)
    for question in ("How many rings are there?", "What colour is the ring?", "有几个圆环？"):
        assert not asks_for_description(question)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Yes", ("en", "yes")), ("no.", ("en", "no")), (" NO\n", ("en", "no")), ("Yes, there is.", ("en", "yes")),
        ("No, it is not", ("en", "no")), ("是", ("zh", "yes")), ("是的，有一个。", ("zh", "yes")), ("没有。", ("zh", "no")),
        ("不是", ("zh", "no")), ("否", ("zh", "no")), ("No parking", None), ("Yesterday", None), ("None", None),
        ("North", None), ("有三个", None), ("", None), ("2", None), ("nose", None), ("是一个圆环", None),
    ],
)  # fmt: skip
def test_answers_of_yes_and_no(answer, expected):
    assert yes_no(answer) == expected


# All formats, anything inside.

texts = st.text(
    st.sampled_from("a <>|[]/\n\0\u200b\ufffd\ud83d图是") | st.characters(), max_size=12
) | st.sampled_from(["<image>", "<|im_end|>", "yes", "As an AI", "a.jpg"])


@settings(max_examples=300, deadline=None)
@given(
    turns=st.lists(
        st.tuples(st.sampled_from(["user", "assistant", "system", "x"]), texts), max_size=5
    ),
    images=st.lists(texts, max_size=3),
    others=st.lists(texts, max_size=2),
    format=st.sampled_from(FORMATS),
)
def test_no_text_makes_it_raise(turns, images, others, format):
    found = look(Sample(HERE, None, images, turns, others), rules_for(format))
    assert (
        len({problem.kind for problem in found}) >= len(found) - 1
    )  # each kind told of once (or of two answers)
    for problem in found:
        assert problem.kind in KINDS and problem.detail.isprintable()


def test_equal_answers_of_a_pair():
    rules = rules_for("preference")
    assert kinds(sample("q", "a", images=(), others=[" a"]), rules) == ["tied_preference"]
    assert kinds(sample("q", "a", images=(), others=[" "]), rules) == ["empty_answer"]
    assert kinds(sample("q", "a", images=(), others=["b</s>"]), rules) == ["special_token_in_text"]


@given(st.integers(0, 10**9))
def test_bins(count):
    edge = lower_edge(count)
    assert edge <= count <= upper_edge(edge)
    assert lower_edge(edge) == edge and lower_edge(upper_edge(edge) + 1) == upper_edge(edge) + 1
    assert upper_edge(edge) - edge <= max(count // 16, 0)


# References on disk.


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "data"
    (root / "sub").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    for path in (root / "a.jpg", root / "sub" / "B.PNG", tmp_path / "outside" / "c.jpg"):
        path.write_bytes(b"xyz")
    os.symlink("a.jpg", root / "link.jpg")
    os.symlink("gone.jpg", root / "broken.jpg")
    os.symlink("loop.jpg", root / "loop.jpg")
    os.symlink("turn2", root / "turn1")
    os.symlink("turn1", root / "turn2")
    os.symlink(tmp_path / "outside" / "c.jpg", root / "out.jpg")
    os.symlink(tmp_path / "outside", root / "away")
    os.symlink("sub", root / "near")
    os.mkfifo(root / "pipe.jpg")
    return root


@pytest.mark.parametrize(
    ("reference", "kind", "words"),
    [
        ("a.jpg", None, ""),
        ("./sub/../a.jpg", None, ""),
        ("sub//B.PNG", None, ""),
        ("link.jpg", None, ""),
        ("near/B.PNG", None, ""),
        ("data:image/png;base64,xx", None, ""),
        ("../outside/c.jpg", "unsafe_path", 'with ".."'),
        ("sub/../../outside/c.jpg", "unsafe_path", 'with ".."'),
        ("/etc/passwd", "unsafe_path", "an absolute path"),
        ("C:\\pictures\\a.jpg", "unsafe_path", "Windows"),
        ("out.jpg", "unsafe_path", "is a link to"),
        ("away/c.jpg", "unsafe_path", "through a link"),
        ("https://example.com/a.jpg", "web_address", "https"),
        ("s3://bucket/a.jpg", "web_address", "s3"),
        ("nothing.jpg", "missing_image", "no such file"),
        ("A.JPG", "missing_image", "a.jpg is there"),
        ("a.png", "missing_image", "a.jpg is there"),
        ("sub/b.png", "missing_image", "B.PNG is there"),
        ("sub\\B.PNG", "missing_image", "backslashes"),
        ("nowhere/a.jpg", "missing_image", "there is no folder nowhere"),
        ("a.jpg/b.jpg", "missing_image", "a.jpg"),
        ("broken.jpg", "missing_image", "a link to gone.jpg"),
        ("loop.jpg", "symlink_loop", "loop.jpg"),
        ("turn1/a.jpg", "symlink_loop", "turn1"),
        ("sub", "unreadable_file", "a folder"),
        ("pipe.jpg", "unreadable_file", "no regular file"),
        ("a\0.jpg", "missing_image", "NUL"),
        ("x" * 5000, "missing_image", "too long"),
        ("half\ud83d.jpg", "missing_image", "no such file"),
    ],
)  # fmt: skip
def test_references(folder, reference, kind, words):
    found = Folder(folder).look_up(reference)
    assert (found.problem and found.problem[0]) == kind
    if kind:
        assert words in found.problem[1] and found.problem[1].isprintable()
    elif not reference.startswith("data:"):
        assert found.size == 3 and found.identity[1]
        assert Path(Folder(folder).path(reference)).read_bytes() == b"xyz"


def test_links_may_lead_out_where_they_are_followed(folder):
    followed = Folder(folder, follow_links=True)
    for reference in ("out.jpg", "away/c.jpg"):
        assert Folder(folder).look_up(reference).problem[0] == "unsafe_path"
        assert followed.look_up(reference).problem is None
    for reference, kind in (("../outside/c.jpg", "unsafe_path"), ("loop.jpg", "symlink_loop")):
        assert followed.look_up(reference).problem[0] == kind


def test_an_absolute_path_inside_the_folder(folder):
    assert Folder(folder).look_up(str(folder / "a.jpg")).problem is None


def test_a_file_that_may_not_be_read(folder, monkeypatch):
    (folder / "a.jpg").chmod(0)
    monkeypatch.setattr(os, "access", lambda *_: False)  # as for anybody but root
    assert Folder(folder).look_up("a.jpg").problem == (
        "unreadable_file",
        "a.jpg: permission denied",
    )


def test_a_sound_reference_costs_one_look(folder, monkeypatch):
    place, calls = Folder(folder), []
    place.look_up("sub/B.PNG")  # the folder's own path is looked at once
    for name in ("stat", "lstat", "readlink", "access", "scandir"):
        real = getattr(os, name)
        monkeypatch.setattr(
            references.os,
            name,
            lambda *a, real=real, name=name, **k: (calls.append(name), real(*a, **k))[1],
        )
    assert place.look_up("sub/B.PNG").problem is None
    assert calls == ["lstat"]


def test_many_missing_files_list_their_folder_once(folder, monkeypatch):
    calls = []
    real = os.scandir
    monkeypatch.setattr(references.os, "scandir", lambda path: (calls.append(path), real(path))[1])
    place = Folder(folder)
    began = time.perf_counter()
    for number in range(3000):
        assert place.look_up(f"{number}.jpg").problem[0] == "missing_image"
    assert len(calls) == 1 and time.perf_counter() - began < 5
