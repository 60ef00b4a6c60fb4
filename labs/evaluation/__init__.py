"""Metrics and their uncertainty as pure functions."""

from labs.evaluation.hallucination import ChairScores, chair_scores
from labs.evaluation.intervals import (
    Interval,
    PairedDifference,
    bootstrap_ci,
    paired_bootstrap,
    wilson_ci,
)
from labs.evaluation.text import anls, edit_distance
from labs.evaluation.yes_no import PopeScores, accuracy, pope_scores, yes_rate

__all__ = [
    "ChairScores",
    "Interval",
    "PairedDifference",
    "PopeScores",
    "accuracy",
    "anls",
    "bootstrap_ci",
    "chair_scores",
    "edit_distance",
    "paired_bootstrap",
    "pope_scores",
    "wilson_ci",
    "yes_rate",
]
