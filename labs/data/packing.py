"""Packing: several samples in one row instead of padding, each blind to the others."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.utils.data import Dataset

from labs.data.collate import PER_TOKEN, check_labels, pad_id, round_up, stack_images
from labs.data.knapsack import knapsack_pack
from labs.data.labels import IGNORE
from labs.errors import InputError


def first_fit_decreasing(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Put items into as few bins of `capacity` as is easy: longest first, each into the first bin
    that still has room. Returns the items' indices, bin by bin.

    Never uses more than 11/9 of the best possible number of bins, plus 6/9 (Dosa 2007). A tree over
    the bins' free space finds the first that fits in O(log bins). Raises InputError for an item
    that is longer than a bin.
    """
    _check_fit(lengths, capacity)
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    leaves = 1 << max(len(lengths) - 1, 0).bit_length()
    free = [capacity] * (2 * leaves)  # free[1] is the root; free[leaves + b] the room in bin b
    bins: list[list[int]] = []
    for index in order:
        node, length = 1, lengths[index]
        while node < leaves:
            node = 2 * node if free[2 * node] >= length else 2 * node + 1
        if node - leaves == len(bins):
            bins.append([])
        bins[node - leaves].append(index)
        free[node] -= length
        while node > 1:
            node //= 2
            free[node] = max(free[2 * node], free[2 * node + 1])
    return bins


def _check_fit(lengths: Sequence[int], capacity: int) -> None:
    for index, length in enumerate(lengths):
        if length > capacity:
            raise InputError(
                f"Sample {index} has {length} tokens and does not fit a row of {capacity}.",
                "Encode with max_length at most the length of a row.",
            )


def pack(samples: Sequence[dict], max_length: int) -> list[dict]:
    """Pack encoded samples into rows of at most `max_length` tokens.

    Each row has input_ids, labels and position_ids (which restart at 0 with each sample), lengths
    (a list, one number a sample), and the images of its samples. The first token of each sample has
    no label: the shifted loss would predict it from the sample before.
    """
    bins = first_fit_decreasing([len(sample["input_ids"]) for sample in samples], max_length)
    return [join([samples[i] for i in sorted(indices)]) for indices in bins]


def join(samples: Sequence[dict]) -> dict:
    """One row out of several samples; see `pack`."""
    if any("image_grid_thw" in sample for sample in samples):
        raise InputError(
            "Samples with image_grid_thw cannot be packed: their positions are three-dimensional.",
            "Turn packing off for this model, and group samples by length instead.",
        )
    row = {key: torch.cat([s[key] for s in samples]) for key in PER_TOKEN if key in samples[0]}
    row["lengths"] = [len(sample["input_ids"]) for sample in samples]
    row["position_ids"] = torch.cat([torch.arange(n) for n in row["lengths"]])
    row["labels"] = row["labels"].masked_fill(row["position_ids"] == 0, IGNORE)
    row["num_image_tokens"] = [n for sample in samples for n in sample.get("num_image_tokens", [])]
    return {**row, **stack_images(samples)}


def segments(lengths: Sequence[int], total: int) -> Int[Tensor, " total"]:
    """For each token the number of its sample, from 1; 0 at padding."""
    ids = torch.zeros(total, dtype=torch.long)
    ids[: sum(lengths)] = torch.repeat_interleave(
        torch.arange(1, len(lengths) + 1), torch.tensor(lengths)
    )
    return ids


def block_causal_mask(
    segment_ids: Int[Tensor, "batch tokens"],
) -> Bool[Tensor, "batch 1 tokens tokens"]:
    """Token i sees token j iff j <= i and both are of the same sample. Padding sees padding only
    (a row that sees nothing makes softmax 0/0)."""
    same = segment_ids[:, None, :, None] == segment_ids[:, None, None, :]
    return same & torch.ones(same.shape[-2:], dtype=torch.bool).tril()


