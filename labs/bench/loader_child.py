"""One way of `labs bench loader`: an epoch of pictures a turn."""

import functools
import json
import sys
import time
from pathlib import Path

from labs.bench.children import serve


class Epochs:
    """A loader of one way, and a turn that goes through an epoch of it."""

    def __init__(self, way: str, folder: str, workers: int, batch: int, size: int, cache: str):
        make = {
            "torch": _torch,
            "webdataset": _webdataset,
            "ours": _ours,
            "ours_cached": functools.partial(_ours, cache=Path(folder, cache)),
        }[way]
        self.loader = make(Path(folder), workers, batch, size)

    def turn(self) -> dict:
        start = time.perf_counter()
        pictures = total = 0
        for batch in self.loader:
            pictures += len(batch)
            total += int(batch.sum())  # every way pays for it
        return {"seconds": time.perf_counter() - start, "pictures": pictures, "sum": total}


def _pixels(image, size: int):
    """What every way hands over: uint8 [size, size, 3]."""
    import numpy as np
    import torch
    from PIL import Image

    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image))


def _options(workers: int) -> dict:
    return {"num_workers": workers, "persistent_workers": workers > 0}


class _Files:
    """Map-style, as one writes it first."""

    def __init__(self, folder: Path, size: int):
        self.paths, self.size = sorted((folder / "files").iterdir()), size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int):
        from labs.formats import load_image

        return _pixels(load_image(self.paths[index]), self.size)


def _torch(folder: Path, workers: int, batch: int, size: int):
    from torch.utils.data import DataLoader

    return DataLoader(_Files(folder, size), batch, shuffle=True, **_options(workers))


def _of_sample(sample: dict, size: int):
    from labs.formats.webdataset import decode_image

    return _pixels(decode_image(sample["jpg"], sample["__key__"]), size)


def _webdataset(folder: Path, workers: int, batch: int, size: int):
    import webdataset
    from torch.utils.data import DataLoader

    shards = [str(path) for path in sorted(folder.glob("*.tar"))]
    dataset = webdataset.WebDataset(shards, shardshuffle=len(shards), seed=0).shuffle(1000)
    return DataLoader(
        dataset.map(functools.partial(_of_sample, size=size)), batch, **_options(workers)
    )


class _Cached:
    """The decode of our loader with a cache: known by its place in the shard."""

    def __init__(self, folder: Path, size: int):
        from labs.data import CachedImages

        self.images, self.size = CachedImages(folder, size=(size, size)), size

    def __call__(self, sample: dict):
        from labs.formats.webdataset import decode_image

        identity = sample["__url__"], sample["__key__"]  # these shards do not change
        image = self.images.get(identity, lambda: decode_image(sample["jpg"], sample["__key__"]))
        return _pixels(image, self.size)


def _ours(folder: Path, workers: int, batch: int, size: int, cache: Path | None = None):
    from labs.data import StreamingDataset, StreamingLoader

    decode = functools.partial(_of_sample, size=size) if cache is None else _Cached(cache, size)
    stream = StreamingDataset(folder, decode, buffer=1000)
    return StreamingLoader(stream, batch, **_options(workers))


def main() -> None:
    import torch

    torch.set_num_threads(1)
    serve(Epochs(**json.loads(sys.argv[1])).turn)


if __name__ == "__main__":
    main()
