"""Looking at an experiment while it runs: p-values and intervals that survive it.

An ordinary p-value is below 0.05 once in twenty times if one looks once. Whoever looks at it all the
time, and stops when it is, finds an effect in most experiments without one, given long enough: a random
walk leaves ±1.96 standard errors sooner or later. What is computed here may be looked at after every
visitor, and the experiment stopped whenever one likes.

The idea is one martingale. With the estimate d of a difference θ, whose squared standard error is V,

    Λ(θ0) = ∫ likelihood(θ) / likelihood(θ0) · N(θ; θ0, τ²) dθ
          = sqrt(V / (V + τ²)) · exp(τ² (d - θ0)² / (2 V (V + τ²)))

If θ0 is true, Λ is on average 1 at every look and a martingale from look to look, so the chance that it
*ever* reaches 1/alpha is at most alpha (Ville's inequality). Then:

- p-value: the smallest 1/Λ(0) seen so far, at most 1. It never rises.
- interval: all θ0 with Λ(θ0) < 1/alpha. All of the intervals hold θ, together, 1 - alpha of the time.

τ is the size of the effects that one is after; any τ is valid, a good one is quicker. `mixture_scale`
gives the one that is best at a planned sample size.

The guarantee is exact for a normal estimate of known variance. For proportions and means V is estimated,
so it holds in the limit; `always_valid_p` therefore waits for the first few successes and failures, and
`labs bench peeking` measures what is left.

Robbins 1970 (Ann. Math. Statist. 41, 1397-1409); Johari, Koomen, Pekelis and Walsh 2017
(doi:10.1145/3097983.3097992) and 2022 (Operations Research 70, 1806-1821; arXiv:1512.04922);
Howard, Ramdas, McAuliffe and Sekhon 2021 (arXiv:1810.08240); with estimated variances Waudby-Smith et al.
2024 (arXiv:2103.06476). Chapter 7.
"""

import math

import numpy as np
from scipy import special

from labs.errors import InputError
from labs.evaluation.online.checks import check_counts, check_positive, check_share

# Looks at which an arm would have fewer successes, or fewer failures, if nothing differed, say nothing
# yet: no normal approximation holds there. Leaving looks out never raises the rate of false alarms.
LEAST = 10


def naive_p(successes_a, n_a, successes_b, n_b) -> np.ndarray:
    """The ordinary two-sided z test of two proportions, at each look on its own.

        z = (p_b - p_a) / sqrt(p̄(1-p̄)(1/n_a + 1/n_b)),   p̄ = (s_a + s_b) / (n_a + n_b)

    Right for one look that was chosen before; wrong for "stop when it is below 0.05". Where nobody or
    everybody succeeded it is 1. Counts are cumulative, of any shapes that broadcast; returns p-values of
    that shape. Raises InputError for looks without visitors and counts that cannot be. Chapter 7.
    """
    s_a, n_a, s_b, n_b = _two_arms(successes_a, n_a, successes_b, n_b)
    share = (s_a + s_b) / (n_a + n_b)
    variance = share * (1 - share) * (1 / n_a + 1 / n_b)
    z = (s_b / n_b - s_a / n_a) / np.sqrt(np.where(variance > 0, variance, 1.0))
    return np.asarray(2 * special.ndtr(-np.abs(z)))


def always_valid_p(successes_a, n_a, successes_b, n_b, *, tau: float) -> np.ndarray:
    """p-values for the difference of two proportions that may be looked at all the time.

    Counts are cumulative, the last axis is time (one entry a look, in order); other axes are separate
    experiments. Returns p-values of that shape, never rising along time: stop when one is below alpha,
    whenever that is, and the chance of a false alarm is at most alpha. Skipping looks is fine.

        V = Σ over both arms of p̃(1-p̃)/n,   p̃ = (successes + 1) / (n + 2)

    p̃ keeps an arm without successes from having no variance. Looks before either arm can be expected to
    have LEAST successes and LEAST failures (at the rate of both together) give 1. The p-value is at most
    alpha exactly when one of the intervals of `confidence_sequence` so far leaves 0 out.

    tau: the size of the differences looked for, as a share; fixed before the experiment, for instance
    by `mixture_scale`. Raises InputError as `naive_p`, and where counts fall from one look to the next.
    Chapter 7.
    """
    difference, variance, early = _looks(successes_a, n_a, successes_b, n_b)
    return mixture_p(np.where(early, 0.0, difference), variance, tau=tau)


def confidence_sequence(
    successes_a, n_a, successes_b, n_b, *, tau: float, alpha: float = 0.05
) -> tuple[np.ndarray, np.ndarray]:
    """Intervals for p_b - p_a, (low, high) at each look, all true at once 1 - alpha of the time.

    Counts as for `always_valid_p`. Wider than an interval for one look (by about half at the planned
    sample size), and in return true at the look one happens to stop at. At looks too early for
    `always_valid_p` it is [-1, 1]. One may intersect the intervals so far: that is as valid. Chapter 7.
    """
    difference, variance, early = _looks(successes_a, n_a, successes_b, n_b)
    low, high = mixture_interval(difference, variance, tau=tau, alpha=alpha)
    low = np.where(early, -1.0, np.maximum(low, -1.0))
    return low, np.where(early, 1.0, np.minimum(high, 1.0))


