"""A few looks, agreed on before: group-sequential bounds by alpha spending.

Where `labs.evaluation.online.sequential` allows any number of looks, this allows K of them and is nearly
as powerful as one look at the end. The statistic at a look that has seen the share t of the planned
visitors behaves as a Brownian motion: S(t) = Z sqrt(t), with independent increments of variance Δt and,
under an effect, drift. The chance to leave the bounds at each look is one integral a look.
"""

import functools
import math

import numpy as np
from scipy import optimize, special, stats

from labs.errors import InputError
from labs.evaluation.online.checks import check_share


def alpha_spent(information, *, alpha: float = 0.05) -> np.ndarray:
    """How much of a two-sided alpha may be spent by the share `information` of the visitors.

        α(t) = 4 (1 - Φ(z_{alpha/4} / sqrt(t)))

    The O'Brien-Fleming type of Lan and DeMets 1983 (Biometrika 70, 659-663), half of it on either side:
    next to nothing early, nearly all at the end. Raises InputError for shares outside (0, 1]. Chapter 7.
    """
    check_share("alpha", alpha)
    t = np.asarray(information, dtype=np.float64)
    if not np.all((t > 0) & (t <= 1)):
        raise InputError(
            "A look lies outside the planned experiment.",
            "Pass the share of all planned visitors seen at each look, above 0 and at most 1.",
        )
    return np.asarray(4 * special.ndtr(-stats.norm.isf(alpha / 4) / np.sqrt(t)))


def spending_bounds(information, *, alpha: float = 0.05) -> np.ndarray:
    """Bounds for |z| at each look, so that a false alarm at any of them has the chance `alpha`.

    `information`: the share of the planned visitors seen at each look, rising, at most 1. The bounds do
    not depend on looks still to come, so a look may be moved or added as long as the data do not decide
    it. Compare with |z| of the ordinary test. Five equal looks at 0.05: 4.88, 3.36, 2.68, 2.29, 2.03.

    Raises InputError for looks that do not rise or lie outside (0, 1].

    Lan and DeMets 1983; the integrals as in Armitage, McPherson and Rowe 1969 and Jennison and
    Turnbull 2000, chapter 19. Chapter 7.
    """
    shares = _rising(information)
    spend = np.diff(alpha_spent(shares, alpha=alpha), prepend=0.0)
    walk, bounds = _Walk(np.diff(shares, prepend=0.0).min()), []
    for t, chance in zip(shares, spend, strict=True):

        def excess(bound: float, t: float = t, chance: float = chance) -> float:
            return walk.leaves(t, bound) - chance

        bounds.append(float(optimize.brentq(excess, 0.0, 40.0, xtol=1e-10)))
        walk.advance(t, bounds[-1])
    return np.array(bounds)


def crossing_probabilities(bounds, information, *, drift: float = 0.0) -> np.ndarray:
    """The chance that |z| is at or over its bound for the first time at each look.

    Their sum is the rate of false alarms (drift 0) or the power; each times the visitors at its look,
    and the rest times all of them, is the expected number of visitors. `drift` is the mean of z at
    information 1: effect / its standard error with all visitors. With bounds of 1.96 throughout it
    tells what peeking does: 0.142 at five equal looks, 0.193 at ten (Armitage et al. 1969).

    Raises InputError for looks that do not rise, or not one bound above 0 a look. Chapter 7.
    """
    shares = _rising(information)
    limits = np.asarray(bounds, dtype=np.float64)
    if limits.shape != shares.shape or not np.all(limits > 0):
        raise InputError(
            f"{limits.size} bounds were given for {shares.size} looks, or one is not above 0.",
            "Pass one bound for |z| a look.",
        )
    walk, chances = _Walk(np.diff(shares, prepend=0.0).min(), drift), []
    for t, bound in zip(shares, limits, strict=True):
        chances.append(walk.leaves(t, bound))
        walk.advance(t, bound)
    return np.array(chances)


class _Walk:
    """The density of S(t) among experiments that no bound has stopped so far, on a grid.

    `step`: the smallest Δt to come; the grid is fine enough for it.
    """

    def __init__(self, step: float, drift: float = 0.0):
        self.step, self.drift = step, drift
        self.t = 0.0
        self.places, self.mass = np.zeros(1), np.ones(1)  # all at 0

    def leaves(self, t: float, bound: float) -> float:
        """The chance to be inside all earlier bounds, and at or over this one at t."""
        mean, sd = self.places + self.drift * (t - self.t), math.sqrt(t - self.t)
        edge = bound * math.sqrt(t)
        return float(
            self.mass @ (special.ndtr((mean - edge) / sd) + special.ndtr((-mean - edge) / sd))
        )

    def advance(self, t: float, bound: float) -> None:
        """To the density at t inside the bound."""
        mean, sd = self.places + self.drift * (t - self.t), math.sqrt(t - self.t)
        # Beyond nine standard deviations there is nothing, however far the bound is.
        reach = 9 * math.sqrt(t)
        low, high = (np.clip(side, self.drift * t - reach, self.drift * t + reach)
                     for side in (-bound * math.sqrt(t), bound * math.sqrt(t)))  # fmt: skip
        nodes, weights = _nodes(2 + math.ceil((high - low) / math.sqrt(self.step) / 10))
        places = low + (high - low) * (nodes + 1) / 2
        density = stats.norm.pdf((places[:, None] - mean) / sd) / sd
        self.mass = density @ self.mass * weights * (high - low) / 2
        self.places, self.t = places, t


@functools.cache
def _nodes(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre nodes and weights on [-1, 1], 32 of them for each of `count`.

    Three nodes at least a standard deviation of the smallest step: the integrands are smooth, so the
    error is far below 1e-8.
    """
    return np.polynomial.legendre.leggauss(32 * count)


def _rising(information) -> np.ndarray:
    shares = np.asarray(information, dtype=np.float64)
    if shares.ndim != 1 or not shares.size or shares[0] <= 0 or np.any(np.diff(shares) <= 0):
        raise InputError(
            "The looks do not rise from above 0.",
            "Pass the share of the planned visitors seen at each look, in order.",
        )
    return shares
