from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labs.errors import InputError
from labs.evaluation import anls, edit_distance

texts = st.text(alphabet="abc数", max_size=7)


def slow_distance(a, b):
    @cache
    def distance(i, j):
        if i == len(a) or j == len(b):
            return len(a) - i + len(b) - j
        if a[i] == b[j]:
            return distance(i + 1, j + 1)
        return 1 + min(distance(i + 1, j), distance(i, j + 1), distance(i + 1, j + 1))

    return distance(0, 0)


@given(texts, texts, texts)
def test_edit_distance(a, b, c):
    assert edit_distance(a, b) == slow_distance(a, b)
    assert edit_distance(a, b) == edit_distance(b, a)
    assert edit_distance(a, c) <= edit_distance(a, b) + edit_distance(b, c)
    assert (edit_distance(a, b) == 0) == (a == b)


def test_edit_distance_known():
    assert edit_distance("kitten", "sitting") == 3
    assert edit_distance("", "abc") == 3


def test_worked_by_hand():
    # 1 slip of 6; equal but for case and spacing; best of two; too far; exactly half; both empty.
    predictions = ["coffe1", "  New   York ", "42", "tea", "ab", ""]
    references = [["coffee"], ["new york"], ["17", "42"], ["water"], ["ax"], [""]]
    assert anls(predictions, references) == pytest.approx((5 / 6 + 1 + 1 + 0 + 0 + 1) / 6)
    assert anls(["ab"], [["ax"]], threshold=0.6) == 0.5


@given(st.lists(st.tuples(texts, st.lists(texts, min_size=1, max_size=3)), min_size=1, max_size=6))
def test_bounds_order_and_identity(items):
    predictions, references = zip(*items, strict=True)
    score = anls(predictions, references)
    assert 0 <= score <= 1
    assert anls(predictions[::-1], references[::-1]) == pytest.approx(score)
    assert anls([r[0] for r in references], references) == 1
    more = [[*r, p] for p, r in items]
    assert anls(predictions, more) == 1  # one more accepted answer never lowers it


def test_bad_input():
    for predictions, references in (
        ([], []),
        (["a"], [["a"], ["b"]]),
        (["a"], ["a"]),
        (["a"], [[]]),
    ):
        with pytest.raises(InputError):
            anls(predictions, references)
