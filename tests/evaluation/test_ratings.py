import itertools
import math

import choix
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from labs.errors import InputError
from labs.evaluation.ratings import bradley_terry

POINTS = 400 / math.log(10)
NAMES = "abcde"


def games(strengths, count, seed=0, ties=0.0):
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(count):
        i, j = rng.choice(len(strengths), 2, replace=False)
        won = float(rng.random() < expit(strengths[i] - strengths[j]))
        out.append((NAMES[i], NAMES[j], 0.5 if rng.random() < ties else won))
    return out


def points(result, names=NAMES):
    return np.array([result[name].rating for name in names])


def test_two_players_in_closed_form():
    played = [("a", "b", 1)] * 30 + [("b", "a", 1)] * 10
    result = bradley_terry(played, prior=0, resamples=0)
    gap = POINTS * math.log(3)  # log odds of 30 to 10
    assert result["a"] == (pytest.approx(1000 + gap / 2), None, None, 40)
    assert result["b"].rating == pytest.approx(1000 - gap / 2)
    assert list(result) == ["a", "b"]
    # Ten to one is 400 points; a tie is half a win for each.
    ten = bradley_terry([("a", "b", 1)] * 10 + [("a", "b", 0)], prior=0, resamples=0)
    assert ten["a"].rating - ten["b"].rating == pytest.approx(400)
    tied = bradley_terry([("a", "b", 1), ("a", "b", 0.5)], prior=0, resamples=0)
    assert tied["a"].rating - tied["b"].rating == pytest.approx(POINTS * math.log(3))


def test_a_grid_search_with_the_prior():
    played = [("a", "b", 1)] * 6
    grid = np.linspace(0, 4, 400_001)  # t_a = x, t_b = -x by symmetry
    height = 6 * np.log(expit(2 * grid)) + 2 * np.log(expit(grid) * expit(-grid))
    result = bradley_terry(played, prior=2, resamples=0)
    assert result["a"].rating - 1000 == pytest.approx(POINTS * grid[height.argmax()], abs=0.01)


@pytest.mark.parametrize("ties", [0.0, 0.3])
def test_equal_to_logistic_regression_without_penalty(ties):
    played = games([1.0, 0.5, 0.0, -0.3, -1.2], 400, ties=ties)
    rows, labels, weights = [], [], []
    for first, second, outcome in played:
        row = np.zeros(5)
        row[NAMES.index(first)], row[NAMES.index(second)] = 1, -1
        for label in (1, 0):
            rows.append(row)
            labels.append(label)
            weights.append(outcome if label else 1 - outcome)

    def fit(rows, labels, weights):
        model = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-12, max_iter=10_000)
        model.fit(rows, labels, sample_weight=weights)
        return 1000 + POINTS * (model.coef_[0] - model.coef_[0].mean())

    got = bradley_terry(played, prior=0, resamples=0)
    assert points(got) == pytest.approx(fit(rows, labels, weights), abs=0.01)
    # The prior is games against one more player, whose strength is 0.
    for label in (1, 0):
        rows += list(np.eye(5))
        labels += [label] * 5
        weights += [1.5] * 5
    got = bradley_terry(played, prior=3, resamples=0)
    assert points(got) == pytest.approx(fit(rows, labels, weights), abs=0.01)


@given(st.integers(0, 30))
def test_equal_to_choix(seed):
    played = games([0.8, 0.2, -0.1, -0.5], 200, seed)
    wins = [
        (NAMES.index(a), NAMES.index(b)) if won else (NAMES.index(b), NAMES.index(a))
        for a, b, won in played
    ]
    theirs = choix.ilsr_pairwise(4, wins)
    got = points(bradley_terry(played, prior=0, resamples=0), NAMES[:4])
    assert got == pytest.approx(1000 + POINTS * (theirs - theirs.mean()), abs=1e-3)


