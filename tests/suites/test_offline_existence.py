"""Existence after POPE: balanced by picture, absent kinds truly absent, numbers as POPE counts them."""

import random
from collections import Counter

import numpy as np
import pytest

from labs.evaluation import pope_scores
from labs.shapes.vocabulary import KINDS, PARTNER, say
from labs.suites.contract import Row
from labs.suites.offline import Existence
from labs.suites.offline.base import ratio
from labs.suites.offline.existence import popular_kinds, shown_in_training
from tests.suites.offline_rows import answered, scene_in_words

SETTINGS = ("random", "popular", "adversarial")


@pytest.mark.parametrize("negatives", SETTINGS)
@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_picture_is_asked_about_once_with_yes_and_once_with_no(negatives, language):
    questions = list(Existence(negatives, n=60, language=language).questions())
    answers: dict[str, list] = {}
    for q in questions:
        answers.setdefault(q.group, []).append(q.answer)
        assert q.answer == say("yes" if q.about["there"] else "no", language)
        assert say(q.about["kind"], language) in q.prompt
    assert len(answers) == 30
    assert all(
        sorted(a) == sorted([say("yes", language), say("no", language)]) for a in answers.values()
    )


@pytest.mark.parametrize("negatives", SETTINGS)
def test_what_is_asked_for_is_there_or_absent_as_it_says(negatives):
    companions = 0
    for q in Existence(negatives, n=200).questions():
        kinds = scene_in_words(q.about["description"]).kinds
        assert (q.about["kind"] in kinds) == q.about["there"]
        assert q.about["companion"] == (PARTNER[q.about["kind"]] in kinds)
        if not q.about["there"]:
            assert q.about["negatives"] == negatives
            companions += q.about["companion"]
            if negatives == "popular":
                assert q.about["kind"] in popular_kinds()
    assert companions == 100 if negatives == "adversarial" else 0 < companions < 100


def test_the_three_settings_share_their_pictures_and_positive_questions():
    asked = [list(Existence(negatives, n=100).questions()) for negatives in SETTINGS]
    for same in zip(*asked, strict=True):
        assert len({q.images[0].tobytes() for q in same}) == 1
        assert len({q.group for q in same}) == 1
        if same[0].about["there"]:
            assert len({q.prompt for q in same}) == 1
        assert len({q.id for q in same}) == 3
    absent = [[q.about["kind"] for q in suite if not q.about["there"]] for suite in asked]
    assert absent[0] != absent[1] != absent[2] != absent[0]


def test_popular_kinds_are_those_shown_most_and_lead_by_hardly_anything():
    shown = shown_in_training()
    assert set(popular_kinds()) == set(sorted(shown, key=shown.get)[3:])
    assert max(shown.values()) - min(shown.values()) < 0.03  # what the docstring says: by chance
    assert Existence("popular").settings()["shown_in_training"] == shown
    assert "shown_in_training" not in Existence("random").settings()


def test_a_yes_sayer_gets_half_of_accuracy_and_two_thirds_of_f1():
    suite = Existence(n=100)
    found = suite.measures(answered(suite, lambda q: "yes"))
    values = {name: found[name].value for name in found if not name.startswith("false_yes")}
    assert values == pytest.approx(
        {
            "accuracy": 0.5,
            "precision": 0.5,
            "recall": 1.0,
            "f1": 2 / 3,
            "yes_rate": 1.0,
            "unparsed": 0.0,
        }
    )
    assert (found["precision"].n, found["recall"].n) == (100, 50)
    assert found["accuracy"].low < 0.5 < found["accuracy"].high


def test_a_favourite_kind_shows_in_false_yes():
    suite = Existence(n=200)
    asked = list(suite.questions())
    rows = answered(
        suite, lambda q: "yes" if q.about["there"] or q.about["kind"] == "star" else "no"
    )
    found = suite.measures(rows)
    for kind in KINDS:
        measure = found[f"false_yes_{kind}"]
        assert measure.value == float(kind == "star")
        assert measure.n == sum(q.about["kind"] == kind and not q.about["there"] for q in asked)
    # Of the popular setting only popular kinds are asked about where they are absent.
    popular = Existence("popular", n=100)
    named = [
        n for n in popular.measures(answered(popular, lambda q: "yes")) if n.startswith("false")
    ]
    assert sorted(named) == sorted(f"false_yes_{kind}" for kind in popular_kinds())


