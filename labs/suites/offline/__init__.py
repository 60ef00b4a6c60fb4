"""Suites on the offline world: scenes that are known, so that every answer can be judged. Chapter 7."""

from labs.suites.offline.captions import Captions
from labs.suites.offline.choice import Choice
from labs.suites.offline.counting import Counting
from labs.suites.offline.edge_cases import EdgeAnswerer, EdgeCases, edge_table
from labs.suites.offline.existence import Existence
from labs.suites.offline.grounding import Grounding
from labs.suites.offline.naming import Naming
from labs.suites.offline.ocr import Ocr
from labs.suites.offline.thinking import Rescue, Thinking, rescued

__all__ = [
    "Captions",
    "Choice",
    "Counting",
    "EdgeAnswerer",
    "EdgeCases",
    "Existence",
    "Grounding",
    "Naming",
    "Ocr",
    "Rescue",
    "Thinking",
    "edge_table",
    "rescued",
]
