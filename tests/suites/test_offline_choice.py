"""Multiple choice: one option is true and three are not, letters are even, rotations undo a favourite."""

import random
from collections import Counter, defaultdict

import pytest

from labs.errors import InputError
from labs.shapes import judge, mentions
from labs.shapes.oracle import parse_word
from labs.suites.offline import Choice
from tests.suites.offline_rows import answered, perfect, scene_in_words

FORMS = ("kind", "colour", "count", "description")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_exactly_one_option_is_true(language):
    for q in Choice(n=96, language=language).questions():
        scene, about = scene_in_words(q.about["description"]), q.about
        right = about["letters"].index(q.answer)
        assert len(set(about["options"])) == len(set(about["captions"])) == 4
        fitting = [judge(scene, caption).perfect for caption in about["captions"]]
        assert [i for i, fits in enumerate(fitting) if fits] == [right]
        assert about["candidates"] == about["options"]
        chosen = about["options"][right]
        if about["form"] == "colour":
            [asked] = mentions(about["question"])
            [obj] = [o for o in scene.objects if o.kind == asked.kind]
            assert parse_word(chosen, "colour") == obj.colour
        elif about["form"] == "count":
            colour = parse_word(about["question"], "colour")
            counted = [o for o in scene.objects if colour in (None, o.colour)]
            assert int(chosen) == len(counted)
            # Each wrong caption shows the number that its option says.
            for number, caption in zip(about["options"], about["captions"], strict=True):
                shown = scene_in_words(caption).objects
                assert int(number) == sum(colour in (None, o.colour) for o in shown)
                if colour:  # painted over, and only invented where there are too few
                    assert len(shown) == max(len(scene.objects), int(number))
        else:
            assert about["options"] == about["captions"]


def test_wrong_options_are_what_a_careless_look_would_take():
    for q in Choice(n=100).questions():
        scene, about = scene_in_words(q.about["description"]), q.about
        true = about["letters"].index(q.answer)
        wrong = [scene_in_words(c) for i, c in enumerate(about["captions"]) if i != true]
        if about["form"] == "kind":
            # The usual companions of what is shown are among the kinds that are not.
            from labs.shapes.vocabulary import PARTNER

            companions = {PARTNER[k] for k in scene.kinds} - scene.kinds
            assert companions <= set().union(*(w.kinds - scene.kinds for w in wrong))
        elif about["form"] == "colour":
            elsewhere = {o.colour for o in scene.objects} - {about["options"][true]}
            assert elsewhere <= set(about["options"]) or len(elsewhere) > 3
        elif about["form"] == "description":
            same = [len(set(facts(scene)) ^ set(facts(w))) for w in wrong]
            assert same == [2, 2, 2]  # one object is another, all the rest is as it is


def facts(scene):
    return [(o.kind, o.colour, o.size, o.cell) for o in scene.objects]


@pytest.mark.parametrize("circular", [False, True])
def test_right_letters_are_even_in_every_form(circular):
    letters = defaultdict(Counter)
    for q in Choice(n=64, circular=circular).questions():
        letters[q.about["form"]][q.answer] += 1
    each = 16 if circular else 4
    assert letters == {form: dict.fromkeys("ABCD", each) for form in FORMS}


def test_a_rotation_moves_every_option_on_by_one():
    groups = defaultdict(list)
    for q in Choice(n=12, circular=True).questions():
        groups[q.group].append(q)
    assert len(groups) == 12
    for passes in groups.values():
        assert [q.about["rotation"] for q in passes] == [0, 1, 2, 3]
        assert sorted(q.answer for q in passes) == list("ABCD")
        first = passes[0].about["options"]
        for turn, q in enumerate(passes):
            assert q.about["options"] == first[turn:] + first[:turn]
            assert (
                len({q.about["options"][q.about["letters"].index(q.answer)] for q in passes}) == 1
            )
            for letter, option in zip("ABCD", q.about["options"], strict=True):
                assert f"\n{letter}. {option}\n" in q.prompt


