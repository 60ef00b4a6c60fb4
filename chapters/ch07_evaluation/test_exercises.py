"""The checks of chapter 7's exercises. Grade with `labs grade ch07`."""

import math
import random
import string
from fractions import Fraction
from itertools import pairwise, permutations, product, takewhile

import numpy as np
from scipy import optimize, stats
from scipy.optimize import root
from scipy.special import expit
from sklearn import metrics

from labs.grading import Check, case

# -- read_choice -------------------------------------------------------------------------------

RINGS = ["red", "ring", "red ring", "star"]
NUMBERS = ["twenty", "two", "twelve", "twenty-two", "one"]
CHINESE = ["圆环", "红色圆环", "星形"]
THREE = ["Paris", "Rome", "New York"]

# (what it is about, text, options, letter): judged by hand.
CHOICES = [
    ("A letter alone is the answer.", "B", RINGS, "B"),
    ("A letter in brackets is the answer.", "(C)", RINGS, "C"),
    ("A letter in stars is the answer.", "**D.** a star", RINGS, "D"),
    ("A letter after a marker is the answer.", "Answer: C", RINGS, "C"),
    ("A small letter is an answer where the text has no other sign.", "d)", RINGS, "D"),
    ("A small letter after a marker is an answer.", "The answer is b.", RINGS, "B"),
    (
        "A marker may be in capitals, with other words behind it.",
        "ANSWER is option (b)",
        RINGS,
        "B",
    ),
    ("A capital letter in a word is no answer.", "Clearly, D.", RINGS, "D"),
    ("A capital letter in a word is no answer.", "Definitely B.", RINGS, "B"),
    ("An article is no answer.", "A star stands there, so D.", RINGS, "D"),
    ("A small article is no answer.", "There is a star, so I choose D.", RINGS, "D"),
    ("An article after a marker is no answer.", "The answer is a ring.", RINGS, "B"),
    ("A counts where no thing is named after it.", "A is right.", RINGS, "A"),
    ("Two letters are no answer.", "It is A or B.", RINGS, None),
    ("Two letters are no answer.", "B, because D is a star", RINGS, None),
    ("The same letter twice is one answer.", "B, definitely B.", RINGS, "B"),
    ("A last letter with a marker decides.", "Not A, not B. The answer is D.", RINGS, "D"),
    ("A marker that is taken back does not decide.", "Answer: B. No, C.", RINGS, None),
    ("A letter counts before the options' texts.", "The ring is on the left: C", RINGS, "C"),
    ("An option's text is an answer.", "a star", RINGS, "D"),
    ("Options are compared in lower case.", "It is a Star.", RINGS, "D"),
    ("The longest option is looked for first.", "I see a red ring.", RINGS, "C"),
    ("The longest option is looked for first.", "Twenty-two.", NUMBERS, "D"),
    ("What is left beside the longest counts.", "the red ring, left of a ring", RINGS, None),
    ("An option inside a word is no answer.", "The table is covered.", RINGS, None),
    ("There may be five options.", "E", NUMBERS, "E"),
    ("Letters beyond the options are words.", "Vitamin D? Then B.", THREE, "B"),
    ("Letters beyond the options are words.", "E", RINGS, None),
    ("Chinese has no spaces.", "选C。", RINGS, "C"),
    ("Chinese markers are markers.", "不是A，答案是（b）", RINGS, "B"),
    ("An option in Chinese is an answer.", "这是红色圆环。", CHINESE, "B"),
    ("Where nothing is said, the answer is None.", "I cannot tell.", RINGS, None),
]

PIECES = """A|B|C.|(D)|E|a|b|c:|A red|A and|a ring|a is|A or|Answer:|the answer is|answer (|Answers|is
ANSWER IS OPTION|option|ring|red ring|Star|covered|two|twenty-two|twelve,|I|Because|答案是|选|答案：
圆环|红色圆环|，|星形""".replace("\n", "|").split("|")


