"""Encoded pairs as one batch of rows that share prompts and pictures. Chapter 6."""

from collections.abc import Sequence

import torch
from torch import Tensor

from labs.data.collate import pad_id, stack_images
from labs.errors import InputError
from labs.train.objectives import Batch
from labs.train.policy.sequences import Sequences

ROWS = ("input_ids", "lengths", "starts", "ids", "mask", "prompt")
OTHERS = "others/"  # rows of KTO: each prompt with the answers of another
IMAGES = "images/"  # + the processor's name: tensors of all prompts, along the first axis
SIZES = "sizes/"  # + the processor's name [prompts]: how much of it is each prompt's


class PreferenceCollator:
    """B pairs to a batch. Rows are (prompt, answer); a prompt and its pixels are held once.

    rows 0 … B-1      chosen answers, to prompts 0 … B-1
    rows B … 2B-1     rejected answers, to the same prompts
    rows 2B … 3B-1    mDPO: chosen answers to prompts B … 2B-1, which have the corrupted pictures

    input_ids [N, L], lengths, starts, ids [N, T], mask, prompt [N] as in `Sequences`, under these
    names; "images/NAME" and "sizes/NAME" for whatever the image processor makes; index [B];
    reference [2B or 3B] where the pairs come with stored log-probabilities.

    mismatched: KTO's rows too, under "others/": prompts 0 … B-1 with the chosen, then with the
    rejected answers of the pair before (the last, for the first).
    """

    def __init__(self, processor, mismatched: bool = False):
        self.pad_id, self.mismatched = pad_id(processor), mismatched

    def __call__(self, pairs: Sequence[dict]) -> Batch:
        corrupted = "corrupted" in pairs[0]
        prompts = [pair["prompt"] for pair in pairs]
        numbers = list(range(len(pairs)))
        rows = [(i, pairs[i][side]) for side in ("chosen", "rejected") for i in numbers]
        pixels = [pair["pixels"] for pair in pairs]
        if corrupted:
            rows += [(len(pairs) + i, pairs[i]["chosen"]) for i in numbers]
            prompts += prompts
            pixels += [pair["corrupted"] for pair in pairs]
        made = sequences(prompts, rows, self.pad_id)
        batch = {name: getattr(made, name) for name in ROWS}
        batch["attention_mask"] = made.attention_mask  # for the loop's count of tokens
        batch["index"] = torch.tensor([pair["index"] for pair in pairs])
        if "reference" in pairs[0]:
            batch["reference"] = torch.stack([pair["reference"] for pair in pairs]).T.flatten()
        if self.mismatched:
            batch |= self._others(pairs, prompts)
        images = stack_images(pixels)
        for name, value in images.items():
            batch[IMAGES + name] = value
            batch[SIZES + name] = torch.tensor([len(p[name]) if name in p else 0 for p in pixels])
        return batch

    def _others(self, pairs: Sequence[dict], prompts: list[Tensor]) -> Batch:
        if len(pairs) < 2:
            raise InputError(
                "KTO's batch of one pair has no answer to another prompt.",
                "Use a batch size of two or more that leaves no single pair over.",
            )
        rows = [
            (i, pairs[i - 1][side]) for side in ("chosen", "rejected") for i in range(len(pairs))
        ]
        made = sequences(prompts, rows, self.pad_id)
        return {OTHERS + name: getattr(made, name) for name in ROWS}


def sequences(prompts: Sequence[Tensor], rows: Sequence[tuple[int, Tensor]], pad: int) -> Sequences:
    """Rows of (number of the prompt, answer's ids), padded on the right."""
    starts = torch.tensor([len(prompts[number]) for number, _ in rows])
    answers = torch.tensor([len(answer) for _, answer in rows])
    input_ids = torch.full((len(rows), int((starts + answers).max())), pad)
    ids = torch.full((len(rows), int(answers.max())), pad)
    for row, (number, answer) in enumerate(rows):
        start, end = len(prompts[number]), len(prompts[number]) + len(answer)
        input_ids[row, :start] = prompts[number]
        input_ids[row, start:end] = answer
        ids[row, : len(answer)] = answer
    mask = torch.arange(ids.shape[1]) < answers[:, None]
    prompt = torch.tensor([number for number, _ in rows])
    return Sequences(input_ids, starts + answers, starts, ids, mask, prompt)


def rows_of(batch: Batch, prefix: str = "") -> Sequences:
    """The rows of a batch."""
    return Sequences(*(batch[prefix + name] for name in ROWS))


def images_of(batch: Batch, wanted: Sequence[int]) -> dict[str, Tensor]:
    """The image processor's tensors of these prompts, in this order, as often as they are named."""
    found = {}
    for key, value in batch.items():
        if key.startswith(IMAGES):
            name = key.removeprefix(IMAGES)
            parts = value.split(batch[SIZES + name].tolist())
            found[name] = torch.cat([parts[number] for number in wanted])
    return {name: value for name, value in found.items() if len(value)}
