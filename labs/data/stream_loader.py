"""A DataLoader over a stream that knows what the training loop has consumed, and resumes there."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, default_collate, get_worker_info

from labs.data.prefetch import prefetch
from labs.data.stream import Stream, make_state, restore_state
from labs.errors import InputError


class StreamingLoader(DataLoader):
    """torch's DataLoader for a `labs.data` stream: same arguments, and a state.

    `state_dict()` is about the batches that the loop has been given, not about those that workers
    have prepared; after `load_state_dict()` the next batch is the one that would have come next.
    The state is good for the same stream, batch size and number of workers: each worker has its
    share of the stream, and batches come from the workers in turn.

    One pass is one epoch; the next pass is the next epoch, in another order. `set_epoch(n)` chooses.
    num_workers=0 with prefetch_factor=n prepares n batches ahead in a thread. InputErrors arrive as
    such from workers too. Each rank has a state of its own. Not offered: samplers, in_order=False
    (the order would depend on who is faster).
    """

    def __init__(
        self,
        dataset: Stream,
        batch_size: int = 1,
        collate_fn: Callable[[list], Any] | None = None,
        num_workers: int = 0,
        drop_last: bool = False,
        prefetch_factor: int | None = None,
        **options: Any,
    ):
        if batch_size < 1:
            raise InputError(f"A batch of {batch_size} samples cannot be made.", "Use 1 or more.")
        if unusable := {"sampler", "batch_sampler", "shuffle", "in_order"} & set(options):
            raise InputError(
                f"A stream has its own order; `{min(unusable)}` cannot be given.",
                "Shuffle by the stream's own settings.",
            )
        self.stream = dataset
        self._more = {"batch_size": batch_size, "drop_last": drop_last}
        self._ahead = prefetch_factor if num_workers == 0 else None
        super().__init__(
            _Batches(dataset, batch_size, drop_last, collate_fn or default_collate),
            batch_size=None,
            collate_fn=_as_it_is,
            num_workers=num_workers,
            prefetch_factor=prefetch_factor if num_workers else None,
            # An own generator: a loader would else draw its workers' seed from the global one.
            **{"generator": torch.Generator().manual_seed(dataset.seed), **options},
        )
        self._resumed = False
        self._clear()

    def _clear(self) -> None:
        self._turn, self._states = 0, [None] * max(self.num_workers, 1)

    @property
    def epoch(self) -> int:
        """The epoch that the current or the next pass is of."""
        return self.stream.epoch

    def set_epoch(self, epoch: int) -> None:
        """Let the next pass be this epoch, from its beginning."""
        self.stream.set_epoch(epoch)
        self._resumed = False
        self._clear()

    def __iter__(self) -> Iterator[Any]:
        resumed, self._resumed = self._resumed, False
        if not resumed:
            self.set_epoch(self.epoch)  # anew, also where the last pass was left in the middle
        batches = super().__iter__()
        if self._ahead:
            batches = prefetch(batches, self._ahead)
        given = 0
        for worker, state, batch in batches:
            if isinstance(batch, InputError):
                error, batch, batches = batch, None, None
                try:
                    raise error
                finally:
                    # Else the error holds this frame, which holds the workers, which holds the error:
                    # they would wait for the collector of garbage, and it for them, for seconds.
                    del error
            self._turn, self._states[worker] = (worker + 1) % len(self._states), state
            given += 1
            yield batch
        if given == 0 and not resumed:
            self.stream.check(final=True)
            raise InputError(
                f"Rank {self.stream.rank} was given no batch: the stream has too few samples.",
                "Check the path, or use fewer processes; drop_last drops a batch a worker.",
            )
        self.set_epoch(self.epoch + 1)

    def state_dict(self) -> dict[str, Any]:
        """Where the loop stands: plain values, fit for JSON and for torch.save."""
        return make_state(self.stream, self._more, self._turn, list(self._states))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next pass go on there. Raises InputError for the state of another stream, batch
        size, number of workers or rank."""
        restore_state(self.stream, self._more, state, len(self._states))
        self._turn, self._states = int(state["turn"]), list(state["states"])
        self._resumed = True
        self._iterator = None  # persistent workers hold the old place


class _Batches(IterableDataset):
    """What each worker runs: (worker, the stream's state after the batch, the batch)."""

    def __init__(self, stream: Stream, batch_size: int, drop_last: bool, collate: Callable):
        self.stream, self.collate = stream, collate
        self.batch_size, self.drop_last = batch_size, drop_last

    def __iter__(self) -> Iterator[tuple[int, Any, Any]]:
        try:
            samples = []
            for sample in self.stream:
                samples.append(sample)
                if len(samples) == self.batch_size:
                    yield *self.stream.here(), self.collate(samples)
                    samples = []
            if samples and not self.drop_last:
                yield *self.stream.here(), self.collate(samples)
        except InputError as error:
            if get_worker_info() is None:
                raise
            # A DataLoader would turn it into a traceback in a string: it travels as a value.
            yield 0, None, error


def _as_it_is(batch: Any) -> Any:
    return batch
