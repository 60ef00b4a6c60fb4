import numpy as np
import pytest

from labs.errors import InputError
from labs.evaluation.online.clicks import (
    click_rate_by_position,
    examination_from_shuffles,
    examination_from_swaps,
    ips_relevance,
    naive_relevance,
)
from labs.evaluation.online.service import Service, Variant

THETA = 1 / np.arange(1, 9)
SHAPE = (20, 20)


@pytest.fixture(scope="module")
def service():
    return Service(queries=20, candidates=20, shown=8, seed=1)


@pytest.fixture(scope="module")
def log(service):
    day = service.day([Variant("A", 0.3)], 200_000, explore="swap", explored=0.3, seed=4)
    return day.where(day.answered)


def left_wrong(estimate, truth, rankings):
    """Of the pairs that the ranker shows in the wrong order, the share that the estimate leaves so."""
    wrong = total = 0
    for guess, true, ranking in zip(estimate, truth, rankings, strict=True):
        for above, upper in enumerate(ranking):
            for lower in ranking[above + 1 :]:
                if true[lower] > true[upper]:
                    wrong += guess[lower] <= guess[upper]
                    total += 1
    assert total > 100
    return wrong / total


def test_the_naive_click_rate_ranks_wrongly_and_ips_repairs_it(service, log):
    """A poor ranker's log of one day: examination from swaps, then relevance."""
    swaps = log.where(log.explored > 0)
    theta = examination_from_swaps(swaps.clicks, swaps.explored)
    ordinary = log.where(log.explored < 0)
    naive = naive_relevance(ordinary.query, ordinary.shown, ordinary.clicks, shape=SHAPE)
    ips = ips_relevance(ordinary.query, ordinary.shown, ordinary.clicks, theta, shape=SHAPE)
    rankings = service.rankings(Variant("A", 0.3))
    assert left_wrong(naive, service.attractiveness, rankings) > 0.25
    assert left_wrong(ips, service.attractiveness, rankings) < 0.05
    shown = ~np.isnan(ips)
    assert np.array_equal(shown, ~np.isnan(naive)) and shown.sum() == 20 * 8
    error = np.abs(ips - service.attractiveness)[shown]
    assert error.mean() < 0.02 < np.abs(naive - service.attractiveness)[shown].mean()


def test_ips_is_unbiased_with_the_variance_it_should_have(service, log):
    """z of every picture shown, at the true examination: mean square 1, none beyond 4.5."""
    ordinary = log.where(log.explored < 0)
    ips = ips_relevance(ordinary.query, ordinary.shown, ordinary.clicks, THETA, shape=SHAPE)
    z = []
    for query, ranking in enumerate(service.rankings(Variant("A", 0.3))):
        n = (ordinary.query == query).sum()
        true = service.attractiveness[query, ranking]
        chance = THETA * true
        se = np.sqrt(chance * (1 - chance) / n) / THETA
        z.extend((ips[query, ranking] - true) / se)
    assert np.abs(z).max() < 4.5
    assert np.mean(np.square(z)) == pytest.approx(1, abs=0.5)  # 160 values: standard error 0.11


def test_examination_from_swaps_and_from_shuffles(service, log):
    swaps = log.where(log.explored > 0)
    assert examination_from_swaps(swaps.clicks, swaps.explored) == pytest.approx(THETA, rel=0.15)
    shuffled = service.day([Variant("A", 0.3)], 100_000, explore="shuffle", explored=1.0, seed=4)
    assert examination_from_shuffles(shuffled.clicks) == pytest.approx(THETA, rel=0.08)


def test_an_ordinary_log_mistakes_relevance_for_examination(service):
    """A good ranker's click rates fall faster than examination does."""
    good = service.day([Variant("A", 1.0)], 50_000, seed=4)
    rates = click_rate_by_position(good.clicks)
    assert np.all(rates[1:] / rates[0] < 0.9 * THETA[1:])
    assert rates == pytest.approx(good.clicks.mean(0))


