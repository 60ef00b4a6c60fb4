"""What a run sets up before its first step: the accelerator, and memory savings on the model."""

import torch

from labs.errors import InputError
from labs.train.config import TrainConfig


def enable_checkpointing(model: torch.nn.Module) -> None:
    """Recompute activations in the backward pass instead of holding them."""
    # Transformers 5 renames it; the reentrant form gives frozen inputs no gradient behind them.
    new = getattr(model, "activation_checkpointing_enable", None)
    (new or model.gradient_checkpointing_enable)({"use_reentrant": False})


def build_accelerator(config: TrainConfig):
    """An Accelerator for this run; one process may hold several runs with other precisions."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()
    accelerator = Accelerator(mixed_precision="no")  # "no" cannot fail and tells the device
    if config.mixed_precision == "no":
        return accelerator
    if config.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        # Accelerate would say nothing and train in float32.
        raise InputError("`mixed_precision: fp16` needs a GPU.", "Use bf16, or no, on a CPU.")
    AcceleratorState._reset_state()
    try:
        return Accelerator(mixed_precision=config.mixed_precision)
    except ValueError as error:
        raise InputError(
            f"`mixed_precision: {config.mixed_precision}` cannot be used here: {error}",
            "Use bf16 or no.",
        ) from None
