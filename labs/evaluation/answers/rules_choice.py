"""How the benchmarks' own programs read a choice among options A, B, C, …

Written from reading the programs. They part from `read_choice` and from one another where it
matters: articles taken for choices, refusals, and what becomes of an answer that nothing was read
of. `options` are the texts of A, B, … in order.
"""

import re
import string
from collections.abc import Sequence

from labs.evaluation.reading import Reading

_OTHER = Reading(None, "none")
_API_FAILED = "Failed to obtain answer via API"
_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
_ANSWER_IS = re.compile(r"answer\s+is\s+\**([ABCD])", re.IGNORECASE)


def vlmevalkit_choice_rule(text: str, options: Sequence[str]) -> Reading:
    """VLMEvalKit's heuristic part (`can_infer`), in four steps.

    1. Four sentences are refusals; so is a lone Z where no option's letter is. Status "refused"; the
       program says "Z", and that is wrong.
    2. Where exactly one option's letter stands as a word of its own (after .()[],:;!*#{} became
       spaces) and is among the last four or so words, it is the answer.
    3. Else the first "answer is" followed by a, b, c or d in any case: "the answer is a dog" is A.
    4. Else the one option whose text is contained in the answer, if that is not more than twice as
       long as all options together.

    Status "none" is where the program asks a language model, up to three times, and then draws an
    option **at random** from the options and Z. Without a language model it is wrong. Neither is
    done here. (An environment variable VERBOSE makes it distrust an A among more than three words;
    that is not the default and not done here.)

    open-compass/VLMEvalKit, vlmeval/utils/matching_util.py and dataset/utils/multiple_choice.py.
    Chapter 7.
    """
    letters = string.ascii_uppercase[: len(options)]
    reading = _vlmevalkit_letter(text, letters)
    if reading.status == "none" and len(text.lower()) <= 2 * sum(map(len, map(str, options))):
        return _contained(text, options)
    return reading


def _vlmevalkit_letter(text: str, letters: str) -> Reading:
    if _API_FAILED in text:
        return _OTHER
    if any(refusal in text for refusal in _REFUSALS):
        return Reading(None, "refused")
    words = text.translate(str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))).split()
    said = [letter for letter in letters if letter in words]
    if len(said) == 1 and words.index(said[0]) > len(words) - 5:
        return Reading(said[0])
    if not said and "Z" in words:
        return Reading(None, "refused")
    match = _ANSWER_IS.search(text)
    if match and match.group(1).upper() in letters:
        return Reading(match.group(1).upper())
    return _OTHER


def _contained(text: str, options: Sequence[str]) -> Reading:
    """The one option that is part of the text, in any case."""
    lowered = text.lower()
    held = [i for i, option in enumerate(options) if str(option).lower() in lowered]
    return Reading(string.ascii_uppercase[held[0]]) if len(held) == 1 else _OTHER


# What may stand around a letter, in the order in which lmms-eval tries it.
_AROUND = (
    ("", "."), ("", ","), ("", ":"), ("", ")"), ("", ")."), ("(", ")"), ("(", ")."), (":", ""),
    (":", ","), (":", "."), (":", ")"), (":", ")."),
)  # fmt: skip


def lmms_eval_choice_rule(text: str, options: Sequence[str]) -> Reading:
    """lmms-eval's MMBench, the part before a language model or `lmms_eval_static_choice_rule`.

    The one letter of A to E that is a word of the answer by itself, unless A is a word and the answer
    has more than three; else the one that is a word with a stop, comma, colon or bracket; else the
    one option whose text is contained. E is read even where there are four options. Status "none" is
    where a language model is asked, and an option is drawn **at random** if that fails three times.

    EvolvingLMMs-Lab/lmms-eval, tasks/mmbench/mmbench_evals.py (four options at most). Chapter 7.
    """
    words = text.split()
    if _API_FAILED not in text:
        said = [letter for letter in "ABCDE" if letter in words]
        if len(said) == 1 and not ("A" in words and len(words) > 3):
            return Reading(said[0])
        for left, right in _AROUND:
            said = [letter for letter in "ABCDE" if left + letter + right in words]
            if len(said) == 1:
                return Reading(said[0])
    return _contained(text, options)


_PHRASES = (
    "the answer is", "answer is", "the correct answer is", "correct answer is", "the best answer is",
    "best answer is", "the correct option is", "correct option is", "the best option is",
    "best option is", "the choice is", "choice is", "the correct choice is", "correct choice is",
    "i choose", "i select", "i pick", "my answer is", "my choice is", "옵션", "정답은", "답은", "답:",
    "答案是", "答案为", "选", "答えは",
)  # fmt: skip


def lmms_eval_static_choice_rule(text: str, options: Sequence[str]) -> Reading:
    """lmms-eval's MMBench without a language model (task mmbench_en_dev_static).

    Where `lmms_eval_choice_rule` reads nothing, every capital that is an option's letter is a
    candidate, even inside a word. The best form wins, and of one form the latest: at the beginning,
    at the end, after a phrase such as "answer is" (anywhere after it), in brackets, before a stop,
    a colon, a bracket, a space; if there is none, any. So "A dog" is A, and "the answer is B because
    A is red, no?" is A too.

    EvolvingLMMs-Lab/lmms-eval, tasks/_task_utils/mcq_extract.py. Chapter 7.
    """
    reading = lmms_eval_choice_rule(text, options)
    if reading.status == "read":
        return reading
    stripped = text.strip()
    for mark in ",.!?;:'\"":
        stripped = stripped.strip(mark)
    padded = f" {stripped} "
    trimmed = padded.strip()
    candidates: list[tuple[int, int, str]] = []  # (rank of the form, place, letter)
    for letter in string.ascii_uppercase[: len(options)]:
        for rank, form in ((6, "({})"), (5, "{}."), (4, "{}:"), (3, "{})"), (2, "{} ")):
            place = padded.rfind(form.format(letter))
            if place >= 0:
                candidates.append((rank, place, letter))
        for phrase in _PHRASES:
            begins = padded.lower().find(phrase)
            place = padded.find(letter, begins + len(phrase)) if begins >= 0 else -1
            if place >= 0:
                candidates.append((7, place, letter))
        if trimmed.startswith(letter) and not trimmed[1:2].isalpha():
            candidates.append((10, 0, letter))
        if trimmed.endswith(letter) and not trimmed[-2:-1].isalpha():
            candidates.append((9, len(padded) - 1, letter))
        if letter in padded:
            candidates.append((0, padded.rfind(letter), letter))
    return Reading(max(candidates)[2]) if candidates else _OTHER


def llava_choice_rule(text: str, options: Sequence[str]) -> Reading:
    """LLaVA's ScienceQA: the answer is one letter of A to E, or begins with "B. ", or says "The
    answer is B." exactly once; anything else has failed and is wrong.

    "(B)", "B", "b" and "B: a ring" show how strict it is: only the second is read.

    haotian-liu/LLaVA, llava/eval/eval_science_qa.py. Chapter 7.
    """
    letters = string.ascii_uppercase[:5]
    if text and text in tuple(letters):
        said = text
    elif text[:1] and text[:1] in letters and text[1:3] == ". ":
        said = text[0]
    else:
        named = re.findall(r"The answer is ([A-Z]).", text)
        said = named[0] if len(named) == 1 else ""
    return Reading(said) if said and said in letters[: len(options)] else _OTHER
