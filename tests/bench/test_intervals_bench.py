import json

import numpy as np
import pytest
from scipy import stats

from labs.bench import intervals as bench
from labs.bench.record import make_record
from labs.evaluation.intervals import wilson_ci


@pytest.fixture(scope="module")
def result():
    said = []
    result = bench.run(quick=True, progress=said.append)
    assert len(said) == len(bench.CASES)
    return result


def by_case(result, family, n, truth):
    return next(
        r for r in result["rows"] if (r["family"], r["n"], r["truth"]) == (family, n, truth)
    )


def test_the_normal_interval_covers_as_its_exact_coverage_says(result):
    """For right and wrong answers it can be summed: of each count, does its interval hold the truth."""
    for n, p in ((50, 0.6), (50, 0.98), (1000, 0.9)):
        counts = np.arange(n + 1)
        spread = 1.96 * np.sqrt(counts / n * (1 - counts / n) / (n - 1))
        exact = stats.binom.pmf(counts, n, p)[np.abs(counts / n - p) <= spread].sum()
        held = round(by_case(result, "accuracy", n, p)["coverage"]["normal"] * bench.QUICK_SETS)
        assert stats.binomtest(held, bench.QUICK_SETS, exact).pvalue > 1e-3, (n, p)


def test_the_wilson_interval_covers_as_its_exact_coverage_says(result):
    for n, p in ((50, 0.6), (50, 0.98), (1000, 0.9)):
        counts = range(n + 1)
        holds = [low <= p <= high for low, high in (wilson_ci(c, n) for c in counts)]
        exact = stats.binom.pmf(counts, n, p)[holds].sum()
        held = round(by_case(result, "accuracy", n, p)["coverage"]["wilson"] * bench.QUICK_SETS)
        assert stats.binomtest(held, bench.QUICK_SETS, exact).pvalue > 1e-3, (n, p)


def test_what_it_is_there_to_show(result):
    rare = by_case(result, "accuracy", 50, 0.98)["coverage"]
    # All methods see the same data sets, so what lies between them is not luck.
    assert max(rare["normal"], rare["bca"], rare["percentile"]) < rare["wilson"] - 0.1
    grouped = by_case(result, "groups", 1000, 0.7)
    assert grouped["coverage"]["bca"] < 0.88 and grouped["coverage"]["group bca"] > 0.84
    assert grouped["width"]["group bca"] > 1.3 * grouped["width"]["bca"]
    pairs = by_case(result, "pairs", 1000, 0.041)
    assert pairs["width"]["paired"] < 0.8 * pairs["width"]["unpaired normal"]
    claimed = {(row["family"], method) for row in result["rows"] for method in row["claimed"]}
    assert {("accuracy", "wilson"), ("scores", "bca"), ("groups", "group wilson")} <= claimed
    assert ("groups", "bca") not in claimed and "normal" not in {method for _, method in claimed}


def test_data_sets_have_the_truth_they_say():
    for index, case in enumerate(bench.CASES):
        rng = np.random.default_rng(index)
        sets = [bench.draw(case, rng) for _ in range(300)]
        values = np.concatenate([s.first if s.second is None else s.first - s.second for s in sets])
        means = [(s.first if s.second is None else s.first - s.second).mean() for s in sets]
        error = np.std(means) / np.sqrt(len(means))
        assert abs(values.mean() - case.truth) < 4.5 * error + 1e-3, case
        if case.groups:
            assert all(s.groups.max() + 1 == case.groups for s in sets)


def test_answers_of_a_group_are_correlated_as_said():
    case = next(c for c in bench.CASES if c.family == "groups" and c.groups == 200)
    rng = np.random.default_rng(0)
    answers = np.concatenate([bench.draw(case, rng).first.reshape(200, 5) for _ in range(20)])
    centred = answers - case.truth
    pairs = np.mean([centred[:, i] * centred[:, j] for i in range(5) for j in range(i)])
    assert pairs / (case.truth * (1 - case.truth)) == pytest.approx(bench.CORRELATION, abs=0.03)


def test_a_stretch_is_the_same_whoever_counts_it():
    whole, first, second = (bench._cover((0, *span)) for span in ((0, 6), (0, 4), (4, 6)))
    for hits in (0, 1):
        for method, total in whole[hits].items():
            assert total == pytest.approx(first[hits][method] + second[hits][method])


def test_record_and_tables(result):
    record = make_record("labs bench intervals --quick", bench.SEED, bench.CODE, result)
    assert json.loads(json.dumps(record))["results"]["setting"]["sets"] == bench.QUICK_SETS
    tables = bench.tables(result)
    assert sum(table.row_count for table in tables) == len(bench.CASES)
    assert {table.title.split(":")[0] for table in tables} == set(bench.FAMILIES)