def plain_reading(text, options):
    """The oracle: sign by sign, without a pattern."""
    signs = string.ascii_letters + string.digits
    letters = [chr(ord("A") + i) for i in range(len(options))]

    def sign_at(text, i):
        return 0 <= i < len(text) and text[i] in signs

    def word_at(text, i):
        return "".join(takewhile(lambda c: c in signs, text[i:]))

    found = []
    for i, sign in enumerate(text):
        if sign not in signs or sign.upper() not in letters:
            continue
        if sign_at(text, i - 1) or sign_at(text, i + 1):
            continue
        start = i + 1
        while start < len(text) and text[start].isspace():
            start += 1
        word = word_at(text, start)
        if sign.upper() == "A" and start > i + 1 and word and word[0] in string.ascii_lowercase:
            if word not in ("is", "and", "or"):
                continue
        end, marked = i, False
        while end > 0 and not marked:
            before = text[:end].lower()
            english = before.endswith("answer") and not sign_at(text, end - 7)
            if english or before.endswith("答案"):
                marked = True
            elif text[end - 1].isspace() or text[end - 1] in ":：(（*是":
                end -= 1
            elif before.endswith(("is", "option")):
                end -= 2 if before.endswith("is") else 6
            else:
                break
        if sign.isupper() or marked or sum(c in signs for c in text) == 1:
            found.append((sign.upper(), marked))
    if found:
        same = all(letter == found[0][0] for letter, _ in found)
        return found[-1][0] if same or found[-1][1] else None

    rest, named = text.lower(), []
    for length in range(max(map(len, options)), 0, -1):
        for letter, option in zip(letters, options, strict=True):
            at = rest.find(option.lower()) if len(option) == length else -1
            while at >= 0:
                end = at + length
                if not sign_at(rest, at - 1) and not sign_at(rest, end):
                    named.append(letter)
                    rest = rest[:at] + "_" * length + rest[end:]
                at = rest.find(option.lower(), at + 1)
    return named[0] if len(set(named)) == 1 else None


def mixtures(count, seed):
    """Texts made of the pieces of answers, with options: (text, options)."""
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        text = ""
        for piece in rng.sample(PIECES, rng.randint(1, 5)):
            space = text and text[-1].isascii() and piece[0].isascii()
            text += rng.choice([" ", " ", "\n"]) * bool(space) + piece
        made.append((text, rng.choice([RINGS, NUMBERS, CHINESE, RINGS])))
    return made


def all_readings(read_choice, texts):
    """What is read in each text; an exception by its name."""
    found = []
    for text, options in texts:
        try:
            found.append(read_choice(text, options))
        except NotImplementedError:
            raise
        except Exception as error:
            found.append(type(error).__name__)
    return found


def reads(check, sentence, text, options, wanted):
    """Hold the answer to one reading."""
    got = check.call(text, list(options))
    letter = isinstance(got, str) or got is None
    told = repr(got) if letter else type(got).__name__
    check.holds(
        "A reading is a letter, or None.", letter, stage="returns", wanted="a str or None", got=told
    )
    check.holds(sentence, got == wanted, stage="value", wanted=repr(wanted), got=told)


def test_read_choice(check: Check):
    # All readings first: what an answer makes of the whole list is how its mistake is known.
    check.probe(all_readings, [(text, options) for _, text, options, _ in CHOICES])
    for sentence, text, options, letter in CHOICES:
        reads(check, sentence, text, options, letter)
    reads(check, "Where nothing is said, the answer is None.", "", RINGS, None)
    for text, options in mixtures(80, seed=7):
        wanted = plain_reading(text, options)
        reads(check, "The rules hold for any text.", text, options, wanted)
    turned = RINGS[1:] + RINGS[:1]
    reads(check, "The letter goes with the option's place.", "It is a red ring.", turned, "B")
    check.cases([case("a list of options", "A red ring", RINGS)], plain_reading)


# -- circular_accuracy -------------------------------------------------------------------------


def asked(sizes, seed, skill=0.85, unread=0.08, mixed=True):
    """Passes of questions with these numbers of options: (predictions, answers, ids)."""
    rng = random.Random(seed)
    passes = []
    for number, size in enumerate(sizes):
        place = rng.randrange(size)
        for turn in range(size):
            answer = "ABCDE"[(place + turn) % size]
            said = answer if rng.random() < skill else rng.choice("ABCDE"[:size])
            passes.append(
                (None if rng.random() < unread else said, answer, f"q{number * 37 % 101}")
            )
    if mixed:
        rng.shuffle(passes)
    return tuple(list(column) for column in zip(*passes, strict=True))


