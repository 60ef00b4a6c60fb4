"""What a judge's words mean: A, B, a tie, or nothing that can be read."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labs.suites.judge import read_verdict

SAID = {
    # markers
    "[[A]]": "first",
    "The ring is red. [[B]].": "second",
    "[[C]]": "tie",
    "[[tie]]": "tie",
    "结论：[[平局]]": "tie",
    "[[A]] … so my verdict is [[A]]": "first",
    "[[A]] or [[B]]": None,
    # a label alone
    "A": "first",
    "B.": "second",
    "(A)": "first",
    "**B**": "second",
    "Answer A": "first",
    "Answer B: it names all objects": "second",
    "A\n\nBecause it names the ring.": "first",
    "A and B": None,
    "A, B": None,
    "A or B": None,
    # who is better, who is worse
    "Answer A is better.": "first",
    "B is more accurate than A.": "second",
    "Answer B is clearly the better answer.": "second",
    "I prefer B": "second",
    "The better answer is A": "first",
    "Winner: B": "second",
    "My verdict is B.": "second",
    "A wins": "first",
    "Answer A describes the picture better.": "first",
    "A is worse than B": "second",
    "A is correct and B is wrong": "first",
    "They look equally good, but A is better": "first",
    "A is not better than B": None,
    "A is not the better answer; B is better.": "second",
    "A is better in colour, B is better in size": None,
    "答案A更好": "first",
    "回答B更优": "second",
    "A比B好": "first",
    "A 比 B 更准确": "first",
    "A比B更好": "first",
    "B比A差": "first",
    "答案A比答案B差": "second",
    "A不如B": "second",
    "我选B": "second",
    "更好的是B": "second",
    "结论：A": "first",
    "答案A明显更好，因为它提到了圆环。": "first",
    # ties
    "tie": "tie",
    "It is a tie.": "tie",
    "Both are good": "tie",
    "Both answers are correct": "tie",
    "The answers are the same.": "tie",
    "The answers are not the same.": None,
    "Neither A nor B is better": "tie",
    "两者一样": "tie",
    "两者一样好。": "tie",
    "两个答案不一样": None,
    "它们差不多": "tie",
    "平局": "tie",
    "两者都很好": "tie",
    # nothing
    "": None,
    "I cannot say.": None,
    "yes": None,
    "a red ring": None,
    "A large ring is in the picture.": None,
    "A better answer would name the ring.": None,
    "b": None,
}
MIRROR = {"first": "second", "second": "first"}


@pytest.mark.parametrize("text", SAID)
def test_what_is_said_is_read(text):
    assert read_verdict(text) == SAID[text]


@pytest.mark.parametrize("text", SAID)
def test_the_reader_itself_prefers_no_letter(text):
    letters = {"A": "B", "B": "A"}
    exchanged = re.sub(r"(?<![A-Za-z])[AB](?![A-Za-z])", lambda m: letters[m.group()], text)
    assert read_verdict(exchanged) == MIRROR.get(SAID[text], SAID[text])


@given(st.text(alphabet=st.characters(exclude_characters="[]")), st.text(max_size=30))
def test_a_marker_is_found_in_any_text(before, after):
    after = after.replace("[[", "")
    assert read_verdict(f"{before}[[B]]{after}") == "second"


@given(st.text())
def test_no_text_breaks_the_reader(text):
    assert read_verdict(text) in ("first", "second", "tie", None)
