import pytest
from hypothesis import given
from hypothesis import strategies as st

from labs.errors import InputError
from labs.evaluation.answers import read_one_of

COLOURS = {
    "red": ["red", "红色", "红"],
    "blue": ["blue", "navy blue", "蓝色", "蓝"],
    "green": ["green", "绿色", "绿"],
}
PLACES = {
    "top": ["top", "上方"], "left": ["left", "左侧", "左边"], "top left": ["top left", "upper left", "左上角", "左上"],
    "right": ["right", "右侧"], "centre": ["centre", "center", "中央"],
}  # fmt: skip
KINDS = {
    "circle": ["circle", "圆形", "圆"],
    "ring": ["ring", "圆环", "环"],
    "star": ["star", "星形"],
    "cross": ["cross", "十字"],
}

CASES = [
    (COLOURS, "red", "red"),
    (COLOURS, "Red.", "red"),
    (COLOURS, "It is RED", "red"),
    (COLOURS, "navy blue", "blue"),
    (COLOURS, "The ring is red.", "red"),
    (COLOURS, "红色", "red"),
    (COLOURS, "它是红的", "red"),
    (COLOURS, "这是red的", "red"),
    (COLOURS, "not red but blue", "blue"),
    (COLOURS, "It isn't red; it is blue.", "blue"),
    (COLOURS, "neither red nor blue: green", "green"),
    (COLOURS, "blue rather than red", "blue"),
    (COLOURS, "不是红色，而是蓝色", "blue"),
    (COLOURS, "不是红色而是蓝色", "blue"),
    (COLOURS, "没有红色和绿色，只有蓝色", "blue"),
    (COLOURS, "Red. The blue object is a star.", "red"),
    (COLOURS, "It looks blue at first, so it is red", "red"),
    (COLOURS, "Answer: red\nThe star is blue.", "red"),
    (COLOURS, "blue? no, red", "red"),
    (COLOURS, "red and blue", "several"),
    (COLOURS, "The ring is red and the star is blue.", "several"),
    (COLOURS, "so red or blue", "several"),
    (COLOURS, "红色和蓝色", "several"),
    (COLOURS, "not red", "none"),
    (COLOURS, "reduced", "none"),
    (COLOURS, "yellow", "none"),
    (COLOURS, "", "empty"),
    (COLOURS, "I cannot see the image.", "refused"),
    (COLOURS, "看不到图片", "refused"),
    (COLOURS, "красный", "script"),
    (PLACES, "at the top left", "top left"),
    (PLACES, "top", "top"),
    (PLACES, "In the Center.", "centre"),
    (PLACES, "左上角", "top left"),
    (PLACES, "在左侧", "left"),
    (PLACES, "the top and the left", "several"),
    (KINDS, "two rings", "ring"),
    (KINDS, "crosses", "cross"),
    (KINDS, "圆环", "ring"),
    (KINDS, "圆形", "circle"),
    (KINDS, "The star is larger than the ring.", "star"),
    (KINDS, "星形比圆环大", "star"),
    (KINDS, "There is no ring, only a star.", "star"),
    (KINDS, "string", "none"),
]  # fmt: skip


@pytest.mark.parametrize(("synonyms", "text", "wanted"), CASES)
def test_hand_made_answers(synonyms, text, wanted):
    got = read_one_of(text, synonyms)
    assert (got.value or got.status) == wanted


FORMS = (
    "{}",
    "It is {}.",
    "Answer: {}",
    "\\boxed{{{}}}",
    "<think>no idea</think>{}",
    "the {} one",
    "答案是{}",
    "不是灰色，而是{}",
)


@given(st.sampled_from([COLOURS, PLACES, KINDS]), st.data())
def test_every_synonym_reads_back(synonyms, data):
    key = data.draw(st.sampled_from(sorted(synonyms)))
    word = data.draw(st.sampled_from(synonyms[key]))
    text = data.draw(st.sampled_from(FORMS)).format(word)
    assert read_one_of(text, synonyms) == (key, "read")
    assert read_one_of(f"\n {text.swapcase()}  ", synonyms) == (key, "read")
    assert read_one_of(text, dict(reversed(synonyms.items()))) == (key, "read")


@given(st.sampled_from(sorted(COLOURS)), st.sampled_from(sorted(COLOURS)))
def test_two_terms_are_several_and_a_denied_one_does_not_count(first, second):
    wanted = (first, "read") if first == second else (None, "several")
    assert read_one_of(f"{first} and {second}", COLOURS) == wanted
    if first != second:
        assert read_one_of(f"not {first} but {second}", COLOURS) == (second, "read")


@pytest.mark.parametrize(
    ("synonyms", "message"),
    [
        ({}, "no terms"),
        ({"red": []}, "no terms"),
        ({"red": "red"}, "bare string"),
        ({"red": ["red", " "]}, "no letter or digit"),
        ({"red": ["red"], "blue": ["blue", "The Red"]}, "stands for both 'red' and 'blue'"),
    ],
)
def test_bad_input(synonyms, message):
    with pytest.raises(InputError, match=message):
        read_one_of("red", synonyms)
