"""Is a reward's probability true, and does it pay for length? Chapter 5."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from labs.errors import InputError
from labs.evaluation.checks import check_items
from labs.evaluation.intervals import wilson_ci

Items = Sequence | np.ndarray


class Bin(NamedTuple):
    """The items whose probability lies in [low, high) (the last bin holds 1 too)."""

    low: float
    high: float
    count: int
    predicted: float | None  # their mean probability; None for an empty bin
    observed: float | None  # how often it came true
    observed_low: float | None  # Wilson's 95 % interval of that
    observed_high: float | None


def reliability(probabilities: Items, outcomes: Items, bins: int = 10) -> list[Bin]:
    """The reliability curve: of what was given 70 %, do 70 % come true?

    Bins of equal width over [0, 1]. `probabilities` [N] in [0, 1]; `outcomes` [N], 0 or 1.

    For a reward model the probability is Bradley-Terry's sigmoid(r(a) - r(b)) and the outcome is
    whether an annotator takes a. Two traps: call the answers a and b *without* looking at who won (if
    a is always the chosen one, every outcome is 1 and every curve is flat), and ask annotators who
    were not asked for the training pairs, or the curve shows what was learnt by heart.

    Raises InputError for no items, lists that do not pair up, a probability outside [0, 1], an
    outcome that is neither 0 nor 1, fewer than one bin.

    Murphy and Winkler 1977; Guo et al. 2017, arXiv:1706.04599. Chapter 5.
    """
    probabilities, outcomes = _checked("reliability", probabilities, outcomes, bins)
    edges = np.linspace(0, 1, bins + 1)
    which = np.minimum(np.searchsorted(edges, probabilities, side="right") - 1, bins - 1)
    found = []
    for number in range(bins):
        inside = which == number
        count, low, high = int(inside.sum()), float(edges[number]), float(edges[number + 1])
        if count == 0:
            found.append(Bin(low, high, 0, None, None, None, None))
            continue
        true = int(outcomes[inside].sum())
        interval = wilson_ci(true, count)
        predicted = float(probabilities[inside].mean())
        found.append(Bin(low, high, count, predicted, true / count, *interval))
    return found


def expected_calibration_error(probabilities: Items, outcomes: Items, bins: int = 10) -> float:
    """ECE: how far the curve is from the diagonal, weighted by how much lies where.

        ECE = sum_b n_b / N · |observed_b - predicted_b|

    0 is calibrated. It is never below 0, so chance alone makes it positive: with n items a bin about
    sqrt(2 p (1 - p) / (pi n)) (half-normal noise). It says nothing about accuracy: a constant 50 % on
    fair coins has 0. Arguments and errors as for `reliability`.

    Naeini et al. 2015; Guo et al. 2017, arXiv:1706.04599. Chapter 5.
    """
    curve = [b for b in reliability(probabilities, outcomes, bins) if b.count]
    total = sum(b.count for b in curve)
    return float(sum(b.count / total * abs(b.observed - b.predicted) for b in curve))


class LengthBias(NamedTuple):
    slope: float  # reward for one unit of length, at equal quality
    low: float
    high: float
    p_value: float  # two-sided, of a slope of 0
    items: int  # that had a say


def length_bias(
    rewards: Items, lengths: Items, quality: Items, *, confidence: float = 0.95
) -> LengthBias:
    """Does the reward pay for length where the quality is the same?

        reward = a + slope · length + (quality) + noise

    by least squares. The slope is that of what quality leaves unexplained of the reward on what it
    leaves unexplained of the length (Frisch, Waugh, Lovell). Without quality in it the slope says
    little: good answers may simply be longer.

    rewards, lengths [N]. quality: numbers [N] or [N, K] enter linearly; labels (text, or any other
    type but numbers) make strata, and only differences within a stratum count. A stratum of one item
    has no say. A label such as "prompt 7, right" compares answers to one prompt of one quality.

    The standard error is HC3, which does not ask that the noise be the same everywhere (rewards of
    captions spread more than those of a yes); interval and p-value are those of Student's t.

    Raises InputError for no items, lists that do not pair up, numbers that are not finite, too few
    items, and where length does not vary at equal quality: then nothing can be said.

    Lovell 1963; MacKinnon and White 1985 (HC3); length bias of rewards: Singhal et al. 2023,
    arXiv:2310.03716. Chapter 5.
    """
    name = "length_bias"
    rewards, lengths = _finite(name, rewards), _finite(name, lengths)
    check_items(name, rewards, lengths)
    check_items(name, rewards, quality)
    design = np.asarray(quality)
    if design.dtype.kind in "biuf":
        design = design.reshape(len(rewards), -1).astype(np.float64)
        design = np.column_stack([np.ones(len(rewards)), design])
        _finite(name, design.ravel())
        # An orthonormal basis of what quality (and the constant) spans, without what repeats itself.
        left, sizes, _ = np.linalg.svd(design, full_matrices=False)
        basis = left[:, sizes > sizes.max() * len(design) * np.finfo(float).eps]
        taken, rank = (basis**2).sum(1), basis.shape[1]
        y, x = (v - basis @ (basis.T @ v) for v in (rewards, lengths))
    else:
        codes = np.unique([repr(label) for label in quality], return_inverse=True)[1].ravel()
        sizes = np.bincount(codes)
        y, x = (v - (np.bincount(codes, v) / sizes)[codes] for v in (rewards, lengths))
        several = sizes[codes] > 1
        y, x, taken = y[several], x[several], 1 / sizes[codes][several]
        rank = int((sizes > 1).sum())
    power, degrees = float(x @ x), len(x) - rank - 1
    if power <= 1e-20 * max(1.0, float(lengths @ lengths)) or degrees < 1:
        raise InputError(
            f"Among {len(rewards)} items length does not vary at equal quality, or hardly any two "
            "are of equal quality.",
            "Give more answers a prompt, or a coarser measure of quality.",
        )
    slope = float(x @ y) / power
    leverage = np.minimum(taken + x**2 / power, 1 - 1e-9)
    error = float(np.sqrt((x**2 * ((y - slope * x) / (1 - leverage)) ** 2).sum())) / power
    width = error * float(stats.t.ppf((1 + confidence) / 2, degrees))
    t = np.inf if error == 0 and slope else 0.0 if error == 0 else abs(slope) / error
    p_value = float(2 * stats.t.sf(t, degrees))
    return LengthBias(slope, slope - width, slope + width, p_value, len(x))


def _checked(name: str, probabilities: Items, outcomes: Items, bins: int):
    check_items(name, probabilities, outcomes)
    probabilities, outcomes = _finite(name, probabilities), _finite(name, outcomes)
    if bins < 1:
        raise InputError(f"{name} was asked for {bins} bins.", "Ask for one at least.")
    if probabilities.min() < 0 or probabilities.max() > 1:
        raise InputError(
            f"{name} was given a probability outside 0 to 1.",
            "Pass sigmoid(reward difference), not the difference.",
        )
    if not np.isin(outcomes, (0, 1)).all():
        raise InputError(
            f"{name} was given an outcome that is neither 0 nor 1.",
            "Pass who won; leave ties out and say how many there were.",
        )
    return probabilities, outcomes


def _finite(name: str, values: Items) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise InputError(f"{name} was given numbers of shape {array.shape}.", "Pass one an item.")
    check_items(name, array)
    if not np.isfinite(array).all():
        at = int(np.isfinite(array).argmin())
        raise InputError(f"{name} was given a number that is not finite, at {at}.", "Leave it out.")
    return array
