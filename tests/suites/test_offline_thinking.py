"""Describe first, then answer: the same questions, what the description changed, and for which items."""

import random
from dataclasses import replace

import pytest

from labs.errors import InputError
from labs.evaluation.comparisons import mcnemar
from labs.shapes import mentions
from labs.shapes.language import QUESTIONS
from labs.shapes.vocabulary import say
from labs.suites.offline import Existence, Thinking, rescued
from tests.suites.offline_rows import answered, perfect


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("negatives", ["adversarial", "random"])
def test_both_forms_ask_the_questions_of_existence(language, negatives):
    options = {"n": 20, "language": language}
    plain = list(Existence(negatives, **options).questions())
    direct = list(Thinking(False, negatives=negatives, **options).questions())
    thinking = list(Thinking(True, negatives=negatives, **options).questions())
    for one, two, three in zip(plain, direct, thinking, strict=True):
        assert one.id == two.id == three.id
        assert one.prompt == two.prompt == three.prompt
        assert one.images[0].tobytes() == three.images[0].tobytes()
        assert (one.before, two.before) == ((), ())
        assert three.before == (QUESTIONS[language]["caption"][0],)
        assert one.max_new_tokens == two.max_new_tokens == three.max_new_tokens


def test_answers_are_held_against_the_models_own_description():
    suite = Thinking(n=40)
    # A model whose description always names a star, and which answers by its description.
    thought = "a large red star at the top."
    rows = answered(
        suite,
        lambda q: "Yes" if q.about["kind"] == "star" else "No",
        thoughts=lambda q: (thought,),
    )
    found = suite.measures(rows)
    stars = sum(q.about["kind"] == "star" for q in suite.questions())
    assert 0 < stars < 40
    assert found["named"].value == stars / 40
    assert found["agrees"].value == 1.0
    # One that answers against it.
    rows = answered(suite, lambda q: "Yes", thoughts=lambda q: (thought,))
    assert suite.measures(rows)["agrees"].value == stars / 40


def test_tokens_and_lost_answers_are_shown():
    suite = Thinking(n=20)
    long = "I see many things and will not say"
    rows = answered(suite, lambda q: perfect(q) if q.about["there"] else long)
    found = suite.measures(rows)
    assert found["tokens"].value == (1 + 8) / 2
    assert found["unparsed"].value == 0.5
    direct = Thinking(False, n=20)
    assert "named" not in direct.measures(answered(direct, perfect))


def test_rescued_counts_each_question_once():
    rng = random.Random(0)
    suite = Thinking(False, n=60)
    right, wrong = {}, {}
    for q in suite.questions():
        right[q.id] = q.answer
        wrong[q.id] = say("no" if q.about["there"] else "yes", "en")
    before = {id: rng.random() < 0.6 for id in right}
    after = {id: rng.random() < 0.7 for id in right}
    runs = [
        answered(suite, lambda q, know=know: (right if know[q.id] else wrong)[q.id])
        for know in (before, after)
    ]
    rng.shuffle(runs[1])  # the order of rows plays no part
    found = rescued(*runs)
    assert found.rescued == sum(after[id] and not before[id] for id in right)
    assert found.spoilt == sum(before[id] and not after[id] for id in right)
    assert sum(found) == 60
    assert found.both + found.spoilt == sum(before.values())
    assert found.neither + found.rescued == 60 - sum(before.values())
    test = mcnemar([before[id] for id in right], [after[id] for id in right])
    assert (test.only_first, test.only_second) == (found.spoilt, found.rescued)


def test_runs_of_other_questions_do_not_pair():
    rows = answered(Thinking(False, n=10), perfect)
    with pytest.raises(InputError, match="2 are in one of them"):
        rescued(rows, rows[:-2])
    with pytest.raises(InputError, match=r"same questions"):
        rescued(rows, [replace(row, id=row.id + "x") for row in rows])
    with pytest.raises(InputError, match="same questions"):
        rescued([], [])


def test_the_oracle_reads_a_description_as_captions_are_read():
    suite = Thinking(n=8, language="zh")
    rows = answered(suite, perfect, thoughts=lambda q: (q.about["description"],))
    found = suite.measures(rows)
    there = [any(m.kind == r.about["kind"] for m in mentions(r.about["description"])) for r in rows]
    assert found["named"].value == sum(there) / 8 == 0.5
    assert found["agrees"].value == 1.0
