import numpy as np
import pytest
from scipy import stats

from labs.errors import InputError
from labs.evaluation.online.service import (
    ATTRACTIVENESS,
    FAILED_COMPLAINT,
    NOT_EXPLORED,
    SHUFFLED,
    Service,
    Variant,
    arm_of,
)

OLD, NEW = Variant("A", 0.4), Variant("B", 0.7, latency_ms=500.0)


@pytest.fixture(scope="module")
def service():
    return Service(queries=60, candidates=25, shown=6, seed=3)


def test_one_seed_one_day(service):
    first = service.day([OLD, NEW], 2000, explore="swap", seed=1)
    again = Service(queries=60, candidates=25, shown=6, seed=3).day(
        [OLD, NEW], 2000, explore="swap", seed=1
    )
    other = service.day([OLD, NEW], 2000, explore="swap", seed=2)
    for name, column in vars(first).items():
        assert np.array_equal(column, getattr(again, name)), name
    assert not np.array_equal(first.query, other.query)
    assert np.array_equal(service.rankings(OLD), service.rankings(Variant("another name", 0.4)))


def test_quality_is_how_much_relevance_decides(service):
    def shown_grades(variant):
        rows = np.arange(service.queries)[:, None]
        return service.grades[rows, service.rankings(variant)]

    perfect = shown_grades(Variant("A", 1.0))
    assert np.all(np.diff(perfect, axis=1) <= 0)  # best first
    assert np.array_equal(perfect, -np.sort(-service.grades, axis=1)[:, :6])
    blind = shown_grades(Variant("A", 0.0))
    assert blind.mean() == pytest.approx(service.grades.mean(), abs=0.25)
    means = [shown_grades(Variant("A", q)).mean() for q in (0.0, 0.3, 0.6, 1.0)]
    assert means == sorted(means)
    assert not np.array_equal(service.rankings(OLD), service.rankings(Variant("A", 0.4, ranker=1)))


def test_clicks_follow_the_position_model(service):
    """Place by place, 40,000 requests of one list: within 4.5 standard errors of θ · r."""
    shown = service.rankings(OLD)[[7]]
    n = 40_000
    rng = np.random.default_rng(0)
    clicks = service.click(np.full(n, 7), np.repeat(shown, n, axis=0), rng)
    true = 1 / np.arange(1, 7) * np.array(ATTRACTIVENESS)[service.grades[7, shown[0]]]
    z = (clicks.mean(0) - true) / np.sqrt(true * (1 - true) / n)
    assert np.abs(z).max() < 4.5


def test_a_cascade_stops_at_the_first_click(service):
    n = 40_000
    shown = np.repeat(service.rankings(OLD)[[7]], n, axis=0)
    clicks = service.click(np.full(n, 7), shown, np.random.default_rng(0), "cascade")
    assert clicks.sum(1).max() == 1
    r = service.attractiveness[7, shown[0]]
    true = r * np.cumprod(np.r_[1, 1 - r[:-1]])
    z = (clicks.mean(0) - true) / np.sqrt(true * (1 - true) / n)
    assert np.abs(z).max() < 4.5


def test_what_goes_wrong_goes_wrong_as_often_as_the_variant_says():
    variants = [
        Variant("good", 0.5, error_rate=0.01, refusal_rate=0.0, complaint_rate=0.1),
        Variant("bad", 0.5, latency_ms=800.0, error_rate=0.05, refusal_rate=0.1, complaint_rate=0.3),
    ]  # fmt: skip
    log = Service(queries=50).day(variants, 60_000, shares=[0.7, 0.3], seed=5)
    assert stats.binomtest(int((log.variant == 0).sum()), 60_000, 0.7).pvalue > 1e-4
    for variant in variants:
        rows = log.of(variant.name)
        n = len(rows)
        assert stats.binomtest(int(rows.error.sum()), n, variant.error_rate).pvalue > 1e-4
        if variant.refusal_rate:
            assert stats.binomtest(int(rows.refused.sum()), n, variant.refusal_rate).pvalue > 1e-4
        assert np.median(rows.latency_ms) == pytest.approx(variant.latency_ms, rel=0.02)
        assert np.log(rows.latency_ms).std() == pytest.approx(0.35, rel=0.03)
        failed = ~rows.answered
        assert np.all(rows.shown[failed] == -1) and not rows.clicks[failed].any()
        assert np.all(rows.shown[~failed] >= 0)
        idle = ~failed & ~rows.clicks.any(1)
        assert not rows.complaint[rows.clicks.any(1)].any()
        for group, rate in ((idle, variant.complaint_rate), (failed, FAILED_COMPLAINT)):
            hits = int(rows.complaint[group].sum())
            assert stats.binomtest(hits, int(group.sum()), rate).pvalue > 1e-4
    assert not (log.error & log.refused).any() and log.refused[log.variant == 0].sum() == 0


