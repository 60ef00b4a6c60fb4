"""Scores of ranked lists: search, retrieval, reranking."""

import numbers
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from labs.errors import InputError
from labs.evaluation.checks import check_items

Lists = Sequence | np.ndarray  # for each query the relevances of its results, in rank order
Scores = float | np.ndarray  # the mean, or one score a query


def mrr(relevance_lists: Lists, k: int | None = None, *, per_query: bool = False) -> Scores:
    """Mean reciprocal rank: how far down the first relevant result stands.

        MRR@k = 1/N · sum_n 1 / rank_n    rank_n: of the first relevant result among the first k

    `relevance_lists` [N][results]: the relevance of each result a system returned, best first; lists
    may be of different lengths, or empty. Above 0 is relevant. A query without a relevant result
    among the first `k` (None: among all) scores 0, also where there is none to find: such queries
    stay in the mean, as with trec_eval's `recip_rank`. `per_query` gives the N scores (to draw from).

    Raises InputError for no queries, a relevance below 0 or not finite, or k below 1.

    Voorhees 1999 (TREC-8, question answering track). Chapter 7.
    """
    scores = []
    for relevances in _checked("mrr", relevance_lists, k):
        hits = np.flatnonzero(relevances[:k] > 0)
        scores.append(1 / (hits[0] + 1) if len(hits) else 0.0)
    return _summed_up(scores, per_query)


def ndcg(
    relevance_lists: Lists,
    k: int | None = None,
    *,
    ideal: Lists | None = None,
    gain: Literal["linear", "exponential"] = "linear",
    per_query: bool = False,
) -> Scores:
    """Normalised discounted cumulative gain: graded relevance, worth less further down.

        DCG@k  = sum_{i=1..k} gain(rel_i) / log2(i + 1)
        nDCG@k = 1/N · sum_n DCG@k of the ranked list / DCG@k of the best order there is

    gain: "linear" takes rel itself, as trec_eval (`ndcg`, `ndcg_cut_k`) and scikit-learn do;
    "exponential" takes 2^rel - 1, as LETOR, Kaggle and most learning-to-rank libraries do. They are
    equal for relevances of 0 and 1 and for nothing else: say which one a number is.

    `ideal` [N][items]: the relevances of all relevant items of the collection, in any order. Without
    it the best order is that of the list itself, which is right where every candidate was ranked
    (reranking) and flatters a system that left relevant items out. A query with nothing relevant
    scores 0 and stays in the mean, as in trec_eval and scikit-learn. `relevance_lists`, `k` and
    `per_query` as for `mrr`.

    Raises InputError as `mrr`, and for a list that holds a relevant item which its ideal lacks.

    Järvelin and Kekäläinen 2002; Burges et al. 2005 (exponential gain). Chapter 7.
    """
    lists = list(_checked("ndcg", relevance_lists, k))
    if ideal is None:
        best = lists
    else:
        check_items("ndcg", relevance_lists, ideal)
        best = list(_checked("the ideal of ndcg", ideal, k))
        for query, (ranked, whole) in enumerate(zip(lists, best, strict=True)):
            more = Counter(ranked[ranked > 0].tolist()) - Counter(whole.tolist())
            if more:
                raise InputError(
                    f"Query {query} ranks an item of relevance {next(iter(more)):g} that its ideal"
                    " does not have.",
                    "Give as the ideal the relevances of all relevant items, those ranked included.",
                )
    scores = []
    for query, (ranked, whole) in enumerate(zip(lists, best, strict=True)):
        top = _dcg(np.sort(whole)[::-1][:k], gain)
        if not np.isfinite(top):
            raise InputError(
                f"Query {query} has a relevance of {whole.max():g}, of which 2^rel is too large.",
                'Grade on a small scale such as 0 to 4, or use gain="linear".',
            )
        scores.append(_dcg(ranked[:k], gain) / top if top > 0 else 0.0)
    return _summed_up(scores, per_query)


