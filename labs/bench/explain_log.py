"""How long `oom_doctor.py explain` takes on a log of 1 GB, and how much memory.

Two logs: one error between millions of ordinary lines (progress bars, metrics, colour codes), and
one in which every line is an error. The child is a bare Python (-S -I) with the tool's file.
"""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from labs.bench.children import BenchError, Progress

SEED = 0
CODE = ("labs/bench/explain_log.py", "labs/doctors/memory", "tools/oom_doctor.py")
SIZE = 1_000_000_000
SECONDS, BYTES = 10.0, 200_000_000  # the limits
TOOL = Path(__file__).resolve().parents[2] / "tools" / "oom_doctor.py"

ERROR = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 3.91 GiB. GPU 1 has a total "
    "capacity of 79.15 GiB of which 1.31 GiB is free. Process 42 has 77.80 GiB memory in use. Of the "
    "allocated memory 74.50 GiB is allocated by PyTorch, and 1.20 GiB is reserved by PyTorch but "
    "unallocated.\n"
)
FRAMES = (
    "Traceback (most recent call last):\n"
    '  File "/job/train.py", line 12, in <module>\n    trainer.train()\n'
    '  File "/lib/site-packages/torch/nn/functional.py", line 3029, in cross_entropy\n'
    "    return torch._C._nn.cross_entropy_loss(\n"
)


def ordinary(draw: random.Random, rows: int = 20_000) -> str:
    """A stretch of a healthy log, as eight ranks write it."""
    parts = []
    for n in range(rows):
        loss = draw.random()
        parts.append(
            (
                f"\r {n % 100:3d}%|\x1b[32m####      \x1b[0m| {n}/99999 [10:03<1:22:11, loss={loss:.4f}]",
                f"{{'loss': {loss:.4f}, 'grad_norm': 1.2, 'learning_rate': 1.99e-05}}\n",
                f"[rank{n % 8}]: INFO memory usage: allocated 30.1 GiB, tokens/s {n}\n",
            )[n % 3]
        )
    return "".join(parts)


def pieces(kind: str, size: int) -> Iterator[str]:
    """The text of one log, at least `size` bytes of it."""
    stretch = ordinary(random.Random(SEED)) if kind == "ordinary" else ERROR * 4000
    for _ in range(size // len(stretch)):
        yield stretch
    if kind == "ordinary":
        yield "\n" + FRAMES + ERROR + "[rank0]: cleaning up\n" * 100_000


# A small parent: Linux counts to a child's peak what its parent held when it forked.
WRAPPER = """
import json, resource, subprocess, sys, time
start = time.perf_counter()
child = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE)
seconds = time.perf_counter() - start
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([child.returncode, seconds, used.ru_utime + used.ru_stime, used.ru_maxrss]))
sys.stdout.write(child.stdout.decode())
"""


def once(path: Path) -> dict[str, Any]:
    """Seconds and peak bytes of one run of the tool, and the cause it named."""
    bare = [sys.executable, "-S", "-I"]
    shown = subprocess.run(
        [*bare, "-c", WRAPPER, *bare, str(TOOL), "explain", str(path), "--json"],
        stdout=subprocess.PIPE, text=True, check=True,
    ).stdout  # fmt: skip
    first, _, report = shown.partition("\n")
    code, seconds, processor, peak = json.loads(first)
    if code != 0:
        raise BenchError(f"explain ended with {code} on {path.name}")
    unit = 1 if sys.platform == "darwin" else 1024
    cause = json.loads(report)["findings"][0]["cause"]
    return {"seconds": seconds, "processor": processor, "bytes": peak * unit, "cause": cause}


def run(repeats: int = 3, size: int = SIZE, progress: Progress | None = None) -> dict:
    """Write each log, explain it `repeats` times; medians of seconds and peak bytes."""
    rows = {}
    for kind, expected in (("ordinary", "logits"), ("every line an error", "capacity")):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "run.log"
            with path.open("w", encoding="utf-8") as file:
                for piece in pieces(kind, size):
                    file.write(piece)
            found = []
            for n in range(repeats):
                if progress is not None:
                    progress(f"explain, {kind}: {n + 1} of {repeats}")
                found.append(once(path))
            if {row["cause"] for row in found} != {expected}:
                raise BenchError(f"explain named {found[0]['cause']}, not {expected}")
            rows[kind] = {
                "log_bytes": path.stat().st_size,
                "seconds": statistics.median(row["seconds"] for row in found),
                # On a busy machine this is what the tool itself took.
                "processor_seconds": statistics.median(row["processor"] for row in found),
                "peak_bytes": max(row["bytes"] for row in found),
                "cause": expected,
            }
    within = all(row["seconds"] <= SECONDS and row["peak_bytes"] <= BYTES for row in rows.values())
    return {"logs": rows, "repeats": repeats, "limits": [SECONDS, BYTES], "within": within}


def tables(result: dict) -> list:
    """Seconds and memory for each log, as a rich table."""
    from rich.table import Table

    table = Table(title=f"`oom_doctor.py explain`, limits {SECONDS:g} s and {BYTES / 1e6:g} MB")
    for column in ("log", "size", "seconds", "of a processor", "peak memory", "cause named"):
        table.add_column(column, justify="left" if column in ("log", "cause named") else "right")
    for kind, row in result["logs"].items():
        table.add_row(
            kind, f"{row['log_bytes'] / 1e9:.2f} GB", f"{row['seconds']:.1f}", f"{row['processor_seconds']:.1f}",
            f"{row['peak_bytes'] / 1e6:.0f} MB", row["cause"],
        )  # fmt: skip
    return [table]
