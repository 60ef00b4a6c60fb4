"""Captions: the oracle's verdicts, CHAIR as the world's own scores have it, length and recall beside."""

import random

import pytest

from labs.evaluation import chair_scores
from labs.shapes import add_partner, make_record, mentions, seeded
from labs.shapes.tasks import describe
from labs.suites import score
from labs.suites.offline import Captions
from tests.suites.offline_rows import answered, perfect, scene_in_words


def ill(question):
    """The caption of an annotator who adds the usual companion where it is absent."""
    language = question.about["language"]
    index = int(question.id.rsplit("-", 1)[1])
    scene = make_record("caption", index, "test", language)["meta"]["scene"]
    rng = seeded(index, "ill")
    text = add_partner(rng, scene, language, describe(rng, scene, language)).answer
    # Now and then the first half of it, or nothing.
    return rng.choice([text, text, text, text[: len(text) // 2], ""])


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_numbers_are_the_worlds_own_on_the_same_records(language):
    suite = Captions(n=60, language=language)
    rows = answered(suite, ill)
    records = [make_record("caption", i, "test", language) for i in range(60)]
    world = score("caption", language, list(zip(records, (row.said for row in rows), strict=True)))
    found = suite.measures(rows)
    assert found["accuracy"].value == world.accuracy
    assert found["chair_s"].value == world.hallucinated
    assert found["recall"].value == pytest.approx(world.recall)
    assert 0 < world.hallucinated < 1 and 0 < world.accuracy < 1
    mentioned = [[o.kind for o in mentions(row.said)] for row in rows]
    shown = [[o["kind"] for o in row.about["objects"]] for row in rows]
    assert found["chair_i"].value == pytest.approx(chair_scores(mentioned, shown).chair_i)
    assert found["objects"].value == sum(map(len, mentioned)) / 60
    empty = [row for row in rows if not row.said]
    assert empty and {row.status for row in empty} == {"empty"}
    assert found["unparsed"].value == len(empty) / 60


def test_right_captions_are_whole_and_true():
    suite = Captions(n=30)
    found = suite.measures(answered(suite, perfect))
    values = {name: found[name].value for name in ("accuracy", "chair_i", "chair_s", "recall")}
    assert values == {"accuracy": 1.0, "chair_i": 0.0, "chair_s": 0.0, "recall": 1.0}
    assert found["cider"].value == pytest.approx(10.0)
    objects = [len(q.about["objects"]) for q in suite.questions()]
    assert found["objects"].value == sum(objects) / 30


def test_silence_hallucinates_nothing_and_recalls_nothing():
    suite = Captions(n=12)
    found = suite.measures(answered(suite, lambda q: ""))
    for name in ("chair_i", "chair_s", "recall", "objects", "length", "cider"):
        assert found[name].value == 0.0
    assert found["unparsed"].value == 1.0


def test_naming_everything_recalls_all_and_is_never_right():
    suite = Captions(n=12)
    every = "a circle, a square, a triangle, a ring, a cross, a star"
    found = suite.measures(answered(suite, lambda q: every))
    assert (found["recall"].value, found["accuracy"].value, found["chair_s"].value) == (
        1.0,
        0.0,
        1.0,
    )
    shown = [len({o["kind"] for o in q.about["objects"]}) for q in suite.questions()]
    assert found["chair_i"].value == pytest.approx(sum(6 - k for k in shown) / (6 * 12))
    assert (found["length"].value, found["objects"].value) == (12.0, 6.0)


def test_synonyms_and_denials_are_read_by_the_oracle():
    suite = Captions(n=60)
    questions = [q for q in suite.questions() if len(q.about["objects"]) == 1]
    for question in questions:
        kind = question.about["objects"][0]["kind"]
        other = "ring" if kind != "ring" else "star"
        reading = suite.read(question, f"There is a {kind}, and no {other}.")
        assert suite.score(question, reading) == 1.0
    assert len(questions) > 3


def test_length_counts_words_and_chinese_characters():
    for language, said, length in (("en", "a large red ring.", 4), ("zh", "中央有一个圆环。", 7)):
        suite = Captions(n=3, language=language)
        assert suite.measures(answered(suite, lambda q, said=said: said))["length"].value == length


def test_the_interval_of_a_share_draws_pictures():
    rng = random.Random(0)
    suite = Captions(n=200)
    rows = answered(suite, lambda q: q.answer if rng.random() < 0.7 else "nothing at all")
    found = suite.measures(rows)["accuracy"]
    assert found.low < 0.7 < found.high
    assert found.n == 200


def test_one_caption_alone_has_no_cider():
    suite = Captions(n=1)
    assert "cider" not in suite.measures(answered(suite, perfect))


def test_descriptions_are_not_the_captions_themselves():
    questions = list(Captions(n=40).questions())
    several = [q for q in questions if len(q.about["objects"]) > 1]
    assert any(q.about["description"] != q.answer for q in several)
    for q in questions:
        assert {o.kind for o in scene_in_words(q.about["description"]).objects} == {
            o["kind"] for o in q.about["objects"]
        }
