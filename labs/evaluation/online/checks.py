"""What the online tests ask of their input before they count."""

import numpy as np

from labs.errors import InputError


def check_share(name: str, value, *, ends: bool = False) -> None:
    """InputError unless `value` is a number in (0, 1); with `ends`, in [0, 1]."""
    inside = 0 <= value <= 1 if ends else 0 < value < 1
    if not inside:  # not a number is not inside either
        raise InputError(
            f"The {name} is {value}, not {'from' if ends else 'between'} 0 {'to' if ends else 'and'} 1.",
            "Pass shares, not per cent: 0.21 for 21 %.",
        )


def check_positive(name: str, value) -> None:
    """InputError unless `value` is finite and above 0."""
    if not (np.isfinite(value) and value > 0):
        raise InputError(f"The {name} is {value}.", "Pass a finite number above 0.")


def check_counts(successes, n, arm: str) -> tuple[np.ndarray, np.ndarray]:
    """Both as float arrays of one shape, 0 <= successes <= n and n >= 1 in every entry."""
    successes, n = (np.asarray(x, dtype=np.float64) for x in (successes, n))
    try:
        successes, n = np.broadcast_arrays(successes, n)
    except ValueError:
        raise InputError(
            f"Arm {arm} has successes of shape {successes.shape} and visitors of shape {n.shape}.",
            "Pass one of each a look.",
        ) from None
    if not np.all(n >= 1):
        raise InputError(
            f"Arm {arm} has a look without visitors.", "Look when both arms have at least one."
        )
    if not np.all((successes >= 0) & (successes <= n)):
        raise InputError(
            f"Arm {arm} has a look with fewer than 0 successes, or more than it has visitors.",
            "Pass cumulative counts: successes so far, visitors so far.",
        )
    return successes, n


def check_clicks(clicks) -> np.ndarray:
    """Clicks [requests, positions] as booleans."""
    array = np.asarray(clicks)
    if array.ndim != 2 or 0 in array.shape:
        raise InputError(
            f"Clicks have shape {array.shape}.",
            "Pass one row a request and one column a position, at least one of each.",
        )
    if not np.isin(array, (0, 1)).all():
        raise InputError("A click is neither 0 nor 1.", "Pass whether each place was clicked.")
    return array.astype(bool)
