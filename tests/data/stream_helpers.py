"""What the tests of streams share: sources of numbers, and a child that is killed while it trains."""

import json
import os
import sys
import time
from pathlib import Path

from torch.utils.data import IterableDataset

from labs.data import StreamingDataset, StreamingLoader
from labs.data.stream import Share
from labs.formats.webdataset import write_shards


def lines(folder, sizes):
    """JSONL files of so many records; record i of all is {"i": i}."""
    number, paths = 0, []
    for file, size in enumerate(sizes):
        path = folder / f"part-{file:02d}.jsonl"
        path.write_text("".join(f'{{"i": {i}}}\n' for i in range(number, number + size)))
        paths.append(path)
        number += size
    return paths


def shards(folder, count, size):
    """Shards of `size` samples, `count` in all."""
    samples = ({"__key__": f"{i:06d}", "json": {"i": i}} for i in range(count))
    return write_shards(samples, folder / "s-%04d.tar", size)


def number(record):
    """The decode of the tests: a record of a line or of a shard as its number."""
    return json.loads(record["json"])["i"] if "json" in record else record["i"]


def consumers(stream, ranks, workers, epoch=0):
    """What each consumer is given, by (rank, worker), each sample with the state after it."""
    return {
        (rank, worker): list(
            stream.walk(epoch, Share(worker * ranks + rank, workers * ranks), None)
        )
        for rank in range(ranks)
        for worker in range(workers)
    }


def all_lists(batch):
    """A collate function that keeps the samples as they are."""
    return list(batch)


class FirstWorkerOnly(IterableDataset):
    """Not one of ours: what a state cannot be asked of."""

    def __iter__(self):
        return iter(range(10))


def loader_of(folder, workers, **options):
    stream = StreamingDataset(sorted(Path(folder).glob("*.jsonl")), number, buffer=7, seed=3)
    return StreamingLoader(stream, 3, all_lists, num_workers=workers, **options)


def train(folder, workers):
    """Consume an epoch slowly, writing after every batch what was seen and the state, in one file."""
    folder, seen = Path(folder), []
    loader = loader_of(folder, workers)
    for batch in loader:
        seen.append(batch)
        content = json.dumps({"seen": seen, "state": loader.state_dict()})
        (folder / "new").write_text(content)
        os.replace(folder / "new", folder / "log.json")
        time.sleep(0.02)


if __name__ == "__main__":
    train(sys.argv[1], int(sys.argv[2]))
