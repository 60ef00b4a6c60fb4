"""What every metric asks of its input before it counts."""

from collections.abc import Sized

from labs.errors import InputError


def check_items(name: str, first: Sized, second: Sized | None = None) -> None:
    """InputError where there is nothing to score, or where two lists do not pair up."""
    if len(first) == 0:
        raise InputError(f"{name} was given no items.", "Score at least one.")
    if second is not None and len(first) != len(second):
        raise InputError(
            f"{name} was given {len(first)} items on one side and {len(second)} on the other.",
            "Pass two lists in the same order, one entry an item in each.",
        )
