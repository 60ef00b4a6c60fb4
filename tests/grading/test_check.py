"""Every stage stops the answer that should stop there, and says why."""

import re
import textwrap

import pytest
import torch
from torch import nn

from labs.grading import GraderError, case, exercise, inputs
from labs.grading.calls import CREDIT, STAGES
from labs.grading.check import Check
from labs.grading.compare import first_difference, same, show
from labs.grading.course import Chapter
from labs.grading.feedback import feedback
from labs.grading.grade import Result, inputs_of, name_mistake, run, run_text
from labs.grading.session import LocalSession


@exercise(kind="implement", points=10, minutes=5, section="Means", hints=("a", "b", "c"))
def mean(x, mask=None):
    """The mean of x, of the entries in mask where it is given."""
    return x.mean() if mask is None else x[mask].mean()


@mean.mistake("That is the sum, not the mean.")
def total(x, mask=None):
    return x.sum() if mask is None else x[mask].sum()


def slow_mean(x, mask=None):
    kept = [v for i, v in enumerate(x) if mask is None or mask[i]]
    return sum(kept) / len(kept)


X = inputs.normal(7, seed=1)
MASK = torch.tensor([True, False, True, True, False, True, False])


def check_mean(check):
    cases = [case("all", X), case("some", X, mask=MASK), case("doubles", X.double())]
    check.cases(cases, slow_mean, gradient=["x"])
    check.equal("The order does not matter.", check.call(X.flip(0)), check.call(X))
    cost = check.measure(X)
    check.cost("Two operations suffice.", cost.operations, at_most=4)


ANSWERS = {
    "found": "def other(x): pass",
    "signature": "def mean(y, mask): return y",
    "returns": "def mean(x, mask=None): return (x if mask is None else x[mask]).mean().item()",
    "shape": "def mean(x, mask=None): return (x if mask is None else x[mask]).mean()[None]",
    "dtype": "def mean(x, mask=None): return (x if mask is None else x[mask]).mean().float()",
    "finite": "def mean(x, mask=None): return x.mean() / (mask is None)",
    "value": "def mean(x, mask=None): return x.mean()",
    "gradient": "def mean(x, mask=None): return (x if mask is None else x[mask]).mean().detach()",
    "invariants": """
        def mean(x, mask=None):
            y = x if mask is None else x[mask]
            z = y.mean()
            x.data.mul_(2)
            return z
    """,
    "cost": """
        def mean(x, mask=None):
            y = x if mask is None else x[mask]
            return sum(v for v in y) / len(y)
    """,
}


@pytest.mark.parametrize("stage", STAGES)
def test_each_stage_stops_its_answer(server, stage):
    done = run_text(check_mean, mean, textwrap.dedent(ANSWERS[stage]), server=server)
    assert done.failure.stage == stage, done.failure
    assert Result(mean, None, done).points == round(10 * CREDIT[stage], 1)


def test_a_right_answer_passes_and_a_stub_is_not_started(server):
    right = "def mean(x, mask=None): return x.mean() if mask is None else x[mask].mean()"
    assert run_text(check_mean, mean, right, server=server).failure is None
    stub = "def mean(x, mask=None): raise NotImplementedError"
    assert run_text(check_mean, mean, stub, server=server).failure.not_started


def test_syntax_errors_and_exceptions_name_the_line(server):
    done = run_text(check_mean, mean, "import os\ndef mean(x:\n", server=server)
    assert (done.failure.stage, "line 2" in done.failure.got) == ("found", True)
    done = run_text(check_mean, mean, "def mean(x, mask=None):\n    return x[9]", server=server)
    assert "IndexError" in done.failure.sentence
    assert "line 2: return x[9]" in done.failure.sentence