def recall(
    relevance_lists: Lists, totals: Lists, k: int | None, *, per_query: bool = False
) -> Scores:
    """Recall at k: the share of what is relevant that stands among the first k results.

        recall@k = 1/N · sum_n #(relevant among the first k) / total_n

    `totals` [N]: relevant items of each query in the whole collection. A query with none scores 0
    and stays in the mean, as with trec_eval's `recall_k`. The rest as for `mrr`.

    Raises InputError as `mrr`, for totals that do not pair up with the lists, are not whole numbers
    from 0 up, or are fewer than the relevant results listed.

    Chapter 7.
    """
    lists, totals = _with_totals("recall", relevance_lists, totals, k)
    found = [np.count_nonzero(relevances[:k] > 0) for relevances in lists]
    scores = [f / t if t else 0.0 for f, t in zip(found, totals, strict=True)]
    return _summed_up(scores, per_query)


def map_at(
    relevance_lists: Lists, totals: Lists, k: int | None, *, per_query: bool = False
) -> Scores:
    """Mean average precision at k.

        AP@k = 1/total · sum_{i <= k, result i relevant} #(relevant among the first i) / i
        MAP@k = 1/N · sum_n AP@k

    The divisor is all that is relevant, as in trec_eval's `map` and `map_cut_k`: with more relevant
    items than k not even a perfect list reaches 1. (Some code divides by min(total, k) instead.)
    `totals`, and what a query without relevant items scores, as for `recall`; the rest as for `mrr`.

    Raises InputError as `recall`.

    Chapter 7.
    """
    lists, totals = _with_totals("map_at", relevance_lists, totals, k)
    scores = []
    for relevances, total in zip(lists, totals, strict=True):
        ranks = np.flatnonzero(relevances[:k] > 0) + 1
        precisions = np.arange(1, len(ranks) + 1) / ranks
        scores.append(precisions.sum() / total if total else 0.0)
    return _summed_up(scores, per_query)


def _dcg(relevances: np.ndarray, gain: str) -> float:
    with np.errstate(over="ignore"):
        gains = relevances if gain == "linear" else np.exp2(relevances) - 1
    return float((gains / np.log2(np.arange(2, len(gains) + 2))).sum())


def _summed_up(scores: list, per_query: bool) -> Scores:
    return np.array(scores, dtype=np.float64) if per_query else float(np.mean(scores))


def _checked(name: str, lists: Lists, k: int | None) -> Iterator[np.ndarray]:
    check_items(name, lists)
    if k is not None and (not isinstance(k, numbers.Integral) or k < 1):
        raise InputError(
            f"{name} at k = {k!r} looks at no result.", "Pass a whole number from 1 up, or None."
        )
    for query, relevances in enumerate(lists):
        try:
            array = np.asarray(relevances, dtype=np.float64)
        except (TypeError, ValueError):
            array = np.array(np.nan)
        if array.ndim != 1:
            raise InputError(
                f"{name}: what query {query} has for its relevances is no list of numbers.",
                "Pass one list a query, with one number for each result in rank order.",
            )
        bad = ~(np.isfinite(array) & (array >= 0))
        if bad.any():
            raise InputError(
                f"{name}: the result at rank {bad.argmax() + 1} of query {query} has a relevance of"
                f" {array[bad.argmax()]:g}.",
                "Give what was not judged, or judged to be spam, 0.",
            )
        yield array


def _with_totals(name: str, lists: Lists, totals: Lists, k: int | None):
    check_items(name, lists, totals)
    checked = list(_checked(name, lists, k))
    for query, (relevances, total) in enumerate(zip(checked, totals, strict=True)):
        whole = isinstance(total, numbers.Real) and total >= 0 and total == int(total)
        if not whole or total < np.count_nonzero(relevances):
            raise InputError(
                f"{name}: query {query} has {np.count_nonzero(relevances)} relevant results and a"
                f" total of {total!r}.",
                "Give for each query how many relevant items the whole collection holds.",
            )
    return checked, [int(total) for total in totals]
