"""One exercise of each kind: a class, a number, a fault, a question."""

import textwrap

import pytest

from labs.grading import source
from labs.grading.generate import page_text, stubs_text
from labs.grading.grade import name_mistake, run_text
from labs.grading.quality import grade_grader, vacuous_tests


@pytest.mark.parametrize("name", ["LowRank", "weights_gb", "nan_at_step_3"])
def test_graders_of_each_kind_hold(kinds, server, name):
    found = grade_grader(kinds, kinds.exercise(name), server)
    assert found.problems == []
    assert found.named == found.second_named == 3


def graded(kinds, name, text, server):
    exercise = kinds.exercise(name)
    test = kinds.check(exercise)
    done = run_text(test, exercise, textwrap.dedent(text), server=server)
    return done.failure, name_mistake(test, exercise, done)


@pytest.mark.parametrize(
    ("diagnosis", "evidence", "body", "mistake"),
    [
        ("empty_batch", "labels in batch: 0", "torch.nan_to_num(mean)", "hidden"),
        (
            "empty_batch",
            "step 3  loss nan   grad norm nan   labels in batch: 0",
            "torch.nan_to_num(mean)",
            "hidden",
        ),
        ("learning_rate", "step 1  loss 2.31", "mean", "blames_the_rate"),
        ("empty_batch", "labels in batch: 57", "torch.nan_to_num(mean)", None),
    ],
)
def test_a_mistake_is_named_however_much_of_the_line_is_quoted(
    kinds, server, diagnosis, evidence, body, mistake
):
    text = f"""
        import torch
        def nan_at_step_3():
            def patch(losses, mask):
                mean = (losses * mask).sum() / mask.sum()
                return {body}
            return {{"diagnosis": {diagnosis!r}, "evidence": {evidence!r}, "patch": patch}}
    """
    failure, found = graded(kinds, "nan_at_step_3", text, server)
    assert (found and found.name) == mistake, failure


def test_a_patch_has_the_parameters_of_the_broken_run(kinds, server):
    text = """
        def nan_at_step_3():
            def patch(values, keep):
                return (values * keep).sum() / keep.sum().clamp(min=1)
            return {"diagnosis": "empty_batch", "evidence": "labels in batch: 0", "patch": patch}
    """
    failure, _ = graded(kinds, "nan_at_step_3", text, server)
    assert failure.stage == "signature"
    assert failure.sentence == "The parameters are not those of `masked_mean`."
    assert (failure.wanted, failure.got) == ("(losses, mask)", "(values, keep)")


def test_a_method_with_another_parameter_is_told_its_name(kinds, server):
    text = source.standalone(kinds.exercise("LowRank").answer)
    text = text.replace("self, x:", "self, tokens:").replace("return x @", "return tokens @")
    failure, _ = graded(kinds, "LowRank", text, server)
    assert failure.stage == "signature"
    assert failure.sentence == "There is no parameter `x`: keep the names of the stub."


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
