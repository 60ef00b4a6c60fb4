"""A stream of packed rows, of a constant length, out of a stream of encoded samples."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import get_worker_info

from labs.data.knapsack import BUFFER, Knapsack
from labs.data.packing import join
from labs.data.skips import Skip
from labs.data.stream import Share, Stream, check_end, check_entries

_ROWS = 256  # processes that count apart, as in Skips


class PackedStream(Stream):
    """Rows of packed samples out of a stream of encoded ones; what PackedCollator batches.

    Rows are made by `knapsack_pack` and `labs.data.packing.join`: attention stays inside each sample
    and positions restart. A sample longer than `capacity` is skipped and counted as overlong. Each
    worker packs its own share, holding `buffer` encoded samples, with their pixels. To resume, a state
    names the samples that were held, and those alone are encoded again.
    """

    def __init__(self, stream: Stream, capacity: int, buffer: int = BUFFER):
        super().__init__(stream.seed, stream.rank, stream.ranks, stream.skips)
        check_entries(stream)
        Knapsack(capacity, buffer)  # names what is wrong with them
        self.stream, self.capacity, self.buffer = stream, capacity, buffer
        self._filled = torch.zeros(_ROWS, 2, dtype=torch.int64).share_memory_()  # tokens, rows

    def signature(self) -> dict[str, Any]:
        packing = {"capacity": self.capacity, "packing buffer": self.buffer}
        return self.stream.signature() | packing

    def walk(self, epoch: int, share: Share, state: dict | None) -> Iterator[tuple[dict, dict]]:
        start, waiting = (state["position"], set(state["held"])) if state else (0, set())
        held, position = Knapsack(self.capacity, self.buffer), 0

        def passing() -> bool:
            return position < start

        for entry in self.stream.entries(epoch, share, passing):
            position += 1
            if position <= start and position not in waiting:
                continue
            for sample in self.usable(lambda entry=entry: self._fitting(entry()), position):
                held.add((position, sample), len(sample["input_ids"]), position)
            if held.full:
                yield self._row(held, position)
        check_end(position, start)
        while held:
            yield self._row(held, position)

    def _fitting(self, sample: dict) -> dict:
        if (length := len(sample["input_ids"])) > self.capacity:
            message = f"A sample has {length} tokens, more than a row of {self.capacity}."
            raise Skip("overlong", message)
        return sample

    def _row(self, held: Knapsack, position: int) -> tuple[dict, dict]:
        row = join([sample for _, sample in held.row()])
        worker = get_worker_info()
        counts = self._filled[0 if worker is None else 1 + worker.id % (_ROWS - 1)]
        counts += torch.tensor([len(row["input_ids"]), 1])
        return {"position": position, "held": [at for (at, _), _ in held.items]}, row

    @property
    def efficiency(self) -> float:
        """Share of the rows' places that hold a token, over all rows made so far."""
        tokens, rows = self._filled.sum(0).tolist()
        return tokens / max(rows * self.capacity, 1)
