"""Preference data: how good an answer is, who prefers what, pairs, and what is useless in a file.

    pairs, report = make_pairs(samples, panel(3, noise=0.5), per_prompt=2)
    pairs = list(with_saved_pictures(pairs, "."))
    write_preferences(pairs, "pairs.jsonl")         # labs.formats: TRL's layout
    write_llava_rlhf(pairs, "pairs.json")           # LLaVA-RLHF's
    preference_statistics(pairs).check(limit=0.05)

Chapter 5. `labs.train.preferences.sample_pairs` samples the answers from a model.
"""

from labs.data.preference.annotators import Annotator, Judged, Votes, panel, vote
from labs.data.preference.llava_rlhf import write_llava_rlhf
from labs.data.preference.pairs import DROPPED, PairReport, Sampled, make_pairs
from labs.data.preference.pictures import with_saved_pictures
from labs.data.preference.quality import answer_quality, caption_quality
from labs.data.preference.statistics import PreferenceStatistics, preference_statistics

__all__ = [
    "DROPPED", "Annotator", "Judged", "PairReport", "PreferenceStatistics", "Sampled", "Votes",
    "answer_quality", "caption_quality", "make_pairs", "panel", "preference_statistics", "vote",
    "with_saved_pictures", "write_llava_rlhf",
]  # fmt: skip
