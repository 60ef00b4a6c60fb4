"""The state of a run, from Trainer to checkpoint and back, so that a resumed run is the same run.

To the same bits means: trainable weights, the optimiser's moments, the schedule, the position in the
order of samples, every random number generator of every rank, the loss sum since the last log entry,
fp16's scale, the best weights so far, and what a method keeps between steps (AdaLoRA's averages).
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from labs.train import checkpoint, rng

if TYPE_CHECKING:
    from labs.train.loop import Trainer


@dataclass
class Position:
    """Where a run stands; all of it goes into a checkpoint."""

    step: int = 0  # optimizer steps done
    epoch: int = 0
    epoch_step: int = 0  # steps done in this epoch
    tokens: int = 0
    best: float | None = None
    bad_evals: int = 0
    history: list[dict] = field(default_factory=list)


def weights(trainer: "Trainer") -> dict[str, Tensor]:
    """The weights that ever train in this run, by name; views, not copies."""
    own = dict(trainer.model.named_parameters())
    return {name: own[name].detach() for name in sorted(trainer.names)}


@torch.no_grad()
def put_weights(trainer: "Trainer", tensors: dict[str, Tensor]) -> None:
    """Copy these values into the model's parameters."""
    own = dict(trainer.model.named_parameters())
    for name, tensor in tensors.items():
        own[name].copy_(tensor)


def save(trainer: "Trainer") -> Path | None:
    """Write checkpoint-STEP into the output folder (rank 0 writes, all give their RNG)."""
    if not trainer.config.output_dir:
        return None
    folder = Path(trainer.config.output_dir) / f"checkpoint-{trainer.position.step}"
    states = [rng.state()]
    if trainer.ranks > 1:
        states = [None] * trainer.ranks
        torch.distributed.all_gather_object(states, rng.state())
    running = trainer.accelerator.reduce(trainer.running.clone(), "sum")
    if trainer.main:
        scaler = trainer.accelerator.scaler
        state = {
            "optimizer": trainer.optimizer.state_dict(),
            "scheduler": trainer.scheduler.state_dict(),
            "scaler": scaler.state_dict() if scaler else {},
            "rng": states,
            "running": running,
            "best": trainer.best_weights or {},
            "extra": trainer.extra_state[0]() if trainer.extra_state else {},
        }
        meta = {
            "position": asdict(trainer.position),
            "config": asdict(trainer.config),
            "samples": len(trainer.train_dataset),
            "ranks": trainer.ranks,
            "model": checkpoint.fingerprint(trainer.model, trainer.names),
        }
        checkpoint.save(folder, weights(trainer), state, meta)
        checkpoint.prune(trainer.config.output_dir, trainer.config.save_total_limit)
    trainer.accelerator.wait_for_everyone()
    trainer.last_checkpoint = folder
    return folder


def load(trainer: "Trainer", folder: Path) -> None:
    """Put the run back where `folder` left it, to the bit."""
    saved, state, meta = checkpoint.load(folder)
    here = checkpoint.fingerprint(trainer.model, trainer.names)
    checkpoint.check_same_model(meta["model"], here, folder)
    checkpoint.check_same_run(meta, asdict(trainer.config), len(trainer.train_dataset), folder)
    put_weights(trainer, saved)
    trainer.optimizer.load_state_dict(state["optimizer"])
    trainer.scheduler.load_state_dict(state["scheduler"])
    if trainer.accelerator.scaler and state["scaler"]:
        trainer.accelerator.scaler.load_state_dict(state["scaler"])
    if trainer.extra_state and state["extra"]:
        trainer.extra_state[1](state["extra"])
    if meta["ranks"] == trainer.ranks:  # with other ranks there is no "same bits" to keep
        rng.restore(state["rng"][trainer.accelerator.process_index])
    trainer.position = Position(**meta["position"])
    if trainer.main:
        trainer.running.copy_(state["running"])
    trainer.best_weights = state["best"] or None
    trainer.last_checkpoint = Path(folder)