@given(st.integers(0, 30))
def test_what_changes_nothing(seed):
    played = games([0.8, 0.2, -0.1, -0.5], 60, seed, ties=0.2)
    base = points(bradley_terry(played, resamples=0), NAMES[:4])
    turned = [(b, a, 1 - won) for a, b, won in played[::-1]]
    assert points(bradley_terry(turned, resamples=0), NAMES[:4]) == pytest.approx(base)
    assert base.mean() == pytest.approx(1000)
    anchored = bradley_terry(played, anchor="b", resamples=0)
    assert anchored["b"].rating == 1000
    assert points(anchored, NAMES[:4]) - base == pytest.approx(np.full(4, 1000 - base[1]))


def test_wins_expected_are_the_wins_won():
    """The condition of the maximum."""
    played = games([2.0, 0.3, -0.1, -2.5], 150, ties=0.1)
    result = bradley_terry(played, prior=0, resamples=0)
    surprise = dict.fromkeys(result, 0.0)
    for a, b, outcome in played:
        chance = 1 / (1 + 10 ** ((result[b].rating - result[a].rating) / 400))
        surprise[a] += outcome - chance
        surprise[b] -= outcome - chance
    assert list(surprise.values()) == pytest.approx([0] * 4, abs=1e-6)


def test_a_model_that_wins_everything():
    played = [("best", other, 1) for other in "ab" for _ in range(20)] + [
        ("a", "b", i % 2) for i in range(20)
    ]
    result = bradley_terry(played)
    assert next(iter(result)) == "best" and 1100 < result["best"].rating < 2000
    assert all(math.isfinite(x) for row in result.values() for x in row)
    weaker = bradley_terry(played, prior=5, resamples=0)
    assert weaker["best"].rating < result["best"].rating
    with pytest.raises(InputError, match="none won from best"):
        bradley_terry(played, prior=0)
    with pytest.raises(InputError, match="none won from a, b"):
        bradley_terry([("a", "b", 0.5), ("a", "c", 1), ("b", "c", 1)], prior=0)


def test_parts_that_never_met_are_named_and_no_prior_hides_them():
    with pytest.raises(InputError, match=r"\{a, b\}, \{c, d\}"):
        bradley_terry([("a", "b", 1), ("c", "d", 0)], prior=1)


def test_intervals_are_those_of_the_slow_loop():
    played = games([0.6, 0.0, -0.6], 120)
    result = bradley_terry(played, resamples=1_000, seed=1)
    rng = np.random.default_rng(9)
    slow = np.array(
        [
            points(
                bradley_terry([played[i] for i in rng.integers(0, 120, 120)], resamples=0), "abc"
            )
            for _ in range(300)
        ]
    )
    for column, name in enumerate("abc"):
        low, high = np.quantile(slow[:, column], [0.025, 0.975])
        assert result[name].low == pytest.approx(low, abs=15)
        assert result[name].high == pytest.approx(high, abs=15)
        assert result[name].low < result[name].rating < result[name].high
    assert result == bradley_terry(played, resamples=1_000, seed=1)
    assert result != bradley_terry(played, resamples=1_000, seed=2)
    anchored = bradley_terry(played, anchor="b", resamples=200)
    assert anchored["b"][:3] == (1000, 1000, 1000)


def test_intervals_cover():
    strengths = np.array([0.7, 0.0, -0.7])
    truth = 1000 + POINTS * strengths
    held = 0
    for seed in range(150):
        result = bradley_terry(games(strengths, 150, seed), resamples=299, seed=seed, prior=0.1)
        held += sum(result[n].low <= t <= result[n].high for n, t in zip("abc", truth, strict=True))
    assert stats.binomtest(held, 450, 0.94).pvalue > 1e-4


