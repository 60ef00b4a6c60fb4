"""Signs of junk in texts: what must be found, and what must be left alone, in English and Chinese."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labs.formats import text_signs
from labs.shapes import TASKS, make_record

REFUSALS = [
    "I'm sorry, but I cannot assist with that request.",
    "As an AI language model, I do not have eyes.",
    "As an artificial intelligence, I have no opinions.",
    "I’m sorry, but I can’t see the image you uploaded.",
    "Please provide the image so I can help.",
    "Could you upload the picture again?",
    "No image was provided.",
    "It seems that no picture has been attached.",
    "I don't see any image attached.",
    "I am unable to view images.",
    "I cannot access external links.",
    "I'm an AI assistant and can't see pictures.",
    "Unfortunately, I am not able to view the picture.",
    "Sorry, I can't help with that.",
    "抱歉，我无法查看图片。",
    "作为一个AI语言模型，我不能看到图像。",
    "作为人工智能，我没有视觉。",
    "对不起，我不能回答这个问题。",
    "请您提供图片。",
    "请先上传一张图片。",
    "您没有上传图片。",
    "我无法看到您上传的图片",
    "我是一个语言模型，没有视觉。",
]
ANSWERS = [
    "I cannot see any ring in the picture.",
    "No.",
    "There is no red ring.",
    "The man is sorry, he can't find his dog.",
    "It is not possible to determine the brand from the image.",
    "No information is provided in the image about that.",
    "The image provided shows a cat.",
    "The context is not provided in the image.",
    "Without the image being in colour, I would guess red.",
    "I'm sorry, but I cannot determine the exact location.",
    "The sign says: 'Please provide your ticket'.",
    "Please share the picture with your friends, says the sign.",
    "A robot that looks like an AI assistant from a film.",
    "She has been unable to open the door.",
    "图中没有圆环。",
    "没有图片中提到的人。",
    "我是学生",
    "无法确定他的年龄。",
    "不能，因为有红灯。",
    "作为背景的山",
    "抱歉，图片太模糊，看不清数字。",
    "他无法看到图片中的人",
]


@pytest.mark.parametrize("text", REFUSALS)
def test_refusals_are_found(text):
    assert text_signs.refusal(text)
    assert text_signs.refusal("The picture shows a street. " + text.upper() + " Is there more?")


@pytest.mark.parametrize("text", ANSWERS)
def test_honest_answers_are_not_refusals(text):
    assert text_signs.refusal(text) is None


JUNK = {
    "file_name": [
        "DSC_0412.JPG", "IMG_20230412_112233", "photos/dog 1.png", "微信图片_20230412", "截屏2023041",
        "5f2b8c9d1e3a4f5b6c7d8e9f", "Screenshot 2023-01-02 at 10.20.30", "image_00012.jpeg",
        "123e4567-e89b-12d3-a456-426614174000", '"cat.webp"', "C:\\Users\\me\\photo.bmp",
    ],
    "address": [
        "https://example.com/a?b=c", "www.foo.org", "sale http://shop.example.com/item/93",
        "bob@example.org", "see example.com/pictures/12", "详见 http://example.cn/图片",
    ],
    "markup": [
        "<p>A dog</p>", "A dog &amp; a cat", "[img]x[/img]", "{{caption}}", "<br>a dog", "a&#39;s dog",
        '<a href="x">a dog</a>', "<!-- a dog -->", "[[File:dog.jpg]]",
    ],
    "repetition": [
        "dog dog dog dog dog", "the cat the cat the cat", "a dog a dog a dog and more", "一只狗一只狗一只狗",
        "a red ring, a red ring, a red ring and", "very very very very good", "好看好看好看好看",
        "The dog is on the grass. " * 40, "The man walks down the street in the rain today. " * 3,
    ],
    "placeholder": ["untitled", "Image", "N/A", "null", "无标题", "Image 3", "暂无描述", "photo of", "..."],
    "mojibake": ["cafÃ© at night", "itâ€™s a dog", "ä½\xa0å¥½", "锟斤拷烫烫", "a dog \ufffd"],
}  # fmt: skip
FINE = [
    "a large red ring at the top left, a small red ring at the top, a large red ring at the top right",
    "左上角有一个大红色圆环，上方有一个大红色圆环，右上角有一个大红色圆环。",
    "407", "1 1 1 1 1", "100 100 100 100", "yes", "红色", "A dog, running.", "ha ha ha", "哈哈哈",
    "New York, New York, USA", "a sign that reads www.foo.com on the side of a blue truck near a house",
    "AT&T store", "a<b and b>c", "if x < y", "É uma fotografia de família à noite", "âge d'or", "Ärger",
    "[12,30,40,55]", "The image shows a cat", "a photo of a dog", "cab 3", "very, very, very nice",
    "Photo of my dog 2019 in Paris", "10 x 10 x 10", "the caption reads: none of it",
    "a red dress\nred dress on a hanger", "deadbeef", "<image>\nDescribe it.", "He said no, no, no.",
]  # fmt: skip


@pytest.mark.parametrize(
    "name, text", [(name, text) for name, texts in JUNK.items() for text in texts]
)
def test_junk_is_found_by_its_name(name, text):
    assert text_signs.JUNK[name](text)
    assert text_signs.junk(text) is not None


@pytest.mark.parametrize("text", FINE)
def test_plain_captions_and_answers_are_no_junk(text):
    assert text_signs.junk(text) is None and text_signs.refusal(text) is None


def test_the_world_holds_no_junk():
    for task in TASKS:
        for language in ("en", "zh"):
            for index in range(40):
                for turn in make_record(task, index, "train", language)["conversations"]:
                    assert text_signs.junk(turn["value"]) is None, turn
                    assert text_signs.refusal(turn["value"]) is None, turn


@pytest.mark.parametrize(
    "text, found",
    [
        ("click to enlarge", "click to enlarge"),
        ("Royalty-free stock photo of a dog", "Royalty-free"),
        ("a dog. All rights reserved.", "All rights reserved"),
        ("点击查看大图", "点击查看"),
        ("一只狗，版权所有", "版权所有"),
        ("a dog on the right, all of it", None),
        ("一只狗在右边", None),
    ],
)
def test_boilerplate_of_web_pages(text, found):
    assert text_signs.boilerplate(text) == found


def test_scripts_are_counted_by_letter():
    assert text_signs.scripts("a red 圆环 12!") == {"latin": 4, "han": 2}
    assert text_signs.scripts("Красный круг") == {"cyrillic": 11}
    assert text_signs.scripts("きれいな犬") == {"kana": 4, "han": 1}
    assert text_signs.scripts("12 + 3") == {}


def test_a_word_is_a_word_or_a_han_character():
    assert text_signs.words("A red-hot ring's 圆环, 3!") == [
        "a",
        "red-hot",
        "ring's",
        "圆",
        "环",
        "3",
    ]


@given(st.text(max_size=300))
def test_any_text_can_be_looked_at(text):
    text_signs.refusal(text)
    text_signs.junk(text)
    text_signs.boilerplate(text)


@pytest.mark.parametrize(
    "text",
    ["a" * 100_000, "<" * 100_000, "a." * 50_000, "[[" * 50_000, "no " * 30_000, "作为" * 50_000,
     "i can't see any the " * 5_000, "sorry " * 20_000, "&amp" * 25_000, "a b " * 25_000, "我无法" * 30_000],
)  # fmt: skip
def test_no_text_makes_the_patterns_slow(text):
    started = time.process_time()
    text_signs.refusal(text)
    text_signs.junk(text)
    text_signs.boilerplate(text)
    assert time.process_time() - started < 2
