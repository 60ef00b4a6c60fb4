"""AdamW with a learning rate for each part, and the schedule."""

import torch
from torch import nn

from labs.errors import InputError
from labs.models.parts import part_of
from labs.settings import nearest
from labs.train.config import TrainConfig


def parameter_groups(model: nn.Module, names: set[str], config: TrainConfig) -> list[dict]:
    """AdamW groups for the parameters in `names`: one for each part, with and without decay.

    A part's learning rate is `config.learning_rates[part]`, else `config.learning_rate`: LLaVA gives
    the projector a rate of its own because it is already trained where LoRA starts from zero.
    Norms and biases (anything with fewer than two dimensions) are not decayed.
    """
    groups: dict[tuple[str, bool], dict] = {}
    present = set()
    for name, parameter in model.named_parameters():
        part = part_of(name)
        present.add(part)
        if name not in names:
            continue
        decay = parameter.ndim >= 2 and config.weight_decay > 0
        group = groups.setdefault(
            (part, decay),
            {
                "params": [],
                "names": [],
                "part": part,
                "lr": config.learning_rates.get(part, config.learning_rate),
                "weight_decay": config.weight_decay if decay else 0.0,
            },
        )
        group["params"].append(parameter)
        group["names"].append(name)
    for part in config.learning_rates:
        if part not in present:
            guess = nearest(part, present)
            raise InputError(
                f"`learning_rates` names `{part}`, which the model does not have.",
                f"Did you mean `{guess}`?" if guess else f"Parts: {', '.join(sorted(present))}.",
            )
    if not groups:
        raise InputError("Nothing is left to train.", "Set a part of `trainable` to all or last:N.")
    return list(groups.values())


def build_optimizer(model: nn.Module, names: set[str], config: TrainConfig) -> torch.optim.AdamW:
    """AdamW over `names`, fused: one kernel for all of a group's tensors, on CPU as on GPU."""
    return torch.optim.AdamW(
        parameter_groups(model, names, config),
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_epsilon,
        fused=True,
    )


def build_scheduler(optimizer: torch.optim.Optimizer, config: TrainConfig, total_steps: int):
    """Any of Transformers' schedules by name, with linear warm-up."""
    from transformers import get_scheduler
    from transformers.trainer_utils import SchedulerType

    names = [kind.value for kind in SchedulerType]
    if config.lr_scheduler_type not in names or config.lr_scheduler_type in (
        "reduce_lr_on_plateau",  # these two step on a metric, not on the step number
        "greedy",
    ):
        guess = nearest(config.lr_scheduler_type, names)
        raise InputError(
            f"`lr_scheduler_type: {config.lr_scheduler_type}` cannot be used here.",
            f"Did you mean `{guess}`?" if guess else f"One of: {', '.join(names)}.",
        )
    warmup = config.warmup_steps
    if warmup is None:
        warmup = -int(-config.warmup_ratio * total_steps // 1)  # rounded up, as Transformers does
    try:
        return get_scheduler(
            config.lr_scheduler_type,
            optimizer,
            num_warmup_steps=warmup,
            num_training_steps=total_steps,
            scheduler_specific_kwargs=config.lr_scheduler_kwargs or None,
        )
    except (TypeError, ValueError) as error:
        raise InputError(
            f"The schedule `{config.lr_scheduler_type}` refuses its settings: {error}.",
            "See lr_scheduler_kwargs in the Transformers documentation of get_scheduler.",
        ) from None
