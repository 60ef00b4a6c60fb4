"""Digits, counts, names and boxes: what each suite gives for answers that are nearly right."""

import random
from collections import Counter

import pytest

from labs.shapes.oracle import iou, parse_word
from labs.shapes.vocabulary import COLOURS, KINDS, SYNONYMS
from labs.suites.offline import Counting, Grounding, Naming, Ocr
from labs.suites.offline.ocr import read_digits
from tests.suites.offline_rows import answered, scene_in_words

# --- digits


@pytest.mark.parametrize(
    ("text", "digits"),
    [
        ("407", "407"), ("407.", "407"), ("The image says 407.", "407"), ("４０７", "407"),
        ("4 0 7", "407"), ("4, 0, 7", "407"), ("4-0-7", "407"), ("007", "007"), ("0", "0"),
        ("four zero seven", "407"), ("Seven.", "7"), ("四〇七", "407"), ("图片上写着407。", "407"),
        ("407, yes, 407", "407"), ("٤٠٧", "407"),
    ],
)  # fmt: skip
def test_a_number_is_read_however_it_is_written(text, digits):
    assert read_digits(text) == (digits, "read")


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("407 or 401", "several"),
        ("3 digits: 407", "several"),
        ("40 7", "several"),
        ("a squiggle", "none"),
        ("", "empty"),
    ],
)
def test_two_numbers_or_none_are_no_number(text, status):
    assert read_digits(text) == (None, status)


def test_one_wrong_digit_of_three_is_two_thirds_right_and_not_exact():
    suite = Ocr(n=30)
    assert Counter(q.about["digits"] for q in suite.questions()) == {1: 10, 2: 10, 3: 10}
    rows = answered(suite, lambda q: q.answer[:-1] + str((int(q.answer[-1]) + 1) % 10))
    scores = {row.about["digits"]: row.score for row in rows}
    # Half of two is not less than the threshold of a half, so it is nothing.
    assert scores == pytest.approx({1: 0.0, 2: 0.0, 3: 2 / 3})
    found = suite.measures(rows)
    assert found["anls"].value == pytest.approx(2 / 9)
    assert (found["exact"].value, found["exact_3"].value) == (0.0, 0.0)


def test_exactness_is_shown_by_the_number_of_digits():
    suite = Ocr(n=30)
    found = suite.measures(answered(suite, lambda q: q.answer[:1]))
    assert (found["exact_1"].value, found["exact_2"].value, found["exact_3"].value) == (
        1.0,
        0.0,
        0.0,
    )
    assert found["exact"].value == pytest.approx(1 / 3)


# --- counts


def test_counts_are_asked_for_evenly_and_are_true():
    numbers = Counter()
    for q in Counting(n=108).questions():
        numbers[q.about["of"], q.about["number"]] += 1
        objects = scene_in_words(q.about["description"]).objects
        colour, kind = parse_word(q.prompt, "colour"), parse_word(q.prompt, "kind")
        wanted = sum(colour in (None, o.colour) and kind in (None, o.kind) for o in objects)
        assert wanted == q.about["number"] == int(q.answer)
    assert numbers == {
        **{("all", k): 9 for k in (1, 2, 3, 4)},
        **{("colour", k): 12 for k in (0, 1, 2)},
        **{("kind", k): 12 for k in (0, 1, 2)},
    }


def test_always_two_is_right_where_two_is_true_and_off_by_one_often():
    suite = Counting(n=108)
    found = suite.measures(answered(suite, lambda q: "There are two."))
    twos = (9 + 12 + 12) / 108
    assert found["accuracy"].value == pytest.approx(twos)
    assert {k: found[f"accuracy_{k}"].value for k in range(5)} == {0: 0, 1: 0, 2: 1, 3: 0, 4: 0}
    errors = [abs(2 - q.about["number"]) for q in suite.questions()]
    assert found["mae"].value == pytest.approx(sum(errors) / 108)
    assert found["within_1"].value == pytest.approx(sum(e <= 1 for e in errors) / 108)
    assert found["accuracy_all"].value == pytest.approx(0.25)


def test_an_answer_without_a_number_has_no_error_and_is_counted():
    suite = Counting(n=36)
    rows = answered(suite, lambda q: q.answer if q.about["of"] == "all" else "many")
    found = suite.measures(rows)
    assert (found["mae"].value, found["mae"].n) == (0.0, 12)
    assert found["within_1"].value == pytest.approx(1 / 3)
    assert found["unparsed"].value == pytest.approx(2 / 3)