def one_letter_always(questions):
    """A model that says B in every rotation of every question; on half of them B is right first."""
    passes = [
        ("B", "ABCD"[(1 + (q % 2) + turn) % 4], q) for q in range(questions) for turn in range(4)
    ]
    return tuple(list(column) for column in zip(*passes, strict=True))


def share_without_failure(predictions, answers, groups):
    """The oracle: each id in turn, through the whole list."""
    questions, good = [], 0
    for group in groups:
        if group not in questions:
            questions.append(group)
    for question in questions:
        wrong = 0
        for i in range(len(groups)):
            if groups[i] == question and predictions[i] != answers[i]:
                wrong += 1
        good += wrong == 0
    return float(Fraction(good, len(questions)))


def test_circular_accuracy(check: Check):
    ragged = asked([4, 3, 2, 5, 4, 3, 2, 4, 5, 4, 3, 2, 4], seed=3)
    check.cases(
        [
            case("13 questions, passes mixed", *ragged),
            case("7 questions, one after the other", *asked([4] * 7, seed=5, mixed=False)),
            case("one option more in the last", *asked([2, 2, 2, 3, 5], seed=9, mixed=False)),
            case("always the same letter", *one_letter_always(5)),
            case("one pass each", *asked([1] * 11, seed=2, skill=0.0, unread=0.4)),
            case(
                "nothing could be read",
                [None] * 6,
                ["A", "B", "C", "A", "B", "C"],
                [0, 0, 0, 1, 1, 1],
            ),
        ],
        share_without_failure,
        scale=1.0,
    )
    predictions, answers, groups = ragged
    here = check.call(*ragged)
    rng = random.Random(1)
    places = rng.sample(range(len(groups)), len(groups))
    moved = [[column[i] for i in places] for column in ragged]
    check.equal("The order of the passes does not matter.", check.call(*moved), here)
    named = [f"question {group}" for group in groups]
    check.equal("Names do not matter.", check.call(predictions, answers, named), here)
    twice = [column * 2 for column in ragged]
    check.equal("A pass that is asked again changes nothing.", check.call(*twice), here)


# -- vqa_accuracy ------------------------------------------------------------------------------


def people(*counts, seed=0):
    """Answers of people, mixed: people("yes", 3, "no", 7)."""
    said = [text for text, n in zip(counts[::2], counts[1::2], strict=True) for _ in range(n)]
    rng = random.Random(seed)
    rng.shuffle(said)
    return said


def vqa_by_hand(prediction, answers):
    """The oracle: every person left out, in whole fractions, texts made plain word by word."""

    def plain(text):
        words = text.lower().split()
        if words and words[-1][-1] in ".。":
            words[-1] = words[-1][:-1]
        kept = []
        for word in words:
            if word and word != "a" and word != "an" and word != "the":
                kept.append(word)
        return kept

    total = Fraction(0)
    for left_out in range(len(answers)):
        matches = 0
        for person, answer in enumerate(answers):
            if person != left_out and plain(answer) == plain(prediction):
                matches += 1
        total += Fraction(min(matches, 3), 3)
    return float(total / len(answers))


WRITTEN = [
    "red ring",
    "A red ring",
    "red  ring.",
    "ring",
    "ring",
    "ring",
    "the ring",
    "red",
    "it",
    "2",
]


def test_vqa_accuracy(check: Check):
    check.cases(
        [
            case("three of ten, written in three ways", "The Red ring.", WRITTEN),
            case(
                "people write it in three ways",
                "yes",
                people("yes", 1, "Yes.", 1, "YES", 1, "no", 7),
            ),
            case("one of ten", "blue", people("blue", 1, "red", 9)),
            case("two of ten", "Blue.", people("blue", 2, "red", 8)),
            case("five of ten", "two", people("two", 5, "three", 3, "many", 2)),
            case("four of ten", "an umbrella", people("umbrella", 4, "hat", 6)),
            case("texts that hold the answer", "cat", people("black cat", 5, "cat", 1, "dog", 4)),
            case("a word with an article inside", "red", people("read", 4, "red", 1, "it", 5)),
            case("a point inside", "3.5", people("35", 4, "3.5", 2, "4", 4)),
            case("seven people", "left", people("left", 2, "right", 5)),
            case("four people", "left", people("left", 1, "right", 3)),
            case("Chinese", "红色。", people("红色", 2, "红", 8)),
            case("nobody", "green", people("blue", 6, "red", 4)),
        ],
        vqa_by_hand,
        scale=1.0,
    )
    one, other = people("on", 3, "off", 7, seed=1), people("on", 3, "off", 7, seed=2)
    here = check.call("on", one)
    check.equal("The order of the people does not matter.", check.call("on", other), here)
    best = check.call("off", ["off"] * 10)
    check.equal("What all say is worth 1.", best, 1.0)
    steps = [check.call("on", people("on", n, "off", 10 - n)) for n in range(1, 11)]
    rising = all(low <= high for low, high in pairwise(steps))
    check.holds("One more person with this answer never lowers the score.", rising, got=steps)


