"""Chapter 7's reference answers are second implementations: equal to the library's own."""

import itertools
import math

import choix
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays
from sklearn.metrics import cohen_kappa_score

from labs.errors import InputError
from labs.evaluation import agreement, choice, intervals, pope_scores, ranking, ratings, vqa
from labs.evaluation.online.design import rule_of_16
from labs.grading.course import chapter

CHAPTER = chapter("ch07")
ANSWERS, CHECKS = CHAPTER.solutions, CHAPTER.checks

LETTER = st.sampled_from(["A", "B", "C", None])


@settings(max_examples=150, deadline=None)
@given(passes=st.lists(st.tuples(LETTER, st.sampled_from("ABC"), st.integers(0, 5)), min_size=1))
def test_circular_accuracy(passes):
    predictions, answers, groups = zip(*passes, strict=True)
    correct = [p == a for p, a in zip(predictions, answers, strict=True)]
    wanted = choice.circular_accuracy(correct, groups)
    assert ANSWERS.circular_accuracy(predictions, answers, groups) == pytest.approx(
        wanted, abs=1e-12
    )
    found = CHECKS.share_without_failure(predictions, answers, groups)
    assert found == pytest.approx(wanted, abs=1e-12)


# Without marks inside, numbers in words and apostrophes, of which the library knows more; and never
# all alike, where the official script makes nothing plain.
SAID = st.sampled_from(
    ["red", "Red.", "a red", "the  red ", "red ring", "A Red ring.", "blue", "4"]
)


@settings(max_examples=150, deadline=None)
@given(prediction=SAID, answers=st.lists(SAID, min_size=4, max_size=12))
def test_vqa_accuracy(prediction, answers):
    answers = [*answers, "green"]
    wanted = vqa.vqa_score(prediction, answers)
    assert ANSWERS.vqa_accuracy(prediction, answers) == pytest.approx(wanted, abs=1e-12)
    assert CHECKS.vqa_by_hand(prediction, answers) == pytest.approx(wanted, abs=1e-12)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), k=st.integers(1, 9))
def test_ndcg(data, k):
    shape = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 7)))
    relevances = data.draw(arrays(np.float64, shape, elements=st.sampled_from([0, 0, 0.5, 1, 3])))
    wanted = ranking.ndcg(relevances, k, per_query=True)
    assert ANSWERS.ndcg(relevances, k) == pytest.approx(wanted, abs=1e-12)
    assert CHECKS.slow_ndcg(relevances, k) == pytest.approx(wanted, abs=1e-12)


def test_read_choice_keeps_to_its_rules():
    """The reference and the oracle of the check, on ten times as many mixtures as are graded."""
    for text, options in CHECKS.mixtures(800, seed=1):
        assert ANSWERS.read_choice(text, options) == CHECKS.plain_reading(text, options), text
    for _, text, options, letter in CHECKS.CHOICES:
        assert CHECKS.plain_reading(text, options) == letter, text


LABELS = st.sampled_from(["yes", "no", "tie", "both bad"])


@settings(max_examples=150, deadline=None)
@given(pairs=st.lists(st.tuples(LABELS, LABELS), min_size=1, max_size=30))
def test_cohens_kappa(pairs):
    """Also where the library refuses: one label everywhere is not a number here."""
    first, second = (list(labels) for labels in zip(*pairs, strict=True))
    found = ANSWERS.cohens_kappa(first, second), CHECKS.kappa_by_pairs(first, second)
    if len({*first, *second}) == 1:
        with pytest.raises(InputError, match="0/0"):
            agreement.cohens_kappa(first, second)
        assert all(map(math.isnan, found))
        return
    wanted = agreement.cohens_kappa(first, second)
    assert wanted == pytest.approx(cohen_kappa_score(first, second), abs=1e-12)
    assert found == pytest.approx((wanted, wanted), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), resamples=st.integers(1, 60), seed=st.integers(0, 99))
def test_paired_bootstrap(data, resamples, seed):
    """The library draws in blocks; the exercise all at once, and its oracle one by one."""
    scores = arrays(np.float64, data.draw(st.integers(1, 30)), elements=st.floats(0, 1, width=32))
    first, second = data.draw(scores), data.draw(scores)
    wanted = intervals.paired_bootstrap(first, second, resamples=resamples, seed=seed)[:3]
    assert ANSWERS.paired_bootstrap(first, second, resamples, seed) == pytest.approx(
        wanted, abs=1e-9
    )
    found = CHECKS.bootstrap_by_hand(first, second, resamples, seed)
    assert found == pytest.approx(wanted, abs=1e-9)


