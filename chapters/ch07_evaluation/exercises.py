"""Chapter 7, evaluation: exercises.

Written from solutions/ch07_evaluation.py; don't edit this file. `labs start ch07` copies it to
work/ch07_evaluation/exercises.py: write your answers there, then `labs grade ch07`.
"""

# ruff: noqa: F401  (imports that the answers need)

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

OPTION_LETTERS = "ABCDEFGH"


def exam_scores(said: Sequence[str], questions: Sequence[dict]) -> dict:
    """What answers are worth: answer i is that to question i."""
    read = [{"yes": True, "no": False}.get(text.strip(" .").lower()) for text in said]
    rows = [answer == q["answer"] for answer, q in zip(read, questions, strict=True)]
    return {
        "accuracy": sum(rows) / len(rows),
        "yes": read.count(True) / len(rows),
        "unread": read.count(None) / len(rows),
        "rows": rows,  # whether each question was answered right, in the order of the questions
    }


def run_exam(model: Callable, questions: Sequence[dict], batch: int = 8) -> dict:
    """Ask a model all questions, in batches of at most `batch`, and score what it says.

    A question is {"id", "picture", "text", "answer": True or False}. The model takes a list of
    (picture, text) and gives back a list of texts. It pads a batch to its longest text, so
    questions of similar length are asked together.
    """
    by_length = sorted(questions, key=lambda q: len(q["text"]))
    said = []
    for start in range(0, len(by_length), batch):
        part = by_length[start : start + batch]
        said += model([(q["picture"], q["text"]) for q in part])
    return exam_scores(said, questions)


HARNESS_LOG = """
exam     93 questions about 31 pictures, 44 of them to be answered yes; batches of 8
run      93 answers, 4 unread; yes 48.4 %; accuracy 50.5 %
         a second time: the same in every row. With batches of 1: the same in every row
         rendered prompt of q000: the same as in training, character by character
         the answers to q000, q001, q002, q003 are in rows 67, 39, 24, 0
alone    each question by itself: 93 answers, 4 unread; yes 48.4 %; accuracy 90.3 %
control  29 questions that are all equally long: accuracy 93.1 %, in the run and alone
"""


def read_choice(text: str, options: Sequence[str]) -> str | None:
    r"""Which option does a free text choose? Its letter, or None where the text does not say.

    `options` are two to eight different texts; their letters are A, B, C, … (`OPTION_LETTERS`). A
    *sign* is one of a to z, A to Z and 0 to 9; Chinese characters are none, so that 选B holds one. A
    *word* is a run of signs.

    - A letter of an option counts if it *stands alone*, with no sign beside it: `B`, `(B)`, `**B**`.
      Letters beyond the options are words like any other.
    - An *article* does not count: an A or a, then white space, then a word that begins with a small
      letter and is not "is", "and" or "or". So A counts in "A is right", and not in "A ring".
    - A small letter counts only if it follows a marker, or is the only sign of the text.
    - A letter *follows a marker* if before it comes the word "answer" or 答案, and between the two
      nothing but white space, any of `: ： ( （ *`, and the words "is", "option" and 是. Here capital
      and small letters are alike.

    Then:

    1. If all letters that count are the same: that letter.
    2. If they differ: the last, if it follows a marker; otherwise None. A reader that guesses here
       scores models for what they never said.
    3. If none counts: look for the options themselves, in lower case on both sides, as whole words
       (no sign beside them). Begin with the longest option, and strike it out wherever it stands
       before you look for the next: the "ring" of "red ring" is not the option "ring". One option
       found: its letter. None found, or several: None.

    Rules do not understand: "not B" is read as B. Graded on answers as models write them, English
    and Chinese, and on mixtures of their pieces.
    """
    raise NotImplementedError("read_choice: not started")


