import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labs.errors import InputError
from labs.evaluation.answers import read_choice

RINGS = ["a red ring", "a blue star", "a green cross", "a yellow square"]
DOGS = ["dog", "cat", "horse", "bird"]
COUNTS = ["1", "2", "3", "4"]
SIDES = ["left", "right", "top left", "none of the above"]
CHINESE = ["红色圆环", "蓝色星形", "绿色十字", "黄色方形"]
YES_NO = ["Yes", "No"]
LETTERS = "ABCD"

# (options, answer, the letter or the status)
CASES = [
    # the letter alone, however it is dressed
    (RINGS, "B", "B"),
    (RINGS, "b", "B"),
    (RINGS, " B \n", "B"),
    (RINGS, "B.", "B"),
    (RINGS, "(B)", "B"),
    (RINGS, "(b)", "B"),
    (RINGS, "[B]", "B"),
    (RINGS, "**B**", "B"),
    (RINGS, "`B`", "B"),
    (RINGS, '"B"', "B"),
    (RINGS, "Ｂ", "B"),
    (RINGS, "（Ｂ）", "B"),
    (RINGS, "Ⓑ", "B"),
    (RINGS, "【B】", "B"),
    (RINGS, "B<|im_end|>", "B"),
    (RINGS, "A", "A"),
    (RINGS, "a", "A"),
    # letter and words
    (RINGS, "B: a blue star", "B"),
    (RINGS, "B. a blue star", "B"),
    (RINGS, "(B) a blue star", "B"),
    (RINGS, "B) A blue star.", "B"),
    (RINGS, "B - blue star", "B"),
    (RINGS, "A: a red ring", "A"),
    (RINGS, "a blue star (B)", "B"),
    (RINGS, "B, the blue star", "B"),
    (RINGS, "B a blue star", "B"),
    (RINGS, "B. The object is blue.", "B"),
    # phrases
    (RINGS, "Option B", "B"),
    (RINGS, "option b", "B"),
    (RINGS, "I choose B.", "B"),
    (RINGS, "I would pick B because it is blue.", "B"),
    (RINGS, "I think it's B", "B"),
    (RINGS, "B is correct.", "B"),
    (RINGS, "It must be B.", "B"),
    (RINGS, "The letter B", "B"),
    (RINGS, "Probably B", "B"),
    (RINGS, "B, I think.", "B"),
    (RINGS, "B because A is too small.", "B"),
    # markers win over what comes before them
    (RINGS, "Answer: B", "B"),
    (RINGS, "The answer is **B**", "B"),
    (RINGS, "The correct answer is (B) a blue star.", "B"),
    (RINGS, "A looks right at first, but B fits. Final Answer: C", "C"),
    (RINGS, "**Final Answer**\n\nC", "C"),
    (RINGS, "A or B? Let me see.\n<answer>C</answer>", "C"),
    (RINGS, "<think>A? B? Hmm, A.</think>\nC", "C"),
    (RINGS, "So we get $\\boxed{C}$.", "C"),
    (RINGS, r"The final answer is: $\boxed{\text{C}}$", "C"),
    (RINGS, "<|begin_of_box|>C<|end_of_box|>", "C"),
    (RINGS, '{"answer": "C"}', "C"),
    (RINGS, "Answer: C. A is red, B is blue.", "C"),
    (RINGS, "Answer: A. Wait. Answer: C", "C"),
    (RINGS, "<think>It is B, surely B", "none"),
    (RINGS, "A is nice. Final Answer:", "none"),
    (RINGS, "<think>B</think>", "none"),
    # Chinese
    (RINGS, "答案是B", "B"),
    (RINGS, "答案：B", "B"),
    (RINGS, "正确答案为Ｂ。", "B"),
    (RINGS, "选B", "B"),
    (RINGS, "我选择B。", "B"),
    (RINGS, "选项B", "B"),
    (RINGS, "B选项正确", "B"),
    (RINGS, "应该选B，因为它是蓝色的", "B"),
    (RINGS, "A和C都不对，所以选B。", "B"),
    (RINGS, "不是A，而是B", "B"),
    (RINGS, "排除A，选B", "B"),
    (RINGS, "乙", "B"),
    (RINGS, "选丙", "C"),
    (RINGS, "A或B", "several"),
    (CHINESE, "蓝色星形", "B"),
    (CHINESE, "图中是蓝色星形。", "B"),
    (CHINESE, "B：蓝色星形", "B"),
    (CHINESE, "B、蓝色星形", "B"),
    (CHINESE, "A：蓝色星形", "several"),
    (CHINESE, "不是红色圆环，而是蓝色星形", "B"),
    (CHINESE, "红色圆环和蓝色星形", "several"),
    (CHINESE, "维生素C", "none"),
    # the words of an option
    (RINGS, "a blue star", "B"),
    (RINGS, "Blue star.", "B"),
    (RINGS, "It shows the blue star.", "B"),
    (RINGS, "The picture has a BLUE  STAR in it", "B"),
    (RINGS, "It is not a red ring but a blue star.", "B"),
    (RINGS, "There is no red ring; there is a blue star.", "B"),
    (RINGS, "a red ring and a blue star", "several"),
    (RINGS, "a purple hoop", "none"),
    (RINGS, "A red ring", "A"),
    (DOGS, "A cat is on the left.", "B"),
    (DOGS, "A dog is on the left.", "A"),
    (DOGS, "A large animal is on the left.", "none"),
    (DOGS, "I see a cat.", "B"),
    (DOGS, "A can of soda", "none"),
    (DOGS, "Plan B worked", "none"),
    (DOGS, "N/A", "none"),
    (DOGS, "the category", "none"),
    (SIDES, "on the left", "A"),
    (SIDES, "top left", "C"),
    (SIDES, "It is at the top left.", "C"),
    (SIDES, "None of the above.", "D"),
    (SIDES, "以上都不对", "D"),
    (DOGS, "None of the above", "none"),
    (DOGS, "None of these; it is a cat", "several"),
    (["left", "none of these", "top"], "none of the options", "B"),
    # numbers, yes and no
    (COUNTS, "2", "B"),
    (COUNTS, "two", "B"),
    (COUNTS, "There are three rings.", "C"),
    (COUNTS, "两个", "B"),
    (COUNTS, "2 red and 1 blue, 3 in total", "C"),
    (COUNTS, "1 or 2", "several"),
    (COUNTS, "12", "none"),
    (COUNTS, "B", "B"),
    (COUNTS, "B: 2", "B"),
    (COUNTS, "B: 3", "several"),
    (["0", "1", "2"], "There are no rings.", "A"),
    (YES_NO, "yes", "A"),
    (YES_NO, "No, there is no ring.", "B"),
    (YES_NO, "I don't see any ring.", "B"),
    (YES_NO, "Yes and no", "several"),
    (YES_NO, "B. No", "B"),
    (YES_NO, "A. No", "several"),
    (["是", "否"], "图中没有圆环", "B"),
    (["是", "否"], "不是", "B"),
    (["有", "没有"], "没有", "B"),
    # several, denied, contradicted
    (RINGS, "A or B", "several"),
    (RINGS, "A and C", "several"),
    (RINGS, "A, C", "several"),
    (RINGS, "AC", "several"),
    (RINGS, "A B", "several"),
    (RINGS, "(A) or (B)", "several"),
    (RINGS, "Either A or B.", "several"),
    (RINGS, "Not A but B", "B"),
    (RINGS, "B, not A", "B"),
    (RINGS, "A is wrong, so B", "B"),
    (RINGS, "A, B and D are wrong. C is right.", "C"),
    (RINGS, "Neither A nor B; C.", "C"),
    (RINGS, "It is B rather than A.", "B"),
    (RINGS, "It isn't A.", "none"),
    (RINGS, "Not A", "none"),
    (RINGS, "I don't think it's A. It's B.", "B"),
    (RINGS, "A shows a ring. B shows a star. The question asks for the star, so B.", "B"),
    (RINGS, "A shows something red. B shows something blue.", "several"),
    (RINGS, "A. Wait, actually B.", "B"),
    (RINGS, "B: a red ring", "several"),
    (RINGS, "The answer is B, a red ring", "several"),
    (RINGS, "A. a red ring\nB. a blue star\nC. a green cross\nD. a yellow square", "several"),
    (RINGS, "Answer: A or B", "several"),
    (RINGS, "The answer is not A.", "none"),
    (RINGS, "B B B B B B", "B"),
    (RINGS, "A. a red ring B. a blue star", "several"),
    (RINGS, "First I thought A. Then B. Now C.", "several"),
    (RINGS, "Then B.", "B"),
    (RINGS, "A and B are both wrong. C could be right.", "C"),
    (RINGS, "It is anything but a red ring.", "none"),
    (RINGS, "B it is", "B"),
    (RINGS, "我觉得B对", "B"),
    # no choice at all
    (RINGS, "E", "none"),
    (RINGS, "(F)", "none"),
    (RINGS, "", "empty"),
    (RINGS, " \n\t ", "empty"),
    (RINGS, "</s>", "empty"),
    (RINGS, "\u200b", "empty"),
    (RINGS, "...", "none"),
    (RINGS, "I cannot see the image.", "refused"),
    (RINGS, "I'm sorry, but I can't help with that.", "refused"),
    (RINGS, "I don't know.", "refused"),
    (RINGS, "I cannot determine whether it is A or B.", "refused"),
    (RINGS, "无法回答", "refused"),
    (RINGS, "抱歉，我无法看到图片。", "refused"),
    (RINGS, "I cannot see it well, but I would say B.", "B"),
    (["red", "Cannot be determined"], "It cannot be determined from the image.", "B"),
    # other scripts
    (RINGS, "А", "A"),  # Cyrillic
    (RINGS, "С", "C"),  # Cyrillic
    (RINGS, "В", "script"),  # Cyrillic: the third letter, but it looks like the second
    (RINGS, "Β", "B"),  # Greek
    (RINGS, "Ответ: B", "B"),
    (RINGS, "синяя звезда", "script"),
    (RINGS, "青い星です", "script"),
    (RINGS, "نجمة زرقاء", "script"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "text", "wanted"), CASES)
