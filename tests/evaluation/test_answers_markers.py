import pytest
from hypothesis import given
from hypothesis import strategies as st

from labs.evaluation.answers import after_marker, is_refusal, read_text

MARKED = [
    ("Final Answer: C", "C"),
    ("Final Answer: **C**", "**C**"),
    ("I see A and B.\n**Final Answer:** C\n", "C\n"),
    ("Answer: 3", "3"),
    ("Answer：3", "3"),
    ("answer = 3", "3"),
    ("The answer is 3", "3"),
    ("The answer to the question is 3", "3"),
    ("the correct option is: 3", "3"),
    ("Final answer\n3", "3"),
    ("答案：3", "3"),
    ("正确答案是3", "3"),
    ("最终答案为 3", "3"),
    ("答：3", "3"),
    ("回答：3", "3"),
    ("<answer>3</answer>", "3"),
    ("<answer>1</answer> no: <Answer>3</Answer> done", "3"),
    ("<answer>3", "3"),
    ("3</answer>", "3"),
    ("<|begin_of_box|>3<|end_of_box|>", "3"),
    (r"\boxed{3}", "3"),
    (r"\boxed{1} or \boxed{\frac{3}{4}}.", r"\frac{3}{4}"),
    (r"Answer: \boxed{3}", "3"),
    (r"\boxed{1}. Final Answer: 3", "3"),
    (r"\boxed{\text{Answer: 3}}", "3}}"),
    ("Answer: 1. Wait. Answer: 3", "3"),
    ("<think>1</think>3", "3"),
    ("1</think>3", "3"),
    ("<think>1</think><think>2</think>3", "3"),
    ("<think>\n\n</think>\n\n3", "\n\n3"),
    ("◁think▷1◁/think▷3", "3"),
    ("<think>Answer: 1</think>Answer: 3", "3"),
    ("<think>Answer: 1</think>3", "3"),
    ("<think><answer>1</answer></think><answer>3</answer>", "3"),
    # no answer yet
    ("<think>Answer: 3", ""),
    ("3<think>again", ""),
    ("<think>3</think>", ""),
    ("Final Answer:", ""),
    (r"\boxed{3", ""),
]
UNMARKED = [
    "3",
    "",
    "The answers differ.",
    "answer",
    "I think 3",
    "答案",
    "an answer choice",
    r"\text{3}",
]


@pytest.mark.parametrize(("text", "wanted"), MARKED)
def test_marked(text, wanted):
    assert after_marker(text) == (wanted, True)


@pytest.mark.parametrize("text", UNMARKED)
def test_not_marked(text):
    assert after_marker(text) == (text, False)


@given(st.text(), st.sampled_from(["Final Answer: ", "答案：", "<answer>", "</think>"]))
def test_what_stands_before_a_marker_is_never_read(before, marker):
    assert after_marker(f"{before}{marker}3")[1]
    assert before == "" or after_marker(f"{before}\n{marker}3")[0] == "3"


@given(st.text())
def test_the_answer_is_a_part_of_the_text(text):
    said, marked = after_marker(text)
    assert said in text
    assert marked or said == text


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("I cannot see the image.", True),
        ("I can’t view images.", True),
        ("I'm sorry, I am unable to access any picture.", True),
        ("It cannot be determined.", True),
        ("As an AI language model, I have no eyes.", True),
        ("Please upload the image.", True),
        ("There is not enough information.", True),
        ("我无法查看图片", True),
        ("没有看到图片", True),
        ("请提供图片", True),
        ("作为一个人工智能，我没有眼睛", True),
        ("I cannot see a ring in the image.", False),
        ("I can't find it.", False),
        ("There is no image of a dog on the wall.", False),
        ("Sorry, we are closed", False),
        ("图中看不到圆环", False),
        ("没有圆环", False),
        ("No.", False),
    ],
)
def test_refusals(text, refused):
    assert is_refusal(text) is refused


TEXTS = [
    ("407", "407"),
    ("407.", "407"),
    (' "407" ', "407"),
    ("“407”。", "407"),
    ("「出口」", "出口"),
    ("**EXIT**", "EXIT"),
    ("`EXIT`", "EXIT"),
    ("```\nEXIT\n```", "EXIT"),
    ("```text\nline 1\nline 2\n```", "line 1\nline 2"),
    ("$42$", "42"),
    (r"\boxed{\text{EXIT}}", "EXIT"),
    ("Answer: EXIT", "EXIT"),
    ("**Answer:** EXIT", "EXIT"),
    ("Answer: **EXIT**", "EXIT"),
    ('The answer is "EXIT".', "EXIT"),
    ("<think>E X I T</think>EXIT<|im_end|>", "EXIT"),
    ("答案：出口", "出口"),
    ("U.S.", "U.S."),
    ("3.14", "3.14"),
    ('"a" and "b"', '"a" and "b"'),
    ("выход", "выход"),
    ("出口です", "出口です"),
    ("Sorry, we are closed", "Sorry, we are closed"),
    ("I cannot read it well, but it says 407", "I cannot read it well, but it says 407"),
]


@pytest.mark.parametrize(("text", "wanted"), TEXTS)
def test_texts(text, wanted):
    assert read_text(text) == (wanted, "read")


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("<|endoftext|>", "empty"),
        ("I cannot read the image.", "refused"),
        ("Sorry. I'm unable to view the picture.", "refused"),
        ("无法识别图片", "refused"),
        ("<think>EXIT", "none"),
        ("<think>выход", "none"),
        ("Answer:", "none"),
    ],
)
def test_texts_that_say_nothing(text, status):
    assert read_text(text) == (None, status)


@given(st.text(alphabet="ab 数字0.-\n", min_size=1))
def test_a_plain_text_loses_no_more_than_its_ends(text):
    got = read_text(text).value
    assert got is None or (got in text and len(text.strip()) - len(got) <= text.count("."))
    assert read_text(f'Answer: "{text}"') == read_text(f"“{text}”")
