"""Scores: a perfect answerer gets 100 %, a yes-sayer 50 %, and an unreadable answer is counted."""

import pytest

from labs.evaluation import wilson_ci
from labs.models import build_tiny_llava
from labs.shapes import add_partner, caption, make_record, seeded
from labs.shapes.tasks import describe
from labs.suites import QUESTIONS, ask, evaluate, items, score


def answered(name, say, n=60, language="en"):
    task, wanted = QUESTIONS[name]
    records = [make_record(task, i, "test", language, **wanted) for i in range(n)]
    return [(r, say(r)) for r in records]


@pytest.mark.parametrize("name", QUESTIONS)
@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_exact_answer_scores_one(name, language):
    pairs = answered(name, lambda r: r["meta"]["turns"][0].answer, language=language)
    assert score(name, language, pairs).accuracy == 1.0


def test_a_yes_sayer_scores_chance_with_its_yes_rate():
    result = score("existence", "en", answered("existence", lambda r: "yes"))
    assert (result.accuracy, result.yes_rate, result.unparsed) == (0.5, 1.0, 0)
    assert result.ci == tuple(wilson_ci(30, 60))


def test_an_unreadable_answer_is_wrong_and_counted():
    result = score("existence", "en", answered("existence", lambda r: "purple"))
    assert (result.accuracy, result.unparsed) == (0.0, 60)


def test_captions_hallucinate_when_they_name_an_absent_kind():
    def diseased(record):
        rng = seeded(record["id"])
        scene = record["meta"]["scene"]
        return add_partner(rng, scene, "en", describe(rng, scene, "en")).answer

    pairs = answered("caption", diseased)
    ghosts = sum(text != caption(r["meta"]["scene"]) for r, text in pairs)
    result = score("caption", "en", pairs)
    assert ghosts > 10
    assert result.hallucinated == ghosts / len(pairs)
    assert result.recall == 1.0
    assert result.accuracy == (len(pairs) - ghosts) / len(pairs)


def test_an_empty_caption_recalls_nothing_and_hallucinates_nothing():
    result = score("caption", "en", answered("caption", lambda r: ""))
    assert (result.accuracy, result.recall, result.hallucinated) == (0.0, 0.0, 0.0)


def test_a_real_model_is_asked_every_question_once_in_order():
    model, processor = build_tiny_llava(seed=0)
    seen = []
    pairs = ask(
        model, processor, "existence", n=7, batch_size=3,
        progress=lambda name, done, n: seen.append((name, done, n)),
    )  # fmt: skip
    assert [r["id"] for r, _ in pairs] == [f"test-existence-en-{i}" for i in range(7)]
    assert seen == [("existence", 3, 7), ("existence", 6, 7), ("existence", 7, 7)]
    assert [i.answer for i in items(pairs)] == ["yes", "no"] * 3 + ["yes"]
    again = evaluate(model, processor, ["existence"], n=7, batch_size=7)
    assert again["existence"] == score("existence", "en", pairs)
