"""Chapter 7, evaluation: exercises.

The one source of the chapter's exercises: labs/grading/__init__.py says how it is written.
"""

import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from itertools import combinations, groupby

import numpy as np
from jaxtyping import Float

from labs.grading import exercise

# -- read_choice -------------------------------------------------------------------------------

# The letters of the options, in order.
OPTION_LETTERS = "ABCDEFGH"


@exercise(
    kind="implement",
    points=20,
    difficulty="challenge",
    minutes=45,
    section="Reading answers",
    forbid=("vlmeval", "lmms_eval"),
    hints=(
        'Collect first, decide later. Which letters stand alone in "A ring stands there, so C.", '
        'and which in "选C"? What does `\\b` make of the second?',
        "Go through the letters that stand alone, leave out articles and the small ones that do not "
        "count, and note of each whether it follows a marker. One kind of letter settles it, or else "
        "a last one with a marker. Only where no letter counts do the options' texts matter, the "
        "longest first.",
        "`(?<![A-Za-z0-9])[A-Za-z](?![A-Za-z0-9])` finds a letter that stands alone. "
        "`(?:answer|答案)(?:is|option|[\\s:：(（*是])*\\Z`, in any case, finds a marker at the end of "
        "what comes before it. `[Aa]\\s+(?!(?:is|and|or)(?![A-Za-z0-9]))[a-z]` is an article. "
        '`re.subn(option, " ", rest)` strikes an option out and counts it.',
    ),
)
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
    # --- answer
    letters, found = OPTION_LETTERS[: len(options)], []
    alone = r"(?<![A-Za-z0-9])[A-Za-z](?![A-Za-z0-9])"
    article = r"[Aa]\s+(?!(?:is|and|or)(?![A-Za-z0-9]))[a-z]"
    marker = r"(?:(?<![A-Za-z0-9])answer|答案)(?:is|option|[\s:：(（*是])*\Z"
    only = len(re.findall(r"[A-Za-z0-9]", text)) == 1
    for match in re.finditer(alone, text):
        letter = match[0].upper()
        if letter not in letters or re.match(article, text[match.start() :]):
            continue
        marked = bool(re.search(marker, text[: match.start()], re.IGNORECASE))
        if marked or only or match[0].isupper():
            found.append((letter, marked))
    if found:
        letter, marked = found[-1]
        return letter if marked or len({one for one, _ in found}) == 1 else None

    rest, named = text.lower(), []
    for option in sorted(options, key=len, reverse=True):
        pattern = rf"(?<![a-z0-9]){re.escape(option.lower())}(?![a-z0-9])"
        rest, times = re.subn(pattern, " ", rest)
        if times:
            named.append(letters[list(options).index(option)])
    return named[0] if len(named) == 1 else None
    # --- end


def words_and_gaps(text):
    """Runs of signs and what lies between them, by turns; it is no answer."""
    return re.findall(r"[A-Za-z0-9]+|[^A-Za-z0-9]+", text)


def is_article(tokens, i, verbs=("is", "and", "or")):
    """Whether token i is an article, for right and wrong answers; it is no answer."""
    gap, word = [*tokens[i + 1 : i + 3], "", ""][:2]
    return tokens[i] in ("A", "a") and gap.isspace() and word[:1].islower() and word not in verbs


def is_marked(tokens, i):
    """Whether token i follows a marker, for right and wrong answers; it is no answer."""
    before = "".join(tokens[:i]).lower()
    return bool(re.search(r"(?:(?<![a-z0-9])answer|答案)(?:is|option|[\s:：(（*是])*\Z", before))


def letters_said(text, letters, article=is_article, small=True, cut=words_and_gaps):
    """[(letter, whether it follows a marker)], for right and wrong answers; it is no answer."""
    tokens, said = cut(text), []
    only = len(re.sub("[^A-Za-z0-9]", "", text)) == 1
    for i, token in enumerate(tokens):
        if len(token) > 1 or token.upper() not in letters or article(tokens, i):
            continue
        marked = is_marked(tokens, i)
        if token.isupper() or (small and (marked or only)):
            said.append((token.upper(), marked))
    return said


def letter_settled(said):
    """What letters come to by rules 1 and 2, for right and wrong answers; it is no answer."""
    alike = len({letter for letter, _ in said}) == 1
    return said[-1][0] if alike or (said and said[-1][1]) else None


def option_named(text, options, change=str.lower, edge="[A-Za-z0-9]"):
    """The letter of the one option in a text, by rule 3, or None; it is no answer."""
    rest, named = change(text), []
    for i in sorted(range(len(options)), key=lambda i: -len(options[i])):
        pieces = re.split(f"(?<!{edge}){re.escape(change(options[i]))}(?!{edge})", rest)
        if len(pieces) > 1:
            named.append(OPTION_LETTERS[i])
        rest = "|".join(pieces)
    return named[0] if len(named) == 1 else None


def lone_letters(text, options, articles=False, alone="(?<![A-Za-z0-9])[A-Za-z](?![A-Za-z0-9])"):
    """What `letters_said` says, found another way; it is no answer."""
    said = []
    for m in re.finditer(alone, text):
        before, after = text[: m.start()].lower(), text[m.end() :]
        next_word = re.match(r"\s+([a-z][A-Za-z0-9]*)", after)
        if next_word and m[0] in "Aa" and not articles:
            if next_word[1] not in ("is", "and", "or"):
                continue
        while (shorter := re.sub(r"(is|option|[\s:：(（*是])\Z", "", before)) != before:
            before = shorter
        marked = re.search(r"((?<![a-z0-9])answer|答案)\Z", before) is not None
        if m[0].isupper() or marked or not re.search("[A-Za-z0-9]", before + after):
            said.append((m[0].upper(), marked))
    return [pair for pair in said if pair[0] in OPTION_LETTERS[: len(options)]]


def whole_words_in(text, options):
    """Letters of the options in a text, each looked for by itself; it is no answer."""
    edged = [rf"(?i)(?<![a-z0-9]){re.escape(option)}(?![a-z0-9])" for option in options]
    return [OPTION_LETTERS[i] for i, pattern in enumerate(edged) if re.search(pattern, text)]


@read_choice.alternative
def choice_by_words(text, options):
    said = letters_said(text, OPTION_LETTERS[: len(options)])
    return letter_settled(said) if said else option_named(text, options)


@read_choice.alternative
def choice_by_one_pattern(text, options):
    filler = r"(?:is|option|[\s:：(（*是])*"
    pattern = (
        rf"((?i:(?<![a-z0-9])answer{filler}|答案{filler}))?(?<![A-Za-z0-9])"
        r"([B-Zb-z]|[Aa](?!\s+(?!(?:is|and|or)(?![A-Za-z0-9]))[a-z]))(?![A-Za-z0-9])"
    )
    only, kinds, last_marked = len(re.findall("[A-Za-z0-9]", text)) == 1, [], ""
    for marker, letter in re.findall(pattern, text):
        number = "abcdefgh".find(letter.lower())
        if 0 <= number < len(options) and (marker or only or letter < "a"):
            kinds.append(letter.upper())
            last_marked = marker
    if kinds:
        return kinds[-1] if last_marked or kinds == kinds[:1] * len(kinds) else None
    taken, named = [False] * len(text), set()
    for option in sorted(options, key=len)[::-1]:
        for m in re.finditer(re.escape(option.lower()), text.lower()):
            around = text[max(m.start() - 1, 0) : m.start()] + text[m.end() : m.end() + 1]
            if not any(taken[m.start() : m.end()]) and not re.search("[A-Za-z0-9]", around):
                taken[m.start() : m.end()] = [True] * len(option)
                named.add(OPTION_LETTERS[list(options).index(option)])
    return named.pop() if len(named) == 1 else None


@read_choice.mistake(
    "Any capital letter will do, also the first of a word: Circles begin with C, and so the answer "
    "was C. A letter counts where it stands alone."
)
def any_capital(text, options):
    for sign in text:
        if sign in OPTION_LETTERS[: len(options)]:
            return sign
    return None


@any_capital.again
def first_match_of_a_class(text, options):
    found = re.search(f"[A-{OPTION_LETTERS[len(options) - 1]}]", text)
    return found.group() if found else None


@read_choice.mistake(
    "Any capital letter from A to D will do: also the D of a word, also where there are three options "
    "or five. A letter counts where it stands alone, and if it is one of the options'."
)
def any_capital_a_to_d(text, options):
    found = re.search("[A-D]", text)
    return found[0] if found else None


@any_capital_a_to_d.again
def loop_for_a_to_d(text, options):
    for sign in text:
        if "A" <= sign <= "D":
            return sign
    return None


@read_choice.mistake(
    "The first character is taken for the answer: right as long as the model says nothing but its "
    "letter, and then for every sentence that begins with A."
)
def first_character(text, options):
    first = text.strip()[:1]
    return first if first and first in OPTION_LETTERS[: len(options)] else None


@first_character.again
def starts_with(text, options):
    letters = tuple(OPTION_LETTERS[: len(options)])
    return text.strip()[0] if text.strip().startswith(letters) else None


@read_choice.mistake(
    'A letter is looked for with `in`, in the alphabet\'s order: "Answer" has an A, so it is A before '
    "the model has answered."
)
def letter_in_text(text, options):
    return next((c for c in OPTION_LETTERS[: len(options)] if c in text), None)


@letter_in_text.again
def find_each(text, options):
    for i in range(len(options)):
        if text.find(chr(ord("A") + i)) >= 0:
            return chr(ord("A") + i)


@read_choice.mistake(
    "Where nothing can be read the answer is A: a model that says nothing at all is right on every "
    "fourth question, and nobody sees that nothing was read. It is None."
)
def a_by_default(text, options):
    said = letters_said(text, OPTION_LETTERS[: len(options)])
    return (letter_settled(said) if said else option_named(text, options)) or "A"


@a_by_default.again
def start_from_a(text, options):
    choice, letters = "A", lone_letters(text, options)
    if letters:
        if len({letter for letter, _ in letters}) == 1 or letters[-1][1]:
            choice = letters[-1][0]
    elif option_named(text, options):
        choice = option_named(text, options)
    return choice


@read_choice.mistake(
    'The article is taken for the letter: "A star stands there" has not chosen A, and "the answer is '
    'a ring" has not either.'
)
def every_a_counts(text, options):
    letters = OPTION_LETTERS[: len(options)]
    said = letters_said(text, letters, article=lambda tokens, i: False)
    return letter_settled(said) if said else option_named(text, options)


@every_a_counts.again
def articles_kept(text, options):
    letters = lone_letters(text, options, articles=True)
    if not letters:
        return option_named(text, options)
    different = sorted({letter for letter, _ in letters})
    return letters[-1][0] if len(different) < 2 or letters[-1][1] else None


@read_choice.mistake(
    'Every A before a small word is taken for an article: "A is right" says nothing then, and "A or '
    'B" says B. "is", "and" and "or" follow a letter.'
)
def article_before_any_word(text, options):
    def article(tokens, i):
        return is_article(tokens, i, verbs=())

    said = letters_said(text, OPTION_LETTERS[: len(options)], article)
    return letter_settled(said) if said else option_named(text, options)


@article_before_any_word.again
def a_then_small_letter(text, options):
    blanked = re.sub(r"(?<![A-Za-z0-9])[Aa](?=\s+[a-z])", "~", text)
    letters = lone_letters(blanked, options)
    return letter_settled(letters) if letters else option_named(text, options)


@read_choice.mistake(
    'Of several letters the last is taken, marker or not: "It is A or B" becomes B, a choice that '
    "nobody made."
)
def last_letter(text, options):
    said = letters_said(text, OPTION_LETTERS[: len(options)])
    return said[-1][0] if said else option_named(text, options)


@last_letter.again
def overwritten(text, options):
    choice = None
    for letter, _ in lone_letters(text, options):
        choice = letter
    return choice or option_named(text, options)


@read_choice.mistake(
    'Of several letters the first is taken: "Not A, not B. The answer is D." becomes A.'
)
def first_letter(text, options):
    said = letters_said(text, OPTION_LETTERS[: len(options)])
    return said[0][0] if said else option_named(text, options)


@first_letter.again
def return_at_once(text, options):
    for letter, _ in lone_letters(text, options):
        return letter
    return option_named(text, options)


@read_choice.mistake(
    'Small letters never count: "b" and "the answer is b" are answers too, and are lost.'
)
def capitals_only(text, options):
    said = letters_said(text, OPTION_LETTERS[: len(options)], small=False)
    return letter_settled(said) if said else option_named(text, options)


@capitals_only.again
def never_lower(text, options):
    letters = lone_letters(text, options, alone="(?<![A-Za-z0-9])[A-Z](?![A-Za-z0-9])")
    return letter_settled(letters) if letters else option_named(text, options)


@read_choice.mistake(
    "The text is put in capitals first: now every article is a letter A, for nothing tells the two "
    "apart any more."
)
def capitals_first(text, options):
    said = letters_said(text.upper(), OPTION_LETTERS[: len(options)])
    return letter_settled(said) if said else option_named(text, options)


@capitals_first.again
def upper_then_read(text, options):
    letters = lone_letters(text.upper(), options)
    if len({letter for letter, _ in letters}) > 1 and not letters[-1][1]:
        return None
    return letters[-1][0] if letters else option_named(text, options)


@read_choice.mistake(
    "`\\b` does not part Chinese from Latin: a Chinese character is a letter to Python, so there is "
    'no border before the B of "选B". Ask for a to z, A to Z and 0 to 9 beside it.'
)
def word_borders(text, options):
    def cut(text):
        return re.findall(r"\w+|\W+", text)

    said = letters_said(text, OPTION_LETTERS[: len(options)], cut=cut)
    return letter_settled(said) if said else option_named(text, options)


@word_borders.again
def backslash_b(text, options):
    letters = lone_letters(text, options, alone=r"\b[A-Za-z]\b")
    if not letters:
        return option_named(text, options)
    kinds = {letter for letter, _ in letters}
    return letters[-1][0] if len(kinds) == 1 or letters[-1][1] else None


