"""InfoNCE of one large batch: the whole matrix of similarities against blocks of it.

Peak memory is the child's high-water mark in its first call, forward and backward, less its level
just before, inputs and imports already in place. Time is the median of the child's calls after that
first one. The values and the gradients of both ways are compared, so that what is saved is memory
and nothing else: the difference is the largest of a tensor, over its largest entry.
"""

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from labs.bench.children import Progress, interleave, medians, ratio, serve, spread
from labs.bench.memory import peak, reset_peak

WAYS = ("plain", "chunked")
BATCH, WIDTH = 8192, 512
TEMPERATURE = 0.07
SEED = 0
CODE = (
    "labs/bench/infonce.py",
    "labs/bench/children.py",
    "labs/bench/memory.py",
    "labs/losses/contrastive.py",
    "labs/losses/contrastive_chunked.py",
    "labs/losses/contrastive_gather.py",
    "labs/losses/precision.py",
)
GRADIENTS = ("image_features", "text_features", "temperature")


def run(
    repeats: int = 3,
    batch: int = BATCH,
    width: int = WIDTH,
    calls: int = 2,
    progress: Progress | None = None,
) -> dict:
    """Measure both ways `repeats` times; return medians, their ratios, and how far they differ.

    `progress`, if given, is called with a sentence now and then. The result is

        {"setting": {...}, "peak_mb": {way: x}, "seconds": {way: x}, "loss": {way: x},
         "memory_against_plain": x, "memory_spread": [low, high],
         "time_against_plain": x, "time_spread": [low, high],
         "difference": {"loss": x, "image_features": x, "text_features": x, "temperature": x}}

    The ratios are chunked / plain (below 1 = chunked is smaller, faster): the median over the
    rounds of the ratio within a round, and its quartiles.
    """
    from labs.losses.contrastive_chunked import CHUNK

    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        settings = {"batch": batch, "width": width, "calls": calls, "folder": folder}
        for index in range(repeats):
            name = f"batch {batch}, children {index + 1} of {repeats}"
            _, new = interleave(
                "labs.bench.infonce", WAYS, settings, first=index, name=name, progress=progress
            )
            rounds += new
        difference = _difference(Path(folder), medians(rounds, "loss"))
    result = {
        "setting": {
            "batch": batch,
            "width": width,
            "chunk_size": CHUNK,
            "temperature": TEMPERATURE,
            "repeats": repeats,
            "calls": calls,
            "dtype": "float32",
            "threads": 1,
        }
    }
    result |= {key: medians(rounds, key) for key in ("peak_mb", "seconds", "loss")}
    for what, key in (("memory", "peak_mb"), ("time", "seconds")):
        result[f"{what}_against_plain"] = ratio(rounds, key, "chunked", "plain")
        result[f"{what}_spread"] = list(spread(rounds, key, "chunked", "plain"))
    return result | {"difference": difference}


def _difference(folder: Path, loss: dict[str, float]) -> dict[str, float]:
    """Of the value and of each gradient, chunked against plain."""
    import torch

    plain, chunked = (torch.load(folder / f"{way}.pt", weights_only=True) for way in WAYS)
    found = {"loss": abs(loss["chunked"] - loss["plain"]) / abs(loss["plain"])}
    for name, a, b in zip(GRADIENTS, plain, chunked, strict=True):
        found[name] = ((a - b).abs().max() / a.abs().max()).item()
    return found


def _child(way: str, batch: int, width: int, calls: int, folder: str) -> None:
    import torch

    from labs.losses import chunked_info_nce, info_nce

    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    loss_of = {"plain": info_nce, "chunked": chunked_info_nce}[way]
    images = torch.randn(batch, width)
    # Pairs that belong together, as after some training: neither all alike nor all told apart.
    texts = (images + 2 * torch.randn(batch, width)).requires_grad_()
    images.requires_grad_()
    temperature = torch.tensor(TEMPERATURE, requires_grad=True)
    inputs = images, texts, temperature

    def step():
        for tensor in inputs:
            tensor.grad = None
        loss = loss_of(*inputs)
        loss.backward()
        return loss.item()

    def measure():
        level = reset_peak()
        loss = step()
        high = peak() - level
        torch.save([tensor.grad for tensor in inputs], Path(folder, f"{way}.pt"))
        seconds = []
        for _ in range(calls):
            start = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - start)
        return {"peak_mb": high / 2**20, "seconds": statistics.median(seconds), "loss": loss}

    serve(measure)


def tables(result: dict) -> list:
    """Memory and time of both ways, as a rich table."""
    from rich.table import Table

    setting, difference = result["setting"], result["difference"]
    table = Table(
        title=f"InfoNCE of {setting['batch']:,} pairs, D = {setting['width']}, float32, "
        f"one thread, median of {setting['repeats']}",
        caption=f"loss apart by {difference['loss']:.0e}, gradients by "
        f"{max(difference[name] for name in GRADIENTS):.0e} of the largest entry",
    )
    for column in ("way", "peak MB", "seconds", "this / plain: memory", "time"):
        table.add_column(column, justify="left" if column == "way" else "right")
    for way, high in result["peak_mb"].items():
        ratios = [
            "" if way == "plain" else f"{result[f'{what}_against_plain']:.2f}"
            for what in ("memory", "time")
        ]
        table.add_row(way, f"{high:.0f}", f"{result['seconds'][way]:.2f}", *ratios)
    return [table]


if __name__ == "__main__":
    _child(**json.loads(sys.argv[1]))