# -- ndcg --------------------------------------------------------------------------------------


def graded(queries, documents, seed, share=0.5):
    """Grades 0 to 4 in halves, many of them 0."""
    rng = np.random.default_rng(seed)
    grades = rng.integers(1, 9, size=(queries, documents)) / 2
    return np.where(rng.random((queries, documents)) < share, grades, 0.0)


def slow_ndcg(relevances, k):
    """The oracle: rank by rank; the best ranking is built by taking the best that is left."""
    scores = []
    for row in relevances.tolist():
        left, gained, ideal = list(row), 0.0, 0.0
        for rank in range(1, min(k, len(row)) + 1):
            highest = left.pop(left.index(max(left)))
            gained += row[rank - 1] / math.log(rank + 1, 2)
            ideal += highest / math.log(rank + 1, 2)
        scores.append(gained / ideal if ideal > 0 else 0.0)
    return np.array(scores)


def test_ndcg(check: Check):
    many = graded(7, 13, seed=1)
    many[3] = 0.0  # nothing relevant
    many[4, :5], many[4, 7] = 0.0, 3.0  # relevant documents behind k only
    many[5] = -np.sort(-many[5])  # ranked as well as can be
    check.cases(
        [
            case("the first 5 of 13", many, 5),
            case("the first one", many, 1),
            case("k beyond n", many[:, :11].copy(), 17),
            case("relevant or not", (graded(5, 7, seed=4) > 0).astype(float), 3),
            case("one document", np.array([[2.0], [0.0], [0.5]]), 3),
        ],
        slow_ndcg,
        scale=1.0,
    )
    here = check.call(many, 5)
    check.equal("Grades three times as high give the same.", check.call(3 * many, 5), here)
    moved = many.copy()
    moved[:, 5:] = moved[:, 5:][:, ::-1]
    check.equal("The order behind k does not matter.", check.call(moved, 5), here)
    check.equal(
        "Queries do not touch each other.", check.call(many[::-1].copy(), 5), here[::-1].copy()
    )
    orders = np.array(list(permutations([3.0, 1.0, 2.5, 0.0, 1.0])))
    of_orders = check.call(orders, 3)
    best = float(of_orders.max())
    check.equal("The best of all orders gets 1.", best, 1.0)


# -- cohens_kappa ------------------------------------------------------------------------------


def kappa_by_pairs(first, second):
    """The oracle: chance is what the labels of two items have in common, over all pairs of items."""
    n = len(first)
    here = sum(first[i] == second[i] for i in range(n))
    anywhere = sum(first[i] == second[j] for i in range(n) for j in range(n))
    if anywhere == n * n:
        return math.nan
    chance = Fraction(anywhere, n * n)
    return float((Fraction(here, n) - chance) / (1 - chance))


def rated(n, labels, others, agree, seed):
    """Labels of two raters: the second repeats the first with this probability, else says its own."""
    rng = random.Random(seed)
    first = [rng.choice(labels) for _ in range(n)]
    second = [a if rng.random() < agree else rng.choice(others) for a in first]
    return first, second


