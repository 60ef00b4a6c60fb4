"""What `oom_doctor.py run` costs: steps of a plain process against steps of a process under it.

Two children train the same model in turns, so that a busy minute of the machine falls on both; a
pair is one turn of each, in alternating order, and a turn is a few steps of at least 300 ms. Quoted
is the upper end of a 95 % interval of the median ratio (percentile bootstrap over the pairs).
"""

from __future__ import annotations

import json
import random
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from labs.bench.children import Progress, Turns, interleave, order, serve

WAYS = ("plain", "run")
WIDTH, DEPTH = 768, 12
STEP_SECONDS = 0.32
STEPS = 3  # in a turn
PAIRS = 24  # design: at least 20
LIMIT = 0.01
SEED = 0
CODE = (
    "labs/bench/run_overhead.py",
    "labs/bench/children.py",
    "labs/doctors/memory/live",
)


def build(batch: int) -> Any:
    """One training step of a stack of linear layers, as a function without arguments."""
    import torch
    from torch import nn

    torch.set_num_threads(1)
    torch.manual_seed(0)
    layers = [layer for _ in range(DEPTH) for layer in (nn.Linear(WIDTH, WIDTH), nn.GELU())]
    model = nn.Sequential(*layers)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    inputs = torch.randn(batch, WIDTH)

    def step() -> None:
        model(inputs).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def calibrate(seconds: float = STEP_SECONDS) -> int:
    """The batch at which a step takes at least `seconds` here."""
    batch = 64
    while True:
        step = build(batch)
        step()
        start = time.perf_counter()
        step()
        if time.perf_counter() - start >= seconds:
            return batch
        batch = int(batch * 1.5)


def child(way: str, batch: int, steps: int, inside: bool = False) -> int:
    """A process that measures turns; under the doctor it starts itself once more, through `run`."""
    if way == "run" and not inside:
        from labs.doctors.memory.live import run

        folder = Path(tempfile.mkdtemp(prefix="oom_doctor-bench-"))
        settings = {"way": way, "batch": batch, "steps": steps, "inside": True}
        command = [sys.executable, "-m", "labs.bench.run_overhead", json.dumps(settings)]
        try:
            return run.exit_code(run.run(command, folder, {"budget": None, "history": 20_000}))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    step = build(batch)
    step()
    step()

    def measure() -> dict:
        start = time.perf_counter()
        for _ in range(steps):
            step()
        return {"seconds": (time.perf_counter() - start) / steps}

    serve(measure, {"observed": "_oom_doctor" in sys.modules}, Turns())
    return 0


def bound(ratios: list[float], draws: int = 10_000, seed: int = 0) -> tuple[float, float]:
    """The median ratio's 95 % interval by the percentile bootstrap."""
    generator = random.Random(seed)
    medians = sorted(
        statistics.median(generator.choices(ratios, k=len(ratios))) for _ in range(draws)
    )
    return medians[int(0.025 * draws)], medians[int(0.975 * draws) - 1]


def run(
    repeats: int = 1,
    pairs: int = PAIRS,
    steps: int = STEPS,
    seconds: float = STEP_SECONDS,
    progress: Progress | None = None,
) -> dict:
    """Measure `repeats` × `pairs` pairs; overhead and interval are shares (0.01 = 1 %)."""
    pairs *= repeats
    batch = calibrate(seconds)
    settings = {"batch": batch, "steps": steps}
    # One more than asked for: the first turn of either finds cold caches.
    setups, rounds = interleave(
        __name__, WAYS, settings, turns=pairs + 1, name="run overhead", progress=progress
    )
    if not setups["run"]["observed"] or setups["plain"]["observed"]:
        raise RuntimeError("the child under `run` was not observed, or the plain one was")
    rounds = rounds[1:]
    ratios = [r["run"]["seconds"] / r["plain"]["seconds"] for r in rounds]
    low, high = bound(ratios)
    return {
        "pairs": len(ratios),
        "batch": batch,
        "step_seconds": {way: statistics.median(r[way]["seconds"] for r in rounds) for way in WAYS},
        "shortest_step": min(r[way]["seconds"] for r in rounds for way in WAYS),
        "overhead": statistics.median(ratios) - 1,
        "interval": [low - 1, high - 1],
        "limit": LIMIT,
        "within": high - 1 <= LIMIT,
        "order": [order(WAYS, i)[0] for i in range(1, pairs + 1)],
        "rounds": rounds,
    }


def tables(result: dict) -> list:
    """Step times and overhead, as a rich table."""
    from rich.table import Table

    table = Table(
        title=f"Overhead of `oom_doctor.py run`, {result['pairs']} pairs, limit {LIMIT:.0%}"
    )
    for column in ("way", "step (median)", "overhead", "95 % interval"):
        table.add_column(column, justify="left" if column == "way" else "right")
    low, high = result["interval"]
    shown = {"run": (f"{result['overhead']:+.2%}", f"{low:+.2%} to {high:+.2%}")}
    for way, seconds in result["step_seconds"].items():
        table.add_row(way, f"{seconds * 1000:.1f} ms", *shown.get(way, ("", "")))
    return [table]


if __name__ == "__main__":
    sys.exit(child(**json.loads(sys.argv[1])))
