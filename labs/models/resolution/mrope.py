"""M-RoPE: where a token stands in time, height and width. Chapter 1.

Text counts up in all three at once, so that it is ordinary RoPE. A picture's tokens share one time
and differ in row and column; a video's frames count up in time. Wang et al. 2024, arXiv:2409.12191,
section 2.1. Agrees with get_rope_index of transformers/models/qwen2_vl and qwen2_5_vl.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from labs.errors import InputError

TEXT, IMAGE, VIDEO = 0, 1, 2  # as in `mm_token_type_ids`
NAMES = {IMAGE: "an image", VIDEO: "a video"}


def grid_positions(
    grid: tuple[int, int, int], start: int = 0, interval: float = 1.0
) -> Int[Tensor, "3 tokens"]:
    """(time, row, column) of each token of a grid, counted from `start` in all three.

    grid: (frames, rows, columns) in tokens; interval: steps of time from one frame to the next.
    """
    frames, rows, columns = (torch.arange(length) for length in grid)
    frames = (frames * interval).long()
    return torch.stack(torch.meshgrid(frames, rows, columns, indexing="ij")).flatten(1) + start


def mrope_position_ids(
    token_types: Int[Tensor, "batch tokens"],
    image_grid_thw: Int[Tensor, "images 3"] | None = None,
    video_grid_thw: Int[Tensor, "videos 3"] | None = None,
    attention_mask: Int[Tensor, "batch tokens"] | Bool[Tensor, "batch tokens"] | None = None,
    merge: int = 2,
    intervals: list[float] | None = None,
    after_time: bool = False,
) -> tuple[Int[Tensor, "3 batch tokens"], Int[Tensor, "batch 1"]]:
    """Position ids of mixed sequences, and by how much generation goes on past the tokens' number.

    token_types: TEXT, IMAGE or VIDEO a token (the processor's `mm_token_type_ids`); *_grid_thw:
    (time, height, width) in patches of every visual of the batch, in order; merge: patches a side of
    a token; intervals: steps of time a frame, one a video (Qwen2.5-VL: tokens_per_second · seconds a
    grid), 1 without. Padding, on either side, counts nothing and keeps position 0.

    What follows a visual starts max(rows, columns) further on, which is one past the largest position
    so far unless a video has more steps of time than that: then, in Transformers since 5.0, text
    starts at positions that the video's time has used. after_time=True starts it past them, as the
    paper and Qwen's first release do. Raises InputError when tokens and grids disagree.
    """
    batch, length = token_types.shape
    visuals = {
        IMAGE: _visuals(image_grid_thw, merge, None),
        VIDEO: _visuals(video_grid_thw, merge, intervals),
    }
    position_ids = torch.zeros(3, batch, length, dtype=torch.long)
    deltas = torch.zeros(batch, 1, dtype=torch.long)
    for sample in range(batch):
        real = torch.ones(length, dtype=torch.bool)
        if attention_mask is not None:
            real = attention_mask[sample].bool().cpu()
        positions = _sample(token_types[sample].cpu()[real].tolist(), visuals, sample, after_time)
        position_ids[:, sample, real] = positions
        deltas[sample] = positions.max() + 1 - positions.shape[1] if positions.numel() else 0
    for kind, left in visuals.items():
        if unused := sum(1 for _ in left):
            raise InputError(
                f"The grids are of {unused} more than the tokens of {NAMES[kind]} in the batch.",
                "Give one grid for each visual of the batch, in order.",
            )
    return position_ids.to(token_types.device), deltas.to(token_types.device)


def _visuals(
    grids: Int[Tensor, "visuals 3"] | None, merge: int, intervals: list[float] | None
) -> Iterator[tuple[tuple[int, int, int], float]]:
    """(grid in tokens, interval) of each visual."""
    for number, (time, height, width) in enumerate([] if grids is None else grids.tolist()):
        yield (time, height // merge, width // merge), intervals[number] if intervals else 1.0


def _sample(types: list[int], visuals: dict, sample: int, after_time: bool) -> Int[Tensor, "3 T"]:
    """Positions of one sample without its padding: run by run."""
    runs, start, first = [torch.zeros(3, 0, dtype=torch.long)], 0, 0
    while first < len(types):
        kind = types[first]
        if kind == TEXT:
            last = next((i for i in range(first, len(types)) if types[i] != TEXT), len(types))
            run = torch.arange(start, start + last - first).expand(3, -1)
            start += last - first
        else:
            grid, interval = next(visuals[kind], (None, 1.0))
            if grid is None:
                raise InputError(
                    f"Sample {sample} has tokens of {NAMES[kind]} at {first}, and no grid is left for them.",
                    "Give one grid for each visual of the batch, in order.",
                )
            run = grid_positions(grid, start, interval)
            last = first + run.shape[1]
            if types[first:last] != [kind] * run.shape[1]:
                raise InputError(
                    f"Sample {sample} has tokens of {NAMES[kind]} at {first}, fewer than the "
                    f"{run.shape[1]} of its grid of {' x '.join(map(str, grid))}.",
                    "Give the grids in the order of the visuals; a truncated sample loses its visual.",
                )
            start = int(run.max()) + 1 if after_time else start + max(grid[1:])
        runs.append(run)
        first = last
    return torch.cat(runs, dim=1)
