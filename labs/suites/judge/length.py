"""The win rate that would be seen if both answers had the same length."""

from collections.abc import Sequence

import numpy as np
from scipy.special import expit

RIDGE = 1.0  # on the effect of length, in units of its spread: keeps separable data finite


def length_controlled_win_rate(
    wins: Sequence[float],
    lengths: Sequence[float],
    other_lengths: Sequence[float],
    *,
    resamples: int = 1_000,
    seed: int = 0,
    groups: Sequence[int] | None = None,
) -> tuple[float, float, float]:
    """Win rate of A over B at equal length, with its 95 % bootstrap interval.

    A logistic curve through the verdicts, and its value where the lengths do not differ:

        P(A wins) = σ(a + b · tanh(Δ / s)),   Δ = length of A - length of B, s = the spread of Δ
        rate      = σ(a)

    `wins` [N]: 1 for A, 0 for B, 0.5 for a tie. Both models' overall difference in length is thereby
    taken out too: where longer answers win because they are better, the rate is too low, so it stands
    beside the plain one and does not replace it. Groups (labels 0, 1, …) are drawn whole.

    Dubois et al. 2024 (length-controlled AlpacaEval), arXiv:2404.04475, without their terms for the
    difficulty of an instruction. Chapter 7.
    """
    y = np.asarray(wins, dtype=np.float64)
    delta = np.asarray(lengths, dtype=np.float64) - np.asarray(other_lengths, dtype=np.float64)
    spread = delta.std()
    x = np.tanh(delta / spread) if spread else np.zeros_like(delta)
    codes = np.arange(len(y)) if groups is None else np.asarray(groups)
    rate = float(_fit(y[None], x[None], np.ones((1, len(y))))[0])
    rng = np.random.default_rng(seed)
    count = int(codes.max()) + 1
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=resamples)[:, codes]
    rates = _fit(
        np.broadcast_to(y, drawn.shape), np.broadcast_to(x, drawn.shape), drawn.astype(float)
    )
    low, high = np.quantile(rates, [0.025, 0.975])
    return rate, float(low), float(high)


def _fit(y: np.ndarray, x: np.ndarray, weight: np.ndarray, steps: int = 50) -> np.ndarray:
    """σ(a) of each row's fit, [rows]; Newton's method on two parameters, all rows at once."""
    a = np.zeros(len(y))
    b = np.zeros(len(y))
    for _ in range(steps):
        p = expit(a[:, None] + b[:, None] * x)
        residual, curve = weight * (y - p), weight * p * (1 - p)
        # A pinch of ridge on the intercept too: a row in which A won everything has no finite fit.
        ga, gb = residual.sum(1) - 1e-3 * a, (residual * x).sum(1) - RIDGE * b
        haa, hbb = curve.sum(1) + 1e-3, (curve * x * x).sum(1) + RIDGE
        hab = (curve * x).sum(1)
        det = haa * hbb - hab**2
        da, db = (hbb * ga - hab * gb) / det, (haa * gb - hab * ga) / det
        # Newton's step from far out may jump beyond the slope; a bounded one arrives as well.
        a, b = a + np.clip(da, -2, 2), b + np.clip(db, -2, 2)
        if max(np.abs(da).max(), np.abs(db).max()) < 1e-10:
            break
    return expit(a)
