"""How many visitors, or benchmark items, does a comparison need?"""

import math

from scipy import optimize, stats

from labs.errors import InputError
from labs.evaluation.online.checks import check_positive, check_share


def sample_size(
    baseline: float,
    effect: float,
    *,
    alpha: float = 0.05,
    power: float = 0.8,
    ratio: float = 1.0,
    two_sided: bool = True,
) -> int:
    """Visitors in the control arm for a test of two proportions; the other arm gets `ratio` times that.

        n = (z_a · sqrt((1 + 1/r) p̄(1-p̄)) + z_b · sqrt(p1(1-p1) + p2(1-p2)/r))² / (p2 - p1)²
        p1 = baseline, p2 = baseline + effect, p̄ = (p1 + r p2) / (1 + r), r = ratio

    rounded up. The first root is the standard error if nothing differs (pooled variance, what the
    test uses), the second the one under the effect (unpooled). z_a is the normal quantile of
    1 - alpha/2 (two-sided) or 1 - alpha, z_b that of `power`. `baseline` and `effect` are shares, so an
    effect of one point is 0.01; it may be negative. The same n as R's `power.prop.test` at ratio 1.

    Raises InputError where a rate is not between 0 and 1, the effect is 0, or power is not above alpha.

    Fleiss, Levin and Paik 2003, chapter 4. Chapter 7.
    """
    changed = _changed(baseline, effect)
    z_alpha, z_beta = _quantiles(alpha, power, two_sided)
    null, true = _deviations(baseline, changed, ratio)
    return math.ceil(((z_alpha * null + z_beta * true) / effect) ** 2 - 1e-9)


def rule_of_16(baseline: float, effect: float) -> int:
    """The rule of thumb, 16 p(1-p) / effect², rounded up: an arm at alpha 0.05 and power 0.8.

    16 is 2 (1.96 + 0.84)² = 15.7 rounded up. It takes the variance at `baseline` for both arms, so it
    is near `sample_size` where the effect is small beside p and 1 - p, and off where it is not.

    Lehr 1992; van Belle 2008, section 2.1. Chapter 7.
    """
    _changed(baseline, effect)
    return math.ceil(16 * baseline * (1 - baseline) / effect**2 - 1e-9)


def power(
    n: int,
    baseline: float,
    effect: float,
    *,
    alpha: float = 0.05,
    ratio: float = 1.0,
    two_sided: bool = True,
) -> float:
    """The chance that a test with `n` visitors in the control arm sees an effect of that size.

        Φ((|p2 - p1| sqrt(n) - z_a · null) / true)      null, true: the roots in `sample_size`

    The chance to reject in the wrong direction is left out; where anyone would plan with it, it is
    nothing. Raises InputError as `sample_size`, and for fewer than one visitor. Chapter 7.
    """
    changed = _changed(baseline, effect)
    check_positive("number of visitors", n)
    return _power(n, baseline, changed, alpha, ratio, two_sided)


def minimum_detectable_effect(
    n: int,
    baseline: float,
    *,
    alpha: float = 0.05,
    power: float = 0.8,
    ratio: float = 1.0,
    two_sided: bool = True,
) -> float:
    """The smallest rise above `baseline` that `n` visitors in the control arm see with that power.

    The inverse of `power` in its effect, found by bisection. For a fall, ask with 1 - baseline: a rate
    that falls is its opposite rising. Raises InputError as `sample_size`, and where even a rise to
    all but 1 would be missed. Chapter 7.
    """
    check_share("baseline", baseline)
    check_positive("number of visitors", n)
    _quantiles(alpha, power, two_sided)

    def excess(changed: float) -> float:
        return _power(n, baseline, changed, alpha, ratio, two_sided) - power

    highest = 1 - 1e-9 * (1 - baseline)
    if excess(highest) < 0:
        raise InputError(
            f"{n} visitors an arm see no rise above {baseline} with a power of {power}.",
            "Plan for more visitors, or for less power.",
        )
    lowest = baseline + 1e-12 * (1 - baseline)
    return float(optimize.brentq(excess, lowest, highest, xtol=1e-13, rtol=1e-12)) - baseline


def sample_size_mean(
    sd: float,
    effect: float,
    *,
    alpha: float = 0.05,
    power: float = 0.8,
    ratio: float = 1.0,
    two_sided: bool = True,
) -> int:
    """Visitors in the control arm for a t test of two means of one standard deviation `sd`.

    The smallest n at which `power_mean` is at least `power`. Near the normal formula
    (1 + 1/r) (z_a + z_b)² sd² / effect², which is a visitor or two short. The same n as R's
    `power.t.test`. Raises InputError for an sd or a ratio that is not above 0, and for no effect.
    """
    check_positive("standard deviation", sd)
    _check_effect(effect)
    z_alpha, z_beta = _quantiles(alpha, power, two_sided)
    check_positive("ratio", ratio)
    normal = (1 + 1 / ratio) * ((z_alpha + z_beta) * sd / effect) ** 2
    n = max(math.floor(normal), math.ceil(2 / ratio), 2)
    while power_mean(n, sd, effect, alpha=alpha, ratio=ratio, two_sided=two_sided) < power:
        n += 1
    return n