@read_choice.mistake(
    "The letters are A to D whatever the question: the fifth option can never be chosen, and the D of "
    '"vitamin D" is a choice where there are three.'
)
def always_a_to_d(text, options):
    said = letters_said(text, "ABCD")
    return letter_settled(said) if said else option_named(text, options)


@always_a_to_d.again
def four_letters(text, options):
    letters = lone_letters(text, ("A", "B", "C", "D"))
    return letter_settled(letters) if letters else option_named(text, options)


@read_choice.mistake(
    "Markers are not looked at: a model that weighs all options and then says which one it takes is "
    "not read."
)
def markers_ignored(text, options):
    kinds = {letter for letter, _ in letters_said(text, OPTION_LETTERS[: len(options)])}
    if kinds:
        return kinds.pop() if len(kinds) == 1 else None
    return option_named(text, options)


@markers_ignored.again
def one_kind_or_none(text, options):
    letters = "".join(letter for letter, _ in lone_letters(text, options))
    if letters:
        return letters[0] if letters.count(letters[0]) == len(letters) else None
    return option_named(text, options)


@read_choice.mistake(
    'A letter after a marker wins wherever it stands: "Answer: B. No, C." takes it back. It counts '
    "where it is the last."
)
def marker_wins(text, options):
    said = letters_said(text, OPTION_LETTERS[: len(options)])
    marked = [pair for pair in said if pair[1]]
    return letter_settled(marked or said) if said else option_named(text, options)


@marker_wins.again
def after_the_marker(text, options):
    plain, after = [], []
    for letter, marked in lone_letters(text, options):
        (after if marked else plain).append(letter)
    if after:
        return after[-1]
    if plain:
        return plain[0] if len(set(plain)) == 1 else None
    return option_named(text, options)


@read_choice.mistake(
    'Two letters are two answers, even where both are the same: "B, definitely B" is lost. Count '
    "kinds of letters."
)
def one_letter_only(text, options):
    said = letters_said(text, OPTION_LETTERS[: len(options)])
    if said:
        return said[-1][0] if len(said) == 1 or said[-1][1] else None
    return option_named(text, options)


@one_letter_only.again
def more_than_one(text, options):
    letters = lone_letters(text, options)
    if len(letters) > 1 and not letters[-1][1]:
        return None
    return letters[-1][0] if letters else option_named(text, options)


@read_choice.mistake(
    'The first option of the list that is in the text is taken: "red ring" is read as "red" or as '
    '"ring". Begin with the longest, and strike it out.'
)
def first_option_found(text, options):
    said = letters_said(text, OPTION_LETTERS[: len(options)])
    if said:
        return letter_settled(said)
    return next(iter(whole_words_in(text, options)), None)


@first_option_found.again
def in_list_order(text, options):
    letters = lone_letters(text, options)
    if letters:
        return letter_settled(letters)
    for letter, option in zip(OPTION_LETTERS, options, strict=False):
        padded = re.sub("[^a-z0-9]+", " ", f" {text.lower()} ") if text.isascii() else text
        if (f" {option.lower()} " if text.isascii() else option) in padded:
            return letter


@read_choice.mistake(
    'An option that is part of a longer one counts beside it: "red ring" is three options at once '
    "and comes to None. Strike out what has been found before you look for the next."
)
def nothing_struck_out(text, options):
    said = letters_said(text, OPTION_LETTERS[: len(options)])
    if said:
        return letter_settled(said)
    named = whole_words_in(text, options)
    return named[0] if len(named) == 1 else None


@nothing_struck_out.again
def exactly_one_contained(text, options):
    if letters := lone_letters(text, options):
        return letter_settled(letters)
    edge = r"(?:[^A-Za-z0-9]|^|$)"
    inside = [re.search(edge + re.escape(o) + edge, text, re.I) is not None for o in options]
    return OPTION_LETTERS[inside.index(True)] if sum(inside) == 1 else None


@read_choice.mistake(
    'The longest option in the text is taken at once: "the red ring, left of a ring" names two. Strike '
    "it out and look on."
)
def longest_wins(text, options):
    said = letters_said(text, OPTION_LETTERS[: len(options)])
    if said:
        return letter_settled(said)
    named = whole_words_in(text, options)
    return max(named, key=lambda c: len(options[OPTION_LETTERS.index(c)]), default=None)


@longest_wins.again
def sorted_by_length(text, options):
    if letters := lone_letters(text, options):
        return letter_settled(letters)
    for option in sorted(options, key=len)[::-1]:
        if re.search(rf"(?<![a-z0-9]){re.escape(option.lower())}(?![a-z0-9])", text.lower()):
            return OPTION_LETTERS[options.index(option)]
    return None


@read_choice.mistake(
    'Options are found inside words: "covered" has chosen "red". They count as whole words.'
)
def inside_words(text, options):
    said = letters_said(text, OPTION_LETTERS[: len(options)])
    return letter_settled(said) if said else option_named(text, options, edge="~")


@inside_words.again
def plain_in(text, options):
    if letters := lone_letters(text, options):
        return letter_settled(letters)
    rest, named = text.lower(), ""
    for option in sorted(options, key=lambda o: (-len(o), o)):
        if option.lower() in rest:
            named += OPTION_LETTERS[list(options).index(option)]
            rest = rest.replace(option.lower(), " ")
    return named if len(named) == 1 else None


@read_choice.mistake(
    "The options' texts are looked for before the letters: an answer that speaks of one thing on its "
    "way to the letter is read as that thing."
)
def options_before_letters(text, options):
    said = letters_said(text, OPTION_LETTERS[: len(options)])
    return option_named(text, options) or letter_settled(said)


@options_before_letters.again
def text_then_letter(text, options):
    choice = option_named(text, options)
    if choice is None:
        choice = letter_settled(lone_letters(text, options))
    return choice


@read_choice.mistake(
    'Capital letters and small ones are told apart in the options: "A Star." does not say "star".'
)
def capitals_matter(text, options):
    said = letters_said(text, OPTION_LETTERS[: len(options)])
    return letter_settled(said) if said else option_named(text, options, change=str)


@capitals_matter.again
def case_sensitive(text, options):
    if letters := lone_letters(text, options):
        return letter_settled(letters)
    rest, named, pairs = text, [], zip(OPTION_LETTERS, options, strict=False)
    for letter, option in sorted(pairs, key=lambda pair: -len(pair[1])):
        parts = re.split(rf"(?<![A-Za-z0-9]){re.escape(option)}(?![A-Za-z0-9])", rest)
        named += [letter] * (len(parts) > 1)
        rest = "~".join(parts)
    return named[0] if len(named) == 1 else None


# -- circular_accuracy -------------------------------------------------------------------------


@exercise(
    kind="implement",
    points=10,
    difficulty="basic",
    minutes=15,
    section="Letters and positions",
    hints=(
        "What has to be true of a question before it counts, and how many questions are there to "
        "divide by?",
        "Keep one truth value a question, in a dict by its id: it starts as true, and one wrong pass "
        "makes it false for good.",
        "`right[g] = right.get(g, True) and p == a` over the three lists together; then the number "
        "of true ones over the number of questions.",
    ),
)
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
    # --- answer
    right: dict = {}
    for prediction, answer, group in zip(predictions, answers, groups, strict=True):
        right[group] = right.get(group, True) and prediction == answer
    return sum(right.values()) / len(right)
    # --- end


def hits_by_question(predictions, answers, groups):
    """{id: [whether each pass is right]}, for right and wrong answers; it is no answer."""
    hits = defaultdict(list)
    for p, a, g in zip(predictions, answers, groups, strict=True):
        hits[g].append(p == a)
    return hits


@circular_accuracy.alternative
def without_the_failed(predictions, answers, groups):
    failed = {g for p, a, g in zip(predictions, answers, groups, strict=True) if p != a}
    return len(set(groups) - failed) / len(set(groups))


@circular_accuracy.alternative
def circular_by_numpy(predictions, answers, groups):
    _, question, passes = np.unique(groups, return_inverse=True, return_counts=True)
    hit = np.array([p == a for p, a in zip(predictions, answers, strict=True)])
    return float((np.bincount(question, weights=hit) == passes).mean())


@circular_accuracy.alternative
def circular_by_sorting(predictions, answers, groups):
    passes = sorted(zip(groups, predictions, answers, strict=True), key=lambda one: one[0])
    runs = [list(run) for _, run in groupby(passes, key=lambda one: one[0])]
    return sum(all(p == a for _, p, a in run) for run in runs) / len(runs)


@circular_accuracy.mistake(
    "That is the share of all passes that are right. Whoever always says A gets a quarter of them, "
    "and has answered no question."
)
def mean_of_the_passes(predictions, answers, groups):
    return sum(p == a for p, a in zip(predictions, answers, strict=True)) / len(answers)


@mean_of_the_passes.again
def plain_accuracy(predictions, answers, groups):
    return float(np.mean([p == answers[i] for i, p in enumerate(predictions)]))


@circular_accuracy.mistake(
    "One right pass is enough here: that is right for every model that sticks to one letter, since "
    "the answer comes by it once."
)
def any_pass(predictions, answers, groups):
    hits = hits_by_question(predictions, answers, groups)
    return sum(any(passes) for passes in hits.values()) / len(hits)


@any_pass.again
def right_at_least_once(predictions, answers, groups):
    known = {groups[i] for i in range(len(groups)) if predictions[i] == answers[i]}
    return len(known) / len(set(groups))


@circular_accuracy.mistake(
    "Each pass overwrites the one before: the last rotation alone decides. One wrong pass must make "
    "the question wrong for good."
)
def last_pass_decides(predictions, answers, groups):
    hits = hits_by_question(predictions, answers, groups)
    return sum(passes[-1] for passes in hits.values()) / len(hits)


@last_pass_decides.again
def overwritten_by_question(predictions, answers, groups):
    right = {g: p == a for p, a, g in zip(predictions, answers, groups, strict=True)}
    return sum(right.values()) / len(right)


@circular_accuracy.mistake(
    "Only the first pass of each question is looked at: that is the plain accuracy, before anything "
    "was rotated."
)
def first_pass_decides(predictions, answers, groups):
    hits = hits_by_question(predictions, answers, groups)
    return sum(passes[0] for passes in hits.values()) / len(hits)


@first_pass_decides.again
def unrotated(predictions, answers, groups):
    seen, good = set(), 0
    for p, a, g in zip(predictions, answers, groups, strict=True):
        if g not in seen:
            seen.add(g)
            good += p == a
    return good / len(seen)


@circular_accuracy.mistake(
    "Passes are gathered only where they stand side by side: a question whose passes lie apart is "
    "taken for several. Gather by the id (`itertools.groupby` needs a sorted list)."
)
def neighbours_only(predictions, answers, groups):
    passes = zip(groups, predictions, answers, strict=True)
    runs = [all(p == a for _, p, a in run) for _, run in groupby(passes, key=lambda one: one[0])]
    return sum(runs) / len(runs)


@neighbours_only.again
def when_the_id_changes(predictions, answers, groups):
    runs, good, current = 0, 0, True
    for i, group in enumerate(groups):
        current = current and predictions[i] == answers[i]
        if i + 1 == len(groups) or groups[i + 1] != group:
            runs, good, current = runs + 1, good + current, True
    return good / runs


@circular_accuracy.mistake(
    "The lists are cut into slices of equal length: that is by position, and mixes passes of "
    "different questions as soon as one has fewer options. Gather by the id."
)
def equal_slices(predictions, answers, groups):
    questions = len(set(groups))
    size = len(groups) // questions
    right = [p == a for p, a in zip(predictions, answers, strict=True)]
    return sum(all(right[q * size : (q + 1) * size]) for q in range(questions)) / questions


@equal_slices.again
def table_of_passes(predictions, answers, groups):
    rows = np.unique(groups).size
    columns = len(predictions) // rows
    hit = np.equal(np.array(predictions, dtype=object), np.array(answers, dtype=object))
    return float(hit[: rows * columns].reshape(rows, columns).astype(bool).all(axis=1).mean())


@circular_accuracy.mistake(
    "The questions that are right are divided by the number of passes. Divide by the number of "
    "questions."
)
def over_all_passes(predictions, answers, groups):
    hits = hits_by_question(predictions, answers, groups)
    return sum(map(all, hits.values())) / len(predictions)


@over_all_passes.again
def divided_by_len(predictions, answers, groups):
    bad = {g for p, a, g in zip(predictions, answers, groups, strict=True) if a != p}
    return len(set(groups).difference(bad)) / len(groups)


@circular_accuracy.mistake(
    "A question gets the share of its passes that are right: it is worth something as soon as one "
    "is. It is all or nothing."
)
def mean_by_question(predictions, answers, groups):
    hits = hits_by_question(predictions, answers, groups)
    return sum(sum(passes) / len(passes) for passes in hits.values()) / len(hits)


@mean_by_question.again
def weighted_passes(predictions, answers, groups):
    passes, ids = Counter(groups), set(groups)
    shares = [1 / passes[g] for p, a, g in zip(predictions, answers, groups, strict=True) if p == a]
    return sum(shares) / len(ids)


@circular_accuracy.mistake(
    "Passes that could not be read are left out: a question is right on what is left, or missing "
    "altogether. A pass without a letter is a pass that is not right."
)
def unread_left_out(predictions, answers, groups):
    right: dict = {}
    for prediction, answer, group in zip(predictions, answers, groups, strict=True):
        if prediction is not None:
            right[group] = right.get(group, True) and prediction == answer
    return sum(right.values()) / max(len(right), 1)


@unread_left_out.again
def only_the_read(predictions, answers, groups):
    read = [i for i, p in enumerate(predictions) if p is not None]
    failed = {groups[i] for i in read if predictions[i] != answers[i]}
    ids = {groups[i] for i in read}
    return len(ids - failed) / len(ids) if ids else 0.0


