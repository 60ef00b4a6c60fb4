from collections import Counter

import numpy as np
import pytest

from labs.errors import InputError
from labs.evaluation.intervals import wilson_ci
from labs.evaluation.online.guardrails import quantile_difference_ci
from labs.evaluation.online.shadow import shadow

STRATA = ["中文"] * 20 + ["english"] * 980
OLD = ["yes"] * 1000
NEW = ["no"] * 6 + ["yes"] * 14 + ["no"] * 200 + ["yes"] * 780


def test_agreement_is_counted_by_stratum():
    report = shadow(OLD, NEW, strata=STRATA)
    assert report.n == 1000 and report.agreement == 794 / 1000
    assert report.interval == wilson_ci(794, 1000)
    assert report.by_stratum == {"english": (780, 980), "中文": (14, 20)}
    assert report.latency is None and report.failed_old == report.failed_new == 0


def test_disagreements_are_shared_out_evenly_and_weights_undo_it():
    report = shadow(OLD, NEW, strata=STRATA, review=20, seed=3)
    assert Counter(r.stratum for r in report.review) == {"中文": 6, "english": 14}
    assert sum(r.weight for r in report.review) == pytest.approx(206)
    assert len({r.index for r in report.review}) == 20
    for r in report.review:
        assert OLD[r.index] != NEW[r.index] and STRATA[r.index] == r.stratum
    assert report.review == shadow(OLD, NEW, strata=STRATA, review=20, seed=3).review
    assert report.review != shadow(OLD, NEW, strata=STRATA, review=20, seed=4).review


def test_weighted_reviews_estimate_what_a_review_of_all_would_find():
    """The new model is right in all Chinese and a tenth of the English disagreements: 26 of 206."""
    right = {i for i in range(1000) if NEW[i] == "no" and (i < 20 or i % 10 == 0)}
    truth = len(right) / 206
    weighted, plain = [], []
    for seed in range(400):
        review = shadow(OLD, NEW, strata=STRATA, review=20, seed=seed).review
        weighted.append(sum(r.weight * (r.index in right) for r in review) / sum(r.weight for r in review))  # fmt: skip
        plain.append(np.mean([r.index in right for r in review]))
    error = np.std(weighted) / 20
    assert np.mean(weighted) == pytest.approx(truth, abs=4 * error)
    assert np.mean(plain) > truth + 0.1  # unweighted, the rare stratum counts too much


def test_every_disagreement_is_drawn_where_there_are_few():
    report = shadow(OLD, NEW, strata=STRATA, review=10_000)
    assert len(report.review) == 206 and {r.weight for r in report.review} == {1.0}
    assert shadow(OLD, NEW, review=0).review == []
    assert shadow(OLD, OLD, review=10).review == [] and shadow(OLD, OLD).agreement == 1
    odd = shadow(OLD, NEW, strata=["a", "b", "c", "d"] * 250, review=6, seed=1)
    assert sorted(Counter(r.stratum for r in odd.review).values()) == [1, 1, 2, 2]


def test_a_failure_is_not_a_disagreement():
    report = shadow(["a", None, "c", None, "e"], ["a", "b", None, None, "x"], review=10)
    assert (report.failed_old, report.failed_new) == (2, 2)
    assert report.agreement == 0.5 and [r.index for r in report.review] == [4]
    assert report.by_stratum == {"all": (1, 2)}


def test_what_counts_as_the_same_is_the_callers_to_say():
    old, new = ["Two dogs.", "两只狗", "3"], ["two dogs", "兩只狗", "three"]
    assert shadow(old, new).agreement == 0

    def same(a, b):
        return a.strip(".").lower() == b.strip(".").lower()

    assert shadow(old, new, same=same).agreement == pytest.approx(1 / 3)


def test_latency_is_compared_request_by_request():
    """Requests vary by seconds, the models by 20 ms: paired, it shows, and the interval covers it."""
    rng = np.random.default_rng(0)
    request = rng.lognormal(6, 1, 800)
    old, new = request + rng.normal(0, 5, 800), request + 20 + rng.normal(0, 5, 800)
    answers = ["x"] * 800
    report = shadow(answers, answers, latency_old=old, latency_new=new, seed=1)
    median, low, high = report.latency["median of differences"]
    assert low < 20 < high and high - low < 3
    assert median == np.median(new - old)
    p95, low, high = report.latency["p95"]
    assert low <= p95 <= high and low < 20 < high
    _, low_apart, high_apart = quantile_difference_ci(old, new, 0.95)
    assert high - low < (high_apart - low_apart) / 4  # two separate samples would tell less
    again = shadow(answers, answers, latency_old=old, latency_new=new, seed=1)
    assert again.latency == report.latency


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: shadow([], []), "0 old answers"),
        (lambda: shadow(["a"], ["a", "b"]), "do not pair up"),
        (lambda: shadow(["a"], ["a"], strata=["x", "y"]), "2 strata"),
        (lambda: shadow(["a"], ["a"], review=-1), "-1 disagreements"),
        (lambda: shadow(["a"], [None]), "answered by both"),
        (lambda: shadow(["a"], ["b"], latency_old=[1.0]), "do not fit 1"),
        (lambda: shadow(["a"], ["b"], latency_old=[1.0], latency_new=[1.0, 2.0]), "do not fit 1"),
        (lambda: shadow(["a"], ["b"], latency_old=[np.nan], latency_new=[1.0]), "not finite"),
    ],
)
def test_shadows_of_nothing(call, said):
    with pytest.raises(InputError, match=said):
        call()
