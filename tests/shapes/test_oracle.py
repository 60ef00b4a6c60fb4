"""The oracle against hand-made texts, and against everything the world itself says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labs.shapes import (
    TASKS,
    Object,
    Scene,
    add_partner,
    caption,
    is_correct,
    judge,
    make_record,
    mentions,
    parse_yes_no,
    sample_scene,
    seeded,
)
from labs.shapes.oracle import iou, parse_box, parse_number, parse_word
from labs.shapes.tasks import describe
from labs.shapes.vocabulary import PARTNER

RING = Object("ring", "red", "large", 0)
STAR = Object("star", "blue", "small", 4)
SCENE = Scene((RING, STAR))


@given(st.integers(0, 10**6), st.sampled_from(["en", "zh"]))
def test_the_worlds_own_caption_is_perfect(seed, language):
    scene = sample_scene(seeded(seed))
    assert judge(scene, caption(scene, language)).perfect


@given(st.integers(0, 10**6), st.sampled_from(["en", "zh"]))
def test_dropping_a_mention_is_missing_and_adding_a_partner_is_hallucinated(seed, language):
    rng = seeded(seed)
    scene = sample_scene(rng)
    fewer = Scene(scene.objects[1:])
    assert judge(scene, caption(fewer, language) if fewer.objects else "").missing
    qa = add_partner(rng, scene, language, describe(rng, scene, language))
    verdict = judge(scene, qa.answer)
    if "ghost" in qa.about:
        assert [m.kind for m in verdict.hallucinated] == [qa.about["ghost"]]
        assert PARTNER[qa.about["ghost"]] in scene.kinds
        assert len(verdict.right) == len(scene.objects)


@given(st.sampled_from(TASKS), st.integers(0, 5000), st.sampled_from(["en", "zh"]))
def test_every_exact_answer_is_judged_correct(task, index, language):
    record = make_record(task, index, "val", language)
    for qa in record["meta"]["turns"]:
        assert is_correct(qa.task, record["meta"]["scene"], qa.answer, qa.answer) is True


@pytest.mark.parametrize(
    "text, right, mistaken, missing, hallucinated",
    [
        ("A big red donut in the upper left corner and a tiny blue star.", 2, 0, 0, 0),
        ("There is a ring. There is no cross.", 1, 0, 1, 0),
        ("two rings", 1, 0, 1, 0),
        ("a green ring, a blue star", 1, 1, 0, 0),
        ("a red ring, a blue star, a green square", 2, 0, 0, 1),
        ("a red ring, another red ring, a blue star", 2, 0, 0, 1),
        ("左上角有一个大红色圆环，没有方块。", 1, 0, 1, 0),
        ("红色圆环和蓝色星星", 2, 0, 0, 0),
        ("", 0, 0, 2, 0),
        ("I cannot see the image.", 0, 0, 2, 0),
    ],
)
def test_free_text(text, right, mistaken, missing, hallucinated):
    v = judge(SCENE, text)
    counted = (len(v.right), len(v.mistaken), len(v.missing), len(v.hallucinated))
    assert counted == (right, mistaken, missing, hallucinated)


def test_triangle_in_chinese_is_not_the_number_three():
    assert [m.kind for m in mentions("一个红色三角形")] == ["triangle"]


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("Yes, there is.", "yes"), ("no", "no"), ("There is not.", "no"), ("是", "yes"),
        ("否", "no"), ("没有", "no"), ("不是", "no"), ("有", "yes"), ("maybe", None),
        ("", None), ("yes and no", None), ("I know the northern sky", None),
    ],
)  # fmt: skip
def test_yes_no(text, wanted):
    assert parse_yes_no(text) == wanted


def test_numbers_words_boxes():
    assert parse_number("There are three rings") == 3
    assert parse_number("有两个") == 2
    assert parse_number("none at all") == 0
    assert parse_number("many") is None
    assert parse_word("it is red", "colour") == "red"
    assert parse_word("red or blue", "colour") is None
    assert parse_word("upper left corner", "position") == "top left"
    assert parse_box("[10,20, 30,40]") == (0.1, 0.2, 0.3, 0.4)
    assert parse_box("nowhere") is None
    assert iou((0, 0, 1, 1), (0, 0, 1, 1)) == 1
    assert iou((0, 0, 1, 1), (0.5, 0, 1.5, 1)) == pytest.approx(1 / 3)
    assert iou((0, 0, 1, 1), (2, 2, 3, 3)) == 0


def test_an_unreadable_answer_is_not_called_wrong():
    record = make_record("existence", 0, "test")
    scene, answer = record["meta"]["scene"], record["meta"]["turns"][0].answer
    assert is_correct("existence", scene, answer, "purple") is None
