"""Which option of a multiple-choice question an answer chooses."""

import re
import string
from bisect import bisect_right
from collections.abc import Callable, Sequence

from labs.errors import InputError
from labs.evaluation.answers.letters import find_letters
from labs.evaluation.answers.mentions import Mention, settle
from labs.evaluation.answers.normal import bare, normal, sentences
from labs.evaluation.answers.numbers import number_in, whole_number
from labs.evaluation.answers.reader import read_final
from labs.evaluation.answers.refusals import is_refusal
from labs.evaluation.answers.words import Terms, fold
from labs.evaluation.answers.yes_no import plain_verdict, verdict
from labs.evaluation.reading import Reading

_NONE_OF = re.compile(
    r"\b(?:none|neither|not any) of (?:(?:these|those|them)\b|(?:(?:the|these|those) )?(?:above|options?|"
    r"choices?|answers?|listed)\b)|\bno correct (?:answer|option|choice)\b"
    r"|以上(?:选项|答案)?(?:都|皆|均|全)(?:不|错|没)|都不(?:是|对|正确|符合)"
    r"|没有(?:一个)?(?:正确|合适|对应|符合)的?(?:选项|答案)",
    re.IGNORECASE,
)
_JOINER = re.compile(r"[\s,;/&+、.和或与及]")
_STOPS = " .,;:!?。、\"'\n"


def read_choice(
    text: str, options: Sequence[str], *, letters: str = string.ascii_uppercase
) -> Reading:
    r"""The letter of the option that an answer chooses; `letters[i]` stands for `options[i]`.

    A choice is made by its letter ("B", "(b)", "B. a red ring", "option B", \boxed{B}, Ｂ, 选B, the
    Chinese numerals 乙), or by the words of one option only, or by the number or the yes or no that
    only one option means. What counts, in this order: what a marker announces
    (`labs.evaluation.answers.markers`); the last conclusion ("so B"); a choice that is affirmed ("B"
    as a whole sentence, "B is correct", "B: its own words"); whatever is mentioned. Denied choices
    do not count ("not A but B", "A is wrong"). In prose a capital is a letter only where the sentence
    lets it be: "A dog is on the left" names no choice A. If several count alike, or the letter says
    one option and the words beside it another, the status is "several". Nothing is ever guessed: by
    elimination, by likeness, or at random.

    "None of the above" is the option that says so where there is one, else status "none". A letter
    of another script is read where it cannot mean anything else (Cyrillic А and С, Greek Α, Β and
    Ε). Single Latin letters as options ("Which letter is shown?") are not looked for as words: the
    answer "C" is choice C.

    Raises InputError for no options, more options than letters, and letters that repeat or are not
    single letters or digits.

    >>> read_choice("Not A but B.", ["a red ring", "a blue star"])
    Reading(value='B', status='read')

    Chapter 7.
    """
    reader = _Reader(_options(options, letters))
    refusing = any(is_refusal(str(option)) for option in options)
    return read_final(text, reader.read, refusals=not refusing)


def _options(options: Sequence[str], letters: str) -> dict[str, str]:
    """letter -> the option's text, folded."""
    if isinstance(options, str) or not options:
        raise InputError(f"{options!r} are no options.", "Pass a list of one text an option.")
    used = letters[: len(options)]
    if len(used) < len(options):
        raise InputError(
            f"There are {len(options)} options and only {len(letters)} letters.",
            "Pass a letter for each option.",
        )
    if len(set(used.upper())) < len(used) or not all(c.isascii() and c.isalnum() for c in used):
        raise InputError(
            f"{used!r} are not letters that tell {len(used)} options apart.",
            "Pass Latin letters or digits, each once.",
        )
    return {l: fold(normal(str(o)).strip(_STOPS)) for l, o in zip(used, options, strict=True)}