@dataclasses.dataclass
class PackedCollator:
    """Packed rows as one batch, with attention kept inside each sample.

    attention:
    - "flash": all rows in a single one, [1, tokens], without padding or mask; cu_seq_lens_q/k,
      max_length_q/k and position_ids tell flash attention where samples begin. Transformers' sdpa
      and eager read the same off position_ids, as long as no cache is used (use_cache is False).
    - "sdpa": rows padded to the longest, and a boolean 4D mask.
    - "eager": the same mask as 0 and the least value of `dtype`, which eager attention adds.
    """

    processor: Any
    attention: Literal["flash", "sdpa", "eager"] = "sdpa"
    dtype: torch.dtype = torch.float32
    pad_to_multiple_of: int | None = None

    def __post_init__(self):
        if self.attention not in ("flash", "sdpa", "eager"):
            raise InputError(
                f'Packing knows no attention "{self.attention}".', "Use flash, sdpa or eager."
            )
        self.pad_id = pad_id(self.processor)

    def __call__(self, rows: Sequence[dict]) -> dict[str, Any]:
        """Batch rows made by `pack`; plain encoded samples count as rows of one."""
        rows = [row if "lengths" in row else join([row]) for row in rows]
        batch = self._flat(rows) if self.attention == "flash" else self._padded(rows)
        check_labels(batch)
        return {**batch, **stack_images(rows)}

    def _flat(self, rows: Sequence[dict]) -> dict[str, Any]:
        keys = [key for key in (*PER_TOKEN, "position_ids") if key in rows[0]]
        batch: dict[str, Any] = {key: torch.cat([r[key] for r in rows])[None] for key in keys}
        lengths = torch.tensor([n for row in rows for n in row["lengths"]])
        edges = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)]).to(torch.int32)
        longest = int(lengths.max())
        # With a cache Transformers no longer reads the samples off position_ids (masking_utils), and
        # on sdpa every sample would see those before it, without a word.
        batch |= {"cu_seq_lens_q": edges, "cu_seq_lens_k": edges, "use_cache": False}
        return batch | {"max_length_q": longest, "max_length_k": longest}

    def _padded(self, rows: Sequence[dict]) -> dict[str, Any]:
        width = round_up(max(len(row["input_ids"]) for row in rows), self.pad_to_multiple_of)
        values = {"input_ids": self.pad_id, "labels": IGNORE}
        batch: dict[str, Any] = {}
        for key in (*PER_TOKEN, "position_ids"):
            if key in rows[0]:
                full = torch.full((len(rows), width), values.get(key, 0), dtype=torch.long)
                for i, row in enumerate(rows):
                    full[i, : len(row[key])] = row[key]
                batch[key] = full
        mask = block_causal_mask(torch.stack([segments(r["lengths"], width) for r in rows]))
        if self.attention == "eager":
            least = torch.finfo(self.dtype).min
            mask = torch.zeros(mask.shape, dtype=self.dtype).masked_fill(~mask, least)
        return batch | {"attention_mask": mask}


class PackedDataset(Dataset):
    """A data set whose items are packed rows. Lengths are taken once, by encoding every sample;
    after that samples are encoded again when their row is asked for, so memory stays small.

    packing: "first_fit_decreasing", or "knapsack" (`knapsack_pack` over the samples in a random
    order), which wastes less where lengths lie close together, as with a picture in every sample.
    """

    def __init__(
        self,
        dataset: Dataset,
        max_length: int,
        progress: bool = True,
        packing: Literal["first_fit_decreasing", "knapsack"] = "first_fit_decreasing",
    ):
        from rich.progress import track

        if packing not in ("first_fit_decreasing", "knapsack"):
            raise InputError(
                f"There is no packing `{packing}`.", "Use first_fit_decreasing or knapsack."
            )
        self.dataset, self.max_length = dataset, max_length
        indices = range(len(dataset))
        steps = track(indices, "Measuring samples") if progress and len(dataset) > 500 else indices
        self.lengths = [len(dataset[i]["input_ids"]) for i in steps]
        if packing == "knapsack":
            _check_fit(self.lengths, max_length)
            order = torch.randperm(
                len(indices), generator=torch.Generator().manual_seed(0)
            ).tolist()
            rows = knapsack_pack(order, max_length, length=self.lengths.__getitem__)
            self.bins = list(rows)
        else:
            self.bins = first_fit_decreasing(self.lengths, max_length)

    @property
    def efficiency(self) -> float:
        """Share of the rows' places that hold a token; 1 means nothing is wasted."""
        return packing_efficiency(self.lengths, len(self.bins), self.max_length)

    def __len__(self) -> int:
        return len(self.bins)

    def __getitem__(self, index: int) -> dict:
        return join([self.dataset[i] for i in sorted(self.bins[index])])

    def check(self, final: bool = False) -> None:
        """Check the skips of the data set inside."""
        if hasattr(self.dataset, "check"):
            self.dataset.check(final)


def packing_efficiency(lengths: Sequence[int], rows: int, max_length: int) -> float:
    """Tokens / (rows x max_length)."""
    return sum(lengths) / max(rows * max_length, 1)


def padding_efficiency(lengths: Sequence[int], batch_size: int) -> float:
    """Tokens / places of the same samples padded in batches, in the order given: what packing saves."""
    places = sum(
        len(batch) * max(batch)
        for batch in (lengths[i : i + batch_size] for i in range(0, len(lengths), batch_size))
    )
    return sum(lengths) / max(places, 1)
