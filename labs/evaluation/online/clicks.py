"""Clicks are biased by position: people click what they see, and they see the top.

Under the position-based model a click at place k on picture d has the chance

    P(click) = θ_k · r_d            θ: examination of the place, r: relevance of the picture

so a click rate of 5 % may be a good picture at the bottom or a bad one at the top. With θ known up to
a factor, clicks weighted by 1/θ_k (inverse propensity scores, IPS) are unbiased for r up to that factor.
θ cannot be had from an ordinary log: there place and relevance go together, because the ranker puts
them together. It takes a little randomness in what is shown.

Where people stop at the first thing they like (a cascade), examination depends on what stands above, and
one θ a place is only an average over the lists that were shown.
"""

import numpy as np

from labs.errors import InputError
from labs.evaluation.online.checks import check_clicks


def click_rate_by_position(clicks) -> np.ndarray:
    """[k] share of the requests in which each place was clicked; clicks [N, k].

    From the lists as ranked, this is examination times the relevance that the ranker puts there, so it
    falls faster than examination does. Raises InputError for no requests. Chapter 7.
    """
    return check_clicks(clicks).mean(axis=0)


def examination_from_shuffles(clicks) -> np.ndarray:
    """[k] θ of each place relative to the top, from lists shown in random order; clicks [N, k].

        θ_k / θ_1 = clicks at k / clicks at 1

    Every picture is as often at each place, so relevance cancels. Unbiased but dear: those users see
    bad lists. The relative error is about sqrt(1/clicks at k + 1/clicks at 1). Raises InputError where
    the top was never clicked.

    Joachims, Swaminathan and Schnabel 2017 (arXiv:1608.04468), section 5. Chapter 7.
    """
    counts = check_clicks(clicks).sum(axis=0)
    if counts[0] == 0:
        raise InputError("The top was never clicked.", "Explore more requests.")
    return counts / counts[0]


def examination_from_swaps(clicks, swapped) -> np.ndarray:
    """[k] θ of each place relative to the top, from lists whose top was exchanged with one place.

        θ_k / θ_1 = clicks at k / clicks at 1,   among the requests that took part in exchanging 1 and k

    clicks [N, k]; swapped [N]: the place (1 is the second) whose picture was exchanged with the top, *or
    left*, by the toss of a coin; both sides of the coin count. Either of the two pictures is then as
    often at either place. Users notice less than with shuffled lists, and each place costs its own share
    of requests. Raises InputError where a place took no part, or its requests never clicked the top.

    Joachims, Swaminathan and Schnabel 2017 (arXiv:1608.04468), section 5. Chapter 7.
    """
    clicks, swapped = check_clicks(clicks), np.asarray(swapped)
    if swapped.shape != clicks.shape[:1]:
        raise InputError(
            f"{len(clicks)} requests and swaps of shape {swapped.shape} do not pair up.",
            "Pass one place a request.",
        )
    theta = np.ones(clicks.shape[1])
    for place in range(1, clicks.shape[1]):
        took_part = clicks[swapped == place]
        top = took_part[:, 0].sum()
        if top == 0:
            raise InputError(
                f"Of the requests that took part in exchanging the top with place {place + 1},"
                " none clicked the top.",
                "Explore more requests, and every place.",
            )
        theta[place] = took_part[:, place].sum() / top
    return theta


def naive_relevance(query, shown, clicks, *, shape: tuple[int, int]) -> np.ndarray:
    """[Q, D] clicks over times shown of each picture for each query; nan where it never was.

    The click rate as it is usually read. It ranks what stood at the top above what stood below it,
    so a ranker trained on it learns what the old ranker did. query [N], shown [N, k] with -1 where
    nothing was, clicks [N, k]; `shape` is (queries, pictures). Chapter 7.
    """
    clicks, cell, seen = _cells(query, shown, clicks, shape)
    return _per_cell(clicks[seen].astype(float), cell[seen], shape)


def ips_relevance(
    query, shown, clicks, examination, *, shape: tuple[int, int], clip: float | None = None
) -> np.ndarray:
    """[Q, D] relevance of each picture to each query from clicks weighted by 1/θ; nan where never shown.

        r(q, d) = mean over the times d was shown for q of click · w_place,   w = min(1/θ, clip)

    With θ relative to the top (`examination_from_swaps`) it is the click rate the picture would have at
    the top. Unbiased under the position-based model, at the price of variance: a click at a place seen
    once in ten counts ten. `clip` bounds that weight; places with θ < 1/clip are then underestimated,
    by the factor clip · θ. Input as for `naive_relevance`, and examination [k].

    Raises InputError for a θ that is not above 0 (what is never looked at tells nothing), a clip
    below 1, or input that does not pair up.

    Joachims, Swaminathan and Schnabel 2017 (arXiv:1608.04468), section 4. Chapter 7.
    """
    clicks, cell, seen = _cells(query, shown, clicks, shape)
    theta = np.asarray(examination, dtype=np.float64)
    if theta.shape != clicks.shape[1:] or not (np.isfinite(theta) & (theta > 0)).all():
        raise InputError(
            f"Examination rates of shape {theta.shape} do not fit, or one is not above 0.",
            "Pass one rate above 0 for each of the places, or leave out places never clicked.",
        )
    weights = 1 / theta
    if clip is not None:
        if not clip >= 1:
            raise InputError(f"A clip of {clip} is below 1.", "Pass the largest weight of a click.")
        weights = np.minimum(weights, clip)
    return _per_cell((clicks * weights)[seen], cell[seen], shape)


def _cells(query, shown, clicks, shape: tuple[int, int]):
    """Clicks, the flat index of (query, picture) at each place, and where anything was shown."""
    clicks, query, shown = check_clicks(clicks), np.asarray(query), np.asarray(shown)
    if shown.shape != clicks.shape or query.shape != clicks.shape[:1]:
        raise InputError(
            f"Queries of shape {query.shape}, lists of {shown.shape} and clicks of {clicks.shape}"
            " do not pair up.",
            "Pass one query and one row of each a request.",
        )
    seen = shown >= 0
    inside = (query >= 0).all() and (query < shape[0]).all() and (shown < shape[1]).all()
    if not inside or (clicks & ~seen).any():
        raise InputError(
            f"A query or picture lies outside {shape}, or a click where nothing was shown.",
            "Number queries and pictures from 0, and pass how many there are as `shape`.",
        )
    return clicks, query[:, None] * shape[1] + shown, seen


def _per_cell(values: np.ndarray, cell: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    size = shape[0] * shape[1]
    times = np.bincount(cell, minlength=size)
    total = np.bincount(cell, weights=values, minlength=size)
    return np.where(times > 0, total / np.maximum(times, 1), np.nan).reshape(shape)
