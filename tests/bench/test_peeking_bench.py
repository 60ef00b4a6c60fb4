import io

import pytest
from rich.console import Console
from scipy import stats

from labs.bench.peeking import ALPHA, WAYS, run, tables


@pytest.fixture(scope="module")
def result():
    said = []
    found = run(quick=True, progress=said.append)
    assert len(said) == 3 and "nothing differs" in said[0]
    return found


def test_peeking_finds_what_is_not_there_unless_the_test_allows_for_it(result):
    """400 A/A experiments: false alarms at most 5 %, but for chance (once in 10,000)."""
    (row,) = result["false_alarms"]
    ways = row["ways"]
    assert set(ways) == set(WAYS) and row["experiments"] == 400
    limit = stats.binom.isf(1e-4, 400, ALPHA)
    assert ways["always valid"]["at_2n"]["count"] <= limit
    for way in ("fixed", "group"):
        assert ways[way]["at_n"]["count"] <= limit and ways[way]["at_2n"] is None
    assert ways["naive, every visitor"]["at_n"]["share"] > 0.25
    assert (
        ways["naive, every visitor"]["at_2n"]["count"]
        >= ways["naive, every visitor"]["at_n"]["count"]
    )
    assert (
        ways["naive, every visitor"]["at_n"]["count"] >= ways["naive, every 100"]["at_n"]["count"]
    )
    theory = result["theory"]["naive, 5 looks"]
    assert theory == pytest.approx(0.142, abs=1e-3)
    assert stats.binomtest(ways["naive, 5 looks"]["at_n"]["count"], 400, theory).pvalue > 1e-4
    for share in (ways["fixed"]["at_n"], ways["always valid"]["at_2n"]):
        assert share["low"] <= share["share"] == share["count"] / 400 <= share["high"]


def test_a_real_effect_is_found_and_a_large_one_early(result):
    planned, double = result["effects"]
    assert double["effect"] == pytest.approx(2 * planned["effect"])
    n = planned["n"]
    fixed = planned["ways"]["fixed"]
    assert fixed["at_n"]["low"] < 0.82 and fixed["at_n"]["high"] > 0.78 and fixed["visitors"] == n
    group, theory = planned["ways"]["group"], result["theory"]["group"]
    assert group["visitors"] == pytest.approx(theory["visitors"], rel=0.08)
    assert stats.binomtest(group["at_n"]["count"], 200, theory["power"]).pvalue > 1e-4
    assert planned["ways"]["always valid"]["at_2n"]["share"] > 0.75
    assert double["ways"]["always valid"]["visitors"] < 0.7 * n


def test_it_can_be_read_and_repeated(result):
    out = io.StringIO()
    for table in tables(result):
        Console(width=160, file=out).print(table)
    text = out.getvalue()
    assert all(name in text for name in WAYS.values())
    assert f"{result['false_alarms'][0]['ways']['always valid']['at_2n']['share']:.1%}" in text
    assert run(quick=True) == result
