"""Several data sets in given proportions, and a report of the shares that came out."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from labs.errors import InputError

_ROWS = 256  # processes that count apart, as in Skips


def temperature_weights(sizes: Sequence[float], temperature: float = 1.0) -> list[float]:
    """p_i proportional to n_i ** (1 / T), summing to 1.

    T = 1 draws by size; a higher T lifts small data sets, and T = inf draws from all alike; T below 1
    favours the large. An empty data set gets 0. (Multilingual BERT's and mT5's rule, Xue et al. 2021,
    arXiv:2010.11934, where the exponent 1 / T is called alpha.) Chapter 2.

    Raises InputError for a T that is not above 0, a negative size, and where all are empty.
    """
    sizes = [float(size) for size in sizes]
    if not temperature > 0:
        raise InputError(f"temperature = {temperature} weighs nothing.", "Use a number above 0.")
    if not sizes or min(sizes) < 0 or max(sizes) == 0 or not all(map(math.isfinite, sizes)):
        raise InputError(
            f"The sizes {sizes} cannot be weighed.", "Give the number of samples of each."
        )
    most = max(sizes)  # relative to it no power overflows
    powers = [(size / most) ** (1 / temperature) if size else 0.0 for size in sizes]
    return [power / sum(powers) for power in powers]


@dataclasses.dataclass(frozen=True)
class MixtureReport:
    """What a mixture was asked for and what it has handed out since this process began.

    expected: shares asked for, summing to 1. drawn: samples handed out, those prepared by workers
    included, those skipped not. sizes: of the data sets, where they are known. realised: shares of
    drawn. passes: how often each data set was gone through (drawn / size).
    """

    names: tuple[str, ...]
    expected: tuple[float, ...]
    drawn: tuple[int, ...]
    sizes: tuple[int | None, ...]

    @property
    def realised(self) -> tuple[float, ...]:
        total = max(sum(self.drawn), 1)
        return tuple(count / total for count in self.drawn)

    @property
    def passes(self) -> tuple[float | None, ...]:
        return tuple(d / n if n else None for d, n in zip(self.drawn, self.sizes, strict=True))

    def scalars(self, prefix: str = "mixture") -> dict[str, float]:
        """For TensorBoard: {"mixture/expected/NAME": share, "mixture/realised/NAME": …, "mixture/passes/NAME"}."""
        rows = zip(self.names, self.expected, self.realised, self.passes, strict=True)
        found: dict[str, float] = {}
        for name, expected, realised, passes in rows:
            found[f"{prefix}/expected/{name}"] = expected
            found[f"{prefix}/realised/{name}"] = realised
            if passes is not None:
                found[f"{prefix}/passes/{name}"] = passes
        return found

    def __str__(self) -> str:
        """A line for each data set."""
        width = max(map(len, self.names))
        rows = zip(self.names, self.expected, self.realised, self.drawn, self.passes, strict=True)
        return "\n".join(
            f"{name:{width}}  expected {expected:6.1%}  realised {realised:6.1%}  {drawn:,} samples"
            + (f", {passes:.2f} passes" if passes is not None else "")
            for name, expected, realised, drawn, passes in rows
        )


class Mixture:
    """What both kinds of mixture share: names, weights, and a count that workers add to.

    A subclass calls `weigh` when it is made and `count` for each sample that it hands out.
    """

    def weigh(
        self,
        count: int,
        weights: Sequence[float] | None,
        temperature: float | None,
        names: Sequence[str] | None,
        sizes: Sequence[int | None],
    ) -> list[float]:
        if weights is not None and temperature is not None:
            raise InputError("The mixture has weights and a temperature.", "Give one of the two.")
        if weights is None:
            weights = temperature_weights(sizes, 1.0 if temperature is None else temperature)
        if len(weights) != count:
            raise InputError(
                f"The mixture has {count} data sets, but {len(weights)} weights.",
                "Give one weight a data set.",
            )
        if not count or min(weights) < 0 or not 0 < sum(weights) < math.inf or 0 in sizes:
            raise InputError(
                f"The mixture cannot be drawn: weights {list(weights)}, lengths {list(sizes)}.",
                "Use weights of 0 or more, at least one above 0, and no empty data set.",
            )
        self.names = tuple(names) if names is not None else tuple(map(str, range(count)))
        if len(set(self.names)) != count:
            raise InputError(
                f"The names {list(self.names)} do not name {count} data sets.",
                "Give each data set a name of its own.",
            )
        self.weights = [weight / sum(weights) for weight in weights]
        self._sizes = tuple(sizes)
        self._drawn = torch.zeros(_ROWS, count, dtype=torch.int64).share_memory_()
        return list(weights)

    def count(self, source: int) -> None:
        worker = get_worker_info()
        self._drawn[0 if worker is None else 1 + worker.id % (_ROWS - 1), source] += 1

    def report(self) -> MixtureReport:
        """Expected and realised shares so far; `str` of it for the log, `.scalars()` for TensorBoard."""
        drawn = tuple(self._drawn.sum(0).tolist())
        return MixtureReport(self.names, tuple(self.weights), drawn, self._sizes)


class MixtureDataset(Mixture, Dataset):
    """Several data sets in given proportions, shuffled; the same for the same seed and epoch.

    Of `size` samples (default: all lengths together), data set i gives weights[i] / sum(weights),
    rounded so that the shares are exact; within one it goes through a new permutation each time
    round, so nothing repeats before everything was seen. `set_epoch(n)` draws the next mixture.

    weights: default by length; or a `temperature`, as in `temperature_weights`. names: for the report.
    To resume, set the epoch and go on in the order of a sampler that is a function of the epoch
    (labs.train.sampler.StepSampler): nothing else is drawn on the way.
    """

    def __init__(
        self,
        datasets: Sequence[Dataset],
        weights: Sequence[float] | None = None,
        size: int | None = None,
        seed: int = 0,
        temperature: float | None = None,
        names: Sequence[str] | None = None,
    ):
        lengths = [len(dataset) for dataset in datasets]
        if weights is None and temperature is None:
            weights = lengths
        weights = self.weigh(len(datasets), weights, temperature, names, lengths)
        self.datasets, self.seed = list(datasets), seed
        self.counts = _shares(weights, sum(lengths) if size is None else size)
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draw the order of this epoch."""
        rng = np.random.default_rng([self.seed, epoch])
        pairs = []
        for source, count in enumerate(self.counts):
            length = len(self.datasets[source])
            rounds = [rng.permutation(length) for _ in range(-(-count // length))]
            indices = np.concatenate(rounds)[:count] if rounds else np.empty(0, dtype=np.int64)
            pairs.append(np.stack([np.full(count, source), indices], axis=1))
        self.order = rng.permutation(np.concatenate(pairs))

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> dict:
        source, at = self.order[index]
        sample = self.datasets[source][int(at)]
        self.count(source)
        return sample

    def check(self, final: bool = False) -> None:
        """Check the skips of every part that counts them."""
        for dataset in self.datasets:
            if hasattr(dataset, "check"):
                dataset.check(final)


def _shares(weights: Sequence[float], size: int) -> list[int]:
    """Integers in proportion to the weights that sum to `size` (largest remainders round up)."""
    exact = np.array(weights, dtype=np.float64) / sum(weights) * size
    counts = np.floor(exact).astype(int)
    for i in np.argsort(counts - exact, kind="stable")[: size - counts.sum()]:
        counts[i] += 1
    return counts.tolist()
