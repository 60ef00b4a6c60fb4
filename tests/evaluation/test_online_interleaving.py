from collections import Counter
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from labs.errors import InputError
from labs.evaluation.intervals import wilson_ci
from labs.evaluation.online.interleaving import (
    balanced,
    balanced_credit,
    credit,
    interleaving_test,
    team_draft,
    team_draft_many,
)
from labs.evaluation.online.service import Service, Variant

rankings = st.lists(st.integers(0, 12), min_size=1, max_size=8, unique=True)


@given(a=rankings, b=rankings, seed=st.integers(0, 5), places=st.none() | st.integers(1, 9))
def test_a_list_is_two_teams_picks_in_their_order(a, b, seed, places):
    shown, teams = team_draft(a, b, np.random.default_rng(seed), places)
    assert len(shown) == len(teams) == len(set(shown))
    assert len(shown) == min(max(len(a), len(b)) if places is None else places, len({*a, *b}))
    for team, ranking in enumerate((a, b)):
        picks = [item for item, whose in zip(shown, teams, strict=True) if whose == team]
        assert picks == [item for item in ranking if item in picks]
        # All that a team ranks above one of its picks is in the list, above it.
        for pick in picks:
            above = ranking[: ranking.index(pick)]
            assert set(above) <= set(shown[: shown.index(pick)])
    if len(a) == len(b) and places is None:
        assert abs(teams.count(0) - teams.count(1)) <= 1


