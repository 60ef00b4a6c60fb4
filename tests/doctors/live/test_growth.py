"""The trend: a leak among noisy batches is one, noise and a warm-up are none; when it will be full."""

import random

import pytest

from labs.doctors.memory.live.diary import Step
from labs.doctors.memory.live.growth import FEWEST, WARM_UP, slope, tells, trend

MIB = 2**20


def steps(levels, limit=1000 * MIB, extra=0):
    return [Step(i, float(i), n, n, n + extra, n, limit) for i, n in enumerate(levels, 1)]


def test_slope_is_the_median_of_pairwise_slopes():
    assert slope([1, 2, 3, 4], [10, 20, 30, 40]) == 10
    assert slope([1, 2, 3, 4, 5], [10, 20, 3000, 40, 50]) == pytest.approx(10, abs=1), "an outlier"
    assert slope([1], [1]) == 0


def test_a_steady_leak_and_the_step_at_which_it_is_full():
    found = trend(steps([100 * MIB + i * 3 * MIB for i in range(40)]))
    assert found.leaks and found.per_step == 3 * MIB and found.rising == 1.0
    # level at step s is 97 + 3 s: the first above 1000 is s = 302
    assert found.fills_at == 302


def test_what_a_step_needs_on_top_counts():
    alone = trend(steps([100 * MIB + i * 3 * MIB for i in range(40)]))
    busy = trend(steps([100 * MIB + i * 3 * MIB for i in range(40)], extra=300 * MIB))
    assert busy.fills_at == pytest.approx(alone.fills_at - 100, abs=1)


def test_noise_is_no_leak():
    generator = random.Random(0)
    assert not trend(steps([generator.randint(100, 200) * MIB for _ in range(200)])).leaks
    assert not trend(steps([100 * MIB] * 50)).leaks


def test_the_warm_up_is_no_leak():
    assert not trend(steps([10 * MIB, 500 * MIB, 900 * MIB] + [900 * MIB] * 30)).leaks


def test_a_leak_below_one_per_cent_of_the_level_is_not_called_one():
    assert not trend(steps([10_000 * MIB + i * 1024 for i in range(100)])).leaks


def test_too_few_steps_or_unknown_numbers_say_nothing():
    assert trend(steps([1, 2, 3, 4, 5])) is None
    assert trend(steps([-1] * 50)) is None
    assert trend([]) is None


def test_without_a_limit_there_is_no_end():
    assert trend(steps([i * 9 * MIB for i in range(40)], limit=-1)).fills_at is None


def test_a_few_steps_do_not_rule_a_leak_out():
    assert not tells(steps([100] * (WARM_UP + FEWEST - 1)))
    assert tells(steps([100] * (WARM_UP + FEWEST)))