@circular_accuracy.mistake(
    "Every pass is held to the letter of the first: the options move, and the right letter moves "
    "with them. A model that always says the same letter looks perfect."
)
def letter_of_the_first(predictions, answers, groups):
    letter: dict = {}
    for answer, group in zip(answers, groups, strict=True):
        letter.setdefault(group, answer)
    wanted = [letter[group] for group in groups]
    return sum(map(all, hits_by_question(predictions, wanted, groups).values())) / len(letter)


@letter_of_the_first.again
def answer_that_stays(predictions, answers, groups):
    ids = list(dict.fromkeys(groups))
    good = 0
    for q in ids:
        places = [i for i, g in enumerate(groups) if g == q]
        good += all(predictions[i] == answers[places[0]] for i in places)
    return good / len(ids)


@circular_accuracy.mistake(
    "Four right passes are asked of every question: one with two or three options never has them, "
    "and one with five is let off with a wrong one."
)
def four_right_passes(predictions, answers, groups):
    hits = hits_by_question(predictions, answers, groups)
    return sum(sum(passes) >= 4 for passes in hits.values()) / len(hits)


@four_right_passes.again
def four_options_always(predictions, answers, groups):
    count = Counter(g for p, a, g in zip(predictions, answers, groups, strict=True) if p == a)
    return len([g for g in set(groups) if count[g] > 3]) / len(set(groups))


# -- vqa_accuracy ------------------------------------------------------------------------------


@exercise(
    kind="implement",
    points=10,
    difficulty="basic",
    minutes=20,
    section="Answers that several people gave",
    forbid=("lmms_eval", "vlmeval"),
    hints=(
        "Who is it that is left out, and which answers does the prediction then have to match? "
        "What does one matching answer of ten come to?",
        "Make the prediction and all answers plain first, with one function. Then a loop over the "
        "person left out: the matches among the others, over three, but at most 1. The mean of that.",
        '`words = text.strip().lower()`, without its last `.` or `。`, then `" ".join(w for w in '
        'words.split() if w not in ("a", "an", "the"))`. For person `k`: '
        "`min(sum(p == b for j, b in enumerate(plain) if j != k) / 3, 1)`.",
    ),
)
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

    # --- answer
    def plain(text):
        text = text.strip().lower()
        if text.endswith((".", "。")):
            text = text[:-1]
        return " ".join(word for word in text.split() if word not in ("a", "an", "the"))

    matches = [plain(prediction) == plain(answer) for answer in answers]
    others = [sum(matches) - match for match in matches]
    return sum(min(count / 3, 1) for count in others) / len(answers)
    # --- end


def plain_answer(text, stops=r"[.。]\s*\Z", articles=r"(?<!\S)(?:an?|the)(?!\S)"):
    """An answer made plain, for right and wrong answers; it is no answer."""
    text = re.sub(stops, "", text.lower())
    return re.sub(r"\s+", " ", re.sub(articles, "", text)).strip()


def count_and_people(prediction, answers, change=plain_answer):
    """(matches, people), for right and wrong answers; it is no answer."""
    plain = change(prediction)
    return sum(change(answer) == plain for answer in answers), len(answers)


def leaving_out(matches, people):
    """The mean over the sets of the others, for right and wrong answers; it is no answer."""
    without = matches * min((matches - 1) / 3, 1) if matches else 0
    return (without + (people - matches) * min(matches / 3, 1)) / people


@vqa_accuracy.alternative
def vqa_closed_form(prediction, answers):
    # With c matches of n: c persons leave c - 1 of them and n - c leave c, so c(n - 1) / 3n.
    matches, people = count_and_people(prediction, answers)
    return min(matches * (people - 1) / (3 * people), 1.0)


@vqa_accuracy.alternative
def vqa_by_subsets(prediction, answers):
    plain, total = [plain_answer(answer) for answer in answers], 0.0
    for others in combinations(plain, len(plain) - 1):
        total += min(others.count(plain_answer(prediction)) / 3, 1)
    return total / len(plain)


@vqa_accuracy.mistake(
    "Nobody is left out: one match of ten counts 1/3 where it is 0.3. The short form min(c/3, 1) is "
    "in many texts; the benchmark's script averages over the ten."
)
def nobody_left_out(prediction, answers):
    matches, _ = count_and_people(prediction, answers)
    return min(matches / 3, 1)


@nobody_left_out.again
def short_form(prediction, answers):
    votes = Counter(map(plain_answer, answers))
    return min(1.0, votes[plain_answer(prediction)] / 3.0)


@vqa_accuracy.mistake(
    "Only the answer that most people gave counts: whoever says what three of ten said is right too."
)
def majority_answer(prediction, answers):
    ((common, _),) = Counter(map(plain_answer, answers)).most_common(1)
    return float(plain_answer(prediction) == common)


@majority_answer.again
def most_frequent(prediction, answers):
    plain = [plain_answer(a) for a in answers]
    return 1.0 if plain_answer(prediction) == max(plain, key=plain.count) else 0.0


@vqa_accuracy.mistake(
    "Any one person is enough: a single odd answer of ten makes the prediction right. It takes "
    "three others for that."
)
def any_person(prediction, answers):
    matches, _ = count_and_people(prediction, answers)
    return float(matches > 0)


@any_person.again
def said_by_someone(prediction, answers):
    return 1.0 if plain_answer(prediction) in {plain_answer(a) for a in answers} else 0.0


@vqa_accuracy.mistake(
    "The texts are compared as they come: a capital letter, an article or a full stop makes a right "
    "answer wrong."
)
def as_they_come(prediction, answers):
    return leaving_out(*count_and_people(prediction, answers, change=str))


@as_they_come.again
def raw_strings(prediction, answers):
    scores = []
    for k in range(len(answers)):
        others = [*answers[:k], *answers[k + 1 :]]
        scores.append(min(others.count(prediction) / 3, 1))
    return sum(scores) / len(scores)


@vqa_accuracy.mistake('The articles stay: "the red ring" and "a red ring" are two answers then.')
def articles_stay(prediction, answers):
    def change(text):
        return plain_answer(text, articles=r"(?!)")

    return leaving_out(*count_and_people(prediction, answers, change))


@articles_stay.again
def lower_and_stop(prediction, answers):
    p, *plain = [
        " ".join(t.strip().lower().removesuffix(".").removesuffix("。").split())
        for t in (prediction, *answers)
    ]
    return sum(min((plain.count(p) - (a == p)) / 3, 1) for a in plain) / len(plain)


@vqa_accuracy.mistake('The full stop at the end stays: "Yes." is not "yes" then.')
def full_stop_stays(prediction, answers):
    def change(text):
        return plain_answer(text, stops=r"(?!)")

    return leaving_out(*count_and_people(prediction, answers, change))


@full_stop_stays.again
def words_and_case_only(prediction, answers):
    def words(text):
        return [word for word in text.lower().split() if word not in {"a", "an", "the"}]

    same = [words(answer) == words(prediction) for answer in answers]
    return sum(min((sum(same) - own) / 3, 1) for own in same) / len(same)


@vqa_accuracy.mistake(
    "Only the prediction is made plain, and the people's answers are left with their capital "
    "letters, articles and full stops: nothing with one of these is ever matched."
)
def people_not_plain(prediction, answers):
    plain = plain_answer(prediction)
    return leaving_out(sum(answer == plain for answer in answers), len(answers))


@people_not_plain.again
def one_side_only(prediction, answers):
    p, n = plain_answer(prediction), len(answers)
    hits = np.array([a == p for a in answers])
    return float(np.mean([min(np.delete(hits, k).sum() / 3, 1) for k in range(n)]))


@vqa_accuracy.mistake(
    "Only the people's answers are made plain, and the prediction is compared as the model wrote it."
)
def prediction_not_plain(prediction, answers):
    return leaving_out(sum(plain_answer(a) == prediction for a in answers), len(answers))


@prediction_not_plain.again
def answers_side_only(prediction, answers):
    plain = [plain_answer(a) for a in answers]
    sets = [plain[:k] + plain[k + 1 :] for k in range(len(plain))]
    return sum(min(1, s.count(prediction) / 3) for s in sets) / len(sets)


