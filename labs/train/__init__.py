"""Training: one readable loop on Accelerate and the stages on it.

    from labs.train import TrainConfig, train
    result = train(model, processor, dataset, config=TrainConfig(max_steps=100))

Names are imported when they are used: to read a recipe nobody should wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from labs.train.config import LoraSettings, TrainConfig, Unfreeze
    from labs.train.freezing import count_parts, freeze, parts_table
    from labs.train.interrupt import TrainingInterrupted
    from labs.train.loop import Trainer, TrainResult
    from labs.train.stages import PairCollator, prepare, train

_HOMES = {
    "config": ("LoraSettings", "TrainConfig", "Unfreeze"),
    "freezing": ("count_parts", "freeze", "parts_table"),
    "interrupt": ("TrainingInterrupted",),
    "loop": ("TrainResult", "Trainer"),
    "stages": ("PairCollator", "prepare", "train"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "LoraSettings",
    "PairCollator",
    "TrainConfig",
    "TrainResult",
    "Trainer",
    "TrainingInterrupted",
    "Unfreeze",
    "count_parts",
    "freeze",
    "parts_table",
    "prepare",
    "train",
]


def __getattr__(name: str):
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"labs.train.{_HOME_OF[name]}"), name)