def test_cohens_kappa(check: Check):
    words = rated(
        23, ["good", "fair", "fair", "bad", "worse"], ["unsure", "fair", "bad"], 0.5, seed=3
    )
    mixed = rated(19, [1, "1", (1, 2), 2.5], ["1", 1, 1, "none", 2.5], 0.6, seed=4)
    habit = rated(41, ["yes"] * 9 + ["no"], ["yes"] * 6 + ["no"], 0.5, seed=0)
    check.cases(
        [
            case("labels that one of the two never uses", *words),
            case("nine in ten are yes", *habit),
            case("below chance", list("LRRLRLRRLLR"), list("RLLRRRLRRLL")),
            case("each with one label, not the same", ["A"] * 5, ["B"] * 5),
            case("perfect", *[["left", "right", "tie", "tie", "left", "right", "right"]] * 2),
            case("one label everywhere", ["yes"] * 7, ["yes"] * 7),
            case("labels of several kinds", *mixed),
        ],
        kappa_by_pairs,
        scale=1.0,
    )
    here = check.call(*words)
    check.equal("The two raters can change places.", check.call(*words[::-1]), here)
    named = {label: i * i for i, label in enumerate(sorted({*words[0], *words[1]}))}
    renamed = [[named[label] for label in labels] for labels in words]
    check.equal("Names of labels do not matter.", check.call(*renamed), here)
    rng = random.Random(1)
    places = rng.sample(range(23), 23)
    moved = [[labels[i] for i in places] for labels in words]
    check.equal("The order of the items does not matter.", check.call(*moved), here)
    check.equal("Twice the items, the same kappa.", check.call(*[w * 2 for w in words]), here)


# -- paired_bootstrap --------------------------------------------------------------------------


def scores_of_two(n, seed, better=0.08):
    """Scores of two models in [0, 1], on items that are easy or hard for both."""
    rng = np.random.default_rng(seed)
    ease = rng.uniform(0.1, 0.8, n)
    first = np.clip(ease + better + rng.normal(0, 0.1, n), 0, 1)
    return first, np.clip(ease + rng.exponential(0.1, n) - 0.1, 0, 1)


def right_or_wrong_of_two(n, seed):
    """Right and wrong, on items of which most are right or wrong for both."""
    rng = np.random.default_rng(seed)
    both = rng.random(n)
    first = (both + rng.uniform(-0.2, 0.3, n) > 0.4).astype(float)
    return first, (both + rng.uniform(-0.3, 0.2, n) > 0.45).astype(float)


def bootstrap_by_hand(first, second, resamples, seed):
    """The oracle: one item after the other in whole fractions, and quantiles by their definition."""
    rng, n = np.random.default_rng(seed), len(first)
    pairs = [
        (Fraction(a), Fraction(b)) for a, b in zip(first.tolist(), second.tolist(), strict=True)
    ]
    found = []
    for _ in range(resamples):
        drawn = [pairs[i] for i in rng.integers(0, n, size=n)]
        found.append(sum(a - b for a, b in drawn) / n)
    found.sort()

    def quantile(share):
        place = share * (resamples - 1)
        below = math.floor(place)
        above = math.ceil(place)
        return float(found[below] + (place - below) * (found[above] - found[below]))

    whole = sum(a for a, _ in pairs) / n - sum(b for _, b in pairs) / n
    return float(whole), quantile(Fraction(1, 40)), quantile(Fraction(39, 40))


def of_a_constant_difference(paired_bootstrap, first, second, resamples, seed):
    """[whether the interval has no width, whether it holds the difference], of a finite result.

    Random numbers that are drawn in another way give the same two answers here.
    """
    found = paired_bootstrap(first, second, resamples, seed)
    try:
        difference, low, high = (float(x) for x in found)
    except (TypeError, ValueError):
        return [True, True]
    if not (np.isfinite([difference, low, high]).all()):
        return [True, True]
    return [abs(high - low) < 1e-6, low - 1e-9 <= difference <= high + 1e-9]


def test_paired_bootstrap(check: Check):
    first, second = scores_of_two(37, seed=1)
    facts = check.probe(of_a_constant_difference, first, first - 0.25, 199, 5)
    check.holds(
        "Where the difference is the same on every item, the interval has no width and holds it.",
        facts == [True, True],
        stage="value",
        wanted="no width, around the difference",
        got=("no width" if facts[0] else "some width")
        + (", around it" if facts[1] else ", beside it"),
    )
    check.cases(
        [
            case("37 items", first, second, 499, 7),
            case("right and wrong", *right_or_wrong_of_two(101, seed=2), 97, 3),
            case("the second is better", *scores_of_two(13, seed=6, better=-0.3), 40, 11),
            case("four resamples", *scores_of_two(17, seed=8), 4, 0),
            case("two items", np.array([0.75, 0.5]), np.array([0.25, 0.375]), 29, 2),
        ],
        bootstrap_by_hand,
        rtol=1e-6,
    )
    difference, low, high = check.call(first, second, 499, 7)
    turned = check.call(second, first, 499, 7)
    check.equal("Exchanged, all signs turn.", turned, (-difference, -high, -low), rtol=1e-6)
    raised = check.call(first + 0.5, second + 0.5, 499, 7)
    check.equal("What both gain does not matter.", raised, (difference, low, high), rtol=1e-6)
    other = check.call(first, second, 499, 8)
    check.holds("Another seed draws other items.", other[1:] != (low, high), got=other[1:])


