"""CUPED: the same answer from fewer visitors, with what was known of them before."""

from typing import NamedTuple

import numpy as np

from labs.errors import InputError


class Adjusted(NamedTuple):
    difference: float  # mean of B minus mean of A, adjusted
    se: float  # its standard error
    variance_ratio: float  # its variance over that of the plain difference
    theta: float


def cuped(values_a, before_a, values_b, before_b) -> Adjusted:
    """Difference of two means, less what visitors' earlier behaviour already explains.

        y' = y - theta (x - mean(x)),   theta = cov(x, y) / var(x), both within the arms

    x is the same number for the same visitor from *before* the experiment, which the treatment cannot
    have changed; anything measured after the start would take part of the effect away. Unbiased because
    x has the same mean in both arms. With correlation ρ of x and y the variance falls to 1 - ρ², and
    so does the number of visitors needed. Arrays [visitors of the arm], x and y in the same order.

    Raises InputError for lists that do not pair up, arms of fewer than two, values that are not finite.
    Where x does not vary nothing is adjusted.

    Deng, Xu, Kohavi and Walker 2013 (doi:10.1145/2433396.2433413). Chapter 7.
    """
    arms = [_arm(values_a, before_a, "A"), _arm(values_b, before_b, "B")]
    covariance = sum(((x - x.mean()) * (y - y.mean())).sum() for y, x in arms)
    spread = sum(((x - x.mean()) ** 2).sum() for _, x in arms)
    theta = covariance / spread if spread > 0 else 0.0
    plain = sum(y.var(ddof=1) / len(y) for y, _ in arms)
    adjusted = [y - theta * x for y, x in arms]  # the overall mean of x drops out of the difference
    variance = sum(y.var(ddof=1) / len(y) for y in adjusted)
    return Adjusted(
        float(adjusted[1].mean() - adjusted[0].mean()),
        float(np.sqrt(variance)),
        float(variance / plain) if plain > 0 else 1.0,
        float(theta),
    )


def _arm(values, before, name: str) -> tuple[np.ndarray, np.ndarray]:
    y, x = (np.asarray(array, dtype=np.float64) for array in (values, before))
    if y.ndim != 1 or y.shape != x.shape or len(y) < 2:
        raise InputError(
            f"Arm {name} has values of shape {y.shape} and earlier ones of shape {x.shape}.",
            "Pass two lists in the same order, one entry a visitor, at least two visitors.",
        )
    if not (np.isfinite(y).all() and np.isfinite(x).all()):
        raise InputError(
            f"Arm {name} has a value that is not finite.",
            "Give visitors without a past the mean of the others, in both arms alike.",
        )
    return y, x
