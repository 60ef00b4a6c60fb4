import pytest

from labs.bench import evaluate
from labs.bench.evaluate import WAYS, NotComparable, run, tables


def test_both_ways_answer_the_same_questions_alike():
    said = []
    result = run(1, n=8, batch=8, turns=1, suites=("counting", "captions"), progress=said.append)
    assert all(any(way in sentence for sentence in said) for way in WAYS)
    assert result["different"] == 0
    assert result["setting"]["n"] == 16
    # The same answers are the same tokens, whoever counts them.
    per_answer = {
        way: result["tokens_per_second"][way] / result["answers_per_second"][way] for way in WAYS
    }
    assert per_answer["labs"] == pytest.approx(per_answer["transformers"])
    assert result["against_transformers"] == pytest.approx(
        result["seconds"]["transformers"] / result["seconds"]["labs"]
    )
    assert result["suites"].keys() == {"counting", "captions"}
    assert [table.row_count for table in tables(result)] == [2, 2]


def test_other_answers_end_the_bench(tmp_path):
    (tmp_path / "labs.json").write_text('{"a": "1", "b": "2"}')
    (tmp_path / "transformers.json").write_text('{"a": "1", "b": "3"}')
    with pytest.raises(NotComparable, match=r"50\.0 %"):
        evaluate._different(tmp_path)
    (tmp_path / "transformers.json").write_text('{"a": "1"}')
    with pytest.raises(NotComparable, match="not asked the same"):
        evaluate._different(tmp_path)
