"""Two runs side by side: the same numbers as by hand, and no certainty that many looks would make."""

import json

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from labs.errors import InputError
from labs.evaluation.comparisons import holm
from labs.suites.compare import compare, labels
from labs.suites.results import read_run
from tests.suites.sums import finished


def scores(run) -> np.ndarray:
    return np.array([row.score for row in run.rows])


def test_a_pair_by_hand(tmp_path):
    one = finished(tmp_path / "one", "one", wrong=5, n=120)
    two = finished(tmp_path / "two", "two", wrong=2, n=120)
    [pair] = compare([one, two]).pairs
    a, b = scores(one), scores(two)
    assert (pair.suite, pair.first, pair.second, pair.n) == ("sums", "one", "two", 120)
    assert pair.difference == pytest.approx((a - b).mean())
    assert (pair.better, pair.worse) == (int((a > b).sum()), int((a < b).sum()))
    exact = stats.binomtest(pair.better, pair.better + pair.worse).pvalue
    assert pair.mcnemar_p == pytest.approx(exact)
    # One comparison needs no correction.
    assert (pair.p_holm, pair.mcnemar_p_holm) == (pair.p, pair.mcnemar_p)
    assert (pair.all_low, pair.all_high) == (pair.low, pair.high)
    # Against the normal interval of a mean of paired differences.
    half = 1.96 * (a - b).std(ddof=1) / np.sqrt(120)
    assert pair.low == pytest.approx(pair.difference - half, abs=0.02)
    assert pair.high == pytest.approx(pair.difference + half, abs=0.02)
    assert pair.sure and pair.low > 0


def test_the_same_answers_differ_by_nothing(tmp_path):
    [pair] = compare([finished(tmp_path / n, n) for n in ("one", "two")]).pairs
    assert (pair.difference, pair.p, pair.mcnemar_p, pair.sure) == (0, 1, 1, False)


def test_more_comparisons_make_each_less_sure(tmp_path):
    runs = [finished(tmp_path / str(w), f"m{w}", wrong=w, n=90) for w in (2, 3, 4, 50)]
    found = compare(runs)
    assert [(p.first, p.second) for p in found.pairs] == [
        ("m2", "m3"), ("m2", "m4"), ("m2", "m50"), ("m3", "m4"), ("m3", "m50"), ("m4", "m50"),
    ]  # fmt: skip
    assert np.allclose([p.p_holm for p in found.pairs], holm([p.p for p in found.pairs]))
    assert np.allclose(
        [p.mcnemar_p_holm for p in found.pairs], holm([p.mcnemar_p for p in found.pairs])
    )
    for pair in found.pairs:
        assert pair.all_low <= pair.low <= pair.difference <= pair.high <= pair.all_high
        assert pair.all_high - pair.all_low > 1.2 * (pair.high - pair.low)
    # What looks sure alone need not be so among six.
    assert sum(p.p < 0.05 for p in found.pairs) >= sum(p.sure for p in found.pairs) > 0


def test_a_second_suite_counts_as_well(tmp_path):
    def runs(suite, n):
        made = [finished(tmp_path / f"{suite}{w}", f"m{w}", wrong=w, n=n) for w in (2, 3)]
        for run in made:
            run.config["suite"]["name"] = suite
        return made

    first, second = runs("one", 90), runs("two", 60)
    alone, both = compare(first), compare([*first, *second])
    assert [p.suite for p in both.pairs] == ["one", "two"]
    assert both.pairs[0].p == alone.pairs[0].p
    assert both.pairs[0].p_holm > alone.pairs[0].p_holm


def test_questions_of_a_group_are_drawn_together(tmp_path):
    """Forty pictures with ten questions each tell less than four hundred pictures."""
    alone = [finished(tmp_path / f"a{w}", f"m{w}", wrong=w, n=200) for w in (2, 9)]
    grouped = [finished(tmp_path / f"g{w}", f"m{w}", wrong=w, n=200, groups=20) for w in (2, 9)]
    [one], [two] = compare(alone).pairs, compare(grouped).pairs
    assert one.difference == two.difference and one.mcnemar_p is not None
    assert two.mcnemar_p is None, "McNemar's test takes questions for independent"
    assert (two.low, two.high) != (one.low, one.high)


def test_different_questions_are_not_compared(tmp_path):
    one, two = finished(tmp_path / "one", "one"), finished(tmp_path / "two", "two", n=39)
    with pytest.raises(InputError, match=r'different questions of sums: {"n": 40} and {"n": 39}'):
        compare([one, two])
    with pytest.raises(InputError, match="No two of the runs"):
        compare([one])


def test_runs_of_one_model_are_told_apart_by_their_folders(tmp_path):
    one, two = finished(tmp_path / "a/sums"), finished(tmp_path / "b/sums", wrong=3)
    assert labels([one, two]) == ["calculator (a/sums)", "calculator (b/sums)"]
    [pair] = compare([one, two]).pairs
    assert pair.first == "calculator (a/sums)"
    with pytest.raises(InputError, match="given twice"):
        compare([one, read_run(tmp_path / "a" / ".." / "a" / "sums")])


def test_examples_are_the_questions_that_one_of_them_got_right(tmp_path):
    one = finished(tmp_path / "one", "one", wrong=5, n=30)
    two = finished(tmp_path / "two", "two", wrong=3, n=30)
    found = compare([one, two])
    all_of_them = found.examples("sums", "one", "two", 99)
    differ = [a.id for a, b in zip(one.rows, two.rows, strict=True) if a.score != b.score]
    assert [e.id for e in all_of_them] == differ
    assert len(found.examples("sums", "one", "two", 2)) == 2
    first = all_of_them[0]
    assert (first.id, first.answer, first.said) == ("sum-2", 6, {"one": "6", "two": "7"})


def test_a_suite_that_only_one_has_is_named(tmp_path):
    runs = [finished(tmp_path / f"{w}", f"m{w}", wrong=w) for w in (2, 3)]
    extra = finished(tmp_path / "extra", "m2", n=5)
    extra.config["suite"]["name"] = "other"
    assert compare([*runs, extra]).alone == {"other": "m2"}


def test_it_is_shown_and_is_json(tmp_path):
    runs = [finished(tmp_path / f"{w}", f"m[{w}]", wrong=w) for w in (2, 3)]
    found = compare(runs)
    told = json.loads(json.dumps(found.to_dict()))
    assert told["comparisons"] == 1 and told["pairs"][0]["sure"] == found.pairs[0].sure
    assert told["measures"]["sums"]["m[2]"]["accuracy"]["n"] == 40
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    for table in found.tables():
        console.print(table)
    text = console.export_text()
    assert "m[2]" in text and f"{found.pairs[0].difference:+.3f}" in text