def test_feedback_is_six_to_ten_lines_with_everything_in_it(server, tmp_path):
    chapter = Chapter("ch97_means", tmp_path)
    for text in ANSWERS.values():
        done = run_text(check_mean, mean, textwrap.dedent(text), server=server)
        lines = feedback(Result(mean, tmp_path / "e.py", done), chapter).splitlines()
        assert 5 <= len(lines) <= 10, lines
    wrong = "def mean(x, mask=None):\n    y = x if mask is None else x[mask]\n    return y.cumsum(0)[-1]"
    done = run_text(check_mean, mean, wrong, server=server)
    found = Result(mean, tmp_path / "e.py", done, name_mistake(check_mean, mean, done))
    text = feedback(found, chapter)
    assert 6 <= len(text.splitlines()) <= 10
    assert "likely  That is the sum, not the mean." in text
    assert "labs hint ch97 mean" in text
    assert "chapter 97, “Means”" in text
    # The call can be pasted, and gives what the feedback says.
    literal = re.search(r"call +(mean\(.*\))   #", text).group(1)
    got = eval(literal, {"torch": torch, "mean": total.answer})  # noqa: S307  (our own text)
    assert f"got     {got.item():.6g}" in text


class Scaled(nn.Module):
    """Demands a layer, keeps it under its name."""

    def __init__(self, layer, factor=2.0):
        super().__init__()
        self.layer, self.factor = layer, factor

    def forward(self, x):
        return self.factor * self.layer(x)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (nn.Linear(4, 3), "Linear(4, 3)"),
        (nn.Conv2d(3, 8, 2, stride=2), "Conv2d(3, 8, (2, 2))"),
        (nn.GELU(), "GELU()"),
        (nn.Sequential(nn.Linear(4, 3), nn.ReLU()), "Sequential(Linear(4, 3), ReLU())"),
        (Scaled(nn.Linear(4, 3)), "Scaled(Linear(4, 3))"),
    ],
)
def test_a_module_is_shown_as_the_call_that_made_it(value, shown):
    assert show(value) == shown


@pytest.mark.parametrize(
    "value",
    [nn.TransformerEncoderLayer(8, 2), [nn.Sequential(nn.GELU())] * 2, {"x": torch.zeros(3, 3)}],
)
def test_whatever_is_shown_takes_one_short_line(value):
    assert "\n" in repr(value), "not a case"
    assert "\n" not in show(value) and len(show(value)) <= 60


@exercise(kind="implement", points=5, minutes=5, section="Sums", hints=("a", "b", "c"))
def width_of(layer, x):
    """The width of what the layer makes of x."""
    return layer(x).shape[-1]


def check_width(check):
    layer = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    check.equal("The width is the last layer's.", check.call(layer, torch.ones(2, 4)), 3)


def test_the_call_of_a_module_is_one_line(server, tmp_path):
    wrong = "def width_of(layer, x):\n    return x.shape[-1]"
    done = run_text(check_width, width_of, wrong, server=server)
    chapter = Chapter("ch97_means", tmp_path)
    text = feedback(Result(width_of, tmp_path / "e.py", done), chapter)
    assert (
        "  call    width_of(Sequential(Linear(4, 3), ReLU()), float32[2, 4])" in text.splitlines()
    )


@exercise(kind="implement", points=10, minutes=5, section="Sums", hints=("a", "b", "c"))
def total_of(x):
    """The sum of x."""
    return x.sum()


@total_of.mistake("One addition an entry.")
def by_loop(x):
    return sum(v for v in x)


def check_total(check):
    check.cases([case("all", X)], lambda x: torch.tensor(sum(x.tolist())))
    cost = check.measure(X)
    check.cost("No more than 4 operations.", cost.operations, at_most=4)
    check.cost("No copy of the input.", cost.bytes, at_most=16)


@pytest.mark.parametrize(
    ("body", "mistake"),
    [
        ("sum(x[i] for i in range(len(x)))", "by_loop"),  # more operations than the loop over x
        ("(x + 0).sum()", None),  # it fails another limit
        ("x.sum()", None),
    ],
)
def test_a_costly_mistake_is_named_in_every_writing(server, body, mistake):
    done = run_text(check_total, total_of, f"def total_of(x): return {body}", server=server)
    found = name_mistake(check_total, total_of, done)
    assert (found and found.name) == mistake, done.failure


