"""The bench of `explain`, small: it writes both logs, runs the tool, and knows what must come out."""

from labs.bench import explain_log


def test_the_bench_measures_both_logs():
    said = []
    result = explain_log.run(repeats=1, size=5_000_000, progress=said.append)
    assert all(row["processor_seconds"] > 0 for row in result["logs"].values())
    assert all(row["peak_bytes"] < explain_log.BYTES for row in result["logs"].values())
    assert len(said) == 2
    assert all(row["log_bytes"] > 4_300_000 for row in result["logs"].values())
    assert {row["cause"] for row in result["logs"].values()} == {"logits", "capacity"}
    (table,) = explain_log.tables(result)
    assert table.row_count == 2