def test_questions_that_decide_all_their_games_widen_intervals():
    rng = np.random.default_rng(0)
    played, groups = [], []
    for question in range(30):
        luck = rng.random() < 0.6
        for _ in range(8):
            played.append(("a", "b", int(luck if rng.random() < 0.9 else not luck)))
            groups.append(f"question {question}")
    alone, grouped = (bradley_terry(played, groups=g, resamples=500) for g in (None, groups))
    assert alone["a"].rating == grouped["a"].rating
    width = [r["a"].high - r["a"].low for r in (alone, grouped)]
    assert width[1] > 1.7 * width[0]
    # Each comparison a group of its own is the same as no groups.
    assert bradley_terry(played, groups=list(range(240)), resamples=500) == alone


def test_many_and_extreme_games_settle():
    played = [("a", "b", 1)] * 5_000 + [("b", "c", 1)] * 5_000 + [("c", "a", 1)]
    for prior in (0, 0.01):
        result = bradley_terry(played, prior=prior, resamples=0)
        assert list(result) == ["a", "b", "c"]
        assert all(math.isfinite(r.rating) for r in result.values())
    # Where a whole step of Newton's overshoots into the flat: a beats c and d, d beats b, each always
    # but for a game or ten.
    wins = {"ac": 100_000, "ad": 100_000, "bc": 10, "ca": 1, "cd": 1, "db": 100_000, "dc": 1}
    played = [(*pair, 1) for pair, count in wins.items() for _ in range(count)]
    result = bradley_terry(played, prior=0.1, resamples=0)
    strength = {name: (row.rating - 1000) / POINTS for name, row in result.items()}
    lost = {pair: n * expit(strength[pair[1]] - strength[pair[0]]) for pair, n in wins.items()}
    total = (
        sum(lost[p] for p in ("ac", "ad")) - lost["ca"]
    )  # of a: surprises, less the prior's pull
    assert abs(total) < 0.1 and lost["ca"] == pytest.approx(1, abs=1e-3)
    # Where rounding makes the curvature singular on the way.
    wins = {"ab": 1, "ac": 1_000, "bd": 1_000, "de": 1_000, "ec": 1_000, "ed": 10}
    played = [(*pair, 1) for pair, count in wins.items() for _ in range(count)]
    result = bradley_terry(played, prior=0.1, resamples=0)
    assert list(result)[-1] == "c" and all(math.isfinite(r.rating) for r in result.values())
    gap = result["d"].rating - result["e"].rating
    assert gap == pytest.approx(400 * math.log10(100), abs=5)
    names = [f"model {i}" for i in range(25)]
    rounds = [(a, b, 1) for a, b in itertools.combinations(names, 2)]
    assert list(bradley_terry(rounds, resamples=50)) == names


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (lambda: bradley_terry([]), "no items"),
        (lambda: bradley_terry([("a", "a", 1)]), "with itself"),
        (lambda: bradley_terry([("a", "b", 2)]), "outcome of comparison 0 is 2"),
        (lambda: bradley_terry([("a", "b", 1), ("a", "b", float("nan"))]), "comparison 1 is nan"),
        (lambda: bradley_terry([("a", "b", "1")]), "'1'"),
        (lambda: bradley_terry([("a", "b")]), "Comparison 0"),
        (lambda: bradley_terry([(["a"], "b", 1)]), "Comparison 0"),
        (lambda: bradley_terry([("a", "b", 1)], prior=-1.0), "prior"),
        (lambda: bradley_terry([("a", "b", 1)], prior=float("nan")), "prior"),
        (lambda: bradley_terry([("a", "b", 1)], anchor="c"), "anchor 'c'"),
        (lambda: bradley_terry([("a", "b", 1)]), "one group"),
        (lambda: bradley_terry([("a", "b", 1)] * 2, groups=["x"]), "1 group labels"),
        (lambda: bradley_terry([("a", "b", 1), ("a", "b", 0)], prior=0), "no finite ratings"),
    ],
)
def test_bad_input(bad, says):
    with pytest.raises(InputError, match=says):
        bad()