def test_the_inputs_of_a_call_can_be_had_again():
    args, kwargs = inputs_of("ch03", "generation_loss", 2)
    again, _ = inputs_of("ch03", "generation_loss", 2)
    assert kwargs == {"num_items": 43}
    assert torch.equal(args[0], again[0])


def test_printing_and_tracebacks_only_when_asked(server, tmp_path):
    text = "def mean(x, mask=None):\n    print('seen', len(x))\n    return 1 / 0"
    done = run_text(check_mean, mean, text, server=server)
    found = Result(mean, tmp_path / "e.py", done)
    chapter = Chapter("ch97_means", tmp_path)
    assert "Traceback" not in feedback(found, chapter)
    assert "seen 7" in feedback(found, chapter, verbose=True)
    assert "Traceback" in feedback(found, chapter, verbose=True)


def local(test):
    return run(test, mean, LocalSession(mean.answer))


def test_a_loose_tolerance_is_refused():
    with pytest.raises(GraderError, match="is above 0"):
        local(lambda check: check.cases([case("", X)], slow_mean, rtol=0.02))


def test_zeros_need_a_declared_scale():
    with pytest.raises(GraderError, match="Everything wanted is zero"):
        local(lambda check: check.cases([case("", X * 0)], slow_mean))
    done = local(lambda check: check.cases([case("", X * 0)], slow_mean, scale=1.0))
    assert done.failure is None


def test_a_check_that_asserts_nothing_is_refused():
    with pytest.raises(GraderError, match="asserts nothing"):
        local(lambda check: None)


def test_closeness_is_relative_to_the_size():
    wanted = torch.tensor([1e-6, 2e-6])
    assert first_difference(wanted * 1.00001, wanted) is None
    assert first_difference(wanted * 1.01, wanted).stage == "value"
    assert first_difference(torch.zeros(2), wanted).note == "All of it is zero."
    assert "at [1] (1 of 2 entries" in first_difference(wanted * torch.tensor([1, 2]), wanted).where
    twice = first_difference(2 * wanted, wanted)
    assert twice.note == "It is 2 times what is wanted."


def test_infinities_must_stand_where_they_are_wanted():
    wanted = torch.tensor([1.0, float("-inf")])
    assert first_difference(wanted.clone(), wanted) is None
    assert first_difference(torch.tensor([1.0, -1e9]), wanted).stage == "value"
    assert first_difference(torch.tensor([float("nan"), 0.0]), wanted).stage == "finite"


def test_numbers_beyond_the_longest_integer_of_pytorch_are_compared_exactly():
    assert first_difference(2**64 - 1, 2**64 - 1) is None
    assert first_difference(2**64 - 2, 2**64 - 1).stage == "value"
    assert first_difference(2**70, 3.0).stage in ("dtype", "value")


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [
        (torch.ones(2), torch.ones(2) * 1.0001, True),
        (torch.ones(2), torch.ones(2) * 1.01, False),
        (torch.ones(2), torch.ones(2).double(), False),
        (1, 1.0, True),
        (True, 1, False),
        ([1, (2, "a")], [1, (2, "a")], True),
        ({"a": 1}, {"b": 1}, False),
        (float("nan"), float("nan"), True),
        (None, 0, False),
    ],
)
def test_sameness_of_outcomes(a, b, equal):
    assert same(a, b) is equal


def test_sampled_answers_are_tested_at_a_stated_false_alarm_rate():
    probabilities = torch.tensor([0.5, 0.3, 0.2])
    fair = torch.multinomial(probabilities, 3000, True, generator=inputs.generator(1)).bincount()

    def sampled(counts):
        return local(lambda c: c.sampled("The draws follow p.", counts, probabilities)).failure

    assert sampled(fair) is None
    assert sampled(torch.tensor([1200, 1000, 800])).stage == "value"
    with pytest.raises(GraderError, match="5 expected"):
        sampled(torch.tensor([1, 1, 1]))


def test_stages_of_a_check_are_reached_in_order():
    check = Check(mean, LocalSession(mean.answer))
    check.cases([case("all", X)], slow_mean, gradient=["x"])
    assert STAGES[check.reached] == "invariants"
