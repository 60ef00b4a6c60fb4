"""The bench of `run`: both ways really run, one of them observed; the interval is the median's."""

import pytest

from labs.bench import run_overhead


def test_two_pairs_of_short_steps():
    result = run_overhead.run(pairs=2, steps=1, seconds=0.001)
    assert result["pairs"] == 2 and len(result["rounds"]) == 2
    assert set(result["step_seconds"]) == {"plain", "run"}
    assert result["shortest_step"] > 0 and len(result["interval"]) == 2
    assert sorted(result["order"]) == ["plain", "run"], "each way begins once"
    assert run_overhead.tables(result)[0].row_count == 2


def test_the_interval_holds_the_median_and_narrows():
    wide = run_overhead.bound([0.9, 1.0, 1.1, 1.2, 0.95])
    narrow = run_overhead.bound([1.0, 1.001, 0.999, 1.0005, 0.9995] * 6)
    assert wide[0] <= 1.0 <= wide[1] and narrow[0] <= 1.0 <= narrow[1]
    assert narrow[1] - narrow[0] < 0.002 < wide[1] - wide[0]


def test_a_cost_is_seen():
    low, high = run_overhead.bound([1.02 + 0.001 * (i % 5) for i in range(24)])
    assert low == pytest.approx(1.021, abs=0.001) and high - 1 > run_overhead.LIMIT