@vqa_accuracy.mistake(
    "The thirds are lost in an integer division: one or two matches count nothing. Partial credit "
    "is what this measure is for."
)
def whole_numbers_only(prediction, answers):
    c, n = count_and_people(prediction, answers)
    return (c * min((c - 1) // 3, 1) * (c > 0) + (n - c) * min(c // 3, 1)) / n


@whole_numbers_only.again
def three_or_nothing(prediction, answers):
    plain, p = [plain_answer(a) for a in answers], plain_answer(prediction)
    enough = [sum(b == p for j, b in enumerate(plain) if j != k) >= 3 for k in range(len(plain))]
    return sum(enough) / len(enough)


@vqa_accuracy.mistake(
    "That is the share of the people who gave this answer. Three others make it fully right, however "
    "many people were asked."
)
def share_of_people(prediction, answers):
    matches, people = count_and_people(prediction, answers)
    return matches / people


@share_of_people.again
def mean_match(prediction, answers):
    return float(np.mean([plain_answer(a) == plain_answer(prediction) for a in answers]))


@vqa_accuracy.mistake("The `min` is missing: an answer that all ten gave is worth three questions.")
def not_capped(prediction, answers):
    matches, people = count_and_people(prediction, answers)
    return matches * (people - 1) / (3 * people)


@not_capped.again
def no_limit(prediction, answers):
    plain, p, total = [plain_answer(a) for a in answers], plain_answer(prediction), 0.0
    for k in range(len(plain)):
        total += sum(b == p for j, b in enumerate(plain) if j != k) / 3
    return total / len(plain)


@vqa_accuracy.mistake(
    'The articles are taken out inside words too: "read" without its a is "red". They are words.'
)
def articles_inside_words(prediction, answers):
    def change(text):
        return plain_answer(text, articles="the|an|a")

    return leaving_out(*count_and_people(prediction, answers, change))


@articles_inside_words.again
def replace_articles(prediction, answers):
    def plain(text):
        text = text.strip().lower()
        text = text[:-1] if text[-1:] in (".", "。") else text
        for article in ("the", "an", "a"):
            text = text.replace(article, "")
        return " ".join(text.split())

    sides = [plain(a) == plain(prediction) for a in answers]
    sets = [sides[:k] + sides[k + 1 :] for k in range(len(sides))]
    return sum(min(sum(s) / 3, 1) for s in sets) / len(sets)


@vqa_accuracy.mistake(
    'All full stops are taken out, also those inside: "3.5" and "35" are the same then. Only the one '
    "at the end goes."
)
def every_full_stop(prediction, answers):
    def change(text):
        return plain_answer(text, stops="[.。]")

    return leaving_out(*count_and_people(prediction, answers, change))


@every_full_stop.again
def replace_stops(prediction, answers):
    p, *plain = [plain_answer(t.replace(".", "").replace("。", "")) for t in (prediction, *answers)]
    c = plain.count(p)
    return sum(min((c - (a == p)) / 3, 1) for a in plain) / len(plain)


@vqa_accuracy.mistake(
    'A text counts if it is part of the other: "cat" is in "black cat", and "1" in "10". The texts '
    "must be equal."
)
def part_of_the_answer(prediction, answers):
    plain = plain_answer(prediction)
    return leaving_out(sum(plain in plain_answer(a) for a in answers), len(answers))


@part_of_the_answer.again
def contained(prediction, answers):
    p, plain = plain_answer(prediction), [plain_answer(a) for a in answers]
    found = [a.find(p) >= 0 for a in plain]
    return sum(min((sum(found) - f) / 3, 1) for f in found) / len(found)


@vqa_accuracy.mistake(
    "The ten people are written into the formula: it is wrong where more or fewer were asked."
)
def always_ten(prediction, answers):
    matches, _ = count_and_people(prediction, answers)
    return min(0.3 * matches, 1.0)


@always_ten.again
def by_table(prediction, answers):
    matches = [plain_answer(a) for a in answers].count(plain_answer(prediction))
    return (0.0, 0.3, 0.6, 0.9, 1.0)[min(matches, 4)]


# -- ndcg --------------------------------------------------------------------------------------


@exercise(
    kind="implement",
    points=10,
    difficulty="basic",
    minutes=20,
    section="Ranked lists",
    forbid=("sklearn", "ranx", "pytrec_eval", "ir_measures"),
    hints=(
        "What would the best ranking of these documents look like, and may it hold one that the "
        "system ranked behind k? Which documents does it show in its first k places?",
        "Sort each row downwards and cut afterwards. The same weights, $1 / \\log_2(i + 1)$ for $i$ "
        "from 1, then serve both rankings. Where the best is worth nothing, do not divide.",
        "`weights = 1 / np.log2(np.arange(k) + 2)` with `k = min(k, n)`; "
        "`best = -np.sort(-relevances, axis=1)`; `[:, :k] @ weights` of both, and "
        "`np.divide(…, out=np.zeros(…), where=ideal > 0)`.",
    ),
)
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
    # --- answer
    weights = 1 / np.log2(np.arange(min(k, relevances.shape[1])) + 2)
    best = -np.sort(-relevances, axis=1)
    gained, ideal = relevances[:, : len(weights)] @ weights, best[:, : len(weights)] @ weights
    return np.divide(gained, ideal, out=np.zeros(len(ideal)), where=ideal > 0)
    # --- end


def dcg(relevances, k, gain=lambda r: r, discount=lambda rank: np.log2(rank + 1)):
    """DCG of each query, for right and wrong answers; it is no answer."""
    with np.errstate(divide="ignore", invalid="ignore"):
        top = relevances[:, :k]
        return (gain(top) / discount(np.arange(1, top.shape[1] + 1))).sum(axis=1)


def over_ideal(gained, ideal, empty=0.0):
    """Their ratio, or `empty` where nothing is ideal, for right and wrong answers; it is no answer."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(ideal == 0, empty, gained / ideal)


def downwards_sorted(relevances):
    """Each row from the highest down, for right and wrong answers; it is no answer."""
    return np.sort(relevances, axis=1)[:, ::-1]


def by_ranks(relevances, k, best=None, weight=None, empty=0.0):
    """nDCG in plain loops, for right and wrong answers; it is no answer."""
    weight = weight or (lambda rank: 1 / math.log2(rank + 1))
    best = best or (lambda row: sorted(row, reverse=True)[:k])
    scores = []
    for row in relevances.tolist():
        gained = sum(r * weight(rank) for rank, r in enumerate(row[:k], 1))
        ideal = sum(r * weight(rank) for rank, r in enumerate(best(row), 1))
        scores.append(gained / ideal if ideal else empty)
    return np.array(scores, dtype=np.float64)


@ndcg.alternative
def ndcg_by_loops(relevances, k):
    # Any base of the logarithm will do: it is the same factor above and below.
    return by_ranks(relevances, k, weight=lambda rank: 1 / math.log(rank + 1))


@ndcg.alternative
def ndcg_by_argsort(relevances, k):
    n = relevances.shape[1]
    weights = np.where(np.arange(n) < k, 1 / np.log1p(np.arange(1, n + 1)), 0.0)
    order = np.argsort(relevances, axis=1)[:, ::-1]
    ideal = (np.take_along_axis(relevances, order, axis=1) * weights).sum(axis=1)
    return (relevances * weights).sum(axis=1) / np.where(ideal > 0, ideal, 1)


@ndcg.mistake(
    "The discount is log2(i), without the 1: at the top it is zero, and the score is infinity over "
    "infinity."
)
def no_plus_one(relevances, k):
    best = downwards_sorted(relevances)
    return over_ideal(dcg(relevances, k, discount=np.log2), dcg(best, k, discount=np.log2))


@no_plus_one.again
def arange_plus_one(relevances, k):
    with np.errstate(all="ignore"):
        weights = 1 / np.log2(np.arange(min(k, relevances.shape[1])) + 1)
        top, best = (
            (rows[:, :k] * weights).sum(axis=1)
            for rows in (relevances, np.flip(np.sort(relevances, 1), 1))
        )
        return top / best


@ndcg.mistake(
    "The discount begins at the second place: first and second weigh the same. That is the discount "
    "of 2002; today it is log2(i + 1) everywhere."
)
def old_discount(relevances, k):
    def discount(rank):
        return np.maximum(np.log2(rank), 1)

    best = downwards_sorted(relevances)
    return over_ideal(dcg(relevances, k, discount=discount), dcg(best, k, discount=discount))


@old_discount.again
def first_undiscounted(relevances, k):
    def score(row):
        return row[0] + sum(r / math.log2(i) for i, r in enumerate(row[1:k], 2))

    rows = relevances.tolist()
    best = [score(sorted(row)[::-1]) for row in rows]
    return np.array([score(r) / b if b > 0 else 0.0 for r, b in zip(rows, best, strict=True)])


@ndcg.mistake("The discount is the rank itself: that is far steeper than its logarithm.")
def divided_by_rank(relevances, k):
    best = downwards_sorted(relevances)
    return over_ideal(dcg(relevances, k, discount=np.asarray), dcg(best, k, discount=np.asarray))


@divided_by_rank.again
def reciprocal_rank_weights(relevances, k):
    return by_ranks(relevances, k, weight=lambda rank: rank**-1)


@ndcg.mistake(
    "The best ranking is made of the first k documents only: a system that ranked nothing good there "
    "is measured against nothing good. Sort all, then cut."
)
def ideal_of_the_top(relevances, k):
    return over_ideal(dcg(relevances, k), dcg(downwards_sorted(relevances[:, :k]), k))


@ideal_of_the_top.again
def cut_then_sorted(relevances, k):
    return by_ranks(relevances, k, best=lambda row: sorted(row[:k], reverse=True))


@ndcg.mistake(
    "Nothing is cut at k: both sums run over all documents. nDCG@k is about what a user sees."
)
def never_cut(relevances, k):
    n = relevances.shape[1]
    return over_ideal(dcg(relevances, n), dcg(downwards_sorted(relevances), n))


@never_cut.again
def k_unused(relevances, k):
    return by_ranks(relevances, len(relevances[0]))


@ndcg.mistake(
    "The best ranking is not cut at k: with more relevant documents than places, even a perfect "
    "system stays below 1."
)
def ideal_not_cut(relevances, k):
    return over_ideal(dcg(relevances, k), dcg(downwards_sorted(relevances), relevances.shape[1]))


@ideal_not_cut.again
def whole_ideal(relevances, k):
    return by_ranks(relevances, k, best=lambda row: sorted(row, key=lambda r: -r))


@ndcg.mistake(
    "The gain is 2^r - 1: a variant in use as well (Burges et al. 2005), with other numbers. The "
    "formula here, and trec_eval's, has linear gain; say which one you report."
)
def exponential_gain(relevances, k):
    best = downwards_sorted(relevances)
    return over_ideal(
        dcg(relevances, k, gain=lambda r: 2**r - 1), dcg(best, k, gain=lambda r: 2**r - 1)
    )


@exponential_gain.again
def burges(relevances, k):
    return by_ranks(np.exp2(relevances) - 1.0, k)


@ndcg.mistake(
    "A query without a relevant document divides zero by zero: one such query makes the mean of all "
    "not a number. It gets 0."
)
def zero_over_zero(relevances, k):
    return over_ideal(dcg(relevances, k), dcg(downwards_sorted(relevances), k), empty=np.nan)


@zero_over_zero.again
def unguarded_ratio(relevances, k):
    weights = 1 / np.log2(2 + np.arange(relevances[:, :k].shape[1]))
    best = np.array([sorted(row, reverse=True)[:k] for row in relevances])
    with np.errstate(invalid="ignore"):
        return (relevances[:, :k] @ weights) / (best @ weights)


@ndcg.mistake(
    "A query without a relevant document gets 1, as if nothing missed were everything found. Here it "
    "gets 0."
)
def one_for_nothing(relevances, k):
    return over_ideal(dcg(relevances, k), dcg(downwards_sorted(relevances), k), empty=1.0)


@one_for_nothing.again
def vacuously_perfect(relevances, k):
    return by_ranks(relevances, k, empty=1.0)


@ndcg.mistake(
    "Queries without a relevant document are left out: there is one number less than there are "
    "queries, and the mean over them rises."
)
def queries_left_out(relevances, k):
    some = relevances[(relevances > 0).any(axis=1)]
    return dcg(some, k) / dcg(downwards_sorted(some), k)


@queries_left_out.again
def judged_only(relevances, k):
    return by_ranks(np.array([row for row in relevances if row.max() > 0]), k)


@ndcg.mistake(
    "The grades are sorted upwards: the score is measured against the worst ranking, and comes out "
    "above 1."
)
def worst_for_best(relevances, k):
    worst = np.sort(relevances, axis=1)
    return over_ideal(dcg(relevances, k), dcg(worst, k))


@worst_for_best.again
def sorted_upwards(relevances, k):
    with np.errstate(divide="ignore", invalid="ignore"):
        weights = 1 / np.log2(np.arange(2, 2 + min(k, relevances.shape[1])))
        low = np.array([sorted(row)[:k] for row in relevances.tolist()]) @ weights
        high = relevances[:, :k] @ weights
        return np.where(low > 0, high / low, 0.0)


@ndcg.mistake(
    "That is the DCG: it is not divided by that of the best ranking, and grows with the number of "
    "relevant documents."
)
def not_normalised(relevances, k):
    return dcg(relevances, k)


@not_normalised.again
def gain_only(relevances, k):
    ranks = np.arange(2, 2 + relevances[:, :k].shape[1])
    return np.einsum("qd,d->q", relevances[:, :k], 1 / np.log2(ranks))


@ndcg.mistake(
    "The best ranking is taken to have the highest grade in every place: most queries have not so "
    "many good documents, and no system could reach 1."
)
def highest_everywhere(relevances, k):
    best = np.broadcast_to(relevances.max(axis=1, keepdims=True), relevances.shape)
    return over_ideal(dcg(relevances, k), dcg(best, k))


@highest_everywhere.again
def all_places_at_the_maximum(relevances, k):
    return by_ranks(relevances, k, best=lambda row: [max(row)] * min(k, len(row)))


@ndcg.mistake(
    "Sorted in place, the system's ranking is gone before it is scored: everyone gets 1. `sort()` "
    "works on the array itself, and `best = relevances` is no copy."
)
def sorted_in_place(relevances, k):
    best = relevances
    best[:] = downwards_sorted(best)
    return over_ideal(dcg(relevances, k), dcg(best, k))


@sorted_in_place.again
def argument_sorted(relevances, k):
    relevances *= -1
    relevances.sort(axis=1)
    relevances *= -1
    return by_ranks(relevances, k)


# -- cohens_kappa ------------------------------------------------------------------------------


@exercise(
    kind="implement",
    points=10,
    difficulty="basic",
    minutes=20,
    section="A model as judge",
    forbid=("sklearn", "statsmodels", "krippendorff", "nltk"),
    hints=(
        "Suppose that neither rater looks at the items, and each says every label as often as "
        "before. How often do both say yes then? How often do both say the same?",
        "Count the labels of each rater by itself. For every label that both use multiply the two "
        "shares, and add up. When is the denominator zero?",
        "`ours, theirs = Counter(first), Counter(second)`; chance is `sum(ours[c] * theirs[c] for c "
        "in ours) / n**2`, for a Counter has 0 for what it has not seen. Where that is 1, return "
        "`math.nan`.",
    ),
)
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
    # --- answer
    n = len(first)
    observed = sum(a == b for a, b in zip(first, second, strict=True)) / n
    ours, theirs = Counter(first), Counter(second)
    chance = sum(ours[c] * theirs[c] for c in ours) / n**2
    return (observed - chance) / (1 - chance) if chance < 1 else math.nan
    # --- end


def share_alike(first, second):
    """How often both say the same, for right and wrong answers; it is no answer."""
    return sum(a == b for a, b in zip(first, second, strict=True)) / len(first)


def shares_of(labels):
    """{label: its share}, for right and wrong answers; it is no answer."""
    return {label: count / len(labels) for label, count in Counter(labels).items()}


def chance_alike(first, second):
    """How often both would say the same without looking; it is no answer."""
    theirs = shares_of(second)
    return sum(share * theirs.get(label, 0.0) for label, share in shares_of(first).items())


def beyond_chance(observed, chance, empty=math.nan):
    """Agreement beyond chance, or `empty` for 0/0, for right and wrong answers; it is no answer."""
    return empty if chance == 1 else (observed - chance) / (1 - chance)


@cohens_kappa.alternative
def kappa_by_table(first, second):
    place = {label: i for i, label in enumerate(dict.fromkeys([*first, *second]))}
    table = np.zeros((len(place), len(place)))
    for a, b in zip(first, second, strict=True):
        table[place[a], place[b]] += 1
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / len(first)
    above, below = np.trace(table - expected), len(first) - np.trace(expected)
    return float(above / below) if below else float("nan")


@cohens_kappa.alternative
def kappa_by_disagreement(first, second):
    # Every label of the first beside every label of the second: N² pairs, most of them of two items.
    different = sum(a != b for a, b in zip(first, second, strict=True))
    anywhere = sum(a != b for a in first for b in second)
    return 1 - different * len(first) / anywhere if anywhere else math.nan


@cohens_kappa.mistake(
    "That is the share of items on which they agree. Two who always say yes agree on everything, and "
    "know nothing."
)
def raw_agreement(first, second):
    return share_alike(first, second)


@raw_agreement.again
def percent_alike(first, second):
    hits = [1.0 if second[i] == label else 0.0 for i, label in enumerate(first)]
    return math.fsum(hits) / len(hits)


@cohens_kappa.mistake(
    "Chance is taken as 1 over the number of labels, as if both drew them evenly. Their habits are "
    "not even, and that is what kappa is about."
)
def even_chance(first, second):
    return beyond_chance(share_alike(first, second), 1 / len({*first, *second}))


@even_chance.again
def one_over_k(first, second):
    k, n = len(set(first).union(second)), len(first)
    if k == 1:
        return math.nan
    agreed = len([1 for a, b in zip(first, second, strict=True) if a == b]) / n
    return (k * agreed - 1) / (k - 1)


@cohens_kappa.mistake(
    "Chance is made of the first rater's shares only, squared: as if the second had the same habits."
)
def habits_of_the_first(first, second):
    chance = sum(share**2 for share in shares_of(first).values())
    return beyond_chance(share_alike(first, second), chance)


@habits_of_the_first.again
def squared_counts(first, second):
    n = len(first)
    same = sum(map(lambda a, b: a == b, first, second)) / n
    squares = sum(count * count for count in Counter(first).values()) / (n * n)
    return (same - squares) / (1 - squares) if squares != 1 else math.nan


@cohens_kappa.mistake(
    "The labels of both raters are thrown together before they are squared: that is Scott's pi. "
    "Cohen's kappa lets each rater have habits of their own."
)
def scotts_pi(first, second):
    chance = sum(share**2 for share in shares_of([*first, *second]).values())
    return beyond_chance(share_alike(first, second), chance)


@scotts_pi.again
def mean_of_the_shares(first, second):
    ours, theirs, n = Counter(first), Counter(second), len(first)
    labels = set(ours) | set(theirs)
    chance = sum((ours[c] + theirs[c]) ** 2 for c in labels) / (2 * n) ** 2
    same = sum(first[i] == second[i] for i in range(n)) / n
    return math.nan if chance == 1 else (same - chance) / (1 - chance)


@cohens_kappa.mistake(
    "Only the first rater's labels are known: items to which the second gave another one are left "
    "out. They are disagreements, and they count."
)
def unknown_left_out(first, second):
    known = set(first)
    kept = [(a, b) for a, b in zip(first, second, strict=True) if b in known]
    ours, theirs = [a for a, _ in kept], [b for _, b in kept]
    return beyond_chance(share_alike(ours, theirs), chance_alike(ours, theirs))


@unknown_left_out.again
def table_of_the_first(first, second):
    cells = {(a, b): 0 for a in first for b in first}
    for pair in zip(first, second, strict=True):
        if pair in cells:
            cells[pair] += 1
    total = sum(cells.values())
    rows, columns = Counter(), Counter()
    for (a, b), count in cells.items():
        rows[a] += count
        columns[b] += count
    same = sum(count for (a, b), count in cells.items() if a == b) / total
    chance = sum(rows[c] * columns[c] for c in rows) / total**2
    return math.nan if chance == 1 else (same - chance) / (1 - chance)


@cohens_kappa.mistake(
    "Counts are multiplied, and divided by N only once: the product of two shares has N². Chance "
    "comes out above 1."
)
def divided_once(first, second):
    chance = chance_alike(first, second) * len(first)
    return beyond_chance(share_alike(first, second), chance)


@divided_once.again
def expected_counts(first, second):
    ours, theirs, n = Counter(first), Counter(second), len(first)
    expected = 0.0
    for label in ours:
        expected += ours[label] * theirs[label] / n
    same = sum(a == b for a, b in zip(first, second, strict=True)) / n
    return (same - expected) / (1 - expected) if expected != 1 else math.nan


@cohens_kappa.mistake(
    "The difference is not divided by 1 - p_e, the most that there was to gain: perfect agreement "
    "stays below 1."
)
def not_rescaled(first, second):
    return share_alike(first, second) - chance_alike(first, second)


@not_rescaled.again
def excess_agreement(first, second):
    n, ours, theirs = len(first), Counter(first), Counter(second)
    alike = n * sum(a == b for a, b in zip(first, second, strict=True))
    return (alike - sum(ours[c] * theirs[c] for c in theirs)) / n**2


@cohens_kappa.mistake(
    "One label everywhere is counted as perfect agreement. Nothing could have gone wrong there, so "
    "nothing has been shown: 0/0, not a number."
)
def one_for_one_label(first, second):
    observed, chance = share_alike(first, second), chance_alike(first, second)
    return beyond_chance(observed, chance, empty=1.0)


@one_for_one_label.again
def perfect_if_equal(first, second):
    if list(first) == list(second):
        return 1.0
    ours, theirs, n = Counter(first), Counter(second), len(first)
    chance = sum(ours[c] * theirs[c] for c in theirs) / n**2
    return (sum(a == b for a, b in zip(first, second, strict=True)) / n - chance) / (1 - chance)


@cohens_kappa.mistake(
    "One label everywhere counts as no agreement at all. It is 0/0, not 0: not a number."
)
def zero_for_one_label(first, second):
    observed, chance = share_alike(first, second), chance_alike(first, second)
    return beyond_chance(observed, chance, empty=0.0)


@zero_for_one_label.again
def nothing_to_agree_on(first, second):
    n, theirs = len(first), Counter(second)
    room = 1 - sum(theirs[a] for a in first) / n**2
    if not room:
        return 0.0
    return 1 - sum(a != b for a, b in zip(first, second, strict=True)) / n / room


@cohens_kappa.mistake(
    "Where both gave one label to everything it divides by zero. Say what comes of it: `math.nan`."
)
def zero_division(first, second):
    observed, chance = share_alike(first, second), chance_alike(first, second)
    return (observed - chance) / (1 - chance)


@zero_division.again
def unguarded_kappa(first, second):
    different = sum(a != b for a, b in zip(first, second, strict=True))
    theirs = Counter(second)
    expected = len(first) - sum(theirs[a] for a in first) / len(first)
    return 1 - different / expected


@cohens_kappa.mistake(
    "Agreement below chance is cut off at 0. A judge that prefers what people reject has a kappa "
    "below 0, and you want to see it."
)
def never_below_zero(first, second):
    value = beyond_chance(share_alike(first, second), chance_alike(first, second))
    return max(value, 0.0)


@never_below_zero.again
def clipped_kappa(first, second):
    n, ours, theirs = len(first), Counter(first), Counter(second)
    chance = sum(ours[c] * theirs[c] for c in ours.keys() & theirs.keys()) / n**2
    if chance == 1:
        return math.nan
    same = sum(x == y for x, y in zip(first, second, strict=True)) / n
    return 0.0 if same < chance else (same - chance) / (1 - chance)


@cohens_kappa.mistake(
    "The labels are numbered for each rater by itself: the first one that each used is 0 for both, "
    "whatever it was. Number them together."
)
def numbered_apart(first, second):
    ours, theirs = (
        [list(dict.fromkeys(labels)).index(label) for label in labels] for labels in (first, second)
    )
    return beyond_chance(share_alike(ours, theirs), chance_alike(ours, theirs))


@numbered_apart.again
def codes_by_appearance(first, second):
    def codes(labels):
        known = {}
        return np.array([known.setdefault(label, len(known)) for label in labels])

    a, b = codes(first), codes(second)
    width = 1 + max(a.max(), b.max())
    chance = np.bincount(a, minlength=width) @ np.bincount(b, minlength=width) / len(a) ** 2
    return float(((a == b).mean() - chance) / (1 - chance)) if chance < 1 else math.nan


@cohens_kappa.mistake(
    'The labels are made into texts first (as a NumPy array of mixed labels does): `1` and `"1"` are '
    "the same then, and they are not."
)
def made_to_text(first, second):
    ours, theirs = [str(a) for a in first], [str(b) for b in second]
    return beyond_chance(share_alike(ours, theirs), chance_alike(ours, theirs))


@made_to_text.again
def formatted_labels(first, second):
    pairs = Counter((f"{a}", f"{b}") for a, b in zip(first, second, strict=True))
    n, rows, columns = sum(pairs.values()), Counter(), Counter()
    for (a, b), count in pairs.items():
        rows.update({a: count})
        columns.update({b: count})
    same = sum(count for (a, b), count in pairs.items() if a == b) / n
    chance = sum(rows[c] * columns[c] for c in rows) / n**2
    return (same - chance) / (1 - chance) if chance < 1 else math.nan


@cohens_kappa.mistake(
    "The labels are sorted, and a text and a number have no order. A dict does not ask for one."
)
def sorted_labels(first, second):
    labels = sorted({*first, *second})
    ours, theirs = [labels.index(a) for a in first], [labels.index(b) for b in second]
    return beyond_chance(share_alike(ours, theirs), chance_alike(ours, theirs))


@sorted_labels.again
def confusion_in_order(first, second):
    order = list(set(first) | set(second))
    order.sort()
    table = np.array([[0.0] * len(order)] * len(order))
    for a, b in zip(first, second, strict=True):
        table[order.index(a)][order.index(b)] += 1 / len(first)
    chance = table.sum(0) @ table.sum(1)
    same = sum(a == b for a, b in zip(first, second, strict=True)) / len(first)
    return float((same - chance) / (1 - chance)) if len(order) > 1 else math.nan


# -- paired_bootstrap --------------------------------------------------------------------------


@exercise(
    kind="implement",
    points=15,
    difficulty="basic",
    minutes=25,
    section="Two models, one test",
    forbid=("scipy", "arch", "sklearn", "statsmodels"),
    hints=(
        "One item has a score of the first model and one of the second. What must not happen to the "
        "two when an item is drawn? What single number does an item have for this question?",
        "Take the differences, item by item. Draw items, as many as there are, with replacement; the "
        "mean of the differences drawn is one resample. The interval holds the middle 95 % of these "
        "means.",
        "`drawn = rng.integers(0, n, size=(resamples, n))`; `differences[drawn].mean(axis=1)` has "
        "one mean a resample; `np.quantile(means, [0.025, 0.975])` are the ends.",
    ),
)
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
    # --- answer
    differences = first - second
    n = len(differences)
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, n, size=(resamples, n))
    low, high = np.quantile(differences[drawn].mean(axis=1), [0.025, 0.975])
    return float(differences.mean()), float(low), float(high)
    # --- end


def places_drawn(n, resamples, seed):
    """The places as the statement draws them, for right and wrong answers; it is no answer."""
    return np.random.default_rng(seed).integers(0, n, size=(resamples, n))


def with_ends(difference, means, ends=(0.025, 0.975)):
    """(difference, low, high) from resampled means, for right and wrong answers; it is no answer."""
    low, high = np.quantile(means, ends)
    return float(difference), float(low), float(high)


def one_by_one(first, second, resamples, draw):
    """The differences of resamples, drawn in a loop, for right and wrong answers; it is no answer."""
    found = []
    for _ in range(resamples):
        places = draw()
        found.append(first[places].mean() - second[places].mean())
    return np.array(found)


@paired_bootstrap.alternative
def bootstrap_in_a_loop(first, second, resamples, seed):
    rng, n = np.random.default_rng(seed), len(first)
    means = one_by_one(first, second, resamples, lambda: rng.integers(0, n, size=n))
    return with_ends(first.mean() - second.mean(), means)


@paired_bootstrap.alternative
def bootstrap_by_counts(first, second, resamples, seed):
    n = len(first)
    times = np.stack([np.bincount(row, minlength=n) for row in places_drawn(n, resamples, seed)])
    means = sorted((times @ first - times @ second) / n)

    def quantile(share):
        place = share * (resamples - 1)
        below = int(place)
        above = min(below + 1, resamples - 1)
        return float(means[below] + (place - below) * (means[above] - means[below]))

    return float(np.mean(first - second)), quantile(0.025), quantile(0.975)


@paired_bootstrap.mistake(
    "The two models are drawn independently of each other: what makes an item hard for both does not "
    "cancel, and the interval is far too wide. Draw items, and take both scores of each."
)
def drawn_apart(first, second, resamples, seed):
    rng, n = np.random.default_rng(seed), len(first)
    ours, theirs = (rng.integers(0, n, size=(resamples, n)) for _ in range(2))
    means = first[ours].mean(axis=1) - second[theirs].mean(axis=1)
    return with_ends(np.mean(first) - np.mean(second), means)


@drawn_apart.again
def two_bootstraps(first, second, resamples, seed):
    rng, found = np.random.default_rng(seed), []
    for _ in range(resamples):
        a = rng.choice(first, size=first.size).mean()
        b = rng.choice(second, size=second.size).mean()
        found.append(a - b)
    ends = np.percentile(found, (2.5, 97.5))
    return float(first.mean() - second.mean()), float(ends[0]), float(ends[1])


@paired_bootstrap.mistake(
    "That is an interval of the first model's score, not of the difference. Whether two models "
    "differ cannot be read from it."
)
def interval_of_the_first(first, second, resamples, seed):
    means = first[places_drawn(len(first), resamples, seed)].mean(axis=1)
    return with_ends((first - second).mean(), means)


@interval_of_the_first.again
def second_model_forgotten(first, second, resamples, seed):
    generator, scores = np.random.default_rng(seed), []
    while len(scores) < resamples:
        scores.append(np.mean(first[generator.integers(0, len(first), size=len(first))]))
    low, high = np.quantile(scores, 0.025), np.quantile(scores, 0.975)
    return float(np.mean(first) - np.mean(second)), float(low), float(high)


@paired_bootstrap.mistake(
    "Items are drawn without replacement: each resample is the same test set in another order, and "
    "nothing wanders."
)
def each_item_once(first, second, resamples, seed):
    rng, n = np.random.default_rng(seed), len(first)
    means = one_by_one(first, second, resamples, lambda: rng.permutation(n))
    return with_ends(first.mean() - second.mean(), means)


@each_item_once.again
def replace_false(first, second, resamples, seed):
    rng, d = np.random.default_rng(seed), first - second
    means = [rng.choice(d, size=len(d), replace=False).mean() for _ in range(resamples)]
    return float(d.mean()), float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


@paired_bootstrap.mistake(
    "The last item is never drawn: the upper end of `rng.integers` is not included already."
)
def last_item_never(first, second, resamples, seed):
    n = len(first)
    drawn = np.random.default_rng(seed).integers(0, n - 1, size=(resamples, n))
    return with_ends((first - second).mean(), (first - second)[drawn].mean(axis=1))


@last_item_never.again
def up_to_n_minus_one(first, second, resamples, seed):
    rng, n = np.random.default_rng(seed), first.shape[0]
    means = one_by_one(first, second, resamples, lambda: rng.integers(n - 1, size=n))
    low, high = np.percentile(means, [2.5, 97.5])
    return float(first.mean() - second.mean()), float(low), float(high)


@paired_bootstrap.mistake(
    "A resample has n - 1 items. It has as many as the test set: the spread depends on it."
)
def one_item_less(first, second, resamples, seed):
    n = len(first)
    drawn = np.random.default_rng(seed).integers(0, n, size=(resamples, n - 1))
    return with_ends((first - second).mean(), (first - second)[drawn].mean(axis=1))


@one_item_less.again
def n_minus_one_draws(first, second, resamples, seed):
    rng, d, means = np.random.default_rng(seed), first - second, []
    for _ in range(resamples):
        places = rng.integers(0, d.size, size=d.size - 1)
        means.append(d[places].sum() / (d.size - 1))
    return float(d.mean()), *(float(q) for q in np.quantile(means, (0.025, 0.975)))


@paired_bootstrap.mistake(
    "5 % are cut off at each end: that is a 90 % interval. Of 95 %, 2.5 % lie beyond either end."
)
def ninety_percent(first, second, resamples, seed):
    means = (first - second)[places_drawn(len(first), resamples, seed)].mean(axis=1)
    return with_ends((first - second).mean(), means, ends=(0.05, 0.95))


@ninety_percent.again
def five_at_each_end(first, second, resamples, seed):
    rng, n, alpha = np.random.default_rng(seed), len(first), 0.05
    means = one_by_one(first, second, resamples, lambda: rng.integers(0, n, size=n))
    low, high = np.quantile(means, alpha), np.quantile(means, 1 - alpha)
    return float(np.mean(first - second)), float(low), float(high)


@paired_bootstrap.mistake(
    "`np.percentile` wants percent: 0.025 and 0.975 are both below the first hundredth, so both ends "
    "lie at the lowest resamples."
)
def fractions_as_percent(first, second, resamples, seed):
    means = (first - second)[places_drawn(len(first), resamples, seed)].mean(axis=1)
    return with_ends((first - second).mean(), means, ends=(0.00025, 0.00975))


@fractions_as_percent.again
def percentile_of_fractions(first, second, resamples, seed):
    rng, d = np.random.default_rng(seed), first - second
    means = [np.mean(d[rng.integers(0, len(d), size=len(d))]) for _ in range(resamples)]
    low, high = np.percentile(means, [0.025, 0.975])
    return float(np.mean(d)), float(low), float(high)


@paired_bootstrap.mistake(
    "That is the difference plus and minus 1.96 standard deviations of the resamples: an interval "
    "that is always symmetric. Asked for are the quantiles, which follow the resamples."
)
def deviations_for_quantiles(first, second, resamples, seed):
    difference = (first - second).mean()
    means = (first - second)[places_drawn(len(first), resamples, seed)].mean(axis=1)
    half = 1.96 * means.std()
    return float(difference), float(difference - half), float(difference + half)


@deviations_for_quantiles.again
def normal_interval(first, second, resamples, seed):
    rng, n = np.random.default_rng(seed), len(first)
    means = one_by_one(first, second, resamples, lambda: rng.integers(0, n, size=n))
    error = math.sqrt(np.mean((means - np.mean(means)) ** 2))
    d = float(np.mean(first) - np.mean(second))
    return d, d - 1.96 * error, d + 1.96 * error


@paired_bootstrap.mistake(
    "The quantiles are those of single items, without a mean: they say how much items differ, and do "
    "not become narrower with more of them."
)
def spread_of_items(first, second, resamples, seed):
    drawn = (first - second)[places_drawn(len(first), resamples, seed)]
    return with_ends((first - second).mean(), drawn.ravel())


@spread_of_items.again
def mean_forgotten(first, second, resamples, seed):
    rng, d, pool = np.random.default_rng(seed), first - second, []
    for _ in range(resamples):
        pool.extend(d[rng.integers(0, len(d), size=len(d))])
    low, high = np.quantile(pool, 0.025), np.quantile(pool, 0.975)
    return float(d.mean()), float(low), float(high)


@paired_bootstrap.mistake(
    "That is the second minus the first: the better model looks like the worse one."
)
def second_minus_first(first, second, resamples, seed):
    means = (second - first)[places_drawn(len(first), resamples, seed)].mean(axis=1)
    return with_ends((second - first).mean(), means)


@second_minus_first.again
def turned_round(first, second, resamples, seed):
    rng, n = np.random.default_rng(seed), len(first)
    means = one_by_one(second, first, resamples, lambda: rng.integers(0, n, size=n))
    low, high = np.percentile(means, (2.5, 97.5))
    return float(second.mean() - first.mean()), float(low), float(high)


@paired_bootstrap.mistake(
    "The difference is the mean of the resamples: it carries their noise. It is that of the items "
    "that there are."
)
def mean_of_the_resamples(first, second, resamples, seed):
    means = (first - second)[places_drawn(len(first), resamples, seed)].mean(axis=1)
    return with_ends(means.mean(), means)


@mean_of_the_resamples.again
def bootstrap_estimate(first, second, resamples, seed):
    rng, n = np.random.default_rng(seed), len(first)
    means = one_by_one(first, second, resamples, lambda: rng.integers(0, n, size=n))
    centre = sum(means) / len(means)
    return float(centre), float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


@paired_bootstrap.mistake(
    "The quantiles are turned over at the difference: that is the basic bootstrap interval, another "
    "one. Here the percentile interval is asked for, the quantiles themselves."
)
def basic_interval(first, second, resamples, seed):
    difference = (first - second).mean()
    means = (first - second)[places_drawn(len(first), resamples, seed)].mean(axis=1)
    return with_ends(difference, 2 * difference - means)


@basic_interval.again
def reflected(first, second, resamples, seed):
    rng, n, d = np.random.default_rng(seed), len(first), float(np.mean(first - second))
    means = one_by_one(first, second, resamples, lambda: rng.integers(0, n, size=n))
    low, high = np.quantile(means, [0.025, 0.975])
    return d, d - float(high - d), d + float(d - low)


@paired_bootstrap.mistake(
    "The seed is not used: another seed gives the same resamples. `np.random.default_rng(seed)`."
)
def seed_unused(first, second, resamples, seed):
    means = (first - second)[places_drawn(len(first), resamples, 0)].mean(axis=1)
    return with_ends((first - second).mean(), means)


@seed_unused.again
def seeded_by_zero(first, second, resamples, seed):
    rng, n = np.random.default_rng(0), len(first)
    means = one_by_one(first, second, resamples, lambda: rng.integers(0, n, size=n))
    low, high = np.percentile(means, [2.5, 97.5])
    return float(first.mean() - second.mean()), float(low), float(high)


@paired_bootstrap.mistake(
    "These are the random numbers of NumPy's old generator (`np.random.seed`, `RandomState`): other "
    "resamples than the statement's. Draw from `np.random.default_rng(seed)`."
)
def old_generator(first, second, resamples, seed):
    n = len(first)
    drawn = np.random.RandomState(seed).randint(0, n, size=(resamples, n))
    return with_ends((first - second).mean(), (first - second)[drawn].mean(axis=1))


@old_generator.again
def global_seed(first, second, resamples, seed):
    np.random.seed(seed)
    n = len(first)
    means = one_by_one(first, second, resamples, lambda: np.random.randint(0, n, size=n))
    low, high = np.quantile(means, (0.025, 0.975))
    return float(np.mean(first) - np.mean(second)), float(low), float(high)


@paired_bootstrap.mistake(
    "The generator is made anew for each resample, with the same seed: it draws the same items every "
    "time. Make it once, before the loop."
)
def the_same_draw_again(first, second, resamples, seed):
    n = len(first)

    def draw():
        return np.random.default_rng(seed).integers(0, n, size=n)

    means = one_by_one(first, second, resamples, draw)
    return with_ends((first - second).mean(), means)


@the_same_draw_again.again
def reseeded_in_the_loop(first, second, resamples, seed):
    means, d = [], first - second
    for _ in range(resamples):
        rng = np.random.default_rng(seed)
        means.append(d[rng.integers(0, d.size, size=d.size)].mean())
    low, high = np.percentile(means, [2.5, 97.5])
    return float(d.mean()), float(low), float(high)


@paired_bootstrap.mistake(
    "The ends are taken from the sorted list at a rounded place: one resample too far. `np.quantile` "
    "interpolates between two."
)
def at_a_whole_place(first, second, resamples, seed):
    means = (first - second)[places_drawn(len(first), resamples, seed)].mean(axis=1)
    means.sort()
    low, high = means[int(0.025 * resamples)], means[int(0.975 * resamples)]
    return float((first - second).mean()), float(low), float(high)


@at_a_whole_place.again
def sorted_and_indexed(first, second, resamples, seed):
    rng, n = np.random.default_rng(seed), len(first)
    draws = one_by_one(first, second, resamples, lambda: rng.integers(0, n, size=n))
    ordered = sorted(draws.tolist())
    low, high = (ordered[math.floor(resamples * share)] for share in (0.025, 0.975))
    return float(np.mean(first - second)), low, high


# -- bradley_terry -----------------------------------------------------------------------------


@exercise(
    kind="implement",
    points=20,
    difficulty="challenge",
    minutes=45,
    section="Who is best",
    forbid=("choix", "sklearn", "statsmodels"),
    hints=(
        "At the maximum each model has won exactly as many games as its rating promises. If it has "
        "won more than that, where must its rating go?",
        "With strengths $p_i = 10^{R_i/400}$ the condition reads $W_i = \\sum_j n_{ij} \\, p_i / (p_i "
        "+ p_j)$: $W_i$ games won, $n_{ij}$ played against $j$. Take $p_i$ out of the sum and you "
        "have a rule to compute new strengths from old ones. Apply it until nothing moves any more.",
        "`strength = won / (games / (strength[:, None] + strength)).sum(axis=1)`, again and again, "
        "with `games = wins + wins.T`; then `400 * np.log10(strength)` less its mean. It climbs in "
        "every round (Hunter 2004), in a chain of models only a little: stop when a round changes no "
        "rating by more than, say, $10^{-9}$ points.",
    ),
)
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
    # --- answer
    games, won = wins + wins.T, wins.sum(axis=1)
    strength, moved = np.ones(len(wins)), np.inf
    while moved > 1e-11:
        new = won / (games / (strength[:, None] + strength)).sum(axis=1)
        new /= np.exp(np.log(new).mean())
        moved = np.abs(np.log(new / strength)).max()
        strength = new
    return 400 * np.log10(strength)
    # --- end


def strengths_of(wins, rounds=100_000, start=None):
    """Strengths with geometric mean 1, by at most so many rounds; for right and wrong answers; it
    is no answer."""
    games, won = wins + wins.T, wins.sum(axis=1)
    strength = np.ones(len(wins)) if start is None else start
    for _ in range(rounds):
        new = won / (games / (strength[:, None] + strength)).sum(axis=1)
        new /= np.exp(np.log(new).mean())
        if np.abs(new / strength - 1).max() < 1e-11:
            return new
        strength = new
    return strength


def log_odds_of(wins):
    """Natural log odds with mean 0, by Newton's method, for right and wrong answers; it is no
    answer."""
    games, won, t = wins + wins.T, wins.sum(axis=1), np.zeros(len(wins))
    for _ in range(200):
        chance = 1 / (1 + np.exp(t[None, :] - t[:, None]))
        curve = games * chance * (1 - chance)
        curve = np.diag(curve.sum(axis=1)) - curve + 1 / len(t)
        step = np.linalg.solve(curve, won - (games * chance).sum(axis=1))
        step *= min(1.0, 1.0 / np.abs(step).max())
        t = t + step
        if np.abs(step).max() < 1e-12:
            break
    return t - t.mean()


def centred(ratings):
    """Less their mean, for right and wrong answers; it is no answer."""
    return ratings - ratings.mean()


@bradley_terry.alternative
def ratings_by_newton(wins):
    return 400 / math.log(10) * log_odds_of(wins)


@bradley_terry.alternative
def ratings_by_climbing(wins):
    # The likelihood itself, climbed by a library that knows nothing of ratings.
    from scipy.optimize import minimize

    games = wins + wins.T

    def unlikely(t):
        gap = t[None, :] - t[:, None]
        slope = (games / (1 + np.exp(gap))).sum(axis=1) - wins.sum(axis=1)
        return (wins * np.logaddexp(0, gap)).sum() / games.sum(), slope / games.sum()

    found = minimize(unlikely, np.zeros(len(wins)), jac=True, method="BFGS", options={"gtol": 1e-9})
    return centred(found.x) * 400 / np.log(10)


@bradley_terry.alternative
def ratings_in_plain_loops(wins):
    w, k = wins.tolist(), len(wins)
    p, before = [1.0] * k, [0.0] * k
    while max(abs(a - b) for a, b in zip(p, before, strict=True)) > 1e-12 * max(p):
        before = list(p)
        for i in range(k):  # each model at once with the newest strengths of the others
            games = [(w[i][j] + w[j][i]) / (p[i] + p[j]) for j in range(k) if j != i]
            p[i] = sum(w[i]) / sum(games)
    points = np.array([400 * math.log10(x) for x in p])
    return points - points.mean()


@bradley_terry.mistake(
    "That is the share of the games won: it does not ask who the opponents were, and it is no rating."
)
def share_won(wins):
    return wins.sum(axis=1) / (wins + wins.T).sum(axis=1)


@share_won.again
def win_rate_of_each(wins):
    rates = []
    for i in range(len(wins)):
        rates.append(wins[i].sum() / (wins[i].sum() + wins[:, i].sum()))
    return np.array(rates)


@bradley_terry.mistake(
    "Those are the odds of each model's total win rate: right if everybody had met the same average "
    "opponent. Who met only the weak is rated too high."
)
def odds_of_the_total(wins):
    return centred(400 * np.log10(wins.sum(axis=1) / wins.sum(axis=0)))


@odds_of_the_total.again
def logit_of_the_win_rate(wins):
    rate = wins.sum(1) / (wins.sum(1) + wins.sum(0))
    points = np.array([math.log(r / (1 - r)) for r in rate]) * 400 / math.log(10)
    return points - points.mean()


@bradley_terry.mistake(
    "One round only: the strengths of the opponents are still those you started with. Use the new "
    "ones, and go on until nothing moves."
)
def one_round(wins):
    return 400 * np.log10(strengths_of(wins, rounds=1))


@one_round.again
def a_single_step(wins):
    played = wins + wins.T
    p = 2 * wins.sum(axis=1) / played.sum(axis=1)
    points = 400 * np.log(p) / np.log(10)
    return points - np.mean(points)


@bradley_terry.mistake(
    "It stops too early, after a number of rounds or at a limit that is too wide: where all have met "
    "that is nearly right, and in a chain of models the ratings are still on their way. Stop when "
    "nothing moves any more."
)
def stops_too_early(wins):
    return 400 * np.log10(strengths_of(wins, rounds=100))


@stops_too_early.again
def range_20(wins):
    k = len(wins)
    p = np.full(k, 1 / k)
    for _ in range(20):
        q = np.zeros(k)
        for i in range(k):
            met = sum((wins[i, j] + wins[j, i]) / (p[i] + p[j]) for j in range(k) if j != i)
            q[i] = wins[i].sum() / met
        p = q / q.sum()
    elo = 400 * np.log10(p)
    return elo - elo.mean()


@bradley_terry.mistake(
    "The worst model comes out on top: `wins[i, j]` are games that i won, and a higher rating wins."
)
def worst_on_top(wins):
    return -400 * np.log10(strengths_of(wins))


@worst_on_top.again
def columns_for_rows(wins):
    return log_odds_of(wins.T.copy()) * 400 / math.log(10)


@bradley_terry.mistake(
    "Those are natural log odds. On Elo's scale ten to one are 400 points: times 400 / ln 10."
)
def natural_scale(wins):
    return np.log(strengths_of(wins))


@natural_scale.again
def logits_returned(wins):
    t = log_odds_of(wins)
    return t - np.average(t)


@bradley_terry.mistake(
    "400 times the *natural* logarithm: that makes 400 points odds of e to one. Elo's scale has "
    "powers of ten."
)
def natural_logarithm(wins):
    return 400 * np.log(strengths_of(wins))


@natural_logarithm.again
def scaled_logits(wins):
    return np.array([400 * t for t in log_odds_of(wins)])


@bradley_terry.mistake(
    "The first model is put at 0. The ratings are to have mean 0; the differences are the same."
)
def first_at_zero(wins):
    points = 400 * np.log10(strengths_of(wins))
    return points - points[0]


@first_at_zero.again
def anchored(wins):
    t = log_odds_of(wins)
    return (t - t[:1]) * (400 / math.log(10))


@bradley_terry.mistake(
    "The strengths sum to 1 and were not centred after that: all ratings are below 0. Their mean is "
    "to be 0."
)
def strengths_sum_to_one(wins):
    strength = strengths_of(wins)
    return 400 * np.log10(strength / strength.sum())


@strengths_sum_to_one.again
def softmax_points(wins):
    t = log_odds_of(wins)
    return 400 / np.log(10) * (t - np.log(np.exp(t).sum()))


@bradley_terry.mistake(
    "The mean that is 0 is weighted by games. Each model counts once, however often it has played."
)
def centred_by_games(wins):
    points = 400 * np.log10(strengths_of(wins))
    return points - np.average(points, weights=(wins + wins.T).sum(axis=1))


@centred_by_games.again
def mean_over_players(wins):
    points = log_odds_of(wins) / math.log(10) * 400
    played = wins.sum(axis=0) + wins.sum(axis=1)
    return points - float(points @ played) / float(played.sum())


@bradley_terry.mistake(
    "The halves are lost in whole numbers: a tie counts nothing, or nothing for one of the two."
)
def halves_lost(wins):
    return 400 * np.log10(strengths_of(np.floor(wins)))


@halves_lost.again
def made_whole(wins):
    counted = wins.astype(int)
    return 400 / math.log(10) * log_odds_of(counted)


@bradley_terry.mistake(
    "That is the average of the log odds of each pair (with half a game added where one is 0): pairs "
    "that met twice weigh as much as those that met often, and those that never met pull to 0."
)
def mean_log_odds(wins):
    return 400 * np.log10((wins + 0.5) / (wins.T + 0.5)).mean(axis=1)


@mean_log_odds.again
def average_over_opponents(wins):
    k = len(wins)
    points = np.zeros(k)
    for i in range(k):
        for j in range(k):
            points[i] += math.log10((wins[i, j] + 0.5) / (wins[j, i] + 0.5)) * 400 / k
    return points


@bradley_terry.mistake(
    "A game more is added to each pair, won by half: that is a prior, and draws all ratings together. "
    "Useful where a model has won everything; here the games are to speak alone."
)
def half_a_win_each(wins):
    more = 0.5 * (1 - np.eye(len(wins)))
    return 400 * np.log10(strengths_of(wins + more))


@half_a_win_each.again
def smoothed_games(wins):
    padded = wins + 0.5
    np.fill_diagonal(padded, 0.0)
    return log_odds_of(padded) * 400 / np.log(10)


@bradley_terry.mistake(
    "800 points times what is won above one half: the straight line through Elo's curve, as if all "
    "opponents were average. It is about right near 50 % and against equal fields only."
)
def straight_line(wins):
    return centred(800 * (wins.sum(axis=1) / (wins + wins.T).sum(axis=1) - 0.5))


@straight_line.again
def performance_rating(wins):
    won, lost = wins.sum(1), wins.sum(0)
    points = 400 * (won - lost) / (won + lost)
    return points - points.mean()


# -- sample_sizes ------------------------------------------------------------------------------


@exercise(
    kind="compute",
    points=10,
    difficulty="basic",
    minutes=15,
    section="In production",
    hints=(
        "Which of the seven are per cent, which are a number of people? What is a change of one point "
        "as a share?",
        "Half of an interval is 1.96 standard errors, and the standard error is $\\sqrt{p(1-p)/n}$. "
        "F1 is the harmonic mean of precision and recall. On balanced questions accuracy is the mean "
        "of recall and of $1 -$ false alarms, and the yes-rate is the mean of recall and false "
        "alarms.",
        "Four passes that are all right: $(1/4)^4$. $16 \\cdot 0.21 \\cdot 0.79 / 0.01^2$. Always "
        "yes: precision 1/2, recall 1. Add the two equations of accuracy and yes-rate, and subtract "
        "them.",
    ),
)
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
    # --- answer
    p, n = 0.65, 1164
    clicks, change = 0.21, 0.01
    accuracy, yes = 66.60, 66.67
    return {
        "half_width_points": 100 * 1.96 * math.sqrt(p * (1 - p) / n),
        "circular_floor_percent": 100 * (1 / 4) ** 4,
        "visitors_an_arm": 16 * clicks * (1 - clicks) / change**2,
        "always_yes_accuracy_percent": 50.0,
        "always_yes_f1_percent": 100 * 2 * 0.5 * 1 / (0.5 + 1),
        # accuracy = (recall + 100 - false alarms) / 2 and yes = (recall + false alarms) / 2
        "recall_percent": accuracy + yes - 50,
        "false_alarms_percent": yes - accuracy + 50,
    }
    # --- end


@sample_sizes.alternative
def from_counts():
    # Of 3,000 questions; tp + fp and tp + (1500 - fp) are known.
    said_yes, right = 3000 * 0.6667, 3000 * 0.6660
    true, false = np.linalg.solve([[1, 1], [1, -1]], [said_yes, right - 1500])
    return {
        "half_width_points": float(196 * np.sqrt(0.65 * 1164 * 0.35) / 1164),
        "circular_floor_percent": 25 / 4 / 4 / 4,
        "visitors_an_arm": 26_544,
        "always_yes_accuracy_percent": 100 * 1500 / 3000,
        "always_yes_f1_percent": 200 * 1500 / (2 * 1500 + 1500),
        "recall_percent": float(true / 15),
        "false_alarms_percent": float(false / 15),
    }


def seven_numbers(z=1.96, floor=100 / 256, factor=16, clicks=0.21 * 0.79, delta=0.01, f1=200 / 3,
                pope=(83.27, 50.07)):  # fmt: skip
    """The seven numbers for other (wrong) readings of the question; it is no answer."""
    return {
        "half_width_points": 100 * z * (0.65 * 0.35 / 1164) ** 0.5,
        "circular_floor_percent": floor,
        "visitors_an_arm": factor * clicks / delta**2,
        "always_yes_accuracy_percent": 50.0,
        "always_yes_f1_percent": f1,
        "recall_percent": pope[0],
        "false_alarms_percent": pope[1],
    }


@sample_sizes.mistake(
    "That is one standard error: an interval of two thirds. 95 % need 1.96 of them to either side."
)
def one_standard_error():
    return seven_numbers(z=1.0)


@one_standard_error.again
def error_bar():
    return seven_numbers() | {"half_width_points": 100 * math.sqrt(0.2275) / math.sqrt(1164)}


@sample_sizes.mistake("That is the whole width of the interval: plus and minus is half of it.")
def whole_width():
    return seven_numbers(z=2 * 1.96)


@whole_width.again
def from_end_to_end():
    se = math.sqrt(0.65 * 0.35 / 1164)
    low, high = 0.65 - 1.96 * se, 0.65 + 1.96 * se
    return seven_numbers() | {"half_width_points": (high - low) * 100}


@sample_sizes.mistake(
    "1.645 standard errors make a 90 % interval: of 95 %, 2.5 % lie beyond either end, which is 1.96."
)
def ninety_per_cent_interval():
    return seven_numbers(z=1.645)


@ninety_per_cent_interval.again
def one_sided_z():
    return seven_numbers() | {"half_width_points": 164.5 * (0.65 * 0.35 / 1164) ** 0.5}


@sample_sizes.mistake(
    "A quarter is the floor of *one* pass. All four must be right, and each is guessed anew."
)
def floor_of_one_pass():
    return seven_numbers(floor=25.0)


@floor_of_one_pass.again
def one_in_four():
    right = from_counts()
    right["circular_floor_percent"] = 100 / 4
    return right


@sample_sizes.mistake(
    "1/24 is the chance to put four things in order, each used once. The passes are guessed one by "
    "one: 1/4 four times."
)
def orders_of_four():
    return seven_numbers(floor=100 / 24)


@orders_of_four.again
def over_four_factorial():
    right = from_counts()
    right["circular_floor_percent"] = 100 / math.factorial(4)
    return right


@sample_sizes.mistake(
    "One point was put in as 1: the rate is a share, and so is the change. 0.01, and 10,000 times as "
    "many visitors."
)
def point_as_one():
    return seven_numbers(delta=1.0)


@point_as_one.again
def points_not_shares():
    return from_counts() | {"visitors_an_arm": 16 * 0.21 * 0.79 / 1}


@sample_sizes.mistake(
    "The change was taken as one per cent *of* 21 %. One percentage point is from 21 to 22 %."
)
def relative_change():
    return seven_numbers(delta=0.0021)


@relative_change.again
def one_per_cent_of_it():
    return from_counts() | {"visitors_an_arm": 16 * 0.79 / 0.21 / 0.01**2}


@sample_sizes.mistake("Those are the visitors of both arms together: the rule gives those of each.")
def both_arms():
    return seven_numbers(factor=32)


@both_arms.again
def doubled_visitors():
    return from_counts() | {"visitors_an_arm": 2 * 26_544}


@sample_sizes.mistake("The factor 1 - p is missing: the variance of a click is p (1 - p), not p.")
def variance_without_one_minus_p():
    return seven_numbers(clicks=0.21)


@variance_without_one_minus_p.again
def poisson_variance():
    return from_counts() | {"visitors_an_arm": 16 * 0.21 / 0.0001}


@sample_sizes.mistake(
    "50 % is the *accuracy* of a model that always says yes. Its recall is 1, and F1 is two thirds: "
    "why F1 is never quoted without the yes-rate."
)
def accuracy_for_f1():
    return seven_numbers(f1=50.0)


@accuracy_for_f1.again
def coin_flip():
    return from_counts() | {"always_yes_f1_percent": 100 * 1500 / 3000}


@sample_sizes.mistake(
    "75 is the plain mean of precision and recall. F1 is the harmonic mean, nearer to the smaller."
)
def plain_mean():
    return seven_numbers(f1=75.0)


@plain_mean.again
def arithmetic_f1():
    precision, recall = 0.5, 1.0
    return from_counts() | {"always_yes_f1_percent": (precision + recall) / 2 * 100}


@sample_sizes.mistake(
    "The false alarms are given as a share of *all* questions. Half of the questions are about what "
    "is not there: divide by those."
)
def share_of_all_questions():
    return seven_numbers(pope=(83.27, 25.035))


@share_of_all_questions.again
def false_positives_over_all():
    return from_counts() | {"false_alarms_percent": 100 * 751.05 / 3000}


@sample_sizes.mistake(
    "Recall and false alarms are exchanged: with an accuracy above one half there are more yes where "
    "the object is there."
)
def exchanged():
    return seven_numbers(pope=(50.07, 83.27))


@exchanged.again
def the_wrong_way_round():
    right = from_counts()
    recall, alarms = right["recall_percent"], right["false_alarms_percent"]
    return right | {"recall_percent": alarms, "false_alarms_percent": recall}


@sample_sizes.mistake(
    "The accuracy is taken for the recall, and what is missing to 100 for the false alarms: that holds "
    "only where half of the answers are yes."
)
def accuracy_for_recall():
    return seven_numbers(pope=(66.60, 33.40))


@accuracy_for_recall.again
def as_if_half_were_yes():
    return from_counts() | {"recall_percent": 66.6, "false_alarms_percent": 100 - 66.6}


# -- harness -----------------------------------------------------------------------------------


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


@exercise(
    kind="debug",
    points=15,
    difficulty="challenge",
    minutes=30,
    section="What breaks an evaluation",
    diagnoses={
        "order_lost": "answers and questions are in different orders when they are compared",
        "last_batch": "the last, incomplete batch is dropped",
        "padding": "an answer depends on what else is in its batch",
        "unread_as_no": "answers that cannot be read count as no",
        "unseeded": "the questions are drawn anew in every run",
        "template": "the prompt is not that of the training",
    },
    log=HARNESS_LOG,
    broken=run_exam,
    hints=(
        "The run and the questions one by one have the same number of answers, of yes and of unread "
        "ones, and another accuracy. What can differ between two lists that hold the same answers?",
        "Where is the answer to q000 when `exam_scores` looks for it in row 0? Keep the sorting, it "
        "saves padding, and remember where each question came from.",
        "Sort *places*: `order = sorted(range(len(questions)), key=lambda i: "
        'len(questions[i]["text"]))`. Then, batch by batch, `said[i] = text` for each place i of the '
        "batch and each text that came back. `said[order]` would be the wrong way round.",
    ),
)
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
    """

    # --- answer
    def patched(model, questions, batch=8):
        order = sorted(range(len(questions)), key=lambda i: len(questions[i]["text"]))
        said = [""] * len(questions)
        for start in range(0, len(order), batch):
            places = order[start : start + batch]
            texts = model([(questions[i]["picture"], questions[i]["text"]) for i in places])
            for i, text in zip(places, texts, strict=True):
                said[i] = text
        return exam_scores(said, questions)

    line = next(line for line in HARNESS_LOG.splitlines() if "in rows 67" in line)
    return {"diagnosis": "order_lost", "evidence": line, "patch": patched}
    # --- end


ROWS_LINE = "the answers to q000, q001, q002, q003 are in rows 67, 39, 24, 0"


def said_to(model, questions, batch):
    """The answers to questions in the order in which they are given; it is no answer."""
    said = []
    for start in range(0, len(questions), batch):
        said += model([(q["picture"], q["text"]) for q in questions[start : start + batch]])
    return said


def shortest_first(questions):
    """Questions by their length, for right and wrong patches; it is no answer."""
    return sorted(questions, key=lambda q: len(q["text"]))


def mends(patch, diagnosis="order_lost", evidence=ROWS_LINE):
    """A whole answer with this patch; it is no answer by itself."""
    return {"diagnosis": diagnosis, "evidence": evidence, "patch": patch}


@harness.alternative
def answers_by_id():
    def patch(model, questions, batch=8):
        asked = shortest_first(questions)
        by_id = dict(zip([q["id"] for q in asked], said_to(model, asked, batch), strict=True))
        return exam_scores([by_id[q["id"]] for q in questions], questions)

    return mends(patch)


@harness.alternative
def sorted_back():
    def patch(model, questions, batch=8):
        numbered = sorted(enumerate(questions), key=lambda pair: len(pair[1]["text"]))
        said = said_to(model, [q for _, q in numbered], batch)
        back = sorted(zip([i for i, _ in numbered], said, strict=True))
        return exam_scores([text for _, text in back], questions)

    return mends(patch)


@harness.alternative
def inverse_permutation():
    def patch(model, questions, batch=8):
        order = np.argsort([-len(q["text"]) for q in questions], kind="stable")  # longest first
        said = said_to(model, [questions[i] for i in order], batch)
        return exam_scores([said[i] for i in np.argsort(order)], questions)

    return mends(patch)


@harness.mistake(
    "Batch size 1 is no cure: each question goes to the model alone, which takes as many calls as "
    "there are questions. That it helped at all is because the sorting went with it."
)
def batch_size_one():
    def patch(model, questions, batch=8):
        return exam_scores(said_to(model, questions, 1), questions)

    return mends(patch)


@batch_size_one.again
def one_by_one_in_the_files_order():
    def run(model, questions, batch=8):
        said = []
        for question in questions:
            (text,) = model([(question["picture"], question["text"])])
            said.append(text)
        return exam_scores(said, questions)

    return {"diagnosis": "order_lost", "evidence": ROWS_LINE, "patch": run}


@harness.mistake(
    "Without the sorting the numbers are right, and short questions are padded to the longest of "
    "their batch again, which the sorting was there to save. Keep it, and put the answers back."
)
def sorting_dropped():
    def patch(model, questions, batch=8):
        return exam_scores(said_to(model, questions, batch), questions)

    return mends(patch)


@sorting_dropped.again
def batches_as_in_the_file():
    def run(model, questions, batch=8):
        said = []
        for k in range(-(-len(questions) // batch)):
            part = questions[k * batch : (k + 1) * batch]
            said.extend(model([(q["picture"], q["text"]) for q in part]))
        return exam_scores(said, questions)

    return {"diagnosis": "order_lost", "evidence": ROWS_LINE, "patch": run}


@harness.mistake(
    "The answers are moved the wrong way round: `said[order[k]]` reads where it should write. Answer k "
    "belongs to question `order[k]`."
)
def wrong_way_round():
    def patch(model, questions, batch=8):
        order = sorted(range(len(questions)), key=lambda i: len(questions[i]["text"]))
        said = said_to(model, [questions[i] for i in order], batch)
        return exam_scores([said[i] for i in order], questions)

    return mends(patch)


@wrong_way_round.again
def indexed_by_order():
    def run(model, questions, batch=8):
        order = np.argsort(np.array([len(q["text"]) for q in questions]), kind="stable")
        said = np.array(said_to(model, [questions[i] for i in order.tolist()], batch), dtype=object)
        return exam_scores(said[order].tolist(), questions)

    return {"diagnosis": "order_lost", "evidence": ROWS_LINE, "patch": run}


@harness.mistake(
    "The answers are found again by the text of the question, and the same text is asked about many "
    "pictures: the last of them answers for all."
)
def found_by_text():
    def patch(model, questions, batch=8):
        asked = shortest_first(questions)
        by_text = dict(zip([q["text"] for q in asked], said_to(model, asked, batch), strict=True))
        return exam_scores([by_text[q["text"]] for q in questions], questions)

    return mends(patch)


@found_by_text.again
def table_of_texts():
    def run(model, questions, batch=8):
        table, rest = {}, sorted(questions, key=lambda q: len(q["text"]))
        while rest:
            part, rest = rest[:batch], rest[batch:]
            answers = model([(q["picture"], q["text"]) for q in part])
            for q, answer in zip(part, answers, strict=True):
                table[q["text"]] = answer
        return exam_scores([table[q["text"]] for q in questions], questions)

    return {"diagnosis": "order_lost", "evidence": ROWS_LINE, "patch": run}


@harness.mistake(
    "The accuracy is right, and the rows are in the order of length: set beside another model's, "
    "which were sorted otherwise, every paired test compares different questions."
)
def rows_by_length():
    def patch(model, questions, batch=8):
        asked = shortest_first(questions)
        return exam_scores(said_to(model, asked, batch), asked)

    return mends(patch)


@rows_by_length.again
def labels_sorted_along():
    def run(model, questions, batch=8):
        lengths = [len(q["text"]) for q in questions]
        moved = [questions[i] for i in np.argsort(lengths, kind="stable")]
        said = []
        for start in range(0, len(moved), batch):
            said += model([(q["picture"], q["text"]) for q in moved[start : start + batch]])
        return exam_scores(said, moved)

    return {"diagnosis": "order_lost", "evidence": ROWS_LINE, "patch": run}


@harness.mistake(
    "The caller's list is sorted in place: the accuracy comes out right, and whoever sets the rows "
    "beside the file, or beside another model's, compares different questions. Work on a copy, and "
    "give the rows in the order that came in."
)
def sorted_in_the_file():
    def patch(model, questions, batch=8):
        questions.sort(key=lambda q: len(q["text"]))
        return exam_scores(said_to(model, questions, batch), questions)

    return mends(patch)


@sorted_in_the_file.again
def order_of_the_caller_changed():
    def run(model, questions, batch=8):
        questions[:] = sorted(questions, key=lambda q: len(q["text"]))
        return run_exam(model, questions, batch)

    return {"diagnosis": "order_lost", "evidence": ROWS_LINE, "patch": run}


@harness.mistake(
    "Dropping unreadable items hides them, and mends nothing: the answers are still in another order "
    "than the questions, and now they are fewer."
)
def unreadable_dropped():
    def patch(model, questions, batch=8):
        said = said_to(model, shortest_first(questions), batch)
        kept = [(t, q) for t, q in zip(said, questions, strict=True) if t in ("Yes.", "No.")]
        return exam_scores([t for t, _ in kept], [q for _, q in kept])

    return mends(patch)


@unreadable_dropped.again
def only_what_was_read():
    def run(model, questions, batch=8):
        said = said_to(model, sorted(questions, key=lambda q: len(q["text"])), batch)
        places = [i for i, t in enumerate(said) if t.strip(" .").lower() in ("yes", "no")]
        return exam_scores([said[i] for i in places], [questions[i] for i in places])

    return {"diagnosis": "order_lost", "evidence": ROWS_LINE, "patch": run}


@harness.mistake(
    "An answer that cannot be read is made a no: it earns points wherever no is right, and the order "
    "is as wrong as before."
)
def unreadable_is_no():
    def patch(model, questions, batch=8):
        said = said_to(model, shortest_first(questions), batch)
        return exam_scores([t if t in ("Yes.", "No.") else "No." for t in said], questions)

    return mends(patch)


@unreadable_is_no.again
def yes_or_else_no():
    def run(model, questions, batch=8):
        said = []
        for text in said_to(model, sorted(questions, key=lambda q: len(q["text"])), batch):
            said.append("yes" if text.lower().startswith("yes") else "no")
        return exam_scores(said, questions)

    return {"diagnosis": "order_lost", "evidence": ROWS_LINE, "patch": run}


@harness.mistake(
    "Shuffling the questions does not average the fault away: the answers still come back in another "
    "order than that of the file, and now the healthy run is spoilt too."
)
def shuffled_questions():
    def patch(model, questions, batch=8):
        mixed = random.Random(0).sample(list(questions), len(questions))
        return exam_scores(said_to(model, shortest_first(mixed), batch), questions)

    return mends(patch)


@shuffled_questions.again
def random_order_of_the_batches():
    def run(model, questions, batch=8):
        order = np.random.default_rng(3).permutation(len(questions))
        mixed = [questions[i] for i in order]
        return exam_scores(said_to(model, mixed, batch), questions)

    return {"diagnosis": "order_lost", "evidence": ROWS_LINE, "patch": run}


@harness.mistake(
    "Padding would give other rows with batches of 1, and the log says that every row is the same: no "
    "answer depends on its batch. It is where the answers end up that is wrong."
)
def blames_the_padding():
    def patch(model, questions, batch=8):
        return run_exam(model, questions, 1)

    return mends(patch, diagnosis="padding", evidence="With batches of 1: the same in every row")


@blames_the_padding.again
def asks_each_alone():
    def run(model, questions, batch=8):
        said = [model([(q["picture"], q["text"])])[0] for q in questions]
        return exam_scores(said, questions)

    line = "each question by itself: 93 answers, 4 unread; yes 48.4 %; accuracy 90.3 %"
    return {"diagnosis": "padding", "evidence": line, "patch": run}


@harness.mistake(
    "No batch is dropped: 93 answers came back for 93 questions, and 93 is no multiple of 8."
)
def blames_the_last_batch():
    def patch(model, questions, batch=8):
        asked = shortest_first(questions)
        kept = len(asked) - len(asked) % batch
        said = said_to(model, asked[:kept], batch) + said_to(model, asked[kept:], batch)
        return exam_scores(said, questions)

    return mends(patch, diagnosis="last_batch", evidence="93 answers, 4 unread")


@blames_the_last_batch.again
def rest_asked_too():
    def run(model, questions, batch=8):
        said, left = [], sorted(questions, key=lambda q: len(q["text"]))
        while left:
            said += model([(q["picture"], q["text"]) for q in left[:batch]])
            left = left[batch:]
        return exam_scores(said, questions)

    line = "run      93 answers, 4 unread; yes 48.4 %; accuracy 50.5 %"
    return {"diagnosis": "last_batch", "evidence": line, "patch": run}


# -- best_of_twenty ----------------------------------------------------------------------------


@exercise(kind="explain", difficulty="challenge", minutes=20, section="How sure")
def best_of_twenty():
    """A colleague reports +1.2 points on MMBench dev after 20 checkpoints: 65.0 before, 66.2 now, and
    wants to ship it. Is the new one better? What do you ask, in which order, and what would convince
    you?

    Do the sum before you ask: how far do two scores on these 1,164 questions wander by chance, and
    how far does the best of twenty? Say what can be done with the answers that are on the disk
    already, and what needs a new run.
    """
    # --- answer
    # **The sum first.** At 65 % on 1,164 questions one score is known to ± 2.7 points, so the
    # difference of two *independent* ones to ± 3.9. From the two scores alone +1.2 is nothing. But the
    # two were asked the same questions, and their checkpoints agree on most: that is the first thing to
    # use.
    #
    # **1. May I have both files of answers?** A paired test needs no new run (exercise
    # `paired_bootstrap`). If the two differ on 10 % of the questions, 116 of them, then +1.2 points are
    # 14 questions net, 65 against 51; chance alone spreads the net by $\sqrt{116} \approx 11$, so p is
    # about 0.2. If they differ on 3 %, 34 questions, then it is 24 against 10, and p is 0.02. The share on which they differ decides, and it is in nobody's table. With CircularEval the
    # unit is the question with all its rotations, never the pass.
    #
    # **2. How was this checkpoint chosen?** "After 20 checkpoints" may mean that it was the last, or the
    # best. If twenty were scored on dev and the best was taken, the p-value of step 1 is not valid:
    # among twenty equal ones the best lies nearly two standard deviations above their mean (1.87 if they
    # are independent). With a standard deviation of the paired difference of 0.9 points (10 % differ)
    # that is 1.7 points for nothing, more than the 1.2 reported. Checkpoints of one run resemble each
    # other, so it is less, but not none. Ask for all twenty curves. A plateau on which neighbours
    # are as good is evidence; one peak between two valleys is not. Holm's correction over the twenty is
    # the least; a split that took no part in the choice is better.
    #
    # **3. Is it the same exam?** Prompt, template, decoding, parser and its version, the number of
    # questions (1,164 both times?), what happened to answers that could not be read. The unread share of
    # both: a checkpoint that has learnt to say the letter gains points without seeing better, and where an
    # unreadable answer is drawn at random, a tenth of unread answers is worth 2.5 points of luck in a
    # single pass. Read twenty questions on which the two differ. That is half an hour, and finds more
    # than any test.
    #
    # **4. Has the training seen it?** A mix that was changed on the way, and a benchmark that is three
    # years old: search the new data for dev's pictures and questions before you believe a rise.
    #
    # **5. What went down?** +1.2 on one average of twenty abilities: look at the parts, at POPE with its
    # yes-rate, at length, at what the old one could do. Looking at twenty parts is twenty tests again.
    #
    # **What needs a run.** A second seed: the interval of step 1 knows nothing of what another training
    # with the same recipe would give, and the claim is about the recipe, not about one file of weights.
    # Three seeds each, the checkpoint chosen by a rule made before (the last one, or the best on another set). And
    # one submission to the hidden test split, 1,784 questions, for the one checkpoint that was chosen:
    # the number to report.
    #
    # **What would convince me.** A paired interval on data that took no part in the choice that excludes
    # zero, on all seeds the same sign, the same unread share, nothing else down. And what I would say
    # meanwhile: "no worse on dev". For shipping that may be enough, if the new one is cheaper; the word
    # *better* has to wait.
    # --- end