def power_mean(
    n: int,
    sd: float,
    effect: float,
    *,
    alpha: float = 0.05,
    ratio: float = 1.0,
    two_sided: bool = True,
) -> float:
    """The chance that a t test with `n` in the control arm and `ratio` n in the other sees the effect.

        P(T > t_a),  T noncentral t with n(1+r) - 2 degrees of freedom and
        noncentrality |effect| / (sd · sqrt((1 + 1/r) / n))

    The wrong direction is left out. Raises InputError as `sample_size_mean`, and for arms of fewer than
    two. Chapter 7.
    """
    check_positive("standard deviation", sd)
    _check_effect(effect)
    check_positive("ratio", ratio)
    check_share("alpha", alpha)
    if min(n, n * ratio) < 2:
        raise InputError(f"An arm of {min(n, n * ratio):g} has no variance.", "Plan for 2 or more.")
    freedom = n * (1 + ratio) - 2
    shift = abs(effect) / (sd * math.sqrt((1 + 1 / ratio) / n))
    if freedom > 1e5:  # the two agree to 1e-5 here, and the noncentral t is slow
        return float(stats.norm.sf(_z(alpha, two_sided) - shift))
    limit = stats.t.isf(alpha / 2 if two_sided else alpha, freedom)
    return float(stats.nct.sf(limit, freedom, shift))


def sample_size_paired(
    discordant: float,
    effect: float,
    *,
    alpha: float = 0.05,
    power: float = 0.8,
    two_sided: bool = True,
) -> int:
    """Items for McNemar's test of two systems that answer the same items.

        n = (z_a · sqrt(d) + z_b · sqrt(d - effect²))² / effect²

    rounded up. `discordant` d is the share of items that exactly one of them gets right, `effect` the
    difference of their accuracies: the two discordant cells are (d ± effect)/2. Items on which they
    agree tell nothing, so the less two systems differ item by item, the fewer items show which is
    better: two checkpoints of one training run need far fewer than `sample_size` says.

    Raises InputError where |effect| is 0 or above `discordant` (then there are no such cells).

    Connor 1987 (Biometrics 43, 207-211), page 209. Chapter 7.
    """
    check_share("discordant share", discordant, ends=True)
    _check_effect(effect)
    if abs(effect) > discordant:
        raise InputError(
            f"Accuracies cannot differ by {effect} where only {discordant} of the items differ.",
            "Pass the share of items that exactly one of the two gets right.",
        )
    z_alpha, z_beta = _quantiles(alpha, power, two_sided)
    root = z_alpha * math.sqrt(discordant) + z_beta * math.sqrt(discordant - effect**2)
    return math.ceil((root / effect) ** 2 - 1e-9)


def _power(
    n: int, baseline: float, changed: float, alpha: float, ratio: float, two_sided: bool
) -> float:
    check_share("alpha", alpha)
    null, true = _deviations(baseline, changed, ratio)
    distance = abs(changed - baseline) * math.sqrt(n)
    return float(stats.norm.cdf((distance - _z(alpha, two_sided) * null) / true))


def _deviations(first: float, second: float, ratio: float) -> tuple[float, float]:
    """sqrt(n) times the standard error of the difference: if nothing differs, and as it is."""
    check_positive("ratio", ratio)
    pooled = (first + ratio * second) / (1 + ratio)
    null = math.sqrt((1 + 1 / ratio) * pooled * (1 - pooled))
    return null, math.sqrt(first * (1 - first) + second * (1 - second) / ratio)


def _changed(baseline: float, effect: float) -> float:
    check_share("baseline", baseline)
    _check_effect(effect)
    check_share("rate with the effect", baseline + effect)
    return baseline + effect


def _check_effect(effect: float) -> None:
    if effect == 0 or not math.isfinite(effect):
        raise InputError(
            f"An effect of {effect} cannot be planned for.",
            "Pass the smallest difference that would matter, as a share: 0.01 for one point.",
        )


def _quantiles(alpha: float, power: float, two_sided: bool) -> tuple[float, float]:
    check_share("alpha", alpha)
    check_share("power", power)
    if power <= alpha:
        raise InputError(
            f"A power of {power} is not above alpha, {alpha}.", "Pass for instance power=0.8."
        )
    return _z(alpha, two_sided), float(stats.norm.ppf(power))


def _z(alpha: float, two_sided: bool) -> float:
    return float(stats.norm.isf(alpha / 2 if two_sided else alpha))
