"""People as judges: blind rating sheets, and what their votes say."""

from labs.suites.rating.analysis import Analysis, Rater, analyse
from labs.suites.rating.comparisons import Item
from labs.suites.rating.preferences import write_preference_file
from labs.suites.rating.sheet import Sheets, write_sheets
from labs.suites.rating.simulate import simulated_votes
from labs.suites.rating.votes import Key, Vote, read_key, read_votes

__all__ = [
    "Analysis",
    "Item",
    "Key",
    "Rater",
    "Sheets",
    "Vote",
    "analyse",
    "read_key",
    "read_votes",
    "simulated_votes",
    "write_preference_file",
    "write_sheets",
]
