"""A child of the GPU bench without torch: what it does is in its case's name. It tells when it works."""

import json
import os
import sys
import time
from pathlib import Path

from labs.bench.children import Turns


def main() -> None:
    settings = json.loads(sys.argv[1])
    kind, log = settings["way"].partition("-")[0], Path(os.environ["MEMORY_GPU_WORKER_LOG"])
    turns = Turns()

    def tell(what: str) -> None:
        with log.open("a") as file:
            file.write(json.dumps([what, settings["way"], os.getpid(), time.monotonic()]) + "\n")

    tell("ready")
    turns.ready({"seconds": 0.0})
    turns.wait()
    tell("starts")
    if kind == "fails":
        raise RuntimeError("no such kernel")
    time.sleep(60 if kind == "slow" else 0.05)
    tell("ends")
    memory = {"allocated": 1, "name": "CPU", "outside": None, "phases": {}}
    turns.report({"outcome": "done", "seconds": 0.05, "memory": memory})
    turns.wait()


if __name__ == "__main__":
    main()
