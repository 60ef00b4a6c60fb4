"""Scores of answers that are right or wrong, and of answers that are yes or no (POPE)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from labs.errors import InputError
from labs.evaluation.checks import check_items

Items = Sequence | np.ndarray  # one entry an item


class PopeScores(NamedTuple):
    accuracy: float
    precision: float
    recall: float
    f1: float
    yes_rate: float


def accuracy(predictions: Items, labels: Items) -> float:
    """Share of items whose prediction equals its label, in [0, 1]. Chapter 7.

    Raises InputError for no items or lists that do not pair up.
    """
    check_items("accuracy", predictions, labels)
    return sum(bool(p == l) for p, l in zip(predictions, labels, strict=True)) / len(labels)


def yes_rate(predictions: Items) -> float:
    """Share of answers that are yes, of all answers. What each answer may be: see `pope_scores`."""
    check_items("yes_rate", predictions)
    return sum(_yes_or_no(p, "answer", i) is True for i, p in enumerate(predictions)) / len(
        predictions
    )


def pope_scores(predictions: Items, labels: Items) -> PopeScores:
    """The five numbers of POPE for questions "is there a ...?", with yes as the positive class.

        accuracy = (TP + TN) / N      precision = TP / (TP + FP)      recall = TP / (TP + FN)
        f1 = 2 TP / (2 TP + FP + FN)  yes_rate = #(answered yes) / N

    An answer is True, False, "yes" or "no" (any case, a full stop allowed), or None where it was
    neither: that counts as wrong, and as no yes. On balanced questions a model that always says yes
    has accuracy 0.5, recall 1 and a yes-rate of 1, which is what object hallucination looks like.
    A ratio with nothing below it is 0.

    Raises InputError for no items, lists that do not pair up, or any other answer: reading free
    text is done before, and differently in each language.

    Li et al. 2023 (POPE), arXiv:2305.10355, section 5. Chapter 7.
    """
    check_items("pope_scores", predictions, labels)
    said = [_yes_or_no(p, "answer", i) for i, p in enumerate(predictions)]
    true = [_yes_or_no(l, "label", i) for i, l in enumerate(labels)]
    if None in true:
        raise InputError(f"The label of item {true.index(None)} is empty.", "Give yes or no.")
    pairs = list(zip(said, true, strict=True))
    tp, tn = pairs.count((True, True)), pairs.count((False, False))
    said_yes, true_yes = said.count(True), true.count(True)
    return PopeScores(
        accuracy=(tp + tn) / len(pairs),
        precision=_ratio(tp, said_yes),
        recall=_ratio(tp, true_yes),
        f1=_ratio(2 * tp, said_yes + true_yes),
        yes_rate=said_yes / len(pairs),
    )


def _yes_or_no(answer: object, what: str, index: int) -> bool | None:
    if answer is None:
        return None
    if isinstance(answer, str):
        word = answer.strip().rstrip(".").lower()
        if word in ("yes", "no"):
            return word == "yes"
    elif answer in (True, False):  # numpy's and torch's booleans, 0 and 1 too
        return bool(answer)
    raise InputError(
        f"The {what} of item {index} is {answer!r}, neither yes nor no.",
        "Turn free text into True, False or None first.",
    )


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