# -- bradley_terry -----------------------------------------------------------------------------


def tournament(rows):
    """A table of games won as an array; the diagonal must be empty."""
    wins = np.array(rows, dtype=np.float64)
    assert not wins.diagonal().any()
    return wins


MANY = tournament(
    [
        [0, 31, 22.5, 0, 9],
        [17, 0, 12, 40.5, 0],
        [4.5, 11, 0, 7, 2.5],
        [0, 19.5, 6, 0, 0.5],
        [2, 0, 1.5, 3.5, 0],
    ]
)


def chain(won, lost):
    """Models of which each has met its neighbours only."""
    wins = np.zeros((len(won) + 1, len(won) + 1))
    for i, (ahead, behind) in enumerate(zip(won, lost, strict=True)):
        wins[i, i + 1], wins[i + 1, i] = ahead, behind
    return wins


def most_likely_ratings(wins):
    """The oracle: where every model has won what its rating promises, by a library's root finder."""
    games, won = wins + wins.T, wins.sum(axis=1)

    def too_much(t):
        promised = (games * expit(t[:, None] - t[None, :])).sum(axis=1)
        return promised - won + t.sum()

    start = np.log(wins.sum(axis=1) / wins.sum(axis=0))
    found = root(too_much, start - start.mean(), method="hybr", tol=1e-13)
    assert np.abs(too_much(found.x)).max() < 1e-8 * games.sum()
    return (found.x - found.x.mean()) * 400 / math.log(10)


ALL_MET = tournament([[0, 9.5, 4, 21], [6.5, 0, 8.5, 17], [3, 2.5, 0, 1.5], [9, 5, 1.5, 0]])


def how_near(bradley_terry, table, wanted, far, wanted_far):
    """[whether ratings are about right where all have met, whether they have arrived in a chain].

    Whoever stops too early has the first and not the second, after however many rounds.
    """
    near = []
    for wins, right, limit in ((table, wanted, 1.0), (far, wanted_far, 0.01)):
        found = bradley_terry(wins)
        alike = isinstance(found, np.ndarray) and found.shape == right.shape
        near.append(bool(alike and np.abs(found - right).max() <= limit))
    return near


def promised(ratings, wins):
    """The games that each model should have won, by its rating."""
    chance = 1 / (1 + 10 ** ((ratings[None, :] - ratings[:, None]) / 400))
    return ((wins + wins.T) * chance).sum(axis=1)


def test_bradley_terry(check: Check):
    long = chain([9, 4, 30, 11, 6.5, 5, 13], [3, 6, 12, 10.5, 5.5, 8, 4])
    wanted = most_likely_ratings(ALL_MET), most_likely_ratings(long)
    near = check.probe(how_near, ALL_MET, wanted[0], long, wanted[1])
    check.holds(
        "The ratings arrive, also in a chain in which each model has met its neighbours only.",
        near != [True, False],
        stage="value",
        wanted="right to a hundredth of a point",
        got="right to a point where all have met, and still on the way in the chain",
    )
    check.cases(
        [
            case("5 models, ties, pairs that never met", MANY),
            case("a chain of 8: each met its neighbours", long),
            case("two models", tournament([[0, 12.5], [7.5, 0]])),
            case("97 to 3", tournament([[0, 97, 61], [3, 0, 8], [2, 5.5, 0]])),
            case(
                "one that all have met",
                tournament([[0, 5, 2, 9], [3, 0, 0, 0], [6, 0, 0, 0], [1, 0, 0, 0]]),
            ),
        ],
        most_likely_ratings,
        rtol=0.01,
        scale=1.0,
    )
    here = check.call(MANY)
    check.equal("Their mean is 0.", float(here.mean()), 0.0, scale=0.01, rtol=0.01)
    check.equal("Each has won what its rating promises.", promised(here, MANY), MANY.sum(axis=1))
    # Each of two calls may be a hundredth of a point off.
    apart = {"rtol": 0.01, "scale": 2.0}
    check.equal("Three times the games, the same ratings.", check.call(3 * MANY), here, **apart)
    order = [3, 0, 4, 2, 1]
    moved = check.call(MANY[np.ix_(order, order)].copy())
    check.equal("The order of the models does not matter.", moved, here[order], **apart)
    turned = check.call(MANY.T.copy())
    check.equal("Won and lost exchanged, all signs turn.", turned, -here, **apart)
    ((a, b),) = [check.call(tournament([[0, 30], [10, 0]]))]
    check.equal("Three to one are 400 log10(3) points.", float(a - b), 400 * math.log10(3))


