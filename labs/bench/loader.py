"""Pictures a second: our streaming loader, the `webdataset` package and a plain PyTorch loader.

The same JPEG pictures, as loose files and as shards, in the same batches, each decoded and resized by
the same function, shuffled, with no worker and with one. Children take turns, an epoch at a time;
the first epoch of each (in which a cache is filled, and a worker begins) is told apart from the later
ones. The files have just been written and lie in the memory of the operating system: what is
measured is the work of reading, decoding and handing over, not a disk.

Every way must hand over the same pictures: sums over all pixels are compared, and a difference is an
error, not a result.
"""

import importlib.metadata
import importlib.util
import tempfile
from pathlib import Path

from labs.bench.children import BenchError, Progress, interleave, order, ratio, spread
from labs.bench.packing import packing_rows, packing_table

WAYS = ("torch", "webdataset", "ours", "ours_cached")
SAID = {
    "torch": "torch, map-style, on files",
    "webdataset": "webdataset, on shards",
    "ours": "StreamingLoader, on shards",
    "ours_cached": "the same, with a cache",
}
BASELINE = "torch"
WORKERS = (0, 1)
CHILD = "labs.bench.loader_child"
FULL = {"pictures": 640, "batch": 32, "size": 336, "epochs": 4, "samples": 20_000}
QUICK = {"pictures": 24, "batch": 8, "size": 64, "epochs": 2, "samples": 2_000}
SHARD = 64  # pictures
SEED = 0
CODE = (
    "labs/bench/loader.py", "labs/bench/loader_child.py", "labs/bench/packing.py",
    "labs/bench/children.py", "labs/data/stream.py", "labs/data/streaming.py",
    "labs/data/stream_sources.py", "labs/data/stream_loader.py", "labs/data/cache.py",
    "labs/data/grouping.py", "labs/data/knapsack.py", "labs/data/packing.py",
    "labs/formats/images.py", "labs/formats/webdataset.py", "labs/formats/tar_members.py",
    "labs/formats/shard_fields.py", "labs/formats/shard_names.py",
)  # fmt: skip


def run(
    repeats: int | None = None, progress: Progress | None = None, quick: bool = False, **changes
) -> dict:
    """Measure every way with 0 and 1 workers, and how full packing gets rows.

    repeats: fresh sets of children, 3 by default. quick: few small pictures, all ways in this process:
    it shows that everything runs, and its numbers mean little. Returns

        {"setting": {…, "webdataset": version or None, "kilobytes": of a picture},
         "loaders": {workers: {way: {"first": pictures/s, "later": pictures/s,
                                     "first_against_torch": x, "later_against_torch": x,
                                     "later_spread": [low, high]}}},
         "packing": rows of labs.bench.packing}

    The ratios are of speeds, way / torch (above 1 = faster): medians over the rounds. Raises
    BenchError where two ways handed over different pictures.
    """
    plan = (QUICK if quick else FULL) | changes
    say = progress or (lambda _: None)
    repeats = repeats or (1 if quick else 3)
    installed = importlib.util.find_spec("webdataset") is not None
    ways = [way for way in WAYS if installed or way != "webdataset"]
    loaders: dict[int, dict] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        say(f"writing {plan['pictures']} pictures, as files and as shards")
        size = write_pictures(folder, plan["pictures"])
        for workers in WORKERS:
            first, later = [], []
            for index in range(repeats):
                settings = {
                    "folder": str(folder), "workers": workers, "batch": plan["batch"],
                    "size": plan["size"], "cache": f"cache-{workers}-{index}",
                }  # fmt: skip
                title = f"{workers} workers, children {index + 1} of {repeats}"
                if quick:
                    rounds = _here(ways, settings, plan["epochs"], say, title)
                else:
                    _, rounds = interleave(
                        CHILD, ways, settings, plan["epochs"], first=index, name=title, progress=say
                    )
                first.append(rounds[0])
                later += rounds[1:]
            _check(first + later, plan["pictures"])
            loaders[workers] = {way: _summary(first, later, way) for way in ways}
    say("packing")
    return {
        "setting": {
            **plan, "quick": quick, "repeats": repeats, "kilobytes": size / 1024, "threads": 1,
            "webdataset": importlib.metadata.version("webdataset") if installed else None,
        },
        "loaders": {str(workers): found for workers, found in loaders.items()},
        "packing": packing_rows(plan["samples"]),
    }  # fmt: skip


