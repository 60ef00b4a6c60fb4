"""What reading an answer gives: a value, or the reason why there is none."""

from typing import Any, NamedTuple

# Every answer is of exactly one of these. All but the first are unparsed: they score 0 and are
# counted and shown, by name, beside every score.
STATUSES = {
    "read": "the answer says one thing",
    "empty": "nothing was said",
    "none": "no answer is in the text",
    "several": "the text gives more than one answer",
    "refused": "the model declines to answer",
    "script": "the text is in a script that the reader does not know",
    "endless": "the model did not stop, and nothing could be read of what it said",
}


class Reading(NamedTuple):
    """value: what the answer says, None unless status is "read". status: a key of STATUSES."""

    value: Any
    status: str = "read"