def by_coins(a, b):
    """Every list and its teams with its chance, by going through all coins."""
    rounds = -(-len(a) // 2)
    found = Counter()
    for coins in product((0, 1), repeat=rounds):
        shown, teams = [], []
        for first in coins:
            for team in (first, 1 - first):
                if len(shown) < len(a):
                    shown.append(next(x for x in (a, b)[team] if x not in shown))
                    teams.append(team)
        found[tuple(shown), tuple(teams)] += 1 / 2**rounds
    return found


@pytest.mark.parametrize(("a", "b"), [([1, 2, 3, 4], [3, 1, 5, 2]), ([1, 2, 3], [1, 2, 3])])
def test_both_forms_have_the_distribution_of_the_coins(a, b):
    """8,000 lists each against all coins: chi-square above one in 10,000."""
    expected = by_coins(a, b)
    rng = np.random.default_rng(0)
    one = Counter(
        (tuple(shown), tuple(teams))
        for shown, teams in (team_draft(a, b, rng) for _ in range(8000))
    )
    shown, teams = team_draft_many(np.tile(a, (8000, 1)), np.tile(b, (8000, 1)), rng)
    many = Counter(
        (tuple(s), tuple(t)) for s, t in zip(shown.tolist(), teams.tolist(), strict=True)
    )
    for got in (one, many):
        assert set(got) == set(expected)
        observed = [got[outcome] for outcome in expected]
        assert stats.chisquare(observed, [8000 * c for c in expected.values()]).pvalue > 1e-4


@given(seed=st.integers(0, 20))
def test_many_at_once_keep_the_same_promises(seed):
    rng = np.random.default_rng(seed)
    a, b = (np.stack([rng.permutation(9)[:5] for _ in range(4)]) for _ in range(2))
    shown, teams = team_draft_many(a, b, rng)
    for row in range(4):
        assert (tuple(shown[row]), tuple(teams[row])) in by_coins(list(a[row]), list(b[row]))


def test_identical_rankers_win_half_each():
    """Users who click by position and relevance, on lists both rankers made alike."""
    service = Service(queries=40, seed=2)
    rng = np.random.default_rng(0)
    query = service.asked(40_000, rng)
    ranked = service.rankings(Variant("A", 0.5))[query]
    shown, teams = team_draft_many(ranked, ranked, rng)
    assert np.array_equal(shown, ranked)
    result = interleaving_test(credit(service.click(query, shown, rng), teams))
    assert result.p_value > 1e-4
    assert result.share_b == pytest.approx(0.5, abs=0.02)


def test_false_alarms_are_five_per_cent():
    """600 A/A comparisons of 200 requests: the exact test errs on the safe side."""
    rng = np.random.default_rng(1)
    ranked = np.tile(np.arange(6), (200, 1))
    alarms = 0
    for _ in range(600):
        _, teams = team_draft_many(ranked, ranked, rng)
        clicks = rng.random((200, 6)) < 0.3 / np.arange(1, 7)
        alarms += interleaving_test(credit(clicks, teams)).p_value <= 0.05
    assert alarms <= stats.binom.isf(1e-4, 600, 0.05)
    assert alarms > 5


def test_the_better_ranker_wins_whichever_side_it_is_on():
    service = Service(queries=100, seed=2)
    good, poor = (service.rankings(Variant("A", q)) for q in (0.8, 0.4))
    shares = []
    for a, b in ((poor, good), (good, poor)):
        rng = np.random.default_rng(3)
        query = service.asked(4000, rng)
        shown, teams = team_draft_many(a[query], b[query], rng)
        result = interleaving_test(credit(service.click(query, shown, rng), teams))
        assert result.p_value < 1e-6
        shares.append(result.share_b)
    assert shares[0] > 0.55 and shares[0] == pytest.approx(1 - shares[1], abs=0.05)


def random_click(lists_and_credits):
    """Mean outcome of a user who clicks one place at random."""
    outcomes = [
        give([int(i == place) for i in range(len(shown))]) * chance / len(shown)
        for shown, chance, give in lists_and_credits
        for place in range(len(shown))
    ]
    return sum(outcomes)


def test_a_user_who_clicks_at_random_favours_nobody_but_in_balanced_lists():
    a, b = ["x", "y", "z"], ["y", "z", "x"]
    drafts = [
        (shown, chance, lambda clicks, teams=teams: credit(clicks, teams))
        for (shown, teams), chance in by_coins(a, b).items()
    ]
    assert random_click(drafts) == pytest.approx(0)
    old = [
        (shown, 0.5, lambda clicks, shown=shown: balanced_credit(clicks, shown, a, b))
        for shown in (balanced(a, b, True), balanced(a, b, False))
    ]
    assert random_click(old) == pytest.approx(1 / 3)  # B wins twice in three, A once


@given(a=rankings, b=rankings, a_first=st.booleans())
def test_a_balanced_list_goes_down_both_rankings_evenly(a, b, a_first):
    shown = balanced(a, b, a_first)
    assert len(shown) == len(set(shown)) == min(max(len(a), len(b)), len({*a, *b}))
    first, second = (a, b) if a_first else (b, a)
    for end in range(1, len(shown) + 1):
        start = set(shown[:end])
        options = [
            {*first[:i], *second[:j]}
            for i in range(len(first) + 1)
            for j in ({i, i - 1} if i <= len(second) else {len(second)})
            if j >= 0
        ] + [{*first, *second[:j]} for j in range(len(first), len(second) + 1)]
        assert start in options


def test_credit_by_hand():
    assert credit([1, 0, 1], [0, 1, 1]) == 0
    assert credit([[1, 1, 0], [0, 0, 0], [0, 1, 1]], [[0, 0, 1], [1, 0, 1], [0, 1, 1]]).tolist() == [
        -1, 0, 1,
    ]  # fmt: skip
    assert balanced_credit([0, 0], ["x", "y"], ["x", "y"], ["y", "x"]) == 0
    assert balanced_credit([1, 1], ["x", "y"], ["x", "y"], ["y", "x"]) == 0
    assert balanced_credit([1, 0], ["x", "y"], ["x", "y"], ["y", "x"]) == -1


def test_the_test_is_the_binomial_one():
    outcomes = [1] * 31 + [-1] * 17 + [0] * 52
    result = interleaving_test(outcomes)
    assert (result.wins_a, result.wins_b, result.ties) == (17, 31, 52)
    assert result.share_b == 31 / 48
    assert (result.low, result.high) == wilson_ci(31, 48)
    assert result.p_value == pytest.approx(stats.binomtest(31, 48).pvalue)
    swapped = interleaving_test(-np.array(outcomes))
    assert swapped.share_b == pytest.approx(17 / 48) and swapped.p_value == result.p_value
    assert interleaving_test([0, 0]) == (0, 0, 2, 0.5, 0.0, 1.0, 1.0)


RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: team_draft([], [1], RNG), "Ranking A is empty"),
        (lambda: team_draft([1], [2, 2], RNG), "Ranking B .* twice"),
        (lambda: balanced([1, 1], [2], True), "Ranking A .* twice"),
        (lambda: team_draft_many(np.zeros((2, 3)), np.zeros((3, 3)), RNG), "shapes"),
        (lambda: team_draft_many(np.zeros((2, 0)), np.zeros((2, 0)), RNG), "shapes"),
        (lambda: team_draft_many(np.array([[1, 1]]), np.array([[1, 2]]), RNG), "twice"),
        (lambda: credit([1, 0], [0]), "do not pair up"),
        (lambda: credit([1, 0], [0, 2]), "neither 0 nor 1"),
        (lambda: balanced_credit([1], ["x", "y"], ["x"], ["y"]), "1 clicks on 2 places"),
        (lambda: balanced_credit([1], ["w"], ["x"], ["y"]), "Neither ranking holds 'w'"),
        (lambda: interleaving_test([]), "Outcomes are empty"),
        (lambda: interleaving_test([1, 2]), "not -1, 0 or 1"),
    ],
)
def test_what_cannot_be_interleaved(call, said):
    with pytest.raises(InputError, match=said):
        call()