# -- sample_sizes ------------------------------------------------------------------------------


def test_sample_sizes(check: Check):
    # An exam of zeros and ones, all guesses written down, and POPE's questions counted.
    right = np.repeat([1.0, 0.0], [65, 35])
    z = stats.norm.ppf(0.975)
    assert round(z, 2) == 1.96
    guesses = [all(passes) for passes in product([True, False, False, False], repeat=4)]
    clicks = np.repeat([1.0, 0.0], [21, 79])
    there = np.repeat([True, False], 1500)
    # accuracy and yes-rate of the questions, for every recall: the one with the accuracy that was read
    said_yes = 0.6667 * 3000
    recall = optimize.brentq(
        lambda r: (1500 * r + 1500 - (said_yes - 1500 * r)) / 3000 - 0.6660, 0, 1
    )
    check.number(
        {
            "half_width_points": 100 * round(z, 2) * right.std() / math.sqrt(1164),
            "circular_floor_percent": 100 * sum(guesses) / len(guesses),
            "visitors_an_arm": 16 * clicks.var() / (0.22 - 0.21) ** 2,
            "always_yes_accuracy_percent": 100 * metrics.accuracy_score(there, [True] * 3000),
            "always_yes_f1_percent": 100 * metrics.f1_score(there, [True] * 3000),
            "recall_percent": 100 * recall,
            "false_alarms_percent": 100 * (said_yes - 1500 * recall) / 1500,
        },
        rtol=5e-4,
    )


# -- harness -----------------------------------------------------------------------------------

NOUNS = ["car", "dog", "umbrella", "traffic light", "chair", "dining table", "bird", "sports ball"]
NOUNS += ["boat", "potted plant", "cup", "skateboard"]


def exam(pictures, each, seed, nouns=NOUNS, unread=0.04):
    """Questions, and what a model says to each (picture, text): right 93 times in 100 if readable."""
    rng = random.Random(seed)
    questions, table = [], {}
    for number in range(pictures * each):
        picture = f"{number // each:03}.jpg"
        if number % each == 0:
            asked = rng.sample(nouns, each)
        text = f"Is there a {asked[number % each]} in the picture?"
        there = rng.random() < 0.5
        said = ["No.", "Yes."][there == (rng.random() < 0.93)]
        table[picture, text] = "I cannot tell." if rng.random() < unread else said
        questions.append({"id": f"q{number:03}", "picture": picture, "text": text, "answer": there})
    return questions, table


FAILING = exam(31, 3, seed=12)
CONTROL = exam(1, 29, seed=7, nouns=[f"number {n}" for n in range(10, 39)], unread=0.0)


def question_by_question(questions, table):
    """The oracle: each question looked up by itself."""
    read = []
    for q in questions:
        said = table[q["picture"], q["text"]]
        read.append(True if said == "Yes." else False if said == "No." else None)
    rows = [answer is q["answer"] for answer, q in zip(read, questions, strict=True)]
    n = len(rows)
    return {
        "accuracy": rows.count(True) / n,
        "yes": read.count(True) / n,
        "unread": read.count(None) / n,
        "rows": rows,
    }