def test_hand_made_answers(options, text, wanted):
    got = read_choice(text, options)
    assert (got.value or got.status) == wanted


def test_the_table_is_large_and_every_status_is_in_it():
    assert len(CASES) == len({(str(o), t) for o, t, _ in CASES}) >= 60
    assert {"empty", "none", "several", "refused", "script", *"ABCD"} <= {w for *_, w in CASES}


FORMS = (
    "{}", "({})", "{}.", "{})", "[{}]", "**{}**", "Answer: {}", "The answer is {}.", "The answer is ({}).",
    "the correct option is {}", "Option {}", "I choose {}.", "\\boxed{{{}}}", "$\\boxed{{\\text{{{}}}}}$",
    "<answer>{}</answer>", "<think>A, B, C or D?</think>{}", "A looks like it. Final Answer: {}", "答案是{}",
    "答案：{}", "选{}", "我选择{}。", "选项{}", "{}选项", "so it must be {}.", "{}: {words}", "{}. {words}",
    "({}) {words}", "{} - {words}", "The answer is {}: {words}", "选{}：{words}",
)  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_canonical_forms_read_back_for_every_letter(form):
    options = [f"word{number} thing" for number in range(12)]
    for letter, words in zip(string.ascii_uppercase, options, strict=False):
        text = form.format(letter, words=words)
        for dressed in (text, f"  {text}\n", text.replace(letter, chr(ord(letter) + 0xFEE0))):
            assert read_choice(dressed, options) == (letter, "read"), dressed