def test_the_first_rotation_is_the_question_asked_once():
    once = list(Choice(n=12).questions())
    first = [q for q in Choice(n=12, circular=True).questions() if q.about["rotation"] == 0]
    assert [(q.prompt, q.answer, q.group) for q in once] == [
        (q.prompt, q.answer, q.group) for q in first
    ]


@pytest.mark.parametrize("letter", "ABCD")
def test_always_the_same_letter_gets_a_quarter_once_and_nothing_in_rotations(letter):
    once = Choice(n=32)
    found = once.measures(answered(once, lambda q: letter))
    assert found["accuracy"].value == found["chance"].value == 0.25
    circular = Choice(n=8, circular=True)
    found = circular.measures(answered(circular, lambda q: f"({letter})"))
    assert (found["circular_accuracy"].value, found["accuracy"].value) == (0.0, 0.25)
    said = {x: found[f"said_{x}"].value for x in "ABCD"}
    assert said == {x: float(x == letter) for x in "ABCD"}
    assert found["chance"].value == 1 / 256


def test_a_guesser_gets_a_quarter_once_and_next_to_nothing_in_rotations():
    rng = random.Random(0)
    suite = Choice(n=60, circular=True)
    found = suite.measures(answered(suite, lambda q: rng.choice("ABCD")))
    assert found["accuracy"].low < 0.25 < found["accuracy"].high
    assert found["circular_accuracy"].low <= 1 / 256 <= found["circular_accuracy"].high
    assert found["circular_accuracy"].n == 60
    for letter in "ABCD":
        assert found[f"said_{letter}"].low < 0.25 < found[f"said_{letter}"].high


def test_knowing_some_and_saying_b_for_the_rest_shows_in_both_numbers():
    suite = Choice(n=40, circular=True)
    known = {q.group for q in suite.questions() if hash_of(q.group) % 10 < 6}
    found = suite.measures(answered(suite, lambda q: q.answer if q.group in known else "B"))
    share = len(known) / 40
    assert found["circular_accuracy"].value == pytest.approx(share)
    assert found["accuracy"].value == pytest.approx(share + (1 - share) / 4)
    assert found["said_B"].value == pytest.approx(share / 4 + 1 - share)


def hash_of(text):
    return sum(map(ord, text))


def test_an_answer_in_words_is_read_as_its_option():
    suite = Choice(n=40)
    rows = answered(suite, lambda q: q.about["options"][q.about["letters"].index(q.answer)])
    assert {row.status for row in rows} == {"read"}
    assert {row.score for row in rows} == {1.0}


def test_two_letters_are_several_and_count_for_nothing():
    suite = Choice(n=8)
    rows = answered(suite, lambda q: "A or B")
    assert {row.status for row in rows} == {"several"}
    assert suite.measures(rows)["unparsed"].value == 1.0


def test_accuracy_is_shown_by_form():
    suite = Choice(n=40)
    rows = answered(suite, lambda q: q.answer if q.about["form"] == "count" else "no idea")
    found = suite.measures(rows)
    assert {f: found[f"accuracy_{f}"].value for f in FORMS} == {
        "kind": 0.0, "colour": 0.0, "count": 1.0, "description": 0.0,
    }  # fmt: skip
    assert found["accuracy_count"].n == 10


def test_a_lost_rotation_is_an_error_and_no_better_score():
    suite = Choice(n=4, circular=True)
    rows = answered(suite, perfect)
    with pytest.raises(InputError, match="3 passes"):
        suite.measures(rows[:-1])


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_bare_question_knows_nothing_of_options(language):
    for q in Choice(n=16, language=language).questions():
        bare = q.about["question"]
        assert not any(f"{letter}." in bare for letter in "ABCD")
        asked = q.prompt.split("\n")[0]
        assert (asked == bare) == (q.about["form"] in ("colour", "count"))
