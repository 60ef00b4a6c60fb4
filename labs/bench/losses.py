"""Head and loss, forward and backward: the plain way, ours, and TRL's, in memory and in time.

    python -m labs.bench.losses            # a table, in some minutes
    python -m labs.bench.losses --json

Every measurement is a child process of its own on one torch thread, and the three ways take turns,
so that a busy minute of the machine falls on all of them. Peak memory is the child's high-water
mark less its level just before, inputs and imports already in place. Time is the median of the
child's calls after that first one; what is reported is the median over the children.

Every token carries a label here, which is the hardest case for us: `linear_generation_loss` skips
the tokens that have none, and TRL does so on a GPU only.
"""

import argparse
import contextlib
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

WAYS = ("plain", "linear", "trl")
VOCABULARY = 32_000
BATCH, TOKENS = 2, 1024
WIDTHS = (256, 1024)


def run(
    repeats: int = 3,
    widths: tuple[int, ...] = WIDTHS,
    vocabulary: int = VOCABULARY,
    calls: int = 2,
    progress=None,
) -> dict:
    """Measure each way `repeats` times at each hidden size; return medians and their ratios.

    `progress`, if given, is called with a sentence before each child. The result is

        {"setting": {...},
         "widths": {width: {"peak_mb": {way: x}, "seconds": {way: x}, "loss": {way: x},
                            "memory_against_plain": x, "time_against_trl": x, ...}}}

    The ratios are linear / plain and linear / TRL (below 1 = ours is smaller, faster): the median
    over the rounds of the ratio within a round. Without TRL installed its column is absent.
    """
    ways = WAYS if _has_trl() else WAYS[:-1]
    setting = {
        "vocabulary": vocabulary,
        "batch": BATCH,
        "tokens": TOKENS,
        "repeats": repeats,
        "calls": calls,
        "dtype": "float32",
        "threads": 1,
    }
    result = {"setting": setting, "widths": {}}
    for width in widths:
        rounds = []
        for index in range(repeats):
            measured = {}
            for way in ways[index % len(ways) :] + ways[: index % len(ways)]:
                if progress:
                    progress(f"hidden size {width}, round {index + 1} of {repeats}: {way}")
                measured[way] = _in_child(way, width, vocabulary, calls)
            rounds.append(measured)
        result["widths"][width] = _summary(rounds, ways)
    return result


def _summary(rounds: list[dict], ways: tuple[str, ...]) -> dict:
    def median(key):
        return {way: statistics.median(r[way][key] for r in rounds) for way in ways}

    def ratio(key, other):
        return statistics.median(r["linear"][key] / r[other][key] for r in rounds)

    summary = {key: median(key) for key in ("peak_mb", "seconds", "loss")}
    for other in ways:
        if other != "linear":
            summary[f"memory_against_{other}"] = ratio("peak_mb", other)
            summary[f"time_against_{other}"] = ratio("seconds", other)
    return summary


def _has_trl() -> bool:
    from importlib.util import find_spec

    return find_spec("trl") is not None


def _in_child(way: str, width: int, vocabulary: int, calls: int) -> dict:
    arguments = [way, str(width), str(vocabulary), str(calls)]
    done = subprocess.run(
        [sys.executable, "-m", "labs.bench.losses", "--child", *arguments],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"The child that measures {way!r} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def _child(way: str, width: int, vocabulary: int, calls: int) -> dict:
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    loss_of = _loss_function(way)
    hidden = torch.randn(BATCH, TOKENS, width, requires_grad=True)
    weight = (torch.randn(vocabulary, width) / width**0.5).requires_grad_()
    labels = torch.randint(0, vocabulary, (BATCH, TOKENS))

    def step():
        hidden.grad = weight.grad = None
        loss = loss_of(hidden, weight, labels)
        loss.backward()
        return loss.item()

    level = _reset_peak()
    loss = step()
    peak = _peak() - level
    seconds = []
    for _ in range(calls):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return {"peak_mb": peak / 2**20, "seconds": statistics.median(seconds), "loss": loss}


def _loss_function(way: str):
    if way == "plain":
        from labs.losses import generation_loss

        return lambda hidden, weight, labels: generation_loss(hidden @ weight.T, labels)
    if way == "linear":
        from labs.losses import linear_generation_loss

        return linear_generation_loss

    import trl.trainer.utils  # its backward imports it: before the memory level is taken
    from trl.kernels import ChunkedLogProbFunction

    chunk = trl.trainer.utils._CHUNKED_LOGPROB_CHUNK_SIZE

    def chunked(hidden, weight, labels):
        # As TRL's fused head calls it, with none of the optional statistics, which would cost more.
        states = hidden[:, :-1].reshape(-1, hidden.shape[-1])
        targets = labels[:, 1:].reshape(-1)
        outputs = ChunkedLogProbFunction.apply(
            states, weight, None, targets, 1.0, chunk, None, 1.0, ()
        )
        return -outputs[0].mean()

    return chunked


def _reset_peak() -> int:
    """Forget the high-water mark where the system allows it; return the level to measure from."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    """The process's resident high-water mark in bytes."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:  # macOS, which counts in bytes
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def _table(result: dict):
    from rich.table import Table

    setting = result["setting"]
    table = Table(
        title=f"Head and loss, V = {setting['vocabulary']:,}, "
        f"{setting['batch'] * setting['tokens']:,} tokens, float32, one thread, "
        f"median of {setting['repeats']}"
    )
    for column in ("hidden", "way", "peak MB", "seconds", "linear / this: memory", "time"):
        table.add_column(column, justify="left" if column == "way" else "right")
    for width, row in result["widths"].items():
        for way, peak in row["peak_mb"].items():
            ratios = [
                "" if way == "linear" else f"{row[f'{what}_against_{way}']:.2f}"
                for what in ("memory", "time")
            ]
            table.add_row(str(width), way, f"{peak:.0f}", f"{row['seconds'][way]:.2f}", *ratios)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m labs.bench.losses", description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", nargs=4, metavar=("WAY", "WIDTH", "VOCABULARY", "CALLS"))
    options = parser.parse_args()
    if options.child:
        way, *numbers = options.child
        print(json.dumps(_child(way, *map(int, numbers))))
        return

    from rich.console import Console

    with Console(stderr=True).status("starting") as status:
        result = run(repeats=options.repeats, progress=status.update)
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        Console().print(_table(result))


if __name__ == "__main__":
    main()
