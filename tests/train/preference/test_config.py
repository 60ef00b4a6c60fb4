"""What a PreferenceConfig refuses, and what it fills in."""

import pytest

from labs.errors import InputError
from labs.train.preference.config import PreferenceConfig


@pytest.mark.parametrize(
    "method, changes, message",
    [
        ("dpo", {"beta": 0}, "beta must be above 0"),
        ("dpo", {"beta": -0.1}, "beta must be above 0"),
        ("dpo", {"beta": float("inf")}, "beta must be above 0"),
        ("cdpo", {}, "label_smoothing"),
        ("dpo", {"label_smoothing": 0.1}, "label_smoothing"),
        ("robust", {"label_smoothing": 0.5}, "below 0.5"),
        ("dpo", {"gamma": 1.0}, "no gamma"),
        ("simpo", {"gamma": -1.0}, "gamma must be"),
        ("mpo", {"weights": (1.0, 1.0)}, "takes 3 weights"),
        ("dpo", {"weights": (1.0,)}, "takes 0 weights"),
        ("mpo", {"weights": (0.0, 0.0, 0.0)}, "not all 0"),
        ("kto", {"weights": (1.0, 0.0)}, "above 0"),
        ("dpo", {"reference": "none"}, "needs a reference"),
        ("kto", {"reference": "stored"}, "cannot be stored"),
        ("dpo", {"max_length": 0}, "max_length"),
    ],
)
def test_what_makes_no_sense_is_refused(method, changes, message):
    with pytest.raises(ValueError, match=message):
        PreferenceConfig(method, **changes)


def test_types_are_checked_by_name():
    with pytest.raises(InputError, match="method"):
        PreferenceConfig("ddpo").checked()
    with pytest.raises(InputError, match="beta"):
        PreferenceConfig(beta="0.1").checked()
    whole = PreferenceConfig("mpo", weights=(1.0, 0.0, 0.5), max_length=9)
    assert whole.checked() == whole


def test_what_is_left_out_is_the_methods_own():
    assert PreferenceConfig().used_beta == 0.1 and PreferenceConfig("simpo").used_beta == 2.0
    assert PreferenceConfig("simpo").used_gamma == 1.0 and PreferenceConfig("mdpo").used_gamma == 0
    assert PreferenceConfig("mpo").used_weights == (0.8, 0.2, 1.0)
    assert PreferenceConfig("simpo", reference="none").needs_reference is False