def mixture_p(difference, variance, *, tau: float) -> np.ndarray:
    """min over the looks so far of 1/Λ(0), at most 1, for estimates of any kind.

    `difference` and `variance`: at each look the estimate and its squared standard error (not that of
    one visitor), the last axis being time. For means: m_b - m_a and s_a²/n_a + s_b²/n_b, with enough
    visitors for both to be trusted. See the module for Λ. Raises InputError for a variance that is
    not above 0, a number that is not finite, or a tau that is not above 0. Chapter 7.
    """
    difference, variance = _estimates(difference, variance, tau)
    total = variance + tau**2
    log_ratio = 0.5 * np.log(variance / total) + tau**2 * difference**2 / (2 * variance * total)
    p = np.asarray(np.exp(np.minimum(-log_ratio, 0.0)))
    return np.minimum.accumulate(p, axis=-1) if p.ndim else p


def mixture_interval(
    difference, variance, *, tau: float, alpha: float = 0.05
) -> tuple[np.ndarray, np.ndarray]:
    """All θ0 with Λ(θ0) < 1/alpha, at each look, as (low, high).

        d ± sqrt(V (V + τ²) / τ² · (2 log(1/alpha) + log((V + τ²) / V)))

    Input as for `mixture_p`; not intersected over the looks. Chapter 7.
    """
    check_share("alpha", alpha)
    difference, variance = _estimates(difference, variance, tau)
    total = variance + tau**2
    spread = -2 * math.log(alpha) + np.log(total / variance)
    half = np.sqrt(variance * total / tau**2 * spread)
    return np.asarray(difference - half), np.asarray(difference + half)


def mixture_scale(n: int, baseline: float, *, alpha: float = 0.05) -> float:
    """The tau at which the confidence sequence is narrowest when there are `n` visitors an arm.

        τ² = V (-W(-alpha²/e) - 1),   V = 2 p(1-p) / n,   W the lower branch of Lambert's function

    2.9 standard errors at alpha 0.05: about the effect that n visitors see with a power of 0.8. `n` is a
    guess at when it will be decided: wrong by a factor of four, the interval is 3 to 7 % wider.
    Raises InputError for a baseline that is not between 0 and 1, or no visitors.

    Howard et al. 2021 (arXiv:1810.08240). Chapter 7.
    """
    check_share("baseline", baseline)
    check_share("alpha", alpha)
    check_positive("number of visitors", n)
    factor = -special.lambertw(-(alpha**2) / math.e, -1).real - 1
    return math.sqrt(factor * 2 * baseline * (1 - baseline) / n)


def _looks(successes_a, n_a, successes_b, n_b):
    """Difference, variance, and which looks are too early, with counts checked to be cumulative."""
    named = {
        "successes of arm A": successes_a,
        "visitors of arm A": n_a,
        "successes of arm B": successes_b,
        "visitors of arm B": n_b,
    }
    for name, counts in named.items():
        if np.ndim(counts) and np.any(np.diff(counts, axis=-1) < 0):
            raise InputError(
                f"The {name} fall from one look to the next.",
                "Pass cumulative counts, the looks in order along the last axis.",
            )
    s_a, n_a, s_b, n_b = _two_arms(*named.values())
    p_a, p_b = (s_a + 1) / (n_a + 2), (s_b + 1) / (n_b + 2)
    variance = p_a * (1 - p_a) / n_a + p_b * (1 - p_b) / n_b
    share = (s_a + s_b) / (n_a + n_b)
    early = np.minimum(share, 1 - share) * np.minimum(n_a, n_b) < LEAST
    return s_b / n_b - s_a / n_a, variance, early


def _two_arms(successes_a, n_a, successes_b, n_b) -> list[np.ndarray]:
    arm_a, arm_b = check_counts(successes_a, n_a, "A"), check_counts(successes_b, n_b, "B")
    try:
        return list(np.broadcast_arrays(*arm_a, *arm_b))
    except ValueError:
        raise InputError(
            f"Arm A has looks of shape {arm_a[0].shape} and arm B of shape {arm_b[0].shape}.",
            "Pass the same looks of both.",
        ) from None


def _estimates(difference, variance, tau: float) -> tuple[np.ndarray, np.ndarray]:
    check_positive("tau", tau)
    difference, variance = (np.asarray(x, dtype=np.float64) for x in (difference, variance))
    if difference.shape != variance.shape:
        raise InputError(
            f"Differences have shape {difference.shape}, variances {variance.shape}.",
            "Pass one of each a look.",
        )
    if not np.isfinite(difference).all():
        raise InputError("A difference is not finite.", "Look when both arms have visitors.")
    if not (np.isfinite(variance) & (variance > 0)).all():
        raise InputError(
            "A variance is not finite and above 0.",
            "Pass squared standard errors; wait until both arms have seen two values that differ.",
        )
    return difference, variance