def sitting(run, questions, table, batch):
    """One exam: the result, the calls, whether each question was asked once, the padded characters,
    and whether the questions were left alone."""
    import copy

    before, calls = copy.deepcopy(questions), []

    def model(pairs):
        calls.append(list(pairs))
        return [table[pair] for pair in pairs]

    result = run(model, questions, batch)
    asked = [pair for pairs in calls for pair in pairs]
    return {
        "result": result,
        "calls": len(calls),
        "asked once": sorted(asked) == sorted((q["picture"], q["text"]) for q in before),
        "largest": max((len(pairs) for pairs in calls), default=0),
        "padded": sum(len(pairs) * max(len(text) for _, text in pairs) for pairs in calls if pairs),
        "unchanged": questions == before,
    }


def is_sound(run, questions, table, wanted):
    """Which parts of a healthy run are as they were; other random numbers change none of these."""

    def model(pairs):
        return [table[pair] for pair in pairs]

    found = run(model, questions, 8)
    if not isinstance(found, dict) or found.keys() != wanted.keys():
        return {}
    sound = {key: abs(found[key] - wanted[key]) < 1e-9 for key in ("yes", "unread")}
    rows = list(found["rows"])
    return sound | {"rows": rows == wanted["rows"], "number": len(rows) == len(wanted["rows"])}


def scores_like_a_coin(run):
    """The fault as the log tells it, in every number, and the healthy run."""
    questions, table = FAILING
    told = sitting(run, questions, table, 8)["result"]
    alone = question_by_question(questions, table)
    again = [sitting(run, questions, table, batch)["result"] == told for batch in (8, 1)]
    order = sorted(range(93), key=lambda i: len(questions[i]["text"]))
    control = sitting(run, *CONTROL, 8)["result"]
    return (
        (
            len(questions),
            sum(q["answer"] for q in questions),
            len({q["picture"] for q in questions}),
        )
        == (93, 44, 31)
        and [round(100 * told[key], 1) for key in ("accuracy", "yes")] == [50.5, 48.4]
        and [round(100 * alone[key], 1) for key in ("accuracy", "yes")] == [90.3, 48.4]
        and round(93 * told["unread"]) == round(93 * alone["unread"]) == 4
        and all(again)
        and [order.index(i) for i in range(4)] == [67, 39, 24, 0]
        and len(control["rows"]) == 29
        and control == question_by_question(*CONTROL)
        and round(100 * control["accuracy"], 1) == 93.1
    )


def test_harness(check: Check):
    line = "the answers to q000, q001, q002, q003 are in rows 67, 39, 24, 0"
    broken = check.exercise.broken
    patch = check.diagnosis("order_lost", line, broken, scores_like_a_coin)
    questions, table = CONTROL
    sound = check.probe(is_sound, questions, table, question_by_question(*CONTROL), target=patch)
    check.holds(
        "The healthy run, with questions of one length, is as it was.",
        bool(sound) and all(sound.values()),
        stage="value",
        wanted="the same rows, yes-rate and unread share",
        got=f"not the same: {', '.join(k for k, same in sound.items() if not same) or 'the form'}",
    )
    runs = {
        "93 questions, batches of 8": (*FAILING, 8),
        "50 questions, batches of 7": (*exam(25, 2, seed=2), 7),
        "5 questions in one batch": (*exam(5, 1, seed=0, unread=0.3), 8),
        "29 questions of one length": (*CONTROL, 8),
    }
    seen = {
        name: check.probe(sitting, *arguments, target=patch) for name, arguments in runs.items()
    }
    for name, (questions, table, _) in runs.items():
        wanted = question_by_question(questions, table)
        for key in wanted:
            check.equal(
                f"What is scored is the answer to the question ({key}; {name}).",
                seen[name]["result"][key],
                wanted[key],
                stage="value",
                scale=1.0,
            )
    for name, found in seen.items():
        check.holds(f"The questions are left as they are ({name}).", found["unchanged"])
        check.holds(f"Each question is asked once ({name}).", found["asked once"])
    for name, (questions, table, batch) in runs.items():
        found, before = seen[name], sitting(broken, questions, table, batch)
        fits = found["largest"] <= batch
        check.holds(f"No batch is larger than `batch` ({name}).", fits, got=found["largest"])
        check.cost(f"No more calls of the model ({name}).", found["calls"], before["calls"])
        check.cost(f"No more padding ({name}).", found["padded"], 1.05 * before["padded"])
