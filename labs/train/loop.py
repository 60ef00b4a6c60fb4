"""The training loop. One for all stages: an objective, a dataset, a collator, a configuration.

A step is: take the step's samples, count what carries loss over all micro-batches and ranks, add up
the gradients of the micro-batches' shares, clip, update. Nothing in it waits for the device: losses
stay tensors until they are logged.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from labs.errors import InputError
from labs.train import auto_batch, checkpoint, loading, state
from labs.train.config import TrainConfig
from labs.train.freezing import freeze, trainable_names
from labs.train.interrupt import StopSignal, TrainingInterrupted
from labs.train.objectives import Batch, Objective
from labs.train.optim import build_optimizer, build_scheduler
from labs.train.progress import Progress, TensorBoardLog
from labs.train.sampler import StepSampler
from labs.train.setup import build_accelerator, enable_checkpointing
from labs.train.state import Position


@dataclass
class TrainResult:
    """What a run leaves: the log entries, the number of steps, why it ended, where it lies."""

    history: list[dict]
    steps: int
    stopped: str  # "finished" or "early stop"
    best_eval_loss: float | None = None
    output_dir: Path | None = None

    def losses(self, key: str = "loss") -> tuple[list[int], list[float]]:
        """Steps and values of `loss`, `eval_loss`, `grad_norm`, ... for a plot."""
        found = [(e["step"], e[key]) for e in self.history if key in e]
        return [step for step, _ in found], [value for _, value in found]


class Trainer:
    """Trains `objective` on `train_dataset` (anything with `len` and integer indices).

    `collate` makes a batch (a dict of tensors) of a list of samples. `policies` says which parts
    train, as `TrainConfig.trainable` does. `after_step(step)` is called between the update and
    the clearing of gradients (AdaLoRA needs them). `extra_state` gives and takes back what such
    a hook keeps between steps.
    """

    def __init__(
        self,
        objective: Objective,
        train_dataset: Sequence,
        config: TrainConfig,
        collate: Callable[[list], Batch],
        eval_dataset: Sequence | None = None,
        policies: dict[str, str] | None = None,
        on_log: Callable[[dict], None] | None = None,
    ):
        if len(train_dataset) == 0:
            raise InputError("The training data set is empty.", "Give at least one sample.")
        if eval_dataset is not None and len(eval_dataset) == 0:
            raise InputError("The validation data set is empty.", "Give a sample, or none at all.")
        if config.early_stopping_patience and eval_dataset is None:
            raise InputError("Early stopping needs validation data.", "Give an eval data set.")
        self.config = config = config.checked()
        self.objective, self.model = objective, objective.model
        self.train_dataset, self.eval_dataset, self.collate = train_dataset, eval_dataset, collate
        self.policies = dict(config.trainable if policies is None else policies)
        self.on_log = on_log
        self.after_step: Callable[[int], None] | None = None
        self.extra_state: tuple[Callable[[], dict], Callable[[dict], None]] | None = None

        self.accelerator = accelerator = build_accelerator(config)
        self.ranks, self.device = accelerator.num_processes, accelerator.device
        self.main = accelerator.is_main_process
        lengths = getattr(train_dataset, "lengths", None) if config.group_by_length else None
        if config.group_by_length and lengths is None:
            raise InputError(
                "`group_by_length` needs the samples' lengths, which this data set does not have.",
                "Give it a `lengths` sequence (negative for text-only samples) or switch it off.",
            )
        self.sampler = StepSampler(
            len(train_dataset),
            config.per_device_train_batch_size,
            config.gradient_accumulation_steps,
            self.ranks,
            accelerator.process_index,
            config.seed,
            config.shuffle,
            lengths,
            objective.even,
        )
        if self.sampler.steps == 0:
            raise InputError(
                f"{len(train_dataset)} samples are too few for {self.ranks} processes.",
                "Use fewer processes or more data.",
            )
        self.total_steps = config.max_steps or math.ceil(
            config.num_train_epochs * self.sampler.steps
        )

        self.names = self._names_that_ever_train()
        if config.mixed_precision != "no":
            # An update far below a weight's last bit is lost: in bfloat16 that is most of them.
            for name, parameter in self.model.named_parameters():
                if name in self.names:
                    parameter.data = parameter.data.float()
        freeze(self.model, self._policies_at(0))
        if config.gradient_checkpointing:
            enable_checkpointing(self.model)
        if config.torch_compile:
            objective.compile()
        objective.to(self.device)
        optimizer = build_optimizer(self.model, self.names, config)
        self.scheduler = build_scheduler(optimizer, config, self.total_steps)
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.wrapped, self.optimizer = accelerator.prepare(objective, optimizer)
        if config.auto_batch:
            auto_batch.check(self)
        self.position = Position()
        self.running = torch.zeros((), device=self.device)  # losses since the last log entry
        self.rates = {group["part"]: group["lr"] for group in optimizer.param_groups}
        self.best_weights: dict[str, Tensor] | None = None
        self.last_checkpoint: Path | None = None

    # what trains when

    def _policies_at(self, step: int) -> dict[str, str]:
        policies = dict(self.policies)
        for change in sorted(self.config.unfreeze, key=lambda change: change.step):
            if change.step <= step:
                policies.update(change.trainable)
        return policies

    def _names_that_ever_train(self) -> set[str]:
        steps = [0, *(change.step for change in self.config.unfreeze)]
        return set().union(*(trainable_names(self.model, self._policies_at(s)) for s in steps))

    def _set_phase(self, step: int) -> None:
        """Freeze and unfreeze by schedule where `step` starts a new phase."""
        freeze(self.model, self._policies_at(step))
        if self.ranks > 1:
            # DDP counts on the parameters that required gradients when it was wrapped.
            self.accelerator._models.clear()
            self.wrapped = self.accelerator.prepare(
                self.accelerator.unwrap_model(self.wrapped, keep_fp32_wrapper=False)
            )

    # batches

    def _batches(self, steps: list[list[list[int]]]) -> Iterator[list[Batch]]:
        return loading.batches(
            self.train_dataset,
            self.collate,
            steps,
            self.config.dataloader_num_workers,
            self.config.seed + self.position.epoch,
            self.device.type == "cuda",
        )

    def _to_device(self, batch: Batch) -> Batch:
        if self.device.type == "cpu":
            return batch
        return {name: value.to(self.device, non_blocking=True) for name, value in batch.items()}

    def _agree(self, items: int, stop: bool) -> tuple[int, bool]:
        """Items of all ranks, and whether any of them was asked to stop."""
        if self.ranks == 1:
            return items, stop
        pair = torch.tensor([items, int(stop)], device=self.device)
        items, stops = self.accelerator.reduce(pair, "sum").tolist()
        return items, stops > 0

    # one step

    def _step(self, batches: list[Batch], stop: bool) -> tuple[Tensor, Tensor | None, int, bool]:
        """One optimizer step. Returns loss share, gradient norm, tokens here, whether to stop."""
        items, tokens = 0, 0
        for i, batch in enumerate(batches):
            items += self.objective.count(batch)
            mask = batch.get("attention_mask")
            tokens += batch["input_ids"].numel() if mask is None else int(mask.sum())
            batches[i] = self.objective.prepare(batch)
        items, stop = self._agree(items, stop)
        if items == 0:
            raise InputError(
                f"No {self.objective.unit} of step {self.position.step + 1} carry a label.",
                "Look at a sample with `labs data show`: answers may be cut off by max_length.",
            )
        total = self._gradients(batches, items)
        norm = None
        if self.config.max_grad_norm is not None:
            norm = self.accelerator.clip_grad_norm_(self.parameters, self.config.max_grad_norm)
        self.rates = {group["part"]: group["lr"] for group in self.optimizer.param_groups}
        self.optimizer.step()
        if not self.accelerator.optimizer_step_was_skipped:  # fp16 overflow
            self.scheduler.step()
        if self.after_step:
            self.after_step(self.position.step + 1)
        self.optimizer.zero_grad(set_to_none=True)
        return total, norm, tokens, stop

    def _gradients(self, batches: list[Batch], items: int) -> Tensor:
        """Forward and backward of all micro-batches; the loss share of this rank."""
        if self.config.auto_batch:
            return auto_batch.gradients(self, batches, items)
        total = torch.zeros((), device=self.device)
        for i, batch in enumerate(batches):
            last = i == len(batches) - 1
            quiet = self.accelerator.no_sync(self.wrapped) if self.ranks > 1 and not last else None
            with quiet or contextlib.nullcontext():
                loss = self.wrapped(self._to_device(batch), items)
                # DDP averages over ranks; the shares are meant to be added.
                self.accelerator.backward(loss * self.ranks if self.ranks > 1 else loss)
            total += loss.detach()
        return total

    # the run

    def train(self, resume: str | Path | bool | None = None) -> TrainResult:
        """Run to the end (or early stop); `resume=True` takes the run's newest checkpoint.

        Raises InputError (bad checkpoint, empty batch, loss not finite, disk full) and, after
        Ctrl-C, TrainingInterrupted once the step is done and saved.
        """
        config, position = self.config, self.position
        if resume:
            if resume is True and not config.output_dir:
                raise InputError("There is no run to resume.", "Give its output_dir.")
            self.load(checkpoint.latest(config.output_dir) if resume is True else Path(resume))
            position = self.position
        self._set_phase(position.step)
        phases = {change.step for change in config.unfreeze if change.step > position.step}
        progress = Progress(self.total_steps, config, self.objective.unit, position.step, self.main)
        board = TensorBoardLog(config, self.main, position.step)
        stopped, norm = "finished", None
        self.objective.train()
        try:
            with StopSignal() as signal:
                self.since = time.perf_counter(), position.tokens
                while position.step < self.total_steps and stopped == "finished":
                    if position.epoch_step >= self.sampler.steps:
                        position.epoch, position.epoch_step = position.epoch + 1, 0
                    steps = self.sampler.epoch(position.epoch, position.epoch_step)
                    steps = steps[: self.total_steps - position.step]
                    for batches in self._batches(steps):
                        if position.step in phases:
                            phases.discard(position.step)
                            self._set_phase(position.step)
                        try:
                            loss, norm, tokens, stop = self._step(batches, signal.set)
                        except auto_batch.TooLarge:
                            auto_batch.halve(self)
                            break  # the same step once more, in smaller pieces
                        self.running += loss
                        position.step += 1
                        position.epoch_step += 1
                        position.tokens += tokens
                        progress.step()
                        if position.step % config.logging_steps == 0:
                            self._log(self._entry(norm), progress, board)
                        if self._eval_is_due():
                            stopped = self._evaluate_and_judge(progress, board)
                        save = config.save_steps and position.step % config.save_steps == 0
                        if stop or save:
                            self.save()
                        if stop:
                            raise TrainingInterrupted(position.step, self.last_checkpoint)
                        if stopped != "finished":
                            break
                if position.step > self._last_logged():
                    self._log(self._entry(norm), progress, board)
        finally:
            progress.close()
            board.close()
            self.objective.eval()
        if config.load_best_model_at_end and self.best_weights is not None:
            state.put_weights(self, self.best_weights)
        output = Path(config.output_dir) if config.output_dir else None
        return TrainResult(position.history, position.step, stopped, position.best, output)

    def _last_logged(self) -> int:
        return max((e["step"] for e in self.position.history if "loss" in e), default=0)

    def _entry(self, norm: Tensor | None) -> dict:
        """A log entry for the steps since the last one. The only place that waits for the device."""
        position = self.position
        steps = position.step - self._last_logged()
        loss = self.running
        if self.ranks > 1:
            loss = self.accelerator.reduce(loss, "sum")
        loss = loss.item() / steps
        self.running.zero_()
        now, (start, tokens) = time.perf_counter(), self.since
        self.since = now, position.tokens
        if not math.isfinite(loss):
            raise InputError(
                f"The loss is {loss} at step {position.step}.",
                "Lower the learning rate, clip harder (max_grad_norm) or use bf16 rather than fp16.",
            )
        entry = {
            "step": position.step,
            "epoch": round(position.epoch + position.epoch_step / self.sampler.steps, 4),
            "loss": loss,
            "learning_rate": max(self.rates.values()),
            "learning_rates": self.rates,
            "tokens_per_second": (position.tokens - tokens) * self.ranks / (now - start),
            "seconds_left": (now - start) / steps * (self.total_steps - position.step),
        }
        if norm is not None:
            entry["grad_norm"] = float(norm)
        for name, share in self.objective.parts.items():
            share = self.accelerator.reduce(share, "sum") if self.ranks > 1 else share
            entry[f"{name}_loss"] = share.item() / steps
        self.objective.parts.clear()
        return entry

    def _log(self, entry: dict, progress: Progress, board: TensorBoardLog) -> None:
        if hasattr(self.train_dataset, "check"):
            self.train_dataset.check()  # raises where too many samples were skipped
        self.position.history.append(entry)
        progress.log(entry)
        board.log(entry)
        if self.on_log and self.main:
            self.on_log(entry)

    # validation

    def _eval_is_due(self) -> bool:
        if self.eval_dataset is None:
            return False
        every = self.config.eval_steps or self.sampler.steps
        return self.position.step % every == 0 or self.position.step == self.total_steps

    @torch.no_grad()
    def evaluate(self) -> float:
        """The mean loss over all items of the validation data, of all ranks."""
        size = self.config.per_device_eval_batch_size
        sampler = StepSampler(
            len(self.eval_dataset),
            size,
            ranks=self.ranks,
            rank=self.accelerator.process_index,
            shuffle=False,
            even=self.objective.even,
        )
        total = torch.zeros(2, dtype=torch.float64, device=self.device)
        training = self.objective.training
        self.objective.eval()
        for micro_batches in sampler.epoch(0):
            for indices in micro_batches:
                batch = self.collate([self.eval_dataset[i] for i in indices])
                items = self.objective.count(batch)
                batch = self._to_device(self.objective.prepare(batch))
                total[0] += self.wrapped(batch, 1)  # one item: the sum instead of the mean
                total[1] += items
        self.objective.train(training)
        loss, items = self.accelerator.reduce(total, "sum").tolist()
        if items == 0:
            raise InputError("No validation sample carries a label.", "Look at the eval data.")
        return loss / items

    def _evaluate_and_judge(self, progress: Progress, board: TensorBoardLog) -> str:
        started, tokens = self.since
        before = time.perf_counter()
        loss, position = self.evaluate(), self.position
        self._log({"step": position.step, "eval_loss": loss}, progress, board)
        # validation time is no training time
        self.since = started + time.perf_counter() - before, tokens
        if position.best is None or loss < position.best - self.config.early_stopping_threshold:
            position.best, position.bad_evals = loss, 0
            if self.config.load_best_model_at_end:
                self.best_weights = {k: v.clone() for k, v in state.weights(self).items()}
        else:
            position.bad_evals += 1
        patience = self.config.early_stopping_patience
        return "early stop" if patience and position.bad_evals >= patience else "finished"

    # checkpoints

    def save(self) -> Path | None:
        """Write checkpoint-STEP into the output folder; None where the run has none."""
        return state.save(self)

    def load(self, folder: str | Path) -> None:
        """Put the run back where the checkpoint `folder` left it, to the bit."""
        state.load(self, Path(folder))