def test_a_no_sayer_has_no_precision_and_says_so():
    suite = Existence(n=100)
    found = suite.measures(answered(suite, lambda q: "No."))
    assert (found["accuracy"].value, found["recall"].value, found["f1"].value) == (0.5, 0.0, 0.0)
    assert found["precision"] == (0.0, None, None, 0)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_measures_are_popes_own(language):
    rng = random.Random(3)
    words = [say("yes", language), say("no", language), "purple", ""]
    suite = Existence("adversarial", n=300, language=language)
    rows = answered(suite, lambda q: rng.choices(words, [5, 3, 1, 1])[0])
    said = [row.parsed if row.status == "read" else None for row in rows]
    expected = pope_scores(said, [row.about["there"] for row in rows])
    found = suite.measures(rows)
    assert {k: found[k].value for k in expected._fields} == pytest.approx(expected._asdict())
    lost = Counter(row.status for row in rows if row.status != "read")
    assert set(lost) == {"none", "empty"}
    assert found["unparsed"].value == sum(lost.values()) / 300
    for name in expected._fields:
        assert found[name].low < found[name].value < found[name].high


def test_a_guesser_gets_half():
    rng = random.Random(0)
    suite = Existence(n=400)
    found = suite.measures(answered(suite, lambda q: rng.choice(["Yes", "No"])))
    assert found["accuracy"].low < 0.5 < found["accuracy"].high
    assert found["accuracy"].high - found["accuracy"].low < 0.12


def row(id, group, top, bottom):
    return Row(
        str(id), group, "", "", {"top": top, "bottom": bottom}, "", [], 0, True, "read", None, 0.0
    )


def of(rows):
    return ratio(rows, lambda r: r.about["top"], lambda r: r.about["bottom"])


def test_a_ratio_is_the_ratio_of_sums_and_its_interval_a_bootstrap_over_groups():
    rng = np.random.default_rng(1)
    rows, table = [], []
    for group in range(60):
        hard = rng.random()
        for _ in range(rng.integers(1, 5)):
            bottom = int(rng.integers(0, 4))
            top = int(rng.binomial(bottom, hard))
            rows.append(row(len(rows), f"g{group}", top, bottom))
            table.append((group, top, bottom))
    found = of(rows)
    sums = np.array([[sum(t[k] for t in table if t[0] == g) for k in (1, 2)] for g in range(60)])
    assert found.value == sums[:, 0].sum() / sums[:, 1].sum()
    assert found.n == sum(t[2] > 0 for t in table)
    # The same bootstrap, written out with other draws.
    other = np.random.default_rng(2)
    values = []
    for _ in range(4_000):
        drawn = sums[other.integers(0, 60, 60)].sum(axis=0)
        values.append(drawn[0] / drawn[1])
    assert (found.low, found.high) == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=0.01)
    # Taken for independent rows the same numbers look surer than they are.
    alone = of([row(r.id, None, r.about["top"], r.about["bottom"]) for r in rows])
    assert alone.value == found.value
    assert alone.high - alone.low < 0.9 * (found.high - found.low)


def test_a_ratio_without_any_doubt_seen_still_has_an_interval():
    all_right = of([row(i, f"g{i // 2}", 1, 1) for i in range(20)])
    assert (all_right.value, all_right.high, all_right.n) == (1.0, 1.0, 20)
    assert 0.6 < all_right.low < 0.75  # ten groups: Wilson's for 10 of 10 is 0.72
    none_right = of([row(i, None, 0, 2) for i in range(20)])
    assert (none_right.value, none_right.low) == (0.0, 0.0)
    assert 0.1 < none_right.high < 0.2


def test_one_group_or_nothing_to_divide_by_has_no_interval():
    assert of([row(i, "g", i % 2, 1) for i in range(4)]) == (0.5, None, None, 4)
    assert of([row(0, None, 0, 0)]) == (0.0, None, None, 0)
