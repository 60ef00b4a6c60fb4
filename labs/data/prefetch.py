"""Preparing the next batches in a thread, while the loop works on this one.

For loaders without workers: decoding and copying let go of Python's lock for much of their time, and
a thread shares memory with the loop, so that nothing is pickled. Workers do more where there are
cores to spare.
"""

import contextlib
import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

from labs.errors import InputError

T = TypeVar("T")
_END = object()


def prefetch(items: Iterable[T], depth: int = 2) -> Iterator[T]:
    """The same items in the same order, up to `depth` of them prepared ahead by a thread.

    An exception travels to where the loop waits, as what it is, after the items before it. The
    thread begins with the first item that is asked for and ends with the loop: at the end, at an
    exception, and when the generator is closed or forgotten (`break`), after the item in the making.
    Raises InputError at once for a depth below 1.
    """
    if depth < 1:
        raise InputError(f"A depth of {depth} prepares nothing ahead.", "Use 1 or more.")
    return _prefetch(items, depth)


def _prefetch(items: Iterable[T], depth: int) -> Iterator[T]:
    ready: queue.Queue = queue.Queue()
    room, stopped = threading.Semaphore(depth), threading.Event()

    def work() -> None:
        try:
            # Room first: at most `depth` items exist that the loop has not asked for.
            with contextlib.closing(_closable(items)) as iterator:
                while room.acquire() and not stopped.is_set():
                    item = next(iterator, _END)
                    ready.put((item, None))
                    if item is _END:
                        return
        except BaseException as error:
            ready.put((_END, error))

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is _END:
                return
            room.release()
            yield item
    finally:
        stopped.set()
        room.release()
        if threading.current_thread() is not thread:  # the collector of garbage runs anywhere
            thread.join()


def _closable(items: Iterable[T]) -> Iterator[T]:
    yield from items