def test_popular_queries_are_asked_more():
    asked = Service(queries=20, popularity=1.0).asked(50_000, np.random.default_rng(0))
    counts = np.bincount(asked, minlength=20)
    assert counts[0] / counts[9] == pytest.approx(10, rel=0.15)
    even = Service(queries=20, popularity=0.0).asked(50_000, np.random.default_rng(0))
    assert stats.chisquare(np.bincount(even)).pvalue > 1e-4


def test_exploring_shuffles_or_swaps_a_share_and_only_that(service):
    ranked = service.rankings(OLD)
    for how in ("shuffle", "swap"):
        log = service.day([OLD], 30_000, explore=how, explored=0.2, seed=1)
        log = log.where(log.answered)
        usual = ranked[log.query]
        assert np.array_equal(np.sort(log.shown, axis=1), np.sort(usual, axis=1))
        left = log.explored == NOT_EXPLORED
        assert np.array_equal(log.shown[left], usual[left])
        assert (~left).mean() == pytest.approx(0.2, abs=0.01)
    swaps = log.where(log.explored > 0)
    usual = ranked[swaps.query]
    rows = np.arange(len(swaps))
    exchanged = swaps.shown[:, 0] != usual[:, 0]
    assert stats.binomtest(int(exchanged.sum()), len(swaps), 0.5).pvalue > 1e-4
    assert np.array_equal(swaps.shown[rows, swaps.explored] == usual[:, 0], exchanged)
    differs = (swaps.shown != usual).sum(1)
    assert np.array_equal(differs, np.where(exchanged, 2, 0))
    assert stats.chisquare(np.bincount(swaps.explored, minlength=6)[1:]).pvalue > 1e-4

    shuffled = service.day([OLD], 30_000, explore="shuffle", explored=1.0, seed=1)
    shuffled = shuffled.where(shuffled.explored == SHUFFLED)
    top = ranked[shuffled.query, 0]
    place = (shuffled.shown == top[:, None]).argmax(1)
    assert stats.chisquare(np.bincount(place, minlength=6)).pvalue > 1e-4
    assert np.all(service.day([OLD], 500).explored == NOT_EXPLORED)


def test_an_arm_for_the_guardrails(service):
    log = service.day([OLD, NEW], 5000, seed=8)
    arm = arm_of(log, "B")
    rows = log.of("B")
    assert arm.requests == len(rows) == len(arm.latency_ms) == (log.variant == 1).sum()
    assert arm.counts == {
        "errors": rows.error.sum(), "refusals": rows.refused.sum(), "complaints": rows.complaint.sum()
    }  # fmt: skip
    with pytest.raises(InputError, match="No variant is called 'C'"):
        arm_of(log, "C")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: Variant("A", 1.5), "quality of variant A is 1.5"),
        (lambda: Variant("A", 0.5, error_rate=-0.1), "error_rate of variant A"),
        (lambda: Variant("A", 0.5, latency_ms=0.0), "latency_ms of variant A is 0"),
        (lambda: Variant("A", 0.5, error_rate=0.6, refusal_rate=0.6), "more than all requests"),
        (lambda: Service(queries=0), "0 queries"),
        (lambda: Service(candidates=5, shown=6), "6 shown of 5"),
        (lambda: Service(shown=3, examination=(1.0, 0.5)), "2 examination rates .* 3 places"),
        (lambda: Service(shown=2, examination=(1.0, 50.0)), "examination rate is 50"),
        (lambda: Service().day([], 10), "no variant"),
        (lambda: Service().day([OLD], 0), "0 requests"),
        (lambda: Service().day([OLD, OLD], 10), "A, A make no day"),
        (lambda: Service().day([OLD, NEW], 10, shares=[0.5, 0.6]), "do not sum to 1"),
        (lambda: Service().day([OLD, NEW], 10, shares=[1.0]), "do not sum to 1"),
        (lambda: Service().day([OLD], 10, model="dbn"), "no click model 'dbn'"),
        (lambda: Service().day([OLD], 10, explore="swop"), "no way to explore called 'swop'"),
        (lambda: Service().day([OLD], 10, explore="swap", explored=5.0), "explored share is 5"),
        (lambda: Service(shown=1).day([OLD], 10, explore="swap"), "one place"),
    ],
)
def test_a_service_that_cannot_be(call, said):
    with pytest.raises(InputError, match=said):
        call()
