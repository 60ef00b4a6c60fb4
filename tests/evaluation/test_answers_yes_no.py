import pytest
from hypothesis import given
from hypothesis import strategies as st

from labs.errors import InputError
from labs.evaluation.answers import read_yes_no

YES, NO = True, False
CASES = [
    # English, said outright
    ("yes", YES), ("Yes.", YES), ("YES!", YES), (" yes\n", YES), ("**Yes**", YES), ("Yes, there is.", YES),
    ("Yes, there is a ring in the image.", YES), ("Yeah", YES), ("yep", YES), ("Y", YES), ("True", YES),
    ("That is correct.", YES), ("Correct", YES), ("Indeed.", YES), ("Of course", YES), ("Certainly!", YES),
    ("Yes - a red one.", YES), ("Yes: a ring", YES), ("yes it is", YES), ("It is.", YES), ("There is.", YES),
    ("Yes, no doubt.", YES), ("Yes, without a doubt", YES), ("Probably yes", YES), ("I'm not sure, but yes", YES),
    ("Yes, but it is not red.", YES), ("Yes, there is a ring. There are no other shapes.", YES),
    ("no", NO), ("No.", NO), ("NO", NO), ("No!", NO), ("Nope", NO), ("n", NO), ("False", NO), ("Incorrect.", NO),
    ("No, there is not.", NO), ("No there isn't", NO), ("no, it's a star", NO), ("Not really.", NO),
    ("Absolutely not", NO), ("Probably not.", NO), ("That is not correct.", NO), ("That's false", NO),
    ("No, there is a star instead.", NO), ("None", NO), ("not at all", NO), ("I don't think so.", NO),
    # English, as a statement
    ("There is no ring.", NO), ("There isn't a ring in the image.", NO), ("I don't see a ring", NO),
    ("I do not see any ring.", NO), ("I can't see a ring in the image.", NO), ("It is not red.", NO),
    ("There are no rings in this picture", NO), ("The image does not contain a ring.", NO), ("no ring", NO),
    ("There is no ring, but there is a star.", NO), ("There is no ring. There are two stars.", NO),
    ("The ring is missing.", NO), ("There are 0 rings.", NO), ("The picture shows several shapes. There is no ring.", NO),
    ("There is a ring.", YES), ("There are two rings in the image.", YES), ("I can see a ring.", YES),
    ("A ring is visible.", YES), ("There appears to be a ring", YES),
    # long answers: the verdict first, or last
    ("Yes. The picture shows six shapes, and one of them is a red ring at the top left.", YES),
    ("The picture shows six shapes. One of them is a red ring. So yes.", YES),
    ("The image shows a star and a cross. Therefore, there is no ring.", NO),
    ("Is there a ring? No.", NO), ("Let me look. I see a star, a cross. So the answer is no.", NO),
    ("<think>Yes? It looks like one.</think>No", NO), ("Final Answer: Yes", YES), ("\\boxed{No}", NO),
    ("Answer: no. Yes would be wrong.", NO), ("<answer>yes</answer>", YES), ('{"answer": true}', YES),
    # what a sign says, what is not known, what else is there
    ('The sign says "NO PARKING".', "none"), ('The word is "yes"', "none"), ('"No."', NO), ('I say "no"', NO),
    ("There's no way to tell.", "refused"), ("There is no information about that.", "refused"),
    ("The image is not available.", "refused"), ("There is no other ring.", "none"), ("No other shapes.", "none"),
    ("No doubt there is a ring.", YES), ("It is a ring, not a star.", "none"), ("是圆环，不是星形", "none"),
    # both, or neither
    ("Yes and no", "several"), ("yes or no", "several"), ("Yes/No", "several"), ("Yes, there is no ring.", "several"),
    ("Yes. There is no ring.", "several"), ("No. Yes.", "several"), ("No, it is.", "several"),
    ("There is a ring, but no star.", "several"), ("It is true that there is no ring", "several"),
    ("Maybe", "none"), ("Perhaps.", "none"), ("I'm not sure", "none"), ("There might be a ring.", "none"),
    ("It could be a ring", "none"), ("It depends", "none"), ("a red ring", "none"), ("ring", "none"), ("42", "none"),
    ("The ring is on the left", "none"), ("It is on the right.", "none"), ("It is not a star but a ring.", "none"),
    ("Is there a ring?", "none"), ("oui", "none"), ("<think>yes", "none"), ("Know your shapes", "none"),
    ("", "empty"), ("  \n", "empty"), ("<|im_end|>", "empty"),
    ("I cannot see the image.", "refused"), ("I cannot tell.", "refused"), ("As an AI, I am unable to view images.", "refused"),
    ("I'm sorry, I can't determine whether there is a ring.", "refused"), ("I don't know", "refused"),
    ("No image was provided.", "refused"), ("I cannot see it clearly, but yes.", YES),
    # Chinese
    ("是", YES), ("是的", YES), ("是的。", YES), ("有", YES), ("有的", YES), ("对", YES), ("对的", YES), ("没错", YES),
    ("正确", YES), ("存在", YES), ("是的，图中有一个圆环。", YES), ("图中有一个红色圆环。", YES), ("有一个圆环", YES),
    ("答案是：是", YES), ("当然", YES), ("颜色相同", YES), ("毫无疑问，有", YES), ("图中有没有圆环？有。", YES),
    ("否", NO), ("不", NO), ("不是", NO), ("不是的", NO), ("没有", NO), ("没有。", NO), ("无", NO), ("不对", NO), ("错误", NO),
    ("不存在", NO), ("并没有", NO), ("图中没有圆环。", NO), ("图中并没有圆环", NO), ("没有，图中没有圆环", NO),
    ("我看不到圆环", NO), ("不，图中只有星形", NO), ("图中没有圆环，但有一个星形", NO), ("颜色不同", NO),
    ("图中有没有圆环？没有。", NO), ("圆环不在左边", NO), ("所以没有", NO), ("答案：否", NO), ("不是红色", NO),
    ("是的，没有圆环。", "several"), ("是或否", "several"), ("图中有圆环，没有星形", "several"),
    ("可能", "none"), ("可能有", "none"), ("也许吧", "none"), ("不确定", "none"), ("红色圆环", "none"),
    ("不是星形，而是圆环", "none"), ("有没有圆环？", "none"),
    ("无法回答", "refused"), ("我无法判断图中是否有圆环。", "refused"), ("抱歉，我看不到图片", "refused"), ("不知道", "refused"),
    # other scripts
    ("да", "script"), ("はい", "script"), ("نعم", "script"), ("ναι", "script"), ("네, 있습니다", "script"),
    ("はい、yes", YES),
]  # fmt: skip


