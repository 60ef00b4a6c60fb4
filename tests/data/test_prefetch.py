"""Prefetching: the same items, a bounded number ahead, errors as they are, and a thread that ends."""

import gc
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labs.data import prefetch
from labs.errors import InputError


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


@given(st.lists(st.none() | st.integers()), st.integers(1, 5))
def test_the_same_items_in_the_same_order(items, depth):
    assert list(prefetch(items, depth)) == items
    assert threads() == []


def test_no_more_ahead_than_asked_for_and_something_is():
    made = []
    ahead = prefetch((made.append(i) or i for i in range(50)), 3)
    time.sleep(0.05)
    assert made == []  # not begun before the first is asked for
    for index in range(5):
        assert next(ahead) == index
        deadline = time.monotonic() + 5
        while len(made) < index + 4 and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(0.02)
        assert len(made) == index + 4  # the one in hand and three
    ahead.close()


def test_an_error_comes_after_what_was_before_it_and_as_what_it_is():
    def source():
        yield 1
        yield 2
        raise InputError("The third is missing.", "Add it.")

    found = []
    with pytest.raises(InputError) as caught:
        for item in prefetch(source(), 4):
            found.append(item)
    assert found == [1, 2]
    assert (caught.value.what, caught.value.do) == ("The third is missing.", "Add it.")
    assert threads() == []


def test_leaving_the_loop_ends_the_thread_and_closes_the_source():
    closed = []

    def source():
        try:
            yield from range(1000)
        finally:
            closed.append(threading.current_thread().name)

    for item in prefetch(source(), 2):
        if item == 5:
            break
    gc.collect()
    assert threads() == [] and closed == ["prefetch"]
    left = prefetch(source(), 2)
    next(left)
    left.close()
    assert threads() == [] and len(closed) == 2
    with pytest.raises(StopIteration):
        next(left)
    prefetch(source(), 2).close()  # never begun
    assert len(closed) == 2


def test_a_depth_of_nothing():
    with pytest.raises(InputError, match="prepares nothing ahead"):
        prefetch([1], 0)
