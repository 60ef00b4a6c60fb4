"""Children of one run that take turns: the frame of every bench.

A bench compares ways of doing one thing. Each way gets a process of its own, on one thread, that
sets itself up and then waits. Only one of them works at a time; they take turns, in another order
each round, so that a busy minute of the machine falls on all of them, and a ratio is taken within a
round before the median is taken over the rounds.

The parent speaks first: a line on a child's standard input is a turn, a line of JSON on a pipe of its
own is what the turn measured. The first line, which the child says by itself, is its set-up. What a
library prints, at import too, goes to standard error and never between the two.
"""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
PIPE = "LABS_BENCH_PIPE"  # the number of the file descriptor that a child reports on
TAIL = 15  # lines of a failed child's standard error

Progress = Callable[[str], Any]


class BenchError(RuntimeError):
    """A bench that has no result."""


class ChildFailed(BenchError):
    """A measuring child ended before it had measured; the message ends with what it said last."""


class Child:
    """One way in a process of its own: `python -m MODULE '{"way": WAY, …settings}'`.

    That module calls `serve` (or uses `Turns`). Use as a context manager: it ends the process.
    """

    def __init__(self, module: str, way: str, settings: Mapping[str, Any] | None = None):
        self.way = way
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed in __exit__
        environment = os.environ | dict.fromkeys(ONE_THREAD, "1") | {
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
            "PYTHONUNBUFFERED": "1",
        }  # fmt: skip
        reading, writing = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, json.dumps({"way": way, **(settings or {})})],
            cwd=ROOT,
            env=environment | {PIPE: str(writing)},
            stdin=subprocess.PIPE,
            stdout=self.errors,
            stderr=self.errors,
            pass_fds=[writing],
            text=True,
        )
        os.close(writing)  # the child's end: with ours open, its death would not end the file
        self.measured = os.fdopen(reading)

    def read(self) -> dict:
        """The next thing it has to say. Raises ChildFailed if it ends instead."""
        line = self.measured.readline()
        if not line:
            raise self._failure()
        return json.loads(line)

    def turn(self) -> dict:
        """Let it work for one turn; what it measured."""
        try:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise self._failure() from None
        return self.read()

    def _failure(self) -> ChildFailed:
        code = self.process.wait()
        self.errors.seek(0)
        said = "\n".join(self.errors.read().splitlines()[-TAIL:])
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return ChildFailed(f"The child that measures `{self.way}` {how}:\n{said or '(no output)'}")

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.measured.close()
        self.errors.close()


class Turns:
    """The child's end: `ready` once, then `wait` and `report` in each turn."""

    def __init__(self):
        self.out = os.fdopen(int(os.environ[PIPE]), "w")

    def ready(self, setup: dict | None = None) -> None:
        """Say that the set-up is done."""
        self._say(setup or {})

    def wait(self) -> None:
        """Sleep until it is this child's turn; end the process where there is none left."""
        if not sys.stdin.readline():
            # No clean-up: this may stand deep inside somebody's training loop.
            os._exit(0)

    def report(self, measured: dict) -> None:
        """Say what this turn measured."""
        self._say(measured)

    def _say(self, content: dict) -> None:
        self.out.write(json.dumps(content) + "\n")
        self.out.flush()


def serve(
    measure: Callable[[], dict], setup: dict | None = None, turns: Turns | None = None
) -> None:
    """A child whose every turn is one call of `measure`."""
    turns = turns or Turns()
    turns.ready(setup)
    while True:
        turns.wait()
        turns.report(measure())


def order(ways: Iterable[str], number: int) -> tuple[str, ...]:
    """The ways in the order of round `number`: each round another one begins."""
    ways = tuple(ways)
    start = number % len(ways)
    return ways[start:] + ways[:start]


def interleave(
    module: str,
    ways: Iterable[str],
    settings: Mapping[str, Any] | None = None,
    turns: int = 1,
    first: int = 0,
    name: str = "",
    progress: Progress | None = None,
) -> tuple[dict[str, dict], list[dict[str, dict]]]:
    """Start a child for each way and let them take `turns` turns each.

    Returns what each said of its set-up, {way: …}, and the rounds: a list of {way: measured}.
    `first` is the number of the first round, for another order from one set of children to the
    next. Set-ups take turns too. Raises ChildFailed.
    """
    ways, say = tuple(ways), progress or (lambda _: None)
    with contextlib.ExitStack() as stack:
        setups, children, rounds = {}, {}, []
        for way in order(ways, first):
            say(f"{name}: setting up {way}")
            children[way] = stack.enter_context(Child(module, way, settings))
            setups[way] = children[way].read()
        for index in range(turns):
            measured = {}
            for way in order(ways, first + index):
                say(f"{name}: round {index + 1} of {turns}, {way}")
                measured[way] = children[way].turn()
            rounds.append(measured)
    return setups, rounds


def medians(rounds: list[dict[str, dict]], key: str) -> dict[str, float]:
    """{way: median of `key` over the rounds}."""
    return {way: statistics.median(r[way][key] for r in rounds) for way in rounds[0]}


def ratio(rounds: list[dict[str, dict]], key: str, way: str, other: str) -> float:
    """The median over the rounds of way / other within a round."""
    return statistics.median(r[way][key] / r[other][key] for r in rounds)


def spread(rounds: list[dict[str, dict]], key: str, way: str, other: str) -> tuple[float, float]:
    """The quartiles over the rounds of way / other within a round: how far to trust the median."""
    ratios = [r[way][key] / r[other][key] for r in rounds]
    if len(ratios) < 2:
        return ratios[0], ratios[0]
    low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return low, high