@pytest.mark.parametrize(("text", "wanted"), CASES)
def test_hand_made_answers(text, wanted):
    got = read_yes_no(text)
    assert (got.status if got.value is None else got.value) == wanted


def test_the_table_is_large_and_every_status_is_in_it():
    assert len({text for text, _ in CASES}) == len(CASES) >= 60
    assert {"empty", "none", "several", "refused", "script"} <= {str(w) for _, w in CASES}


FORMS = (
    "{}", "{}.", "{}!", "**{}**", '"{}"', "Answer: {}", "The answer is {}.", "<think>no, yes, no</think>{}",
    "<answer>{}</answer>", "\\boxed{{{}}}", "Let me look at the picture. So {}.", "答案是{}", "答案：{}。",
)  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("word", "value"), [("yes", YES), ("no", NO), ("是", YES), ("否", NO)])
def test_canonical_forms_read_back(form, word, value):
    for said in (word, word.upper(), word.title()):
        assert read_yes_no(form.format(said)) == (value, "read")


@given(st.sampled_from(CASES), st.booleans())
def test_case_and_surrounding_white_space_do_not_matter(case, upper):
    text = case[0].upper() if upper and "think" not in case[0] else case[0]
    assert read_yes_no(f"\n {text} \t") == read_yes_no(case[0])


def test_one_language_only():
    assert read_yes_no("是", "en") == (None, "script")
    assert read_yes_no("yes", "zh") == (None, "script")
    assert read_yes_no("yes", "en") == (True, "read") == read_yes_no("是", "zh")
    assert read_yes_no("", "zh").status == "empty"
    assert read_yes_no("42", "zh").status == "none"
    assert read_yes_no("无法回答", "en").status == "refused"
    with pytest.raises(InputError, match="no language 'fr'"):
        read_yes_no("oui", "fr")
