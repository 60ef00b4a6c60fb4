"""Is this data worth training on? Scores of pairs, checks of captions, contamination, hard negatives.

Nothing here changes data: each function says what it found, and what to keep is yours to decide.
"""

from labs.data.quality.captions import caption_problems
from labs.data.quality.clip import Kept, clip_scores, keep_best
from labs.data.quality.contamination import Contamination, Hit, contamination
from labs.data.quality.negatives import Cooccurrence, Finder, count_objects

__all__ = [
    "Contamination", "Cooccurrence", "Finder", "Hit", "Kept", "caption_problems", "clip_scores",
    "contamination", "count_objects", "keep_best",
]  # fmt: skip
