"""The loop of `labs bench memory_gpu` that measures: one child a case, one at a time on the device."""

import contextlib
import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from labs.bench.children import BenchError, Child, ChildFailed, Progress
from labs.bench.memory_gpu_cases import Case, by_information
from labs.bench.memory_gpu_results import FINAL, Results

CHILD = "labs.bench.memory_gpu_child"
CASE_SECONDS = 90.0
HOPELESS = 3  # failures in a row, from the start
AHEAD = 1 if (os.cpu_count() or 1) < 8 else 3  # children that import while one measures
GUESS = 10.0  # seconds of a case that has no prediction yet


def measure(
    results: Results,
    cases: Sequence[Case],
    device: str = "cuda",
    seconds: float | None = None,
    case_seconds: float = CASE_SECONDS,
    progress: Progress | None = None,
) -> list[Case]:
    """Measure the cases that lack a measurement, each in a process of its own; those that were tried.

    seconds: stop when they are over; what runs then is not counted as tried. A case that takes longer
    than `case_seconds` is ended and written down as such. The next children get their imports done
    while one measures; the device is one child's at a time. Raises BenchError where the first three
    fail: then something is wrong with the machine, and its time is better saved.
    """
    say = progress or (lambda _: None)
    start = time.monotonic()
    end = start + seconds if seconds is not None else float("inf")
    left = in_order(results, results.left("measured", cases))
    tried, succeeded = [], False
    upcoming, ready = iter(left), deque()
    with contextlib.ExitStack() as stack:

        def get_ready() -> None:
            for case in itertools.islice(upcoming, 1 + AHEAD - len(ready)):
                settings = {
                    "plan": case.plan(results.models).to_dict(),
                    "limit": case.limit_bytes,
                    "device": device,
                }
                child = stack.enter_context(Child(CHILD, case.name, settings))
                ready.append((case, child))

        get_ready()
        while ready and (remaining := end - time.monotonic()) > 0:
            case, child = ready.popleft()
            name = f"{len(tried) + 1} of {len(left)}: {case.name}"
            say(name)
            content = measured(child, min(case_seconds, remaining))
            child.__exit__(None, None, None)  # its memory is given back before the next one starts
            if content["outcome"] == "time limit" and remaining < case_seconds:
                break  # cut off from outside: nothing is known of this case
            get_ready()
            results.write("measured", case, content)
            tried.append(case)
            say(f"{name}: {sentence(content)}")
            succeeded |= content["outcome"] in FINAL
            if len(tried) == HOPELESS and not succeeded:
                raise BenchError(
                    f"The first {HOPELESS} cases failed; the last one:\n{content['said']}"
                )
    return tried


def in_order(results: Results, left: Sequence[Case]) -> list[Case]:
    """Cases without a result before those with an old one, each by information a second."""
    old = [case for case in left if results.read("measured", case) is not None]
    new = [case for case in left if case not in old]

    def guess(case: Case) -> float:
        found = results.read("predicted", case)
        return found["gpu_seconds"] if found else GUESS

    return by_information(new, guess) + by_information(old, guess)


def measured(child: Child, seconds: float) -> dict[str, Any]:
    """One turn of a child, ended after `seconds`; a child that fails is a result too."""
    late = threading.Event()

    def give_up() -> None:
        late.set()
        child.process.kill()

    start = time.monotonic()
    timer = threading.Timer(seconds, give_up)
    timer.start()
    try:
        ready = child.read()
        return child.turn() | {"import_seconds": ready["seconds"]}
    except ChildFailed as error:
        outcome = "time limit" if late.is_set() else "failed"
        return {
            "outcome": outcome,
            "said": str(error)[-2000:],
            "seconds": round(time.monotonic() - start, 2),
        }
    finally:
        timer.cancel()


def sentence(content: dict[str, Any]) -> str:
    """A measurement in one line."""
    memory = content.get("memory") or {}
    if content["outcome"] not in FINAL:
        last = content["said"].strip().splitlines()[-1] if content["said"].strip() else ""
        return f"{content['outcome']} after {content['seconds']:.0f} s {last[:160]}"
    size = memory.get("device") or memory.get("allocated") or 0
    return f"{content['outcome']}, {size / 2**30:.2f} GiB in {content['seconds']:.0f} s"
