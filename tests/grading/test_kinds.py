"""One exercise of each kind: a class, a number, a fault, a question."""

import pytest

from labs.grading import source
from labs.grading.generate import page_text, stubs_text
from labs.grading.quality import grade_grader, vacuous_tests


@pytest.mark.parametrize("name", ["LowRank", "weights_gb", "nan_at_step_3"])
def test_graders_of_each_kind_hold(kinds, server, name):
    found = grade_grader(kinds, kinds.exercise(name), server)
    assert found.problems == []
    assert found.named == found.second_named == 3


def test_checks_of_each_kind_are_not_vacuous(kinds):
    assert vacuous_tests(kinds) == []


def test_stubs_give_helpers_but_no_answer(kinds):
    text = stubs_text(kinds)
    space = {}
    exec(text, space)
    assert {"LowRank", "weights_gb", "nan_at_step_3", "masked_mean", "BYTES"} <= set(space)
    assert "why_zero" not in space
    for spoiler in ("clamp(min=1)", "alpha / rank", "1000**3", "in_float32", "labs.grading"):
        assert spoiler not in text
    with pytest.raises(NotImplementedError, match="not started"):
        space["LowRank"](2, 3, 4)


def test_the_page_folds_hints_and_answers(kinds):
    text = page_text(kinds)
    assert text.count("{dropdown} Hint") == 9
    assert text.count("{dropdown} Answer") == 3
    assert "step 3  loss nan" in text
    assert '- `"empty_batch"`: a batch without labels divides by zero' in text
    model_answer = text.split("{dropdown} A model answer")[1]
    assert "So that the adapted model starts as the base model:\n\n- the product" in model_answer


def test_an_answer_stands_alone_without_the_other_answers(kinds):
    text = source.standalone(kinds.exercise("LowRank").answer)
    assert "class LowRank" in text
    assert "@" not in text.replace(" @ ", "")
    assert "OneMatrix" not in text
