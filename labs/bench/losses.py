"""Head and loss, forward and backward: the plain way, ours, and TRL's, in memory and in time.

Peak memory is the child's high-water mark in its first call less its level just before, inputs and
imports already in place. Time is the median of the child's calls after that first one.

Every token carries a label here, which is the hardest case for us: `linear_generation_loss` skips
the tokens that have none, and TRL does so on a GPU only.
"""

import importlib.util
import json
import statistics
import sys
import time

from labs.bench.children import Progress, interleave, medians, ratio, serve
from labs.bench.memory import peak, reset_peak

WAYS = ("plain", "linear", "trl")
VOCABULARY = 32_000
BATCH, TOKENS = 2, 1024
WIDTHS = (256, 1024)
SEED = 0
CODE = (
    "labs/bench/losses.py",
    "labs/bench/children.py",
    "labs/bench/memory.py",
    "labs/losses/generation.py",
    "labs/losses/linear_generation.py",
    "labs/losses/precision.py",
)


def run(
    repeats: int = 3,
    widths: tuple[int, ...] = WIDTHS,
    vocabulary: int = VOCABULARY,
    calls: int = 2,
    progress: Progress | None = None,
) -> dict:
    """Measure each way `repeats` times at each hidden size; return medians and their ratios.

    `progress`, if given, is called with a sentence now and then. The result is

        {"setting": {...},
         "widths": {width: {"peak_mb": {way: x}, "seconds": {way: x}, "loss": {way: x},
                            "memory_against_plain": x, "time_against_trl": x, ...}}}

    The ratios are linear / plain and linear / TRL (below 1 = ours is smaller, faster): the median
    over the rounds of the ratio within a round. Without TRL installed its column is absent.
    """
    ways = WAYS if importlib.util.find_spec("trl") else WAYS[:-1]
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
        settings = {"width": width, "vocabulary": vocabulary, "calls": calls}
        rounds = []
        for index in range(repeats):
            name = f"hidden size {width}, children {index + 1} of {repeats}"
            _, new = interleave(
                "labs.bench.losses", ways, settings, first=index, name=name, progress=progress
            )
            rounds += new
        result["widths"][width] = _summary(rounds, ways)
    return result


def _summary(rounds: list[dict], ways: tuple[str, ...]) -> dict:
    summary = {key: medians(rounds, key) for key in ("peak_mb", "seconds", "loss")}
    for other in ways:
        if other != "linear":
            summary[f"memory_against_{other}"] = ratio(rounds, "peak_mb", "linear", other)
            summary[f"time_against_{other}"] = ratio(rounds, "seconds", "linear", other)
    return summary


def _child(way: str, width: int, vocabulary: int, calls: int) -> None:
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

    def measure():
        level = reset_peak()
        loss = step()
        high = peak() - level
        seconds = []
        for _ in range(calls):
            start = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - start)
        return {"peak_mb": high / 2**20, "seconds": statistics.median(seconds), "loss": loss}

    serve(measure)


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


def tables(result: dict) -> list:
    """Memory and time of each way, as rich tables."""
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
        for way, high in row["peak_mb"].items():
            ratios = [
                "" if way == "linear" else f"{row[f'{what}_against_{way}']:.2f}"
                for what in ("memory", "time")
            ]
            table.add_row(str(width), way, f"{high:.0f}", f"{row['seconds'][way]:.2f}", *ratios)
    return [table]


if __name__ == "__main__":
    _child(**json.loads(sys.argv[1]))
