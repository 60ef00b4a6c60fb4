"""Metrics and their uncertainty as pure functions.

Reading what a model said is in `labs.evaluation.answers`, tests on live traffic in
`labs.evaluation.online`.
"""

from labs.evaluation.agreement import cohens_kappa, kappa_ci, krippendorff_alpha, krippendorff_ci
from labs.evaluation.captions import bleu, cider
from labs.evaluation.choice import CircularScores, circular_accuracy, circular_scores
from labs.evaluation.clusters import (
    group_accuracy_ci,
    group_mean_ci,
    group_paired_difference,
)
from labs.evaluation.comparisons import (
    McNemar,
    benjamini_hochberg,
    bonferroni_confidence,
    holm,
    mcnemar,
)
from labs.evaluation.hallucination import ChairScores, chair_scores
from labs.evaluation.intervals import (
    Interval,
    PairedDifference,
    bootstrap_ci,
    paired_bootstrap,
    wilson_ci,
)
from labs.evaluation.mme import MmeScores, mme_scores
from labs.evaluation.ranking import map_at, mrr, ndcg, recall
from labs.evaluation.ratings import Rating, bradley_terry
from labs.evaluation.text import anls, edit_distance
from labs.evaluation.vqa import vqa_accuracy, vqa_score
from labs.evaluation.yes_no import PopeScores, accuracy, pope_scores, yes_rate

__all__ = [
    "ChairScores",
    "CircularScores",
    "Interval",
    "McNemar",
    "MmeScores",
    "PairedDifference",
    "PopeScores",
    "Rating",
    "accuracy",
    "anls",
    "benjamini_hochberg",
    "bleu",
    "bonferroni_confidence",
    "bootstrap_ci",
    "bradley_terry",
    "chair_scores",
    "cider",
    "circular_accuracy",
    "circular_scores",
    "cohens_kappa",
    "edit_distance",
    "group_accuracy_ci",
    "group_mean_ci",
    "group_paired_difference",
    "holm",
    "kappa_ci",
    "krippendorff_alpha",
    "krippendorff_ci",
    "map_at",
    "mcnemar",
    "mme_scores",
    "mrr",
    "ndcg",
    "paired_bootstrap",
    "pope_scores",
    "recall",
    "vqa_accuracy",
    "vqa_score",
    "wilson_ci",
    "yes_rate",
]
