"""Training: one readable loop on Accelerate and the stages on it.

    from labs.train import TrainConfig, train
    result = train(model, processor, dataset, config=TrainConfig(max_steps=100))
"""

from labs.train.config import LoraSettings, TrainConfig, Unfreeze
from labs.train.freezing import count_parts, freeze, parts_table
from labs.train.interrupt import TrainingInterrupted
from labs.train.loop import Trainer, TrainResult
from labs.train.stages import PairCollator, prepare, train

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
