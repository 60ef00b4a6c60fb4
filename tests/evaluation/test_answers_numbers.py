import pytest
from hypothesis import given
from hypothesis import strategies as st

from labs.evaluation.answers import read_number
from labs.evaluation.answers.numerals import chinese_value, english_value

CASES = [
    ("3", 3), ("3.", 3), (" 3\n", 3), ("**3**", 3), ("３", 3), ("three", 3), ("Three.", 3), ("THREE", 3), ("0", 0),
    ("12", 12), ("twelve", 12), ("twenty-one", 21), ("twenty one", 21), ("ninety", 90), ("a hundred", 100),
    ("two hundred and five", 205), ("1,234", 1234), ("1,234,567", 1234567), ("2.5", 2.5), ("-4", -4), ("3.0", 3.0),
    ("There are 3 rings.", 3), ("There are three rings in the image.", 3), ("3 rings", 3), ("I count 3 of them.", 3),
    ("about 3", 3), ("3 (three)", 3), ("3, that is three", 3), ("\\boxed{3}", 3), ("$3$", 3), ("Answer: 3", 3),
    ("<think>1, 2, 3, 4</think>4", 4), ("Answer: 3. Two are red and one is blue.", 3), ("The answer is 3.", 3),
    ("3. There are 2 red ones and 1 blue one.", 3), ("There is only one.", 1), ("The image has one ring.", 1),
    # sums and conclusions
    ("2 red and 3 blue rings, so 5.", 5), ("2 + 3 = 5", 5), ("There are 2 red rings and 3 blue rings, 5 in total.", 5),
    ("In total there are 5: 2 red and 3 blue.", 5), ("2 red, 3 blue. That makes 5.", 5), ("2 and 3, a total of 5", 5),
    ("one red, two blue, three altogether", 3), ("2+3=5, 5+1=6", 6),
    ("The image contains 5 objects: 2 circles, 2 squares and 1 star.", 5),
    ("There are three red rings, one at the top and two at the bottom.", 3), ("I see two: one red and one blue.", 2),
    ("3个。其中2个红色，1个蓝色。", 3), ("There are 5: 2 red and 2 blue.", "several"), ("3, 1, 2", "several"), ("1, 2, 3", "several"),
    ("There's a single ring.", 1), ("3³", "none"), ("5 m²", 5), ("I don't see a ring.", 0), ("There isn't a ring.", 0),
    # nothing is a number too
    ("none", 0), ("None.", 0), ("zero", 0), ("There are no rings.", 0), ("no rings", 0), ("There aren't any rings.", 0),
    ("I do not see any.", 0), ("not a single ring", 0), ("nothing", 0), ("Not 3 but 4", 4), ("No, there are 3.", 3),
    # Chinese
    ("三", 3), ("三个", 3), ("3个", 3), ("有三个圆环。", 3), ("两个", 2), ("十二", 12), ("十二个圆环", 12), ("二十一", 21), ("一百零五", 105),
    ("两百个", 200), ("图中有两个三角形", 2), ("一个十字", 1), ("三个五角星", 3), ("没有", 0), ("图中没有圆环。", 0), ("零个", 0),
    ("一个都没有", 0), ("答案是三", 3), ("共有5个：2个红色，3个蓝色", 5), ("2个红色和3个蓝色，一共5个", 5), ("两个红色，一个蓝色，所以是三个", 3),
    ("不是3个，而是4个", 4), ("一共有三个物体", 3), ("大约3个", 3),
    # several
    ("2 or 3", "several"), ("3-4", "several"), ("between 3 and 4", "several"), ("2 red and 3 blue", "several"),
    ("3 to 4", "several"), ("1/2", "several"), ("½", "several"), ("so 2 or 3", "several"), ("2个或3个", "several"),
    ("一个红色圆环和两个蓝色方形", "several"), ("So there are 2 rings and 3 stars.", "several"), ("12:30", "several"),
    # no number
    ("a ring", "none"), ("No.", "none"), ("several", "none"), ("at least 3", "none"), ("more than 3", "none"), ("10+", "none"),
    ("the 2nd", "none"), ("the second ring", "none"), ("the red one", "none"), ("3D", "none"), ("A3", "none"), ("Figure 2", "none"),
    ("two thousand", "none"), ("three-sided", "none"), ("not 3", "none"), ("nan", "none"), ("infinity", "none"), ("9" * 40, "none"),
    ("三角形", "none"), ("十字", "none"), ("第二个", "none"), ("一样", "none"), ("三四个", "none"), ("至少3个", "none"), ("三分之一", "none"),
    ("1. a ring\n2. a star\n3. a cross", "none"), ("no doubt", "none"), ("<think>3", "none"), ("Final Answer:", "none"),
    ("", "empty"), ("\n", "empty"), ("</s>", "empty"), ("I cannot tell.", "refused"), ("I cannot see the image.", "refused"),
    ("无法确定", "refused"), ("I can't determine it exactly, but there are 3.", 3), ("три", "script"), ("三つ", "script"), ("みっつ", "script"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "wanted"), CASES)