class _Reader:
    """Reads normal texts as choices among options (letter -> folded words)."""

    def __init__(self, options: dict[str, str]):
        self.options = options
        self.none_of = {l for l, words in options.items() if _NONE_OF.search(words)}
        self.meaning = _meaning({l: w for l, w in options.items() if l not in self.none_of})
        terms: dict[str, str | None] = {}
        for letter, words in options.items() if not self.meaning else ():
            if any(c.isalnum() for c in words) and not re.fullmatch("[a-z]", words):
                # Two options of the same words: the words choose neither.
                terms[words] = None if words in terms else letter
        self.terms = Terms(terms)

    def read(self, text: str) -> Reading:
        whole = self._whole(text)
        if whole:
            return Reading(whole)
        row = self._row_of_letters(text)
        if row:
            return Reading(row.pop()) if len(row) == 1 else Reading(None, "several")
        texts = self.terms.mentions(text)
        found = find_letters(text, tuple(self.options), texts)
        by_letter = settle(found)
        if by_letter.status == "several":
            return by_letter
        by_words = self._by_words(text, texts)
        if by_letter.status == "read":
            return self._checked(by_letter.value, text, found, texts, by_words)
        return by_words

    def _whole(self, text: str) -> str | None:
        """The option whose words are the whole answer; a single letter is no words."""
        said = fold(text.strip(_STOPS))
        same = [letter for letter, words in self.options.items() if words == said]
        return same[0] if len(same) == 1 and not re.fullmatch("[a-z]", said) else None

    def _row_of_letters(self, text: str) -> set[str]:
        """The letters of an answer that is nothing but letters: "B B B", "A, C", "ABD"."""
        words = [word for word in _JOINER.split(bare(text)) if word]
        said = set("".join(words))
        apart = len(said) > 1 or all(len(word) == 1 for word in words)
        return said if apart and said <= set(self.options) else set()

    def _by_words(self, text: str, texts: Sequence[Mention]) -> Reading:
        """The choice that is made without a letter."""
        reading = self.meaning(text) if self.meaning else settle(texts)
        if _NONE_OF.search(text):
            others = {m.value for m in texts if not m.denied} - self.none_of
            if others or len(self.none_of) != 1:
                return Reading(None, "several" if others else "none")
            return Reading(*self.none_of)
        if reading.status == "read" and reading.value is None:
            return Reading(None, "several")
        return reading

    def _checked(
        self,
        letter: str,
        text: str,
        found: Sequence[Mention],
        texts: Sequence[Mention],
        by_words: Reading,
    ) -> Reading:
        """The letter, unless it is no option's or the words beside it are another option's."""
        if letter not in self.options:
            return Reading(None, "none" if by_words.status == "none" else "several")
        if by_words.status == "read" and (self.meaning or by_words.value in self.none_of):
            return Reading(letter) if by_words.value == letter else Reading(None, "several")
        starts = [first for first, _ in sentences(text)]
        beside: dict[int, set] = {}
        for mention in texts:
            if not mention.denied:
                beside.setdefault(bisect_right(starts, mention.start), set()).add(mention.value)
        for mention in found:
            words = beside.get(bisect_right(starts, mention.start), ())
            if mention.value == letter and not mention.denied and words:
                if letter not in words and None not in words:
                    return Reading(None, "several")
        return Reading(letter)


def _meaning(options: dict[str, str]) -> Callable[[str], Reading] | None:
    """How options that are all numbers, or a yes and a no, are read: as such, not as words."""
    numbers = {letter: whole_number(words) for letter, words in options.items()}
    if len(options) > 1 and None not in numbers.values():
        values, read = numbers, number_in
    elif sorted(map(plain_verdict, options.values()), key=str) == [False, True]:
        values, read = {letter: plain_verdict(words) for letter, words in options.items()}, verdict
    else:
        return None

    def meaning(text: str) -> Reading:
        reading = read(text)
        same = [letter for letter, value in values.items() if value == reading.value]
        if reading.status != "read" or not same:
            return Reading(None, reading.status if reading.status != "read" else "none")
        return Reading(same[0]) if len(same) == 1 else Reading(None, "several")

    return meaning
