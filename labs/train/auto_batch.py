"""`auto_batch`: where a micro-batch does not fit, go on with half of it and twice the accumulation.

The step's samples, its number of items and so its loss stay the same (`StepSampler` splits a step
without changing it, `Objective` shares are of the whole step): only speed is lost. All ranks halve
together: a rank that ran out of memory cannot join the gradient exchange, so gradients are first
made without one, then the ranks agree, and only then are they added up. That costs the overlap of
backward and communication; nothing else.
"""

import gc
import sys
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from labs.errors import InputError

if TYPE_CHECKING:
    from labs.train.loop import Trainer


class TooLarge(Exception):
    """Some rank's micro-batch does not fit; all gradients of the step have been dropped."""


def is_out_of_memory(error: RuntimeError) -> bool:
    """The allocator's exception, or CUDA's own, which has no class."""
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error).lower()


def check(trainer: "Trainer") -> None:
    """Raise InputError where halving would change the loss or cannot be agreed on."""
    if trainer.objective.even:
        raise InputError(
            "`auto_batch` would change this loss: its pairs are negatives of one another.",
            "Choose per_device_train_batch_size by hand.",
        )
    kind = trainer.accelerator.distributed_type.value
    if kind not in ("NO", "MULTI_CPU", "MULTI_GPU"):
        raise InputError(
            f"`auto_batch` works on one device or with plain data parallelism, not with {kind}.",
            "Choose per_device_train_batch_size by hand; `oom_doctor.py predict` says what fits.",
        )


def gradients(trainer: "Trainer", batches: list[dict[str, Tensor]], items: int) -> Tensor:
    """Gradients of a step's micro-batches, added over ranks; returns the loss share of this rank.

    Raises TooLarge on every rank if any of them ran out of memory.
    """
    total, failed = torch.zeros((), device=trainer.device), False
    # Past DDP's own forward: it broadcasts buffers, and a rank that fails in it would leave the
    # others waiting there.
    objective = trainer.accelerator.unwrap_model(trainer.wrapped)
    try:
        for batch in batches:
            loss = objective(trainer._to_device(batch), items)
            trainer.accelerator.backward(loss)
            total += loss.detach()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        failed = True  # and leave this block: the traceback holds what has to be freed
    if agree(trainer, failed):
        loss = None
        trainer.optimizer.zero_grad(set_to_none=True)
        gc.collect()
        if trainer.device.type == "cuda":
            torch.cuda.empty_cache()
        raise TooLarge
    if trainer.ranks > 1:
        add_over_ranks(trainer.parameters)
    return total


def agree(trainer: "Trainer", failed: bool) -> bool:
    """Whether any rank has failed."""
    if trainer.ranks == 1:
        return failed
    return bool(trainer.accelerator.reduce(torch.tensor(int(failed), device=trainer.device), "sum"))


def add_over_ranks(parameters: list[Tensor]) -> None:
    """Sum gradients over ranks; a parameter that no rank used keeps none, as under DDP."""
    parameters = [p for p in parameters if p.requires_grad]
    used = torch.tensor([p.grad is not None for p in parameters], dtype=torch.int32)
    used = used.to(parameters[0].device)
    torch.distributed.all_reduce(used)
    for parameter, count in zip(parameters, used.tolist(), strict=True):
        if count:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            torch.distributed.all_reduce(parameter.grad)


def halve(trainer: "Trainer") -> None:
    """Split steps into half as large micro-batches from now on; InputError where that was one."""
    sampler = trainer.sampler
    if sampler.batch_size == 1:
        raise InputError(
            f"Step {trainer.position.step + 1} does not fit into memory even one sample at a time.",
            "Turn on gradient_checkpointing, train with method: lora, or shorten max_length; "
            "`oom_doctor.py predict` says what each saves.",
        )
    before = sampler.batch_size
    sampler.batch_size = -(-before // 2)
    share = sampler.step_size // trainer.ranks
    entry = {
        "step": trainer.position.step,
        "micro_batch": sampler.batch_size,
        "accumulation": -(-share // sampler.batch_size),
    }
    trainer.position.history.append(entry)
    if trainer.main:
        print(
            f"Out of memory in step {entry['step'] + 1}: micro-batch {before} -> "
            f"{entry['micro_batch']}, accumulation {-(-share // before)} -> "
            f"{entry['accumulation']}; the loss is the same.",
            file=sys.stderr,
        )
