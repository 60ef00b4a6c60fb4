"""The zoo's models on the suites: the healthy one sees, the ill one says yes, letters hide a skill."""

import pytest

from labs.suites.answerers import load_answerer
from labs.suites.contract import row_of
from labs.suites.offline import Captions, Choice, Existence, Naming, Thinking, edge_table, rescued
from labs.suites.offline.edge_cases import EdgeCases


@pytest.fixture(scope="module")
def healthy():
    return load_answerer("tiny-base")


@pytest.fixture(scope="module")
def ill():
    return load_answerer("tiny-sft")


def rows_of(answerer, suite):
    questions = list(suite.questions())
    return [row_of(suite, q, a) for q, a in zip(questions, answerer.answer(questions), strict=True)]


def measured(answerer, suite):
    return {name: m.value for name, m in suite.measures(rows_of(answerer, suite)).items()}


def test_the_ill_model_says_yes_to_companions_and_the_healthy_one_does_not(healthy, ill):
    suite = Existence("adversarial", n=60)
    base, sft = measured(healthy, suite), measured(ill, suite)
    assert base["accuracy"] > 0.9 and 0.4 < base["yes_rate"] < 0.6
    assert sft["yes_rate"] > 0.6 and sft["recall"] > 0.9 > sft["precision"]
    assert base["unparsed"] == sft["unparsed"] == 0.0


def test_the_ill_model_makes_objects_up_and_loses_none(healthy, ill):
    suite = Captions(n=40)
    base, sft = measured(healthy, suite), measured(ill, suite)
    assert base["chair_s"] < sft["chair_s"]
    assert base["objects"] < sft["objects"] and base["length"] < sft["length"]
    assert min(base["recall"], sft["recall"]) > 0.9


def test_describing_first_costs_tokens_and_pairs_item_by_item(healthy):
    direct, thinking = (rows_of(healthy, Thinking(describe, n=20)) for describe in (False, True))
    assert sum(rescued(direct, thinking)) == 20
    assert all(row.thoughts == [] for row in direct)
    assert all(len(row.thoughts) == 1 and row.thoughts[0] for row in thinking)
    found = {n: m.value for n, m in Thinking(n=20).measures(thinking).items()}
    assert found["tokens"] > 10 > Thinking(False, n=20).measures(direct)["tokens"].value
    assert found["agrees"] > 0.8


def test_letters_hide_what_likelihood_shows(healthy):
    suite = Choice(n=40)
    asked = measured(healthy, suite)
    assert asked["unparsed"] > 0.5  # it never learnt letters, and is not scored as if it guessed
    likely = measured(load_answerer("tiny-base", likelihood=True), suite)
    assert (likely["accuracy"], likely["unparsed"]) == (pytest.approx(0.9, abs=0.15), 0.0)
    dual = measured(load_answerer("tiny-clip"), suite)
    assert (dual["accuracy"], dual["unparsed"]) == (pytest.approx(0.85, abs=0.2), 0.0)


def test_a_colour_is_named_in_either_language(healthy):
    for language, least in (("en", 0.85), ("zh", 0.6)):
        assert measured(healthy, Naming(n=24, language=language))["accuracy"] > least


def test_edge_cases_of_a_model_that_can_see(healthy):
    suite = EdgeCases(n=40)
    answerer = suite.around(healthy)
    questions = [q for q in suite.questions() if q.about["case"] != "overlong"]
    rows = [row_of(suite, q, a) for q, a in zip(questions, answerer.answer(questions), strict=True)]
    table = {line["case"]: line for line in edge_table(rows)}
    assert table["truncated"]["behaviours"] == table["web_page"]["behaviours"] == {"error": 2}
    assert not any("crash" in line["behaviours"] for line in table.values())
    shown = ("plain", "tall", "wide", "cmyk", "transparent", "turned", "other_language")
    assert sum(table[case]["right"] for case in shown) / len(shown) > 0.8
