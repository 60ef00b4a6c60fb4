"""Each rule on a diary that it is made for, on a healthy one, and on one that lacks what it reads."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labs.train.policy.findings import findings
from labs.train.policy.rules import RULES
from labs.train.policy.series import change, series, summary
from tests.train.policy.made_up import RUN, changed, healthy


def alarms(entries, run=RUN):
    return {f.rule: f for f in findings(entries, run) if f.severity != "unknown"}


# rule -> what to change about a healthy run, the severity, and numbers its evidence must hold
SICK = {
    "kl_runaway": [
        ({"kl_per_sequence": lambda t: 0.5 + 40 * t**3}, "bad", ["reward", "kl_coef 0.05"]),
        ({"kl_per_sequence": None, "kl": lambda t: 0.02 + 2 * t**3}, "bad", ["0.2)"]),
        ({"kl_per_sequence": lambda t: 40 * t**3, "reward": lambda t: 0.5}, "warning", []),
        ({"kl_per_sequence": lambda t: -3.0}, "warning", ["-3"]),
    ],
    "entropy_collapse": [
        ({"entropy": lambda t: 0.5 * (1 - t) ** 3}, "bad", ["→ 0.0"]),
        ({"entropy": lambda t: 0.5 - 0.45 * t}, "warning", []),
        ({"entropy": lambda t: 0.001}, "bad", ["0.001"]),
    ],
    "length_drift": [
        ({"response_length": lambda t: 9 + 22.5 * math.sqrt(t)}, "bad", ["limit 32"]),
        ({"response_length": lambda t: 9 * (1 - t) + 0.5}, "bad", []),
        ({"response_length": lambda t: 6 + 16 * t}, "warning", []),
    ],
    "share_finished": [
        ({"finished": lambda t: 1 - 0.3 * t}, "warning", ["→"]),
        ({"finished": lambda t: 1 - 0.9 * t}, "bad", []),
    ],
    "no_signal": [({"no_signal": lambda t: 0.3 + 0.5 * t}, "warning", ["at a reward of 0.7"])],
    "steps_too_large": [
        ({"clip_fraction": lambda t: 0.4}, "warning", ["0.4 on average"]),
        ({"approx_kl": lambda t: 0.6 if t in (0, 1) else 0.004}, "warning", ["step 1", "2 of 120"]),
        ({"approx_kl": None, "clip_fraction": lambda t: 0.4}, "warning", []),
    ],
    "value_useless": [({"value_explained_variance": lambda t: -0.2}, "warning", ["108 of 108"])],
    "mismatch": [
        ({"mismatch": lambda t: 0.08}, "bad", ["0.08"]),
        ({"mismatch_max": lambda t: 3.0 if t == 1 else 0.1}, "warning", ["3 at step 120"]),
    ],
    "hallucination": [({"hallucination_rate": lambda t: 0.1 + 0.3 * t}, "bad", ["reward"])],
    "tasks_fall": [({"task__count": lambda t: 0.9 - 0.4 * t}, "bad", ["task/count"])],
    "not_finite": [
        ({"loss": lambda t: math.nan if t > 0.5 else 0.1}, "bad", ["loss at step 61 (60 entries)"]),
        ({"grad_norm": lambda t: math.inf if t == 1 else 0.1}, "bad", ["grad_norm at step 120"]),
        ({"kl_coef": lambda t: "NaN"}, "bad", ["kl_coef at step 1 "]),
    ],
}  # fmt: skip
CASES = [(rule, number) for rule, cases in SICK.items() for number in range(len(cases))]


def test_every_rule_has_a_diary_that_it_is_made_for():
    assert set(SICK) == set(RULES)


@pytest.mark.parametrize(("rule", "number"), CASES)
def test_the_rule_and_no_other_finds_what_is_wrong(rule, number):
    curves, severity, told = SICK[rule][number]
    found = alarms(changed(healthy(), **curves))
    assert set(found) == {rule}
    assert found[rule].severity == severity
    for words in told:
        assert words in found[rule].evidence
    assert found[rule].advice


@pytest.mark.parametrize("steps", [12, 40, 120, 600])
def test_a_healthy_complete_run_gives_nothing(steps):
    for seed in range(12 if steps < 600 else 2):
        assert findings(healthy(steps, seed), RUN) == []


READS = {
    "kl_runaway": "kl_per_sequence kl", "entropy_collapse": "entropy", "length_drift": "response_length",
    "share_finished": "finished", "steps_too_large": "clip_fraction approx_kl",
    "value_useless": "value_explained_variance", "mismatch": "mismatch mismatch_max",
    "hallucination": "hallucination_rate", "tasks_fall": "task__count task__caption task__existence",
}  # fmt: skip


@pytest.mark.parametrize("rule", READS)
def test_what_is_missing_cannot_be_told(rule):
    [found] = findings(changed(healthy(), **dict.fromkeys(READS[rule].split())), RUN)
    assert found.rule == rule and found.severity == "unknown" and "in no entry" in found.evidence


def test_what_does_not_apply_is_not_missing():
    critic = dict.fromkeys(("value_loss", "value_explained_variance"))
    assert findings(changed(healthy(), **critic), {"algorithm": "grpo"}) == []
    assert findings(changed(healthy(), no_signal=None), RUN) == [], "PPO needs no groups"
    [found] = findings(changed(healthy(), no_signal=None, **critic), {"algorithm": "grpo"})
    assert (found.rule, found.severity) == ("no_signal", "unknown")


def test_of_a_run_just_begun_most_cannot_be_told_but_nan_can():
    begun = findings(healthy(2), RUN)
    assert {f.severity for f in begun} == {"unknown"} and len(begun) == 9
    assert "only 2 entries" in begun[0].evidence
    assert "not_finite" in alarms(changed(healthy(2), loss=lambda t: math.nan))
    assert len(findings([])) == len(RULES) - 1, "without a sign of a value head it is not asked for"


def test_the_limit_of_length_and_the_target_of_kl_come_from_the_run():
    long = changed(healthy(), response_length=lambda t: 20 + 10 * math.sqrt(t))
    assert "length_drift" in alarms(long) and "length_drift" not in alarms(long, {})
    far = changed(healthy(), kl_per_sequence=lambda t: 0.1 + 4 * t**2)
    assert "kl_runaway" not in alarms(far)
    assert "kl_runaway" in alarms(far, {"config": {"policy": {"kl_target": 1.0}}})


def test_what_gets_worse_with_the_reward_is_another_matter():
    worse = {"hallucination_rate": lambda t: 0.1 + 0.3 * t, "task__count": lambda t: 0.9 - 0.4 * t}
    assert set(alarms(changed(healthy(), **worse))) == {"hallucination", "tasks_fall"}
    assert alarms(changed(healthy(), **worse, reward=lambda t: 0.8 - 0.4 * t)) == {}


def test_a_number_too_large_for_a_float_has_diverged():
    found = alarms(changed(healthy(), loss=lambda t: 10**400 if t == 1 else 0.1))
    assert "loss at step 120" in found["not_finite"].evidence


def test_kl_that_has_settled_far_away_is_found_too():
    found = alarms(changed(healthy(), kl_per_sequence=lambda t: 80.0))
    assert "80 → 80 → 80" in found["kl_runaway"].evidence


def test_the_worst_comes_first_and_what_cannot_be_told_last():
    sick = changed(healthy(), mismatch=lambda t: 0.3, clip_fraction=lambda t: 0.5, entropy=None)
    assert [f.severity for f in findings(sick, RUN)] == ["bad", "warning", "unknown"]


def test_noise_makes_no_trend_and_scale_does_not_matter():
    for seed in range(20):
        flat = series(changed(healthy(60, seed), x=lambda t: 0.0), "rewards/length")
        assert not change(flat).rises and not change(flat).falls
    rising = [{"step": s, "x": 1e-6 * s, "y": 1e12 * s} for s in range(40)]
    assert change(series(rising, "x")).rises and change(series(rising, "y")).rises
    assert not change(series([{"step": s, "x": 0.1 + 0.2} for s in range(40)], "x")).rises


odd = st.one_of(
    st.none(), st.floats(), st.integers(), st.booleans(), st.text(max_size=5), st.binary(max_size=3),
    st.lists(st.integers(), max_size=2), st.sampled_from(["NaN", "Infinity", 10**400, -(10**400)]),
)  # fmt: skip
KEYS = sorted(set(healthy(1)[0]) | {"task/", "/", "", "x\x1b[31m"})
entries_strategy = st.lists(st.dictionaries(st.sampled_from(KEYS), odd, max_size=8), max_size=30)


@settings(max_examples=60)
@given(entries_strategy, st.dictionaries(st.sampled_from(["max_new_tokens", "kl_target"]), odd))
def test_odd_entries_are_judged_without_an_error(entries, run):
    for found in findings(entries, run):
        assert found.severity in ("bad", "warning", "unknown") and found.title and found.evidence
    for line in summary(entries):
        assert line.count + line.broken >= 1
        assert line.count == 0 or line.low <= line.first <= line.high or math.isclose(
            line.first, line.low, rel_tol=1e-9) or math.isclose(line.first, line.high, rel_tol=1e-9)  # fmt: skip


def test_first_last_and_best():
    lines = {line.name: line for line in summary(healthy(100))}
    values = [entry["reward"] for entry in healthy(100)]
    reward = lines["reward"]
    assert reward.first == pytest.approx(sum(values[:10]) / 10)
    assert reward.last == pytest.approx(sum(values[-10:]) / 10)
    assert reward.best == max(values) and values[reward.best_step - 1] == reward.best
    rates = [entry["hallucination_rate"] for entry in healthy(100)]
    assert lines["hallucination_rate"].best == min(rates)
    assert lines["kl"].best is None and lines["kl"].low < lines["kl"].high
    order = list(lines)
    assert order[0] == "reward" and order.index("task/count") < order.index("kl")