def games_of(wins):
    """A table of wins as comparisons of the library and of choix: halves become ties."""
    library, decided = [], []
    for i, j in itertools.combinations(range(len(wins)), 2):
        ties = round(2 * min(wins[i, j] % 1, wins[j, i] % 1))
        library += [(i, j, 1)] * int(wins[i, j]) + [(i, j, 0)] * int(wins[j, i])
        library += [(i, j, 0.5)] * ties
        # choix knows no ties: every game twice, a tie won once by each
        decided += [(i, j)] * round(2 * wins[i, j]) + [(j, i)] * round(2 * wins[j, i])
    return library, decided


@settings(max_examples=30, deadline=None)
@given(data=st.data(), models=st.integers(2, 6))
def test_bradley_terry(data, models):
    """Each has beaten the next, and the last the first: the maximum exists. Some pairs never met."""
    halves = data.draw(arrays(np.int64, (models, models), elements=st.integers(0, 12)))
    wins = np.triu(halves, 1) + np.tril(halves, -1) * (halves.T > 3)
    for i in range(models):
        wins[i, (i + 1) % models] += 2
    ties = np.triu(halves.T % 2 * (halves > 6), 1)
    wins = wins + (ties + ties.T) / 2
    library, decided = games_of(wins)
    rated = ratings.bradley_terry(library, prior=0, resamples=0)
    wanted = np.array([rated[i].rating for i in range(models)]) - ratings.CENTRE
    assert ANSWERS.bradley_terry(wins) == pytest.approx(wanted, abs=1e-3)
    assert CHECKS.most_likely_ratings(wins) == pytest.approx(wanted, abs=1e-3)
    theirs = choix.opt_pairwise(models, decided, tol=1e-12) * ratings.SCALE
    assert theirs - theirs.mean() == pytest.approx(wanted, abs=0.01)


def test_sample_sizes():
    found = ANSWERS.sample_sizes()
    low, high = intervals.wilson_ci(round(0.65 * 1164), 1164)  # another interval, nearly as wide
    assert found["half_width_points"] == pytest.approx(50 * (high - low), rel=0.01)
    passes = itertools.product([True, False, False, False], repeat=4)
    correct = [right for guesses in passes for right in guesses]
    by_four = [i // 4 for i in range(len(correct))]
    assert found["circular_floor_percent"] == 100 * choice.circular_accuracy(correct, by_four)
    assert found["visitors_an_arm"] == pytest.approx(rule_of_16(0.21, 0.01))
    always = pope_scores([True] * 10, [True, False] * 5)
    assert found["always_yes_accuracy_percent"] == pytest.approx(100 * always.accuracy)
    assert found["always_yes_f1_percent"] == pytest.approx(100 * always.f1)
    # The table of MiniGPT-4 made again from the two shares, for 10,000 objects of either kind.
    told = [round(100 * found[name]) for name in ("recall_percent", "false_alarms_percent")]
    said = [i < yes for yes in told for i in range(10_000)]
    scores = pope_scores(said, [True] * 10_000 + [False] * 10_000)
    assert scores.accuracy == pytest.approx(0.6660) and scores.yes_rate == pytest.approx(0.6667)
    assert scores.f1 == pytest.approx(0.7137, abs=5e-5)  # the F1 that the paper reports beside them


@settings(max_examples=40, deadline=None)
@given(
    pictures=st.integers(1, 20),
    each=st.integers(1, 4),
    seed=st.integers(0, 999),
    batch=st.integers(1, 11),
)
def test_harness(pictures, each, seed, batch):
    """The patched harness scores as the library does, and asks as the broken one did."""
    questions, table = CHECKS.exam(pictures, each, seed)
    patch, broken = ANSWERS.harness()["patch"], ANSWERS.harness.broken
    found = CHECKS.sitting(patch, questions, table, batch)
    assert found["result"] == CHECKS.question_by_question(questions, table)
    before = CHECKS.sitting(broken, questions, table, batch)
    assert {**found, "result": None} == {**before, "result": None}
    read = {"Yes.": True, "No.": False}
    said = [read.get(table[q["picture"], q["text"]]) for q in questions]
    scores = pope_scores(said, [q["answer"] for q in questions])
    assert found["result"]["accuracy"] == pytest.approx(scores.accuracy)
    assert found["result"]["yes"] == pytest.approx(scores.yes_rate)
