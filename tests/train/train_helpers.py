"""Random samples of unequal length, short quiet runs, and a forked child to kill or interrupt."""

import multiprocessing
import os
import traceback

import torch

from labs.train import TrainConfig

IMAGE_TOKENS = 36


class Samples:
    """Encoded samples with random tokens: an image, a prompt, and answers of 1 to 40 tokens."""

    def __init__(self, count: int, processor, seed: int = 0, text_every: int = 0):
        generator = torch.Generator().manual_seed(seed)
        image = processor.tokenizer.convert_tokens_to_ids("<image>")
        self.items = []
        for i in range(count):
            prompt, answer = (
                torch.randint(1, 20, (1,), generator=generator).item(),
                1 + (7 * i) % 40,
            )
            text = torch.randint(20, 400, (prompt + answer,), generator=generator)
            pixels = torch.randn(1, 3, 48, 48, generator=generator)
            text_only = text_every and i % text_every == 0
            ids = text if text_only else torch.cat([torch.full((IMAGE_TOKENS,), image), text])
            labels = ids.clone()
            labels[:-answer] = -100
            item = {"input_ids": ids, "labels": labels}
            self.items.append(item if text_only else item | {"pixel_values": pixels})
        self.lengths = [
            len(x["input_ids"]) if "pixel_values" in x else -len(x["input_ids"]) for x in self.items
        ]

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def quiet(**changes) -> TrainConfig:
    """A short run that shows and writes nothing unless told."""
    usual = {
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "progress": False,
        "report_to": "none",
        "save_final": False,
    }
    return TrainConfig(**{**usual, **changes})


def weights(model) -> dict[str, torch.Tensor]:
    """A copy of all parameters by name."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def fork(function, *arguments) -> multiprocessing.Process:
    """Run `function` in a forked child (no import of torch again); exit code 1 on an exception.

    A child that does not end (a rank whose peer is gone) ends with the tests.
    """

    def run():
        try:
            torch.set_num_threads(1)
            function(*arguments)
        except SystemExit:
            raise
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)

    child = multiprocessing.get_context("fork").Process(target=run, daemon=True)
    child.start()
    return child
