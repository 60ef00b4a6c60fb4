"""What every suite on the offline world promises: right answers score 1, in both languages, every time."""

import json
import math

import pytest

from labs.errors import InputError
from labs.shapes import judge, make_record
from labs.suites.offline import Captions, Choice, Existence, Naming, Thinking
from labs.suites.offline.base import described, objects_of, scene_of
from labs.suites.registry import load_suite
from tests.suites.offline_rows import SUITES, answered, perfect, scene_in_words

ASKED = [name for name in SUITES if name != "edge_cases"]
SIZE = dict.fromkeys(SUITES, 12) | {"edge_cases": 20}  # there are twenty cases


def suite_of(name, language="en", times=1):
    return SUITES[name](n=times * SIZE[name], language=language)


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("name", ASKED)
def test_the_exact_answer_scores_one(name, language):
    suite = suite_of(name, language)
    rows = answered(suite, perfect)
    assert {row.status for row in rows} == {"read"}
    assert [row.score for row in rows] == pytest.approx([1.0] * len(rows))
    measures = suite.measures(rows)
    assert next(iter(measures)) == suite.headline
    assert measures[suite.headline].value == pytest.approx(1.0)
    assert measures["unparsed"].value == 0.0


@pytest.mark.parametrize("name", ASKED)
def test_silence_scores_nothing_and_is_counted(name):
    suite = suite_of(name)
    rows = answered(suite, lambda question: " ")
    assert {row.status for row in rows} == {"empty"}
    assert {row.score for row in rows} == {0.0}
    measures = suite.measures(rows)
    assert (measures[suite.headline].value, measures["unparsed"].value) == (0.0, 1.0)


@pytest.mark.parametrize("name", [name for name in ASKED if name != "captions"])
def test_what_never_ends_and_says_nothing_is_endless(name):
    suite = suite_of(name)
    rows = answered(suite, lambda question: "hm, hm, " * 40, finished=False)
    assert {row.status for row in rows} == {"endless"}
    assert {row.score for row in rows} == {0.0}
    assert suite.measures(rows)["unparsed"].value == 1.0


@pytest.mark.parametrize("name", [name for name in ASKED if name != "captions"])
def test_what_ends_and_says_nothing_has_no_answer(name):
    rows = answered(suite_of(name), lambda question: "hm, hm")
    assert {row.status for row in rows} == {"none"}


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("name", SUITES)
def test_questions_are_the_same_every_time_and_in_order(name, language):
    suite = suite_of(name, language)
    first, again = list(suite.questions()), list(suite_of(name, language).questions())
    assert [seen(q) for q in first] == [seen(q) for q in again]
    assert (
        len({q.id for q in first})
        == len(first)
        == SIZE[name] * (4 if name == "choice_circular" else 1)
    )
    longer = list(suite_of(name, language, times=2).questions())
    assert [seen(q) for q in longer[: len(first)]] == [seen(q) for q in first]
    assert len({q.id for q in longer}) == len(longer)


def seen(question):
    """All that a model and a reader see of a question."""
    pictures = [i if isinstance(i, str) else (i.size, i.tobytes()) for i in question.images]
    return question.id, question.prompt, question.answer, question.about, pictures, question.group


@pytest.mark.parametrize("name", SUITES)
def test_both_languages_ask_about_the_same_pictures(name):
    english, chinese = (list(suite_of(name, language).questions()) for language in ("en", "zh"))
    for one, other in zip(english, chinese, strict=True):
        assert seen(one)[4] == seen(other)[4]
        if one.about.get("case") not in ("german", "japanese"):
            assert one.prompt != other.prompt
        assert one.id != other.id


@pytest.mark.parametrize("name", SUITES)
def test_splits_share_no_picture(name):
    test, train = (
        {
            str(seen(q)[4])
            for q in SUITES[name](n=SIZE[name], split=split).questions()
            if q.images and q.about.get("case") not in ("blank", "web_page")
        }
        for split in ("test", "train")
    )
    assert test and not test & train


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("name", SUITES)
def test_what_is_written_to_files_survives_json(name, language):
    suite = suite_of(name, language)
    for question in suite.questions():
        kept = [question.answer, question.about]
        assert json.loads(json.dumps(kept, ensure_ascii=False)) == kept
    settings = suite.settings()
    assert json.loads(json.dumps(settings)) == settings
    assert (settings["n"], settings["language"], settings["split"]) == (
        SIZE[name],
        language,
        "test",
    )


@pytest.mark.parametrize("name", ASKED)
def test_measures_are_numbers_inside_their_intervals(name):
    suite = suite_of(name)
    known = [q.answer for q in suite.questions()]
    # The answer of the question before: sometimes right, always readable.
    said = dict(zip((q.id for q in suite.questions()), known[-1:] + known[:-1], strict=True))
    measures = suite.measures(answered(suite, lambda question: said[question.id]))
    for label, measure in measures.items():
        assert math.isfinite(measure.value), label
        assert measure.n <= len(known)
        if measure.low is not None:
            assert measure.low <= measure.value <= measure.high, label


@pytest.mark.parametrize("name", SUITES)
def test_the_registry_knows_the_suite_by_its_name(name):
    suite = load_suite(name, n=6)
    assert (suite.name, suite.settings()["n"]) == (name, 6)
    assert next(suite.questions()).id == next(SUITES[name](n=6).questions()).id


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_description_tells_the_whole_scene_in_another_order(language):
    orders = set()
    for index in range(20):
        scene = make_record("caption", index, "test", language)["meta"]["scene"]
        words = described(scene, language, str(index))
        assert sorted(map(str, objects_of(scene_in_words(words)))) == sorted(
            map(str, objects_of(scene))
        )
        orders.add(scene_in_words(words).objects == scene_of(objects_of(scene)).objects)
    assert orders == {True, False}


@pytest.mark.parametrize("name", [n for n in ASKED if n not in ("ocr", "grounding")])
def test_text_only_models_can_read_the_scene(name):
    for question in suite_of(name).questions():
        assert scene_in_words(question.about["description"]).objects


@pytest.mark.parametrize("name", ["ocr", "grounding"])
def test_no_description_gives_away_digits_or_pretends_to_say_where_a_box_is(name):
    assert all("description" not in q.about for q in suite_of(name).questions())


def test_scenes_are_written_down_whole():
    record = make_record("caption", 3, "test")
    scene = scene_of(objects_of(record["meta"]["scene"]))
    assert judge(scene, record["meta"]["turns"][0].answer).perfect
    assert [(o.kind, o.colour, o.size, o.cell) for o in scene.objects] == [
        (o.kind, o.colour, o.size, o.cell) for o in record["meta"]["scene"].objects
    ]


@pytest.mark.parametrize(
    ("make", "wrong"),
    [
        (lambda: Captions(n=0), "0 questions"),
        (lambda: Choice(language="de"), "'de'"),
        (lambda: Choice(split="dev"), "'dev'"),
        (lambda: Existence("rare"), "'rare'"),
        (lambda: Existence(n=7), "7 is odd"),
        (lambda: Thinking(negatives="rare"), "'rare'"),
        (lambda: Naming("size"), "'size'"),
    ],
)
def test_options_that_are_none_are_named(make, wrong):
    with pytest.raises(InputError, match=wrong):
        make()
