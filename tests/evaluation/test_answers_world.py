"""Every answer that the offline world gives is read, and says what the oracle says."""

import pytest

from labs.evaluation.answers import (
    read_box,
    read_choice,
    read_number,
    read_one_of,
    read_text,
    read_yes_no,
)
from labs.shapes import make_record
from labs.shapes.language import LANGUAGES, place
from labs.shapes.oracle import parse_box, parse_number, parse_word, parse_yes_no
from labs.shapes.vocabulary import CELLS, COLOURS, KINDS, SYNONYMS, say

N = 12
TABLES = {
    name: {word: SYNONYMS[word] for word in words}
    for name, words in (("colour", COLOURS), ("position", CELLS), ("kind", KINDS))
}
WRAPS = (
    "{}",
    "{}.",
    " {}\n",
    "**{}**",
    "Answer: {}",
    "答案：{}",
    "<think>?</think>{}",
    "\\boxed{{{}}}",
)


def answers(task, language):
    for index in range(N):
        record = make_record(task, index, "val", language)
        yield from (turn.answer for turn in record["meta"]["turns"])


def check(answer):
    """What the right reader says of an answer of the world."""
    if parse_yes_no(answer):
        assert read_yes_no(answer) == (parse_yes_no(answer) == "yes", "read")
        return read_yes_no
    if parse_box(answer):
        assert read_box(answer, scale=100) == (parse_box(answer), "read")
        return lambda text: read_box(text, scale=100)
    for name, table in TABLES.items():
        if parse_word(answer, name):
            assert read_one_of(answer, table) == (parse_word(answer, name), "read")
            return lambda text: read_one_of(text, table)
    assert read_number(answer) == (parse_number(answer), "read")
    return read_number


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize(
    "task",
    [
        "existence",
        "conjunction",
        "count",
        "colour",
        "position",
        "grounding",
        "reasoning",
        "dialogue",
    ],
)
def test_short_answers(task, language):
    kinds = set()
    for answer in answers(task, language):
        read = check(answer)
        kinds.add(read(answer).value)
        for wrap in WRAPS:
            assert read(wrap.format(answer)) == read(answer), wrap
    assert len(kinds) > 1


@pytest.mark.parametrize("language", LANGUAGES)
def test_texts(language):
    for task in ("ocr", "caption"):
        for answer in answers(task, language):
            plain = answer.rstrip(".。")
            assert read_text(answer) == (plain, "read")
            assert read_text(f"Answer: {answer}") == (plain, "read")
            if task == "ocr":
                assert read_number(answer) == (int(answer), "read")


@pytest.mark.parametrize("language", LANGUAGES)
def test_words_as_options(language):
    cells = [place(cell, language) for cell in CELLS]
    for options in (cells, [say(c, language) for c in COLOURS], [say(k, language) for k in KINDS]):
        for letter, said in zip("ABCDEFGHI", options, strict=False):
            for text in (said, f"{letter}: {said}", f"({letter}) {said}.", letter, f"答案是{said}"):
                assert read_choice(text, options) == (letter, "read"), text


@pytest.mark.parametrize("language", LANGUAGES)
def test_questions_are_not_read_as_answers(language):
    """A model that repeats the question has not answered it."""
    for task in ("existence", "conjunction"):
        for index in range(N):
            question = make_record(task, index, "val", language)["meta"]["turns"][0].question
            assert read_yes_no(question).status == "none", question
