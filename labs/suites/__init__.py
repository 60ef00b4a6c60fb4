"""Evaluations of models on the offline world (labs.evaluation holds the statistics)."""

from labs.suites.world import QUESTIONS, TEXT_ONLY, Score, ask, evaluate, items, score

__all__ = ["QUESTIONS", "TEXT_ONLY", "Score", "ask", "evaluate", "items", "score"]
