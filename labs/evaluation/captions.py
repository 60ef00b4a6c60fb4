"""How alike are a caption and those that people wrote: CIDEr-D and BLEU."""

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from labs.errors import InputError
from labs.evaluation.checks import check_items

Tokenize = Callable[[str], Sequence[str]]
_ORDER, _SIGMA = 4, 6.0
# The reference implementation's guards against 0/0, kept so that results agree to the last digits.
_TINY, _SMALL = 1e-15, 1e-9
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_CJK}]|[^\W_{_CJK}]+(?:['’][^\W_{_CJK}]+)*")


def words(text: str) -> list[str]:
    """Lower-case words: runs of letters and digits, with apostrophes inside; each Chinese character
    (or kana) is a word of its own; marks are left out.

    This is not the Penn Treebank tokeniser that published COCO scores use, which needs Java: it
    parts "dog's" in two and keeps some marks. Scores made with other tokens are not comparable.
    """
    return _WORD.findall(text.lower())


def cider(
    predictions: Sequence[str],
    references: Sequence[Sequence],
    *,
    tokenize: Tokenize = words,
    per_item: bool = False,
) -> float | np.ndarray:
    """CIDEr-D: agreement with what people say of a picture, rare words counting more; at most 10.

        g_k(w)  = count of the n-gram w · log(N / #(pictures with w in a reference))
        CIDEr-D = 10/4 · sum_{n=1..4} mean_j  e^(-(l_p - l_j)² / 2·6²)
                  · sum_w min(g_p(w), g_j(w)) · g_j(w) / (|g_p| |g_j|)

    averaged over items; p the prediction, j its references, l their lengths in words. The weights come from the references given, so a score belongs to its set: on a part of it, or
    another set, the same caption scores differently. A mean far below 1 is usual for poor captions,
    above 1 for good ones.

    `predictions` [N], `references` [N][several]: texts, parted by `tokenize` (default `words`; pass
    str.split for texts that are tokens already, such as PTB's). `per_item` gives the N scores.

    Raises InputError for fewer than two items (then every n-gram is in all of them and weighs
    nothing), lists that do not pair up, and an item without references or with a bare text.

    Vedantam et al. 2015, arXiv:1411.5726, section 7; pycocoevalcap's Cider. Chapter 7.
    """
    said, written = _tokens("cider", predictions, references, tokenize)
    if len(said) < 2:
        raise InputError(
            "cider was given one item: every n-gram is then in all of them and weighs nothing.",
            "Score a set of pictures, the larger the better.",
        )
    said = [_ngrams(tokens, _ORDER) for tokens in said]
    written = [[_ngrams(tokens, _ORDER) for tokens in many] for many in written]
    pictures = Counter(ngram for many in written for ngram in set().union(*many))
    weight = {ngram: math.log(len(said)) - math.log(n) for ngram, n in pictures.items()}
    unseen = math.log(len(said))
    scores = []
    for counts, many in zip(said, written, strict=True):
        prediction = _weighted(counts, weight, unseen)
        alike = [_likeness(prediction, _weighted(c, weight, unseen)) for c in many]
        scores.append(10 * sum(alike) / len(alike))
    return np.array(scores) if per_item else float(np.mean(scores))


def bleu(
    predictions: Sequence[str],
    references: Sequence[Sequence],
    order: int = 4,
    *,
    tokenize: Tokenize = words,
) -> float:
    """Corpus BLEU: how many of the n-grams said are in a reference, times a penalty for brevity.

        BLEU = min(1, e^(1 - r/c)) · (prod_{n=1..order} p_n)^(1/order)
        p_n: n-grams found, each at most as often as in the one reference that has it most, of all
        c: words said;   r: words of the references nearest in length (of two as near, the shorter)

    Counts are summed over the whole set before anything is divided: it is no mean over items, and
    on few items it jumps. Where no n-gram of some length is found it is about 1e-5, not 0, as in the
    reference implementation.

    Arguments and errors as for `cider` (one item is enough); also for an order below 1. Tokens decide
    the score: say which were used (Post 2018). Chapter 7.

    Papineni et al. 2002 (P02-1040); pycocoevalcap's Bleu with the closest reference length.
    """
    if order < 1:
        raise InputError(f"BLEU of order {order} counts nothing.", "Pass a whole number from 1 up.")
    said, written = _tokens("bleu", predictions, references, tokenize)
    found, guessed = np.zeros(order), np.zeros(order)
    spoken = wanted = 0
    for tokens, many in zip(said, written, strict=True):
        spoken += len(tokens)
        wanted += min((abs(len(other) - len(tokens)), len(other)) for other in many)[1]
        most: Counter = Counter()
        for other in many:
            most |= _ngrams(other, order)
        for ngram, n in (_ngrams(tokens, order) & most).items():
            found[len(ngram) - 1] += n
        guessed += [max(0, len(tokens) - n) for n in range(order)]
    precision = np.prod((found + _TINY) / (guessed + _SMALL)) ** (1 / order)
    ratio = (spoken + _TINY) / (wanted + _SMALL)
    return float(precision * (math.exp(1 - 1 / ratio) if ratio < 1 else 1))


def _ngrams(tokens: Sequence[str], order: int) -> Counter:
    return Counter(
        tuple(tokens[start : start + n])
        for n in range(1, order + 1)
        for start in range(len(tokens) - n + 1)
    )


def _weighted(counts: Counter, weight: dict, unseen: float):
    """(vectors by length of n-gram, their norms, the number of words)."""
    vectors: list[dict] = [{} for _ in range(_ORDER)]
    for ngram, n in counts.items():
        vectors[len(ngram) - 1][ngram] = n * weight.get(ngram, unseen)
    norms = [math.sqrt(sum(x * x for x in vector.values())) for vector in vectors]
    return vectors, norms, sum(n for ngram, n in counts.items() if len(ngram) == 1)


def _likeness(prediction, reference) -> float:
    """Mean over lengths of n-grams of the clipped cosine, times the penalty for another length."""
    (said, said_norms, said_length), (written, norms, length) = prediction, reference
    total = 0.0
    for n in range(_ORDER):
        both = said_norms[n] * norms[n]
        if both:
            common = said[n].keys() & written[n].keys()
            # In one order always: a set's differs from process to process, and so would the last digit.
            terms = [min(said[n][w], written[n][w]) * written[n][w] for w in sorted(common)]
            total += sum(terms) / both
    return total / _ORDER * math.exp(-((said_length - length) ** 2) / (2 * _SIGMA**2))


def _tokens(name: str, predictions, references, tokenize: Tokenize):
    check_items(name, predictions, references)
    for index, (prediction, many) in enumerate(zip(predictions, references, strict=True)):
        if not isinstance(prediction, str):
            raise InputError(
                f"{name}: prediction {index} is {prediction!r}, no text.",
                "Pass texts; tokens are joined by spaces, with tokenize=str.split.",
            )
        if isinstance(many, str) or not many or not all(isinstance(m, str) for m in many):
            raise InputError(
                f"{name}: item {index} has {many!r} for its references.",
                "Pass a list of one or more texts an item.",
            )
    said = [list(tokenize(prediction)) for prediction in predictions]
    return said, [[list(tokenize(text)) for text in many] for many in references]
