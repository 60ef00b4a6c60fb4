import io

import numpy as np
import pytest
from rich.console import Console

from labs.bench.interleaving import _clicks, run, tables
from labs.evaluation.online.service import Service, Variant


def test_interleaving_needs_a_fraction_of_the_requests():
    result = run(quick=True)
    (row,) = result["pairs"]
    assert row["clicked"][1] > row["clicked"][0] and row["share_b"] > 0.52
    requests = row["requests"]
    assert row["times"] > 3
    assert row["times"] == pytest.approx(
        min(v for k, v in requests.items() if k != "interleaving") / requests["interleaving"]
    )
    # As many requests as interleaving needs: it finds the better ranker, an A/B test seldom.
    found = row["found"]
    assert found["interleaving"]["low"] < 0.85 and found["interleaving"]["high"] > 0.7
    assert found["A/B"]["high"] < found["interleaving"]["low"]
    out = io.StringIO()
    for table in tables(result):
        Console(width=160, file=out).print(table)
    assert f"{requests['interleaving']:,}" in out.getvalue()


def test_the_click_rates_are_exact():
    """200,000 simulated requests, within 4.5 standard errors."""
    service = Service(queries=50, seed=1)
    ranking = service.rankings(Variant("A", 0.5))
    exact = _clicks(service, ranking)
    rng = np.random.default_rng(0)
    query = service.asked(200_000, rng)
    clicks = service.click(query, ranking[query], rng)
    clicked = clicks.any(1)
    assert abs(clicked.mean() - exact["clicked"]) < 4.5 * clicked.std() / 200_000**0.5
    assert abs(clicks.sum(1).mean() - exact["mean"]) < 4.5 * clicks.sum(1).std() / 200_000**0.5
    assert clicks.sum(1).var() == pytest.approx(exact["variance"], rel=0.02)
