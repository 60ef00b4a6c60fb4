"""Scores of short texts that are read off a picture."""

from collections.abc import Sequence

from labs.errors import InputError
from labs.evaluation.checks import check_items


def edit_distance(first: str, second: str) -> int:
    """Levenshtein distance: the fewest insertions, deletions and replacements of one character."""
    if len(first) < len(second):
        first, second = second, first
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, 1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(second, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (a != b))
    return row[-1]


def anls(
    predictions: Sequence[str], references: Sequence[Sequence[str]], threshold: float = 0.5
) -> float:
    """Average normalised Levenshtein similarity, the OCR score that forgives a slip of the pen.

        NL(a, b) = edit_distance(a, b) / max(|a|, |b|)
        s(a, b)  = 1 - NL(a, b) if NL(a, b) < threshold else 0
        ANLS     = 1/N · sum_n max_m s(prediction_n, reference_nm)

    Each question has one or several accepted answers. Case and spacing do not count. Two empty
    texts are equal. The threshold is the paper's: at NL = 0.5 exactly the score is 0 (some
    evaluation scripts give 0.5 there).

    Raises InputError for no items, lists that do not pair up, a question with no accepted answer,
    or one whose accepted answers are a bare string (its letters would each be an answer).

    Biten et al. 2019 (ST-VQA), arXiv:1905.13648, equation 1. Chapter 7.
    """
    check_items("anls", predictions, references)
    total = 0.0
    for index, (prediction, accepted) in enumerate(zip(predictions, references, strict=True)):
        if isinstance(accepted, str) or not accepted:
            raise InputError(
                f"Question {index} has {accepted!r} for its accepted answers.",
                "Pass a list of one or more texts a question.",
            )
        total += max(_similarity(_plain(prediction), _plain(a), threshold) for a in accepted)
    return total / len(predictions)


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _similarity(a: str, b: str, threshold: float) -> float:
    distance = edit_distance(a, b) / max(len(a), len(b), 1)
    return 1 - distance if distance < threshold else 0.0