# --- names


def test_colours_and_kinds_are_asked_for_evenly():
    assert Counter(q.about["word"] for q in Naming(n=60).questions()) == dict.fromkeys(COLOURS, 10)
    kinds = list(Naming("kind", n=60).questions())
    assert Counter(q.about["word"] for q in kinds) == dict.fromkeys(KINDS, 10)
    for q in kinds:
        [obj] = scene_in_words(q.about["description"]).objects
        assert obj.kind == q.about["word"]


@pytest.mark.parametrize("of", ["colour", "position", "kind"])
def test_every_synonym_in_both_languages_is_right(of):
    suite = Naming(of, n=36)
    questions = {q.about["word"]: q for q in suite.questions()}
    for word, question in questions.items():
        for synonym in SYNONYMS[word]:
            sentence = f"It is {synonym}." if synonym.isascii() else f"是{synonym}。"
            for text in (synonym, synonym.capitalize(), sentence):
                reading = suite.read(question, text)
                assert reading == (word, "read"), text
                assert suite.score(question, reading) == 1.0


@pytest.mark.parametrize("of", ["colour", "position", "kind"])
def test_names_are_read_as_the_oracle_reads_them(of):
    rng = random.Random(of)
    suite = Naming(of, n=6)
    question = next(suite.questions())
    words = [s for word in suite.words for s in SYNONYMS[word]]
    for _ in range(100):
        chosen = rng.choices(words, k=rng.choice((1, 1, 2)))
        text = (
            "it is " + " or ".join(chosen)
            if all(w.isascii() for w in chosen)
            else "，".join(chosen)
        )
        read = suite.read(question, text)
        assert read.value == parse_word(text, of), text
        assert read.status == ("read" if read.value else "several")


def test_the_wrong_word_is_wrong_and_shown_by_word():
    suite = Naming(n=60)
    found = suite.measures(answered(suite, lambda q: "red"))
    assert found["accuracy"].value == pytest.approx(1 / 6)
    assert (found["accuracy_red"].value, found["accuracy_blue"].value) == (1.0, 0.0)


def test_two_words_are_several():
    suite = Naming(n=6)
    assert {row.status for row in answered(suite, lambda q: "red or blue")} == {"several"}


# --- boxes


def test_the_true_box_overlaps_wholly_and_a_shifted_one_in_part():
    suite = Grounding(n=20)

    def shifted(question):
        left, top, right, bottom = (round(100 * v) for v in question.about["box"])
        half = (right - left) // 2 * (1 if right < 67 else -1)  # and stays in the picture
        return f"[{left + half},{top},{right + half},{bottom}]"

    rows = answered(suite, shifted)
    for row in rows:
        assert row.score == pytest.approx(iou(row.parsed, row.about["box"]))
        assert 0.3 < row.score < 0.37  # half of it lies on the other: a third of the union
    found = suite.measures(rows)
    assert found["iou"].value == pytest.approx(sum(r.score for r in rows) / 20)
    assert (found["accuracy_50"].value, found["accuracy_75"].value) == (0.0, 0.0)


def test_the_whole_picture_as_a_box_gets_the_boxs_own_share():
    suite = Grounding(n=12)
    rows = answered(suite, lambda q: "[0, 0, 100, 100]")
    for row in rows:
        left, top, right, bottom = row.about["box"]
        assert row.score == pytest.approx((right - left) * (bottom - top))


def test_a_box_that_is_none_has_a_status_and_no_overlap():
    suite = Grounding(n=6)
    for text in ("[60,10,40,30]", "at the top left", "[1,2,3]"):
        rows = answered(suite, lambda q, text=text: text)
        assert all(row.status != "read" and row.score == 0.0 for row in rows), text
        assert suite.measures(rows)["unparsed"].value == 1.0


def test_boxes_in_a_sentence_and_thresholds():
    suite = Grounding(n=8)

    def nearly(question):
        left, top, right, bottom = (round(100 * v) for v in question.about["box"])
        return f"The box is [{left}, {top}, {right}, {top + round(0.6 * (bottom - top))}]."

    found = suite.measures(answered(suite, nearly))
    assert 0.5 < found["iou"].value < 0.7
    assert (found["accuracy_50"].value, found["accuracy_75"].value) == (1.0, 0.0)