def test_hand_made_answers(text, wanted):
    got = read_number(text)
    assert (got.status if got.value is None else got.value) == wanted
    assert got.value is None or type(got.value) is type(wanted)


def test_the_table_is_large_and_every_status_is_in_it():
    assert len({text for text, _ in CASES}) == len(CASES) >= 30
    assert {"empty", "none", "several", "refused", "script"} <= {str(w) for _, w in CASES}


FORMS = (
    "{}", "{}.", "({})", "**{}**", "There are {} rings.", "Answer: {}", "The answer is {}.", "1 and 1, so {}",
    "1 + 1 = {}", "<answer>{}</answer>", "\\boxed{{{}}}", "<think>7 or 8</think>{}", "答案是{}", "共{}个", "图中有{}个圆环。",
)  # fmt: skip


@given(st.integers(0, 10**6), st.sampled_from(FORMS))
def test_digits_read_back(number, form):
    assert read_number(form.format(number)) == (number, "read")
    assert read_number(form.format(f"{number:,}")) == (number, "read")
    wide = "".join(chr(ord(c) + 0xFEE0) for c in str(number))
    assert read_number(form.format(wide)) == (number, "read")


def spelled(n):
    units = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()
    tens = "- - twenty thirty forty fifty sixty seventy eighty ninety".split()
    if n < 20:
        return units[n]
    return tens[n // 10] + (f"-{units[n % 10]}" if n % 10 else "")


@pytest.mark.parametrize("number", range(100))
def test_english_words(number):
    word = spelled(number)
    assert english_value(word) == number
    for text in (
        word,
        word.title(),
        f"There are {word} rings.",
        f"Answer: {word}",
        f"{word} in total",
    ):
        assert read_number(text) == (number, "read")
    assert read_number(word.replace("-", " ")) == (number, "read")


def chinese(n):
    """The numeral of n < 100,000, written from the rules."""
    digits = "零一二三四五六七八九"
    if n >= 10_000:
        rest = n % 10_000
        return (
            chinese(n // 10_000) + "万" + ("零" * (0 < rest < 1000) + chinese(rest) if rest else "")
        )
    out, zero = "", False
    for size, unit in ((1000, "千"), (100, "百"), (10, "十"), (1, "")):
        digit = n // size % 10
        if digit:
            out += "零" * zero + digits[digit] + unit
            zero = False
        elif out:
            zero = True
    return "十" + out[2:] if out.startswith("一十") else out or "零"


@given(st.integers(0, 99_999))
def test_chinese_numerals(number):
    said = chinese(number)
    assert chinese_value(said) == number
    for text in (said, f"{said}个", f"图中有{said}个圆环。", f"答案是{said}"):
        assert read_number(text) == (number, "read")


def test_numerals_that_are_none():
    assert [chinese_value(s) for s in ("三四", "一百二", "十十", "万", "二〇二六", "两百零五")] == [
        None, None, None, None, 2026, 205,
    ]  # fmt: skip


@given(st.sampled_from(CASES))
def test_case_and_surrounding_white_space_do_not_matter(case):
    assert read_number(f"\n  {case[0].swapcase()} \t") == read_number(case[0])
