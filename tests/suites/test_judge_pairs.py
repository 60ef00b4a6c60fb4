"""Both orders, one winner: judges whose habits are known are found out, and cost what they should."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit, log_expit
from sklearn.metrics import cohen_kappa_score

from labs.errors import InputError
from labs.shapes import caption
from labs.suites.judge import (
    TITLES,
    Judgements,
    OracleJudge,
    Pair,
    judge_pairs,
    length_controlled_win_rate,
    report,
    write_judgements,
)
from labs.suites.judge.pairs import MIRROR
from tests.suites.judge_world import (
    Habit,
    Marks,
    pairs,
    scenes,
    with_ghost,
    without_last,
    wrong_colour,
)

VERDICTS = ["first", "second", "tie", None]


def measured(judge, made, authors=("a", "b"), **options):
    return report(
        judge_pairs(judge, made, **options), judge_pairs(OracleJudge(), made), authors=authors
    )


# the oracle


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_oracle_prefers_the_true_caption_to_every_spoilt_one(language):
    for record in scenes(30, language):
        scene = record["meta"]["scene"]
        true = caption(scene, language)
        for spoil in (without_last, with_ghost, wrong_colour):
            bad = spoil(scene, language)
            made = [
                Pair("a", "?", true, bad, scene=scene),
                Pair("b", "?", bad, true, scene=scene),
                Pair("c", "?", bad, bad + " ", scene=scene),
            ]
            assert OracleJudge().compare(made) == ["first", "second", "tie"], (true, bad)


def test_the_oracle_counts_objects():
    scene = scenes(1)[0]["meta"]["scene"]
    n = len(scene.objects)
    [(whole, less)] = OracleJudge().marks(
        [Pair("a", "?", caption(scene), without_last(scene), scene=scene)]
    )
    assert (whole, less) == (n, n - 2)  # one right less, one missing
    [(ghost, silent)] = OracleJudge().marks([Pair("a", "?", with_ghost(scene), "", scene=scene)])
    assert (ghost, silent) == (n - 1, -n)


def test_the_oracle_asks_for_the_scene():
    with pytest.raises(InputError, match="does not know what the picture of x"):
        OracleJudge().compare([Pair("x", "?", "a ring", "a star")])


# both orders


def test_a_judge_that_goes_by_place_is_found_out():
    made, _ = pairs(60)
    found = measured(Habit(lambda pair, rng: "first"), made)
    m = found.measures
    assert m["first_place"].value == m["always_first"].value == 1.0
    assert m["first_place"].n == 120 and m["consistency"].value == 0.0
    assert m["win_rate"].value == 0.5, "what place decided is a tie"
    assert "length_bias" not in m, "nor is a tie for the shorter answer"
    # Sixty pairs are sixty trials, though 120 verdicts were given.
    assert m["first_place"].low == pytest.approx(1 / (1 + 1.96**2 / 60), abs=1e-3)
    assert found.counts["inconsistent"] == 60
    assert m["kappa"].value == 0.0, "the oracle never says tie here, this judge nothing else"


def test_a_judge_that_sees_agrees_with_the_oracle_in_both_orders():
    made, truth = pairs(60)
    judge = Habit(lambda pair, rng: OracleJudge().compare([pair])[0])
    found = measured(judge, made)
    m = found.measures
    assert judge_pairs(judge, made).winners == truth
    assert m["consistency"].value == m["kappa"].value == m["agreement"].value == 1.0
    assert m["first_place"].value == 0.5
    assert m["win_rate"].value == np.mean([side == "first" for side in truth])
    assert m["length_bias"].value == 0.0


def test_half_a_preference_for_a_place_is_measured():
    """Right half of the time, by place otherwise: rates follow from the rule alone."""
    made, _ = pairs(300)

    def rule(pair, rng):
        return OracleJudge().compare([pair])[0] if rng.random() < 0.5 else "first"

    m = measured(Habit(rule), made).measures
    # The order in which the true caption stands first says "first" either way, the other one half of
    # the time.
    assert abs(m["consistency"].value - 0.5) < 4 * 0.5 / 300**0.5
    assert abs(m["first_place"].value - 0.75) < 4 * 0.25 / 300**0.5
    assert m["first_place"].low > 0.5
    # Orders that agree, agree on the truth; the others are ties.
    assert m["agreement_decided"].value == pytest.approx(0.5 + 0.5 * m["consistency"].value)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.sampled_from(VERDICTS), st.sampled_from(VERDICTS)), min_size=1))
def test_winners_do_not_depend_on_which_order_was_asked_first(said):
    made = tuple(Pair(str(i), "?", "a", "b") for i in range(len(said)))
    forward, backward = map(tuple, zip(*said, strict=True))
    one = Judgements({"name": "x"}, made, forward, backward).winners
    swapped = tuple(pair.swapped() for pair in made)
    other = Judgements({"name": "x"}, swapped, backward, forward).winners
    assert [MIRROR[winner] for winner in one] == other
    for (there, back), winner in zip(said, one, strict=True):
        if there is None or back is None:
            assert winner is None
        elif there == back:
            assert winner == "tie"  # both for one place, or both for a tie
        else:
            assert winner == ("tie" if "tie" in (there, back) else there)


def test_without_swapping_one_order_is_asked_and_place_is_not_told():
    made, _ = pairs(20)
    judge = Habit(lambda pair, rng: "first")
    found = measured(judge, made, swap=False)
    assert judge.asked == 20
    assert found.measures["win_rate"].value == 1.0, "place passes for merit"
    assert not found.measures.keys() & {"consistency", "first_place", "kappa_one_order"}


def test_unreadable_verdicts_are_counted_and_left_out():
    made, _ = pairs(20)
    judge = Habit(lambda pair, rng: None if pair.id == made[0].id else "tie")
    found = measured(judge, made)
    assert found.counts["unreadable"] == 1
    assert found.measures["win_rate"].n == 19
    assert "first_place" not in found.measures, "nobody decided anything"
    silent = measured(Habit(lambda pair, rng: None), made)
    assert silent.counts["unreadable"] == 20 and "win_rate" not in silent.measures


def test_equal_answers_are_ties_that_cost_nothing():
    made, _ = pairs(10)
    same = [Pair(f"same-{i}", "?", "a red ring.", "a red ring. ", scene=made[0].scene)
            for i in range(5)]  # fmt: skip
    judge = Habit(lambda pair, rng: "first")
    found = measured(judge, made + same, swap=True)
    assert judge.asked == 20
    assert found.counts["identical"] == 5
    assert found.measures["consistency"].n == found.measures["kappa"].n == 10
    assert found.measures["win_rate"].n == 15
    only = report(judge_pairs(judge, same))
    assert only.measures["win_rate"].value == 0.5 and judge.asked == 20
    assert only.measures["win_rate"].low is None, "nothing but ties has no spread"


def test_a_judge_of_marks_is_asked_once_and_has_no_place():
    made, _ = pairs(12)
    judge = Marks(len)
    found = judge_pairs(judge, made)
    assert judge.asked == 12
    assert found.backward == tuple(MIRROR[v] for v in found.forward)
    assert found.winners == judge_pairs(judge, made, swap=False).winners
    assert not report(found).measures.keys() & {"consistency", "first_place"}
    swapped = judge_pairs(judge, [pair.swapped() for pair in made])
    assert swapped.winners == [MIRROR[v] for v in found.winners]


# what decides besides the truth


def test_kappa_is_that_of_scikit_learn():
    made, truth = pairs(80)
    rng = np.random.default_rng(0)
    said = {pair.id: str(rng.choice(["first", "second", "tie"])) for pair in made}
    judge = Habit(lambda pair, _: said[pair.id] if pair in made else MIRROR[said[pair.id]])
    m = measured(judge, made).measures
    expected = cohen_kappa_score([said[pair.id] for pair in made], truth)
    assert m["kappa"].value == pytest.approx(expected, abs=1e-9)
    assert m["kappa"].low < expected < m["kappa"].high
    assert m["kappa_one_order"].value == pytest.approx(expected, abs=1e-9)


def test_kappa_does_not_thank_a_judge_for_naming_the_better_model():
    """Nine of ten pairs are won by A. Who always says A is right nine times in ten: by which kappa?"""
    made, truth = pairs(40)
    turned = [p if side == "first" else p.swapped() for p, side in zip(made, truth, strict=True)]
    turned = [p if n % 10 else p.swapped() for n, p in enumerate(turned)]
    always = Habit(lambda p, _: "first" if p in turned else "second")
    m = measured(always, turned).measures
    assert m["agreement"].value == 0.9 and m["kappa"].value == 0
    assert m["kappa_unnamed"].value == pytest.approx(2 * 0.9 - 1)
    assert m["kappa_unnamed"].low > 0.5 and m["kappa_unnamed"].n == 40
    # Where both models win as often, the two agree.
    even = measured(Marks(len), made).measures
    assert even["kappa_unnamed"].value == pytest.approx(even["kappa"].value, abs=0.03)


def test_a_judge_that_goes_by_length_is_found_out():
    made, truth = pairs(80)
    m = measured(Marks(len), made).measures
    longer = [len(p.first) > len(p.second) for p in made if len(p.first) != len(p.second)]
    right = [side == "first" for p, side in zip(made, truth, strict=True)
             if len(p.first) != len(p.second)]  # fmt: skip
    share = np.mean([a == b for a, b in zip(longer, right, strict=True)])
    assert m["longer_wins"].value == 1.0
    assert m["longer_wins_oracle"].value == pytest.approx(share)
    assert m["length_bias"].value == pytest.approx(1 - share)
    assert m["length_bias"].low > 0


def test_where_truth_is_a_tie_length_cannot_mislead():
    made, _ = pairs(20)
    scene = made[0].scene
    tie = Pair("tie", "?", without_last(scene), wrong_colour(scene), scene=scene)
    assert OracleJudge().compare([tie]) == ["tie"]
    before, after = (measured(Marks(len), p).measures for p in (made, [*made, tie]))
    for name in ("longer_wins", "longer_wins_oracle", "length_bias"):
        assert before[name] == after[name]
    assert after["agreement"].n == before["agreement"].n + 1


def test_a_judge_that_loves_itself_is_found_out():
    made, truth = pairs(80)
    ours = {pair.id: pair.second for pair in made}
    judge = Habit(lambda p, _: "first" if p.first == ours[p.id] else "second", model="b")
    m = measured(judge, made, authors=("a", "b")).measures
    share = np.mean([side == "second" for side in truth])
    assert m["own_wins"].value == 1.0 and m["win_rate"].value == 0.0
    assert m["self_preference"].value == pytest.approx(1 - share)
    stranger = measured(Habit(judge.rule, model="c"), made, authors=("a", "b")).measures
    assert "self_preference" not in stranger


def test_whole_groups_are_drawn():
    """Ten verdicts copied twelve times tell what ten tell: the interval does not shrink."""
    few, _ = pairs(10, seed=1)
    many = [
        dataclasses.replace(pair, id=f"{pair.id}/{copy}", group=pair.id)
        for pair in few for copy in range(12)
    ]  # fmt: skip
    alone = [dataclasses.replace(pair, group=None) for pair in many]
    m, wide = (measured(Marks(len), made).measures["win_rate"] for made in (few, many))
    narrow = measured(Marks(len), alone).measures["win_rate"]
    assert m.value == wide.value == narrow.value
    assert wide.high - wide.low == pytest.approx(m.high - m.low, rel=0.25)
    assert narrow.high - narrow.low < 0.5 * (wide.high - wide.low)


# the win rate at equal length


def test_a_win_rate_that_is_all_length_is_even_at_equal_length():
    rng = np.random.default_rng(0)
    first, second = rng.integers(20, 60, 1000) + 8, rng.integers(20, 60, 1000)
    delta = first - second
    wins = rng.random(1000) < expit(3 * np.tanh(delta / delta.std()))
    rate, low, high = length_controlled_win_rate(wins, first, second)
    assert wins.mean() > 0.6 and low < 0.5 < high and abs(rate - 0.5) < 0.05


def test_a_win_rate_without_length_in_it_stays():
    rng = np.random.default_rng(1)
    first, second = rng.integers(20, 60, 2000), rng.integers(20, 60, 2000)
    wins = rng.random(2000) < 0.7
    rate, low, high = length_controlled_win_rate(wins, first, second, resamples=200)
    assert rate == pytest.approx(wins.mean(), abs=0.01)
    assert low < 0.7 < high


@settings(max_examples=20)
@given(st.integers(0, 10**6))
def test_the_fit_is_the_optimum_that_another_optimiser_finds(seed):
    rng = np.random.default_rng(seed)
    wins = rng.choice([0.0, 0.5, 1.0], 50)
    first, second = rng.integers(1, 90, 50), rng.integers(1, 90, 50)
    delta = first - second
    x = np.tanh(delta / delta.std())

    def loss(t):
        z = t[0] + t[1] * x
        fit = -(wins * log_expit(z) + (1 - wins) * log_expit(-z)).sum()
        return fit + 0.5e-3 * t[0] ** 2 + 0.5 * t[1] ** 2

    best = minimize(loss, np.zeros(2), tol=1e-12).x
    rate, _, _ = length_controlled_win_rate(wins, first, second, resamples=2)
    assert rate == pytest.approx(expit(best[0]), abs=1e-5)


def test_a_model_that_always_wins_has_a_finite_rate():
    rate, low, high = length_controlled_win_rate(np.ones(30), range(30), range(1, 31))
    assert 0.99 < low <= rate <= high <= 1


# bad input and files


def test_bad_pairs_are_refused():
    with pytest.raises(InputError, match="no pairs"):
        judge_pairs(OracleJudge(), [])
    made, _ = pairs(2)
    with pytest.raises(InputError, match=made[0].id):
        judge_pairs(OracleJudge(), [made[0], made[0]])
    with pytest.raises(InputError, match="other pairs"):
        report(judge_pairs(OracleJudge(), made), judge_pairs(OracleJudge(), made[:1]))


def test_verdicts_are_written_one_a_line(tmp_path):
    made, _ = pairs(5)
    odd = dataclasses.replace(made[0], id="odd", first="红色圆环 \ud800", second="a\nb")
    judged = judge_pairs(Habit(lambda pair, rng: "first"), [*made, odd])
    truth = judge_pairs(OracleJudge(), [*made, odd])
    write_judgements(tmp_path / "out.jsonl", judged, truth)
    written = (tmp_path / "out.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in written.splitlines()]
    assert [line["id"] for line in lines] == [pair.id for pair in judged.pairs]
    assert {line["winner"] for line in lines} == {"tie"}
    assert {line["forward"] for line in lines} == {line["backward"] for line in lines} == {"first"}
    assert [line["oracle"] for line in lines] == truth.winners
    assert lines[-1]["first"] == odd.first
    assert [p.name for p in tmp_path.iterdir()] == ["out.jsonl"]


def test_every_measure_has_a_title_and_the_report_is_json():
    made, _ = pairs(20)
    found = measured(Habit(lambda pair, rng: "second", model="a"), made)
    assert found.measures.keys() <= TITLES.keys()
    assert list(found.measures) == [name for name in TITLES if name in found.measures]
    assert json.loads(json.dumps(found.to_dict()))["measures"]["win_rate"]["n"] == 20