def write_pictures(folder: Path, count: int) -> float:
    """Write `count` JPEGs of 640 x 480 with a photograph's smooth and fine parts, as files and as
    shards; their mean size in bytes."""
    import numpy as np
    from PIL import Image

    from labs.formats.webdataset import write_shards

    (folder / "files").mkdir()
    rng = np.random.default_rng(SEED)
    for number in range(count):
        smooth = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        smooth = np.asarray(smooth.resize((640, 480), Image.Resampling.BICUBIC), dtype=np.float32)
        picture = np.clip(smooth + rng.normal(0, 8, (480, 640, 1)), 0, 255).astype(np.uint8)
        Image.fromarray(picture).save(folder / "files" / f"{number:06d}.jpg", quality=90)
    paths = sorted((folder / "files").iterdir())
    samples = ({"__key__": path.stem, "jpg": path.read_bytes()} for path in paths)
    write_shards(samples, folder / "shard-%06d.tar", SHARD)
    return sum(path.stat().st_size for path in paths) / count


def _here(ways: list[str], settings: dict, epochs: int, say: Progress, title: str) -> list[dict]:
    """The rounds in this process, the ways taking turns."""
    from labs.bench.loader_child import Epochs

    loaders = {way: Epochs(way, **settings) for way in ways}
    rounds = []
    for index in range(epochs):
        say(f"{title}: epoch {index + 1} of {epochs}")
        rounds.append({way: loaders[way].turn() for way in order(ways, index)})
    return rounds


def _check(rounds: list[dict], count: int) -> None:
    found = {(r["pictures"], r["sum"]) for round_ in rounds for r in round_.values()}
    if len(found) != 1 or next(iter(found))[0] != count:
        raise BenchError(f"The ways did not hand over the same {count} pictures: {sorted(found)}")


def _summary(first: list[dict], later: list[dict], way: str) -> dict:
    from statistics import median

    speeds = [
        [{w: {"speed": r[w]["pictures"] / r[w]["seconds"]} for w in r} for r in rounds]
        for rounds in (first, later)
    ]
    return {
        "first": median(r[way]["speed"] for r in speeds[0]),
        "later": median(r[way]["speed"] for r in speeds[1]),
        "first_against_torch": ratio(speeds[0], "speed", way, BASELINE),
        "later_against_torch": ratio(speeds[1], "speed", way, BASELINE),
        "later_spread": list(spread(speeds[1], "speed", way, BASELINE)),
    }


def tables(result: dict) -> list:
    """Speeds of the loaders, and how full rows get, as rich tables."""
    from rich.table import Table

    setting = result["setting"]
    version = setting["webdataset"]
    table = Table(
        title=f"Pictures a second: {setting['pictures']} JPEGs of 640 x 480 ({setting['kilobytes']:.0f} kB), "
        f"decoded and resized to {setting['size']} x {setting['size']}, batches of {setting['batch']}",
        caption=f"webdataset {version}" if version else "webdataset is not installed",
    )
    for column in (
        "loader",
        "workers",
        "first epoch",
        "later epochs",
        "against torch: first",
        "later",
    ):
        table.add_column(column, justify="left" if column == "loader" else "right")
    for workers, ways in result["loaders"].items():
        for way, found in ways.items():
            low, high = found["later_spread"]
            table.add_row(
                SAID[way],
                workers,
                f"{found['first']:.0f}",
                f"{found['later']:.0f}",
                f"{found['first_against_torch']:.2f}",
                f"{found['later_against_torch']:.2f} ({low:.2f} to {high:.2f})",
            )
    return [table, packing_table(result["packing"])]
