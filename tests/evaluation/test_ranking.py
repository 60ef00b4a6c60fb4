import numpy as np
import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from labs.errors import InputError
from labs.evaluation.ranking import map_at, mrr, ndcg, recall

grades = st.lists(st.integers(0, 3), max_size=12)
queries = st.lists(st.tuples(grades, grades), min_size=1, max_size=6)  # (ranked, left out)
cutoffs = st.sampled_from([1, 3, 5, 10, None])


def trec(items, measures):
    """What trec_eval says of each query, by way of its own C code."""
    relevant, ran = {}, {}
    for q, (ranked, left) in enumerate(items):
        relevant[f"q{q}"] = {f"d{i}": r for i, r in enumerate([*ranked, *left])}
        # Its order is by score; "other" keeps a query whose list is empty in the run.
        ran[f"q{q}"] = {f"d{i}": float(100 - i) for i in range(len(ranked))} or {"other": 1.0}
        relevant[f"q{q}"].setdefault("unseen", 0)
    results = pytrec_eval.RelevanceEvaluator(relevant, measures).evaluate(ran)
    return [results[f"q{q}"] for q in range(len(items))]


@given(queries, cutoffs)
def test_equal_to_trec_eval(items, k):
    lists = [ranked for ranked, _ in items]
    ideal = [[*ranked, *left] for ranked, left in items]
    totals = [np.count_nonzero(whole) for whole in ideal]
    at = "" if k is None else f"_cut_{k}"
    deep = 1000 if k is None else k
    names = {f"ndcg{at}", f"map{at}", f"recall_{deep}", "recip_rank"}
    theirs = trec(
        items, {name.replace("_cut_", "_cut.").replace("recall_", "recall.") for name in names}
    )
    ours = {
        f"ndcg{at}": ndcg(lists, k, ideal=ideal, per_query=True),
        f"map{at}": map_at(lists, totals, k, per_query=True),
        f"recall_{deep}": recall(lists, totals, k, per_query=True),
    }
    if k is None:
        ours["recip_rank"] = mrr(lists, per_query=True)
    for name, values in ours.items():
        assert values.tolist() == pytest.approx([row[name] for row in theirs], abs=1e-9), name


@given(
    st.lists(st.lists(st.integers(0, 4), min_size=6, max_size=6), min_size=1, max_size=5), cutoffs
)
def test_ndcg_equal_to_scikit_learn(lists, k):
    scores = np.tile(np.arange(6, 0, -1.0), (len(lists), 1))
    assert ndcg(lists, k) == pytest.approx(ndcg_score(lists, scores, k=k), abs=1e-9)
    gains = 2.0 ** np.array(lists) - 1
    assert ndcg(lists, k, gain="exponential") == pytest.approx(
        ndcg_score(gains, scores, k=k), abs=1e-9
    )


@given(queries, cutoffs)
def test_the_slow_loops(items, k):
    lists = [ranked for ranked, _ in items]
    totals = [sum(r > 0 for r in [*ranked, *left]) for ranked, left in items]
    first, found, precision = [], [], []
    for ranked, total in zip(lists, totals, strict=True):
        depth = len(ranked) if k is None else min(k, len(ranked))
        first.append(0.0)
        hits, area = 0, 0.0
        for rank in range(1, depth + 1):
            if ranked[rank - 1] > 0:
                hits += 1
                area += hits / rank
                first[-1] = first[-1] or 1 / rank
        found.append(hits / total if total else 0)
        precision.append(area / total if total else 0)
    assert mrr(lists, k) == pytest.approx(sum(first) / len(lists))
    assert recall(lists, totals, k) == pytest.approx(sum(found) / len(lists))
    assert map_at(lists, totals, k) == pytest.approx(sum(precision) / len(lists))
    assert np.mean(mrr(lists, k, per_query=True)) == pytest.approx(mrr(lists, k))


@given(queries, cutoffs)
def test_the_best_order_scores_one_and_no_order_more(items, k):
    whole = [[*ranked, *left] for ranked, left in items]
    any_relevant = np.array([float(max(w, default=0) > 0) for w in whole])
    best = [sorted(w, reverse=True) for w in whole]
    for gain in ("linear", "exponential"):
        assert ndcg(best, k, ideal=whole, gain=gain, per_query=True) == pytest.approx(any_relevant)
        scores = ndcg([r for r, _ in items], k, ideal=whole, gain=gain, per_query=True)
        assert np.all((scores >= 0) & (scores <= 1 + 1e-12))
    assert map_at(best, [np.count_nonzero(w) for w in whole], None) == pytest.approx(
        any_relevant.mean()
    )


def test_worked_by_hand():
    lists, totals = [[0, 1, 0, 1], [1], []], [4, 1, 2]
    assert mrr(lists) == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert mrr(lists, 1) == pytest.approx(1 / 3)
    assert recall(lists, totals, 2) == pytest.approx((1 / 4 + 1 + 0) / 3)
    assert map_at(lists, totals, 10) == pytest.approx(((1 / 2 + 2 / 4) / 4 + 1 + 0) / 3)
    # Two grades in the wrong order: (1 + 3/log2(3)) / (3 + 1/log2(3)), and with gains 1 and 7.
    assert ndcg([[1, 3]]) == pytest.approx((1 + 3 / np.log2(3)) / (3 + 1 / np.log2(3)))
    assert ndcg([[1, 3]], gain="exponential") == pytest.approx(
        (1 + 7 / np.log2(3)) / (7 + 1 / np.log2(3))
    )


def test_what_was_left_out_counts_against_a_list_only_through_its_ideal():
    assert ndcg([[1, 0]]) == 1
    assert ndcg([[1, 0]], ideal=[[1, 2, 0]]) < 0.5
    assert ndcg([[0, 0]], ideal=[[1]]) == 0


def test_a_query_with_nothing_relevant_scores_0_and_stays():
    lists = [[0, 0], [1]]
    assert mrr(lists) == ndcg(lists) == recall(lists, [0, 1], 5) == map_at(lists, [0, 1], 5) == 0.5
    assert mrr([[True, False]]) == 1 and mrr(np.array([[0.0, 0.5]])) == 0.5


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (lambda: mrr([]), "no items"),
        (lambda: mrr([[1]], 0), "k = 0"),
        (lambda: mrr([[1], [0, float("nan")]]), "rank 2 of query 1"),
        (lambda: ndcg([[1, -1]]), "relevance of -1"),
        (lambda: ndcg([[1, float("inf")]]), "relevance of inf"),
        (lambda: mrr([1, 2]), "query 0"),
        (lambda: mrr([["yes"]]), "no list of numbers"),
        (lambda: ndcg([[2000]], gain="exponential"), "too large"),
        (lambda: ndcg([[3]], ideal=[[1, 2]]), "relevance 3"),
        (lambda: ndcg([[1, 1]], ideal=[[1, 2]]), "relevance 1"),
        (lambda: ndcg([[1]], ideal=[[1], [1]]), "1 items on one side and 2"),
        (lambda: recall([[1, 1]], [1], 5), "2 relevant results and a total of 1"),
        (lambda: recall([[1]], [1.5], 5), "1.5"),
        (lambda: map_at([[1]], [float("nan")], 5), "nan"),
        (lambda: map_at([[0]], [-1], 5), "-1"),
        (lambda: map_at([[0]], [1, 2], 5), "1 items on one side and 2"),
    ],
)
def test_bad_input(bad, says):
    with pytest.raises(InputError, match=says):
        bad()
