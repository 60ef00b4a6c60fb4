"""The KL coefficient: constant, or after a target."""

import pytest

from labs.train.policy.control import KLController


def test_without_a_target_it_stays():
    controller = KLController(0.3)
    for kl in (0.0, 5.0, 500.0):
        controller.update(kl, 1000)
    assert controller.coef == 0.3


@pytest.mark.parametrize(
    "kl, n, factor",
    [
        (6.0, 100, 1.0),  # on target
        (6.6, 100, 1 + 0.1 * 0.1),  # 10 % above, a tenth of the horizon
        (60.0, 100, 1 + 0.2 * 0.1),  # far above: no more than 0.2
        (5.4, 100, 1 - 0.1 * 0.1),
        (0.0, 100, 1 - 0.2 * 0.1),
        (-3.0, 100, 1 - 0.2 * 0.1),  # an estimate may be below zero
        (60.0, 50_000, 1.2),  # one call is a horizon at most
    ],
)
def test_it_follows_zieglers_rule(kl, n, factor):
    controller = KLController(0.5, target=6.0, horizon=1000)
    controller.update(kl, n)
    assert controller.coef == pytest.approx(0.5 * factor, rel=1e-12)


@pytest.mark.parametrize("start", [0.001, 10.0])
def test_it_settles_where_the_kl_is_on_target(start):
    """A policy whose KL falls with the coefficient: kl = 2 / coef."""
    controller = KLController(start, target=4.0, horizon=100)
    for _ in range(400):
        controller.update(2 / controller.coef, 20)
    assert controller.coef == pytest.approx(0.5, rel=0.01)