@given(st.permutations(range(4)), st.sampled_from(range(4)), st.sampled_from(
    ["{}", "It is {}.", "I can see {} in the picture", "{}\n", "not {other} but {}", "THE ANSWER IS {}"]
))  # fmt: skip
def test_permuted_options_permute_the_letter(order, wanted, form):
    text = form.format(RINGS[wanted], other=RINGS[wanted - 1])
    shuffled = [RINGS[i] for i in order]
    assert read_choice(text, RINGS).value == LETTERS[wanted]
    assert read_choice(text, shuffled).value == LETTERS[order.index(wanted)]


@given(st.sampled_from(CASES))
def test_surrounding_white_space_does_not_matter(case):
    options, text, _ = case
    assert read_choice(f" \n{text}\t\n ", options) == read_choice(text, options)


@given(st.sampled_from(RINGS + DOGS), st.booleans())
def test_case_of_words_does_not_matter(words, upper):
    options = RINGS + DOGS
    text = f"I see {words} here"
    changed = text.upper() if upper else text.title()
    assert read_choice(changed, options) == read_choice(text, options)


def test_other_letters():
    assert read_choice("2", ["left", "right"], letters="12").value == "2"
    assert read_choice("(2) right", ["left", "right"], letters="1234").value == "2"
    assert read_choice("F", list("uvwxyz"), letters="abcdef").value == "f"
    assert read_choice("Q", ["yellow", "green"], letters="PQ").value == "Q"


def test_options_alike_and_options_that_are_letters():
    assert read_choice("a ring", ["ring", "star", "ring"]).status == "several"
    assert read_choice("C", ["ring", "star", "ring"]).value == "C"
    assert read_choice("B. star", ["ring", "star", "ring"]).value == "B"
    # "Which letter is shown?": a letter is a choice, not an option's words.
    assert read_choice("C", ["B", "C", "A"]).value == "C"
    assert read_choice("Point B", ["Point A", "Point B"]).value == "B"
    assert read_choice("both A and B", ["A only", "B only", "both A and B"]).value == "C"


@pytest.mark.parametrize(
    ("options", "letters", "message"),
    [
        ([], "ABCD", "are no options"),
        ("AB", "ABCD", "are no options"),
        (["a", "b", "c"], "AB", "3 options and only 2 letters"),
        (["left", "right"], "Aa", "tell 2 options apart"),
        (["left", "right"], "A.", "tell 2 options apart"),
    ],
)
def test_bad_input(options, letters, message):
    with pytest.raises(InputError, match=message):
        read_choice("B", options, letters=letters)
