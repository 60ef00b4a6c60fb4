"""The updates of a step: gradients from micro-batches, over all ranks, and when to stop. Chapter 5."""

import contextlib
from typing import NamedTuple

import torch
from torch import Tensor

from labs.errors import InputError
from labs.train.policy.update import (
    Experience,
    Sums,
    micro_batches,
    micro_loss,
    minibatches,
    shares_of,
)


class Learned(NamedTuple):
    """updates: optimizer steps taken. stopped: `target_kl` ended them early. norm: of the last
    update's gradient before clipping, 0 where it is not clipped."""

    sums: Sums
    updates: int
    stopped: bool
    norm: float


def learn(trainer, experience: Experience) -> Learned:
    """All updates on one rollout."""
    policy, config, sums = trainer.policy, trainer.config, Sums()
    seed = config.seed * 1_000_003 + trainer.position.step
    updates, stopped, norm = 0, False, torch.zeros(())
    for _, chosen in minibatches(experience, policy, seed):
        approx_kl = accumulate(trainer, experience, chosen, sums)
        if config.max_grad_norm is not None:
            norm = trainer.accelerator.clip_grad_norm_(trainer.parameters, config.max_grad_norm)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad(set_to_none=True)
        updates += 1
        if policy.target_kl is not None:
            if trainer.ranks > 1:
                approx_kl = trainer.accelerator.reduce(approx_kl, "sum")
            if float(approx_kl) > policy.target_kl:
                stopped = True
                break
    return Learned(sums, updates, stopped, float(norm))


def accumulate(trainer, experience: Experience, chosen: Tensor, sums: Sums) -> Tensor:
    """Gradients of one minibatch; this rank's share of its approximate KL to the policy that sampled.

    Ranks speak once, in the last micro-batch: they may have different numbers of them. One without
    any rows goes through the motions, with weight 0.
    """
    policy, accelerator = trainer.policy, trainer.accelerator
    total = shares_of(experience, chosen).to(trainer.device)
    if trainer.ranks > 1:
        total = accelerator.reduce(total, "sum")
    total, approx_kl = total.cpu(), torch.zeros((), device=trainer.device)
    parts = micro_batches(experience.rows, chosen, trainer.config.per_device_train_batch_size)
    for number, part in enumerate(parts or [torch.zeros(1, dtype=torch.long)]):
        shares = shares_of(experience, part).cpu() / total if parts else torch.zeros(2)
        alone = trainer.ranks > 1 and number < len(parts) - 1
        with accelerator.no_sync(trainer.wrapped) if alone else contextlib.nullcontext():
            loss, watch = micro_loss(
                trainer.wrapped, experience, part, policy, trainer.controller.coef,
                trainer.forward.packs, tuple(shares.tolist()),
            )  # fmt: skip
            if not torch.isfinite(loss):
                raise InputError(
                    f"The loss is {float(loss)} in step {trainer.position.step + 1}.",
                    "Lower the learning rate, clip harder (max_grad_norm) or whiten the advantages.",
                )
            # DDP averages over ranks; the shares are meant to be added.
            accelerator.backward(loss * trainer.ranks)
        for name, (weighted, share) in watch.items():
            sums.add(name, weighted, share)
        approx_kl += watch["approx_kl"][0]
    return approx_kl
