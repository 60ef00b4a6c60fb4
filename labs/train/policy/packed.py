"""A prompt and all its answers in one row: the prompt is read once, not once an answer. Chapter 5.

    row        prompt            answer 1     answer 2 …
    positions  0 … s-1           s, s+1 …     s, s+1 …
    sees       the past          prompt and its own past

Each answer sees what it would see alone, so every number is the same; with eight short answers to a
picture of hundreds of tokens most of the work is gone. An answer's last token predicts nothing and is
left out.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from labs.train.policy.sequences import Sequences


@dataclass
class Packed:
    """P prompts with their answers. input_ids, position_ids [P, L]; attention_mask [P, 1, L, L],
    added to the scores. row, place [N, T]: where the state that predicts each answer token stands.
    asked [P, L]: whether a position is the prompt's."""

    input_ids: Int[Tensor, "prompts length"]
    position_ids: Int[Tensor, "prompts length"]
    attention_mask: Float[Tensor, "prompts 1 length length"]
    row: Int[Tensor, "rows tokens"]
    place: Int[Tensor, "rows tokens"]
    asked: Bool[Tensor, "prompts length"]


def pack(rows: Sequences, dtype: torch.dtype) -> Packed:
    """Packs answers that share a prompt, wherever they stand among the rows."""
    device = rows.input_ids.device
    starts, answers = rows.starts.tolist(), rows.mask.sum(1).tolist()
    order: dict[int, int] = {}  # prompt -> its row here
    lengths: list[int] = []
    firsts: list[int] = []  # where each answer begins
    for number, prompt in enumerate(rows.prompt.tolist()):
        if prompt not in order:
            order[prompt] = len(lengths)
            lengths.append(starts[number])
        firsts.append(lengths[order[prompt]])
        lengths[order[prompt]] += max(answers[number] - 1, 0)
    size = (len(lengths), max(lengths))
    input_ids = torch.full(size, int(rows.input_ids[0, 0]), device=device)
    positions = torch.zeros(size, dtype=torch.long, device=device)
    segments = torch.full(size, -1, device=device)  # 0 the prompt, then the answers; -1 padding
    steps = torch.arange(size[1], device=device)
    for number, prompt in enumerate(rows.prompt.tolist()):
        row, start, first = order[prompt], starts[number], firsts[number]
        if segments[row, 0] == -1:
            input_ids[row, :start] = rows.input_ids[number, :start]
            positions[row, :start] = steps[:start]
            segments[row, :start] = 0
        tokens = max(answers[number] - 1, 0)
        input_ids[row, first : first + tokens] = rows.ids[number, :tokens]
        positions[row, first : first + tokens] = start + steps[:tokens]
        segments[row, first : first + tokens] = number + 1
    mine, theirs = segments[:, :, None], segments[:, None, :]
    seen = ((theirs == 0) | (theirs == mine)) & (steps[:, None] >= steps)
    seen |= steps[:, None] == steps  # padding sees itself: a row of -inf would be NaN
    mask = torch.zeros(seen.shape, dtype=dtype, device=device)
    mask.masked_fill_(~seen, torch.finfo(dtype).min)
    row = torch.tensor([order[p] for p in rows.prompt.tolist()], device=device)
    first = torch.tensor(firsts, device=device)
    offsets = torch.arange(rows.ids.shape[1], device=device)
    place = torch.where(offsets == 0, (rows.starts - 1)[:, None], first[:, None] + offsets - 1)
    return Packed(
        input_ids, positions, mask[:, None], row[:, None].expand_as(place),
        place.clamp(max=size[1] - 1), segments == 0,
    )  # fmt: skip
