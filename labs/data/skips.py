"""Samples that cannot be used: raised with a reason, counted by it, and never silently lost."""

from collections.abc import Callable

import torch
from torch.utils.data import get_worker_info

from labs.errors import InputError

REASONS = {
    "overlong": "longer than max_length",
    "no_label": "no token that carries a label",
    "broken_image": "an image that is missing or broken",
    "template": "turns that the chat template cannot render",
    "broken_record": "a record that cannot be read",
}
_WORKERS = 256


class Skip(Exception):
    """This sample cannot be used. `reason` is a key of REASONS; the message says what exactly."""

    def __init__(self, reason: str, message: str):
        super().__init__(reason, message)
        self.reason, self.message = reason, message

    def __str__(self) -> str:
        return self.message


class Skips:
    """Counts samples seen and skipped, by reason, over every worker of a DataLoader.

    The counts live in shared memory, one row a process, so that what a worker skips is seen in the
    training process without a lock. `check()` is for the training loop: it raises InputError once
    more than `limit` of at least `minimum` samples were skipped, unless `allow` is set.
    """

    def __init__(self, limit: float = 0.01, allow: bool = False, minimum: int = 100):
        self.limit, self.allow, self.minimum = limit, allow, minimum
        # Columns: samples seen, then for each reason a count and the index of its first sample + 1.
        self._table = torch.zeros(_WORKERS, 1 + 2 * len(REASONS), dtype=torch.int64)
        self._table.share_memory_()

    def _row(self) -> torch.Tensor:
        worker = get_worker_info()
        return self._table[0 if worker is None else 1 + worker.id % (_WORKERS - 1)]

    def seen(self) -> None:
        """Count a sample that was looked at, usable or not."""
        self._row()[0] += 1

    def add(self, reason: str, index: int) -> None:
        """Count a skipped sample; the first index of each reason is kept as the example."""
        row, column = self._row(), 1 + 2 * list(REASONS).index(reason)
        row[column] += 1
        if row[column + 1] == 0:
            row[column + 1] = index + 1

    @property
    def total(self) -> int:
        """Samples seen so far."""
        return int(self._table[:, 0].sum())

    @property
    def counts(self) -> dict[str, int]:
        """Samples skipped so far, by reason; reasons that never occurred are left out."""
        sums = self._table.sum(0).tolist()
        counts = {reason: sums[1 + 2 * i] for i, reason in enumerate(REASONS)}
        return {reason: count for reason, count in counts.items() if count}

    def first(self, reason: str) -> int:
        """The smallest index that was kept as an example of `reason`."""
        column = self._table[:, 2 + 2 * list(REASONS).index(reason)]
        return int(column[column > 0].min()) - 1

    def summary(self) -> str:
        """One sentence for the end of a run."""
        counts = self.counts
        if not counts:
            return f"No sample was skipped of {self.total:,}."
        parts = [
            f"{count:,} with {REASONS[reason]} (first: sample {self.first(reason)})"
            if reason != "overlong"
            else f"{count:,} {REASONS[reason]} (first: sample {self.first(reason)})"
            for reason, count in counts.items()
        ]
        skipped = sum(counts.values())
        share = 100 * skipped / max(self.total, 1)
        return f"Skipped {skipped:,} of {self.total:,} samples ({share:.1f} %): {'; '.join(parts)}."

    def check(self, final: bool = False, explain: Callable[[int], str] | None = None) -> None:
        """Raise InputError if too many were skipped; `final` judges however few were seen.

        explain: gives the sentence on why the sample of this index was skipped, for the message.
        """
        counts = self.counts
        skipped = sum(counts.values())
        enough = self.total >= self.minimum or final
        if self.allow or not enough or skipped <= self.limit * self.total:
            return
        what = f"{self.summary()[:-1]}; the limit is {100 * self.limit:g} %."
        example = explain(self.first(max(counts, key=counts.get))) if explain else ""
        raise InputError(
            f"{what[:-1]}. For example: {example}" if example else what,
            "Mend the data or raise max_length; allow_skips=true trains on what is left.",
        )
