"""Children for the tests of the frame, run as `python -m tests.bench.workers`."""

import json
import os
import signal
import sys
import time
from pathlib import Path

from labs.bench.children import Turns, serve
from labs.bench.memory import peak, reset_peak

MEGABYTE = 2**20


def main() -> None:
    settings = json.loads(sys.argv[1])
    {
        "allocate": allocate,
        "free": free,
        "chatter": chatter,
        "raise": fail,
        "killed": killed,
        "one turn only": one_turn,
    }.get(settings["way"], logged)(settings)


def allocate(settings: dict) -> None:
    """Holds `megabytes` for a moment; the level is taken after a larger block was freed again."""
    before = bytearray(os.urandom(1)) * (300 * MEGABYTE)
    del before
    level = reset_peak()

    def measure():
        block = bytearray(b"x") * (settings["megabytes"] * MEGABYTE)
        del block
        return {"peak_mb": (peak() - level) / MEGABYTE}

    serve(measure)


def free(settings: dict) -> None:
    """Allocates nothing."""
    level = reset_peak()
    serve(lambda: {"peak_mb": (peak() - level) / MEGABYTE})


def logged(settings: dict) -> None:
    """Writes when it worked."""
    log = Path(settings["log"])

    def measure():
        start = time.monotonic()
        time.sleep(0.02)
        with log.open("a") as file:
            file.write(json.dumps([settings["way"], start, time.monotonic()]) + "\n")
        return {"threads": os.environ["OMP_NUM_THREADS"], "niceness": os.nice(0)}

    serve(measure, {"pid": os.getpid()})


def chatter(settings: dict) -> None:
    """Prints where the frame speaks, as libraries do, from Python and below it."""
    turns = Turns()
    print("a library says hello")
    os.system("echo a program says hello")
    turns.ready()
    turns.wait()
    print('{"value": 0}')
    turns.report({"value": 1})


def fail(settings: dict) -> None:
    raise ValueError("the model has no head")


def killed(settings: dict) -> None:
    def measure():
        os.kill(os.getpid(), signal.SIGKILL)

    serve(measure)


def one_turn(settings: dict) -> None:
    turns = Turns()
    turns.ready()
    turns.wait()
    turns.report({"value": 1})


if __name__ == "__main__":
    main()
