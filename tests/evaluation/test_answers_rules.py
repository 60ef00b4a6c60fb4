"""The benchmarks' own rules, against what their programs made of the same answers."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labs.evaluation import answers
from labs.evaluation.reading import Reading

OFFICIAL = Path(__file__).parent / "official"
VERDICTS = json.loads((OFFICIAL / "answers_yes_no.json").read_text(encoding="utf-8"))
CHOICES = json.loads((OFFICIAL / "answers_choices.json").read_text(encoding="utf-8"))
YES_NO = {"yes": Reading(True), "no": Reading(False)}


@pytest.mark.parametrize("rule", VERDICTS["columns"][1:])
def test_yes_no_rules_agree_with_the_programs(rule):
    column, seen = VERDICTS["columns"].index(rule), set()
    for row in VERDICTS["answers"]:
        text, theirs = row[0], row[column].lower()
        assert getattr(answers, rule)(text) == YES_NO.get(theirs, (None, "none")), repr(text)
        seen.add(theirs)
    assert {"yes", "no"} <= seen and (rule == "pope_rule" or len(seen) == 3)


@pytest.mark.parametrize("rule", CHOICES["columns"][2:])
def test_choice_rules_agree_with_the_programs(rule):
    column, seen = CHOICES["columns"].index(rule), set()
    for row in CHOICES["answers"]:
        options, text, theirs = CHOICES["options"][row[0]], row[1], row[column]
        if theirs is None:  # the program knows four options at most
            continue
        wanted = {False: Reading(None, "none"), "Z": Reading(None, "refused")}
        got = getattr(answers, rule)(text, options)
        assert got == wanted.get(theirs, (theirs, "read")), (text, options)
        seen.add(theirs)
    assert {"A", "B", "C", "D", False} <= seen


def test_the_tables_are_of_some_size_and_name_their_sources():
    for table, options in ((VERDICTS, 0), (CHOICES, 1)):
        assert len(table["answers"]) >= 300
        assert list(table["sources"]) == table["columns"][1 + options :]
        for source in table["sources"].values():
            assert source["repository"] and source["file"] and len(source["commit"]) == 40


def test_what_sets_them_apart():
    """The same answers under different rules: what a score depends on."""
    reads = {
        "I cannot see the image.": (None, True, None, None, None),
        "There is no ring.": (False, False, None, None, False),
        "The answer is yes": (True, True, None, None, True),
        "Yes.": (True, True, True, None, True),
        "**No**": (False, True, False, None, None),
        "没有": (False, True, None, None, None),
        "Not sure.": (None, True, False, None, None),
    }
    rules = (answers.read_yes_no, answers.pope_rule, answers.mme_rule, answers.lmms_eval_pope_rule,
             answers.vlmevalkit_yes_no_rule)  # fmt: skip
    for text, wanted in reads.items():
        assert tuple(rule(text).value for rule in rules) == wanted, text
    # "The answer is a dog": three programs of four find a letter in it, and not the same.
    options = ["a cat", "a dog"]
    assert answers.read_choice("The answer is a dog.", options).value == "B"
    assert answers.vlmevalkit_choice_rule("The answer is a dog.", options).value == "A"
    assert answers.lmms_eval_choice_rule("The answer is a dog.", options).value == "B"
    assert answers.lmms_eval_static_choice_rule("A large dog", ["a cat", "a bird"]).value == "A"
    assert answers.llava_choice_rule("(B)", options).status == "none"


ALL = [getattr(answers, name) for name in (*VERDICTS["columns"][1:],)]
CHOICE_RULES = [getattr(answers, name) for name in CHOICES["columns"][2:]]


@given(
    st.sampled_from("ABCD"),
    st.sampled_from([["a", "b", "c", "d"], ["up", "down", "left", "right"]]),
)
def test_every_rule_reads_a_plain_answer(letter, options):
    for rule in (*CHOICE_RULES, answers.read_choice):
        assert rule(letter, options) == (letter, "read")
    for rule in (*ALL, answers.read_yes_no):
        assert rule("yes").value is True and rule("no").value is False