def test_examination_from_swaps_is_right_by_count():
    clicks = [[1, 0, 0], [1, 1, 0], [0, 1, 1], [1, 0, 1], [1, 0, 0]]
    # Place 1: rows 0 to 2, top clicked twice, place 1 twice. Place 2: rows 3 and 4: two, and one.
    assert examination_from_swaps(clicks, [1, 1, 1, 2, 2]).tolist() == [1, 1, 0.5]


def test_by_hand():
    query, shown = [0, 0, 1], [[2, 0], [2, 1], [-1, -1]]
    clicks = [[1, 1], [0, 1], [0, 0]]
    naive = naive_relevance(query, shown, clicks, shape=(2, 3))
    assert naive[0].tolist() == [1, 1, 0.5] and np.isnan(naive[1]).all()
    ips = ips_relevance(query, shown, clicks, [1.0, 0.25], shape=(2, 3))
    assert ips[0].tolist() == [4, 4, 0.5]
    clipped = ips_relevance(query, shown, clicks, [1.0, 0.25], shape=(2, 3), clip=2.0)
    assert clipped[0].tolist() == [2, 2, 0.5]
    assert np.array_equal(
        ips_relevance(query, shown, clicks, [1.0, 1.0], shape=(2, 3)), naive, equal_nan=True
    )


def test_clipping_trades_bias_for_variance(service, log):
    """Places below 1/clip come out low by clip · θ, and vary less."""
    ordinary = log.where(log.explored < 0)
    arguments = (ordinary.query, ordinary.shown, ordinary.clicks, THETA)
    plain = ips_relevance(*arguments, shape=SHAPE)
    clipped = ips_relevance(*arguments, shape=SHAPE, clip=2.0)
    for query, ranking in enumerate(service.rankings(Variant("A", 0.3))):
        ratio = clipped[query, ranking] / plain[query, ranking]
        seen = plain[query, ranking] > 0
        assert ratio[seen] == pytest.approx(np.minimum(1, 2 * THETA)[seen])


def test_a_cascade_is_not_one_examination_a_place(service):
    """The other model: examination from swaps depends on what the ranker puts on top."""
    found = []
    for quality in (0.0, 1.0):
        day = service.day(
            [Variant("A", quality)], 60_000, model="cascade", explore="swap", explored=1.0, seed=2
        )
        day = day.where(day.answered)
        found.append(examination_from_swaps(day.clicks, day.explored))
    assert np.all(found[0][1:] > 1.15 * found[1][1:])


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: click_rate_by_position([]), "shape"),
        (lambda: click_rate_by_position([[0, 2]]), "neither 0 nor 1"),
        (lambda: examination_from_shuffles([[0, 1]]), "top was never clicked"),
        (lambda: examination_from_swaps([[1, 1]], [1, 1]), "do not pair up"),
        (lambda: examination_from_swaps([[1, 1, 0]], [1]), "place 3"),
        (lambda: naive_relevance([0], [[0, 1]], [[1]], shape=(1, 2)), "do not pair up"),
        (lambda: naive_relevance([0, 0], [[0, 1]], [[1, 0]], shape=(1, 2)), "do not pair up"),
        (lambda: naive_relevance([1], [[0, 1]], [[1, 0]], shape=(1, 2)), "lies outside"),
        (lambda: naive_relevance([0], [[0, 2]], [[1, 0]], shape=(1, 2)), "lies outside"),
        (lambda: naive_relevance([0], [[0, -1]], [[1, 1]], shape=(1, 2)), "nothing was shown"),
        (lambda: ips_relevance([0], [[0, 1]], [[1, 0]], [1.0], shape=(1, 2)), "do not fit"),
        (lambda: ips_relevance([0], [[0, 1]], [[1, 0]], [1.0, 0.0], shape=(1, 2)), "not above 0"),
        (
            lambda: ips_relevance([0], [[0, 1]], [[1, 0]], [1.0, 1.0], shape=(1, 2), clip=0.5),
            "clip of 0.5",
        ),
    ],
)
def test_logs_that_cannot_be_read(call, said):
    with pytest.raises(InputError, match=said):
        call()
