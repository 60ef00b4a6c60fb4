"""What no reader may do, whatever a model says: fail, hang, or say two things at once."""

import re
import string
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labs.evaluation import answers
from labs.evaluation.answers import normal
from labs.evaluation.reading import STATUSES, Reading

OPTIONS = ["a red ring", "a blue star", "1, 2 or 3", "none of the above"]
READERS = {
    "choice": lambda text: answers.read_choice(text, OPTIONS),
    "choice of numbers": lambda text: answers.read_choice(text, ["1", "2", "3", "4"]),
    "choice of yes and no": lambda text: answers.read_choice(text, ["是", "否"]),
    "yes or no": answers.read_yes_no,
    "number": answers.read_number,
    "box": lambda text: answers.read_box(text, scale=100),
    "one of": lambda text: answers.read_one_of(
        text, {"red": ["red", "红"], "blue": ["blue", "蓝"]}
    ),
    "text": answers.read_text,
    "pope": answers.pope_rule,
    "mme": answers.mme_rule,
    "lmms-eval mme": answers.lmms_eval_mme_rule,
    "lmms-eval pope": answers.lmms_eval_pope_rule,
    "vlmevalkit yes or no": answers.vlmevalkit_yes_no_rule,
    "vlmevalkit choice": lambda text: answers.vlmevalkit_choice_rule(text, OPTIONS),
    "lmms-eval choice": lambda text: answers.lmms_eval_choice_rule(text, OPTIONS),
    "lmms-eval static": lambda text: answers.lmms_eval_static_choice_rule(text, OPTIONS),
    "llava": lambda text: answers.llava_choice_rule(text, OPTIONS),
}

# What answers are made of, in no sensible order.
PIECES = (
    "A", "B", "(C)", "D.", "a red ring", "blue star", "yes", "no", "not", "maybe", "是", "没有", "3", "三个", "two", "[1,2,3,4]",
    "so", "but", "and", "or", "Answer:", "答案", "<think>", "</think>", "<answer>", "\\boxed{", "}", "选", "I cannot see",
    "the image", "无法", ".", ",", "\n", " ", "?", "ı", "İ", "ſ", "Ⅷ", "½", "\ud800", "\x00", "🅱", "ﷺ", "٣", "¹", "𝟛", "e\u0301",
)  # fmt: skip
anything = st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=12).map(" ".join),
                     st.lists(st.sampled_from(PIECES), max_size=12).map("".join))  # fmt: skip


@settings(max_examples=60)
@given(anything)
def test_every_text_has_one_reading(text):
    for name, read in READERS.items():
        got = read(text)
        assert isinstance(got, Reading), name
        assert got.status in STATUSES and got.status != "endless", name
        assert (got.value is None) == (got.status != "read"), name
        assert read(text) == got, name


@settings(max_examples=60)
@given(anything)
def test_only_blank_texts_are_empty(text):
    blank = normal.normal(text) == ""
    assert blank or any(not c.isspace() for c in text)
    for name in ("choice", "yes or no", "number", "box", "one of"):
        assert (READERS[name](text).status == "empty") == blank, name


@given(anything)
def test_values_are_of_the_kind_asked_for(text):
    choice, verdict, number = (READERS[k](text).value for k in ("choice", "yes or no", "number"))
    assert choice in (None, *"ABCD")
    assert verdict in (None, True, False)
    assert number is None or (isinstance(number, int | float) and abs(number) < float("inf"))


@given(anything)
def test_what_an_open_thought_says_is_no_answer(text):
    for name in ("choice", "yes or no", "number", "box", "one of", "text"):
        thinking = f"<think>{re.sub('</?think|/think', '', text)}"
        assert READERS[name](thinking).status in ("none", "script", "empty"), name


# Each is the kind of text on which a careless pattern needs squared or exponential time.
LONG = 200_000
HOSTILE = {
    "line breaks": "\n",
    "one letter": "A",
    "letters": "B ",
    "labels": "A. a red ring\n",
    "brackets": "(B",
    "open brackets": "(((((",
    "digits": "1",
    "numbers": "1 ",
    "thousands": "1,111",
    "numerals": "一十",
    "not": "not ",
    "it is": "it is ",
    "clauses": "well, so, but ",
    "answer is": "the answer is ",
    "boxes": "\\boxed{",
    "tags": "<answer>",
    "thoughts": "<think>",
    "thoughts closed": "<think></think>",
    "corners": "[1,2,3,",
    "pairs": "(1,2),",
    "refusals": "I cannot ",
    "pleas": "please provide a a a ",
    "stars": "**",
    "script": "да ",
    "wide": "ﷺ",
    "no of": "none of the ",
    "is": "答案是",
    "not in Chinese": "不是",
    "emoji": "🅰",
    "hundreds": "a hundred and ",
}  # fmt: skip


def repeated(piece, length):
    return (piece * (length // len(piece) + 1))[:length]


@pytest.mark.parametrize("piece", HOSTILE.values(), ids=HOSTILE.keys())
def test_nothing_hangs(piece):
    """Markers are looked for in the whole of a text, answers in LIMIT characters of it."""
    answers.after_marker(repeated(piece, LONG))
    for read in READERS.values():
        read(repeated(piece, 2 * normal.LIMIT) + " so it is B.")


@pytest.mark.parametrize("name", READERS)
def test_nothing_hangs_on_long_texts(name):
    for piece in ("A or 2 red. ", "<think></think>", "[1, 2, 3, "):
        READERS[name](repeated(piece, LONG) + " so it is B.")


def test_the_work_is_bounded_by_the_limit():
    """Counted in traced lines of Python, so that no clock is asked."""

    def lines(text):
        count = 0

        def tracer(frame, event, arg):
            nonlocal count
            count += 1
            return tracer

        before = sys.gettrace()
        sys.settrace(tracer)
        try:
            for name in ("choice", "yes or no", "number", "one of"):
                READERS[name](text)
        finally:
            sys.settrace(before)
        return count

    once = lines("A or 2 red. " * (normal.LIMIT // 12))
    assert lines("A or 2 red. " * (normal.LIMIT // 6)) < 1.3 * once  # twice the limit
    assert lines("A or 2 red. " * (normal.LIMIT // 24)) > 0.4 * once  # half of it


def test_of_a_long_text_both_ends_are_read():
    filler = "It goes on and on. " * (normal.LIMIT // 10)
    assert answers.read_choice(f"B is correct. {filler}", OPTIONS).value == "B"
    assert answers.read_choice(f"{filler} So it is B.", OPTIONS).value == "B"
    assert answers.read_yes_no(f"{filler} So yes.").value is True
    assert answers.read_number(f"{filler} In total 3.").value == 3
    assert answers.read_choice(f"{filler}</think>B", OPTIONS).value == "B"
    assert len(normal.normal(filler)) <= normal.LIMIT + 1


def test_no_guess_by_chance():
    """Letters that stand in no choice's place are not read more often than never."""
    prose = "The {} is nice and has a {} in it, says {}."
    words = (
        "plan {}",
        "vitamin {}",
        "{}-shape",
        "U.{}.",
        "{}3",
        "x{}",
        "grade {} work",
        "{} large thing",
    )
    for letter in string.ascii_uppercase[:4]:
        for word in words:
            said = word.format(letter)
            assert answers.read_choice(prose.format(said, said, said), OPTIONS).status == "none", (
                said
            )