def circular_accuracy(
    predictions: Sequence[str | None], answers: Sequence[str], groups: Sequence[str]
) -> float:
    r"""CircularEval: a question counts if it is answered right in *all* rotations of its options.

    A model that likes the letter A is right whenever the answer stands there. So each question is
    asked several times, each time with its options moved on by one place, and only who is right
    every time has known it. Entry $i$ of the three lists is one pass: the letter $\hat y_i$ that
    was read (None where nothing could be read: never right), the letter $y_i$ that is right *in
    this rotation*, and the id $g_i$ of the question. With the set $Q$ of all ids, return

    $$\frac{1}{|Q|} \sum_{q \in Q} \; \prod_{i : \, g_i = q} [\hat y_i = y_i]$$

    A question has as many passes as options, so the numbers differ; and the passes of a question
    need not stand together. There is at least one pass. Graded: passes in and out of order,
    questions of two to five options, passes that could not be read.
    """
    raise NotImplementedError("circular_accuracy: not started")


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    r"""VQA accuracy of one answer, against the answers of $n$ people ($n$ = 10 in VQAv2).

    An answer is fully right if at least three others gave it. "Others" is meant: people are scored
    by the same rule, so each person in turn is left out, and the mean over the $n$ sets of the
    others is taken:

    $$\frac{1}{n} \sum_{k=1}^{n} \min\Big( \frac{1}{3} \sum_{j \ne k} [p = a_j], \; 1 \Big)$$

    Prediction $p$ and answers $a_j$ are made plain before, in this order: white space at both ends
    goes and letters become small; one full stop at the end goes (`.` or `。`); the text is split at
    white space, the words "a", "an" and "the" go, and the rest is joined by single spaces. Nothing
    else: the point in "3.5" stays, and so does every other word. (The official script does more:
    numbers in words, apostrophes, other marks.) Antol et al., arXiv:1505.00468.

    Return a number in [0, 1]. There are at least four answers. Graded on ten answers and on fewer,
    on texts that differ in what is made plain, and on texts that look alike and are not.
    """

    raise NotImplementedError("vqa_accuracy: not started")


def ndcg(
    relevances: Float[np.ndarray, "queries documents"], k: int
) -> Float[np.ndarray, " queries"]:
    r"""Normalised discounted cumulative gain at k, for each query.

    `relevances[q]` holds the grades of *all* $n$ documents of query $q$ (0: irrelevant; the larger,
    the better), in the order in which the system ranked them: $r_1$ is the grade of the document at
    the top. With linear gain,

    $$\mathrm{DCG@}k(r) = \sum_{i=1}^{\min(k, n)} \frac{r_i}{\log_2 (i + 1)}, \qquad
    \mathrm{nDCG@}k(r) = \frac{\mathrm{DCG@}k(r)}{\mathrm{DCG@}k(r^*)}$$

    where $r^*$ are the same $n$ grades from the highest down: the best ranking may bring up a
    document that the system ranked behind $k$. A query without any relevant document gets 0.

    Return float64 `[queries]`, each in [0, 1], and leave `relevances` as they are. Graded: grades
    that are not whole, ties, k beyond n, k = 1, queries without a relevant document, relevant
    documents behind k. Järvelin and Kekäläinen 2002, with the discount that is used today.
    """
    raise NotImplementedError("ndcg: not started")


def cohens_kappa(first: Sequence, second: Sequence) -> float:
    r"""Cohen's kappa: how far two raters agree beyond what their habits alone would give.

    Entry $i$ of the two lists is the label that the first rater gave to item $i$, $a_i$, and that
    of the second, $b_i$. With $N$ items,

    $$p_o = \frac{1}{N} \sum_i [a_i = b_i], \qquad
    p_e = \sum_c \frac{\#\{i : a_i = c\}}{N} \cdot \frac{\#\{i : b_i = c\}}{N}, \qquad
    \kappa = \frac{p_o - p_e}{1 - p_e}$$

    $p_e$ is how often they would say the same without looking: a judge and a person who both prefer
    model A nine times in ten agree on more than eight pairs in ten for that reason alone. 1 is
    perfect, 0 is chance, and below 0 they agree less than that.

    A label may be anything that can be a key of a dict: a text, a number, a tuple. Kinds may be
    mixed, labels need not have an order, and `1` and `"1"` are two labels. There is at least one
    item. Where both gave one and the same label to everything, $\kappa$ is 0/0: return `math.nan`,
    for nothing has been shown. Graded: labels that one rater never uses, lopsided labels, labels of
    several kinds, agreement below chance, perfect agreement. Cohen 1960.
    """
    raise NotImplementedError("cohens_kappa: not started")


def paired_bootstrap(
    first: Float[np.ndarray, " items"],
    second: Float[np.ndarray, " items"],
    resamples: int,
    seed: int,
) -> tuple[float, float, float]:
    r"""How sure is the difference of two models on the same items? Its 95 % interval.

    `first[i]` and `second[i]` are the scores of two models on item $i$ of $n$. The test set is a
    sample of the questions that could have been asked. So draw another from it: $n$ items *with
    replacement*, each with both its scores, so that an item that is hard for both stays hard for
    both. Do it again and again, and look how the difference of the means wanders.

    Return `(difference, low, high)`: the mean of `first` minus the mean of `second` on the items
    that there are, and the 2.5 % and 97.5 % quantiles of that difference over all resamples (the
    percentile interval), with linear interpolation as in `np.quantile`.

    For everybody's resamples to be the same, draw them like this:

        rng = np.random.default_rng(seed)
        drawn = rng.integers(0, n, size=(resamples, n))   # row r: the places of resample r

    Calling `rng.integers(0, n, size=n)` once a resample draws the same. Scores are floats, 0 and 1
    or anything between. Graded: several numbers of items and resamples, and that it is *paired*.
    Efron and Tibshirani 1993; Koehn 2004.
    """
    raise NotImplementedError("paired_bootstrap: not started")


