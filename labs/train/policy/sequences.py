"""Rollouts as rows to train on: prompt and answer end to end, padded on the right. Chapter 5.

Padded on the right, a causal model needs no attention mask and takes its fast kernel; where a row's
answer starts is kept beside it, and only the states that predict the answer are read.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass
class Sequences:
    """N rows. input_ids [N, L]: prompt, answer, padding. lengths [N]: real tokens of each.
    starts [N]: where the answer begins. ids [N, T] and mask [N, T]: the answers alone, the end token
    included. prompt [N]: which prompt a row belongs to."""

    input_ids: Int[Tensor, "rows length"]
    lengths: Int[Tensor, " rows"]
    starts: Int[Tensor, " rows"]
    ids: Int[Tensor, "rows tokens"]
    mask: Bool[Tensor, "rows tokens"]
    prompt: Int[Tensor, " rows"]

    def __len__(self) -> int:
        return len(self.input_ids)

    def select(self, rows: Int[Tensor, " some"]) -> "Sequences":
        """These rows, with the padding that they do not need cut off."""
        lengths, mask = self.lengths[rows], self.mask[rows]
        length, tokens = int(lengths.max()), int(mask.sum(1).max())
        return Sequences(
            self.input_ids[rows, :length],
            lengths,
            self.starts[rows],
            self.ids[rows, :tokens],
            mask[:, :tokens],
            self.prompt[rows],
        )

    @property
    def attention_mask(self) -> Int[Tensor, "rows length"]:
        places = torch.arange(self.input_ids.shape[1], device=self.lengths.device)
        return (places < self.lengths[:, None]).long()

    @property
    def asked(self) -> Bool[Tensor, "rows length"]:
        """Whether a position is the prompt's."""
        return (
            torch.arange(self.input_ids.shape[1], device=self.starts.device) < self.starts[:, None]
        )

    @property
    def places(self) -> Int[Tensor, "rows tokens"]:
        """For each answer token, the position whose state predicts it: the one before it.

        Padding reads the row's last position; its mask is 0.
        """
        offsets = torch.arange(self.ids.shape[1], device=self.starts.device)
        return (self.starts[:, None] - 1 + offsets).clamp(max=self.input_ids.shape[1] - 1)


def sequences_of(rollout, pad_id: int) -> Sequences:
    """Rows from a `labs.models.rollout.Rollout` (its prompts are padded on the left)."""
    prompts = rollout.prompt_mask.sum(1)
    answers = rollout.mask.bool().sum(1)
    rows, groups = len(rollout.ids), len(rollout.prompt_ids)
    prompt = torch.arange(groups, device=prompts.device).repeat_interleave(rows // groups)
    starts = prompts[prompt]
    lengths = starts + answers
    width = rollout.prompt_ids.shape[1]
    input_ids = rollout.ids.new_full((rows, int(lengths.max())), pad_id)
    both = torch.cat([rollout.prompt_ids[prompt], rollout.ids], dim=1)
    for row in range(rows):  # a gather would need [N, L] indices; this is N slices
        first = width - int(starts[row])
        input_ids[row, : int(lengths[row])] = both[row, first : first + int(lengths[row])]
    return Sequences(input_ids, lengths, starts, rollout.ids, rollout.mask.bool(), prompt)