def bradley_terry(wins: Float[np.ndarray, "models models"]) -> Float[np.ndarray, " models"]:
    r"""Ratings from games of two: the most likely ones, in the model of Bradley and Terry (1952).

    `wins[i, j]` is how many games model $i$ won against model $j$; a tie is half a game won by
    each, so that the numbers may have halves. The diagonal is 0, and some pairs may never have met.
    The ratings $R$ promise that

    $$P(i \text{ beats } j) = \frac{1}{1 + 10^{(R_j - R_i)/400}}$$

    which is Elo's scale: 400 points are odds of ten to one. Return the ratings under which the
    games are most likely,

    $$\arg\max_R \; \sum_{i,j} \mathrm{wins}_{ij} \, \log P(i \text{ beats } j)$$

    as float64 `[models]`, with mean 0 (only differences mean anything), accurate to a hundredth of
    a point. No prior, nothing added to the games. The maximum exists: however you divide the models
    in two, each side has won something from the other.

    How many rounds your method needs depends on the games, so let it look at what it has reached.
    Graded: pairs that met often, seldom and never, ties, lopsided pairs, a chain in which each
    model has met its neighbours only.
    """
    raise NotImplementedError("bradley_terry: not started")


def sample_sizes() -> dict[str, float]:
    r"""Seven numbers to have at hand when somebody shows you a score. Four digits are enough.

    Return a dict:

    - `"half_width_points"`: a model has 65 % on the 1,164 questions of MMBench dev. Half of the
      width of its 95 % interval, by $1.96 \sqrt{p(1-p)/n}$, in percentage points.
    - `"circular_floor_percent"`: the score under CircularEval of a model that guesses each pass
      anew, on questions with 4 options, in per cent.
    - `"visitors_an_arm"`: visitors that *each* arm of an A/B test needs to see a click rate of 21 %
      rise by one percentage point, by the rule of thumb $16 \, p (1 - p) / \delta^2$.
    - `"always_yes_accuracy_percent"` and `"always_yes_f1_percent"`: accuracy and F1 score (of yes)
      of a model that always says yes, on yes/no questions of which half are to be answered yes, in
      per cent.
    - `"recall_percent"` and `"false_alarms_percent"`: MiniGPT-4 has an accuracy of 66.60 % and says
      yes to 66.67 % of POPE's adversarial questions, of which half are to be answered yes. To which
      share of the objects that *are* there does it say yes, and to which share of those that are
      *not*, in per cent?
    """
    raise NotImplementedError("sample_sizes: not started")


def harness() -> dict:
    r"""A harness that gives a good model the score of a coin: find the fault and mend it.

    `run_exam` asks yes/no questions about pictures in batches. A model that its authors report at
    90 % has 50.5 % here, and nothing looks broken: no answer is missing, the yes-rate is right, the
    run repeats itself. Return `{"diagnosis": ..., "evidence": ..., "patch": ...}`: a key of the
    list, the line of the log that only this cause explains, and a function with the parameters and
    the result of `run_exam`.

    Graded: accuracy, yes-rate, unread share, and every row in the order of the questions, for exams
    of several sizes and batches; the healthy run (questions of one length) as it was; the questions
    left as they are; each question asked once, in no more batches than before, and with at most 5 %
    more padding.

    The log:

    ```text
    exam     93 questions about 31 pictures, 44 of them to be answered yes; batches of 8
    run      93 answers, 4 unread; yes 48.4 %; accuracy 50.5 %
             a second time: the same in every row. With batches of 1: the same in every row
             rendered prompt of q000: the same as in training, character by character
             the answers to q000, q001, q002, q003 are in rows 67, 39, 24, 0
    alone    each question by itself: 93 answers, 4 unread; yes 48.4 %; accuracy 90.3 %
    control  29 questions that are all equally long: accuracy 93.1 %, in the run and alone
    ```

    The diagnosis is one of:

    - `"order_lost"`: answers and questions are in different orders when they are compared
    - `"last_batch"`: the last, incomplete batch is dropped
    - `"padding"`: an answer depends on what else is in its batch
    - `"unread_as_no"`: answers that cannot be read count as no
    - `"unseeded"`: the questions are drawn anew in every run
    - `"template"`: the prompt is not that of the training
    """

    raise NotImplementedError("harness: not started")
