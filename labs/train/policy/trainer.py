"""Reinforcement learning on answers that the model samples itself: PPO, GRPO, RLOO. Chapter 5.

A step: ask prompts, sample answers, score them, see how likely policy and reference find them, make
advantages, and update on them. Everything the step learned goes into one log entry.
"""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from labs.data.collate import pad_id
from labs.errors import InputError
from labs.losses.masked import masked_mean
from labs.losses.policy import explained_variance
from labs.models.rollout import sample_completions
from labs.train import state
from labs.train.config import TrainConfig
from labs.train.freezing import freeze, trainable_names
from labs.train.interrupt import StopSignal, TrainingInterrupted
from labs.train.loop import TrainResult
from labs.train.methods import apply_method
from labs.train.optim import build_scheduler, parameter_groups
from labs.train.policy.completion import Completion, Reward
from labs.train.policy.config import PolicyConfig
from labs.train.policy.control import KLController
from labs.train.policy.forward import PolicyForward
from labs.train.policy.lengths import PromptLengths
from labs.train.policy.prompts import Prompt
from labs.train.policy.reference import Reference
from labs.train.policy.rewards import MixedReward
from labs.train.policy.rewards.check import name_of
from labs.train.policy.score import Scored, score
from labs.train.policy.sequences import sequences_of
from labs.train.policy.targets import make_targets
from labs.train.policy.update import (
    Experience,
    Sums,
    micro_batches,
    micro_loss,
    minibatches,
    share_of,
)
from labs.train.progress import Progress
from labs.train.rng import seed_all
from labs.train.sampler import StepSampler
from labs.train.save import save_result
from labs.train.setup import build_accelerator, enable_checkpointing
from labs.train.stages import policies_for
from labs.train.state import Position

Watch = Callable[[Sequence[Prompt], Sequence[Completion]], dict[str, float]]


class PolicyTrainer:
    """Trains `model` in place to answer `prompts` (anything with `len` and integer indices) so that
    `reward` is high. Changes `model`: adapters are put in as `config.method` says.

    config: optimiser, method, seed, folder; its `per_device_train_batch_size` is the micro-batch of
    an update, in answers. policy: everything else. watch: more for the diary, from a step's answers.

    With adapters the reference is the same weights with the adapter off; see Reference. PPO's values
    come from a linear head on the policy's own last states.

    Raises InputError for a reward that fails, no prompt that fits, bad settings; TrainingInterrupted
    after Ctrl-C, once the step is done and saved.
    """

    def __init__(
        self,
        model: nn.Module,
        processor,
        prompts: Sequence[Prompt],
        reward: Reward,
        config: TrainConfig | None = None,
        policy: PolicyConfig | None = None,
        *,
        watch: Watch | None = None,
        on_log: Callable[[dict], None] | None = None,
    ):
        if len(prompts) == 0:
            raise InputError("There are no prompts.", "Give at least one.")
        self.config = config = (config or TrainConfig()).checked()
        self.policy = policy = policy or PolicyConfig()
        self.model, self.processor = model, processor
        self.reward = (
            reward if isinstance(reward, MixedReward) else MixedReward({name_of(reward): reward})
        )
        self.train_dataset, self.watch, self.on_log = prompts, watch, on_log
        seed_all(config.seed)
        applied = apply_method(model, config)
        self.peft_model = applied.peft_model
        policies = policies_for(model, "sft", config, applied.policies)
        self.names = trainable_names(model, policies)
        freeze(model, policies)
        model.eval()  # no dropout: the policy that samples must be the policy that learns
        if config.gradient_checkpointing:
            enable_checkpointing(model)
        self.accelerator = accelerator = build_accelerator(config)
        self.ranks, self.device = accelerator.num_processes, accelerator.device
        self.main = accelerator.is_main_process
        self.forward = PolicyForward(
            model, policy.temperature, policy.algorithm == "ppo", policy.shared_prefix
        )
        self.forward.to(self.device)
        self.reference = Reference(model, self.names, self.peft_model) if policy.kl_coef else None
        self.sampler = StepSampler(
            len(prompts), policy.prompts_per_step, 1, self.ranks, accelerator.process_index,
            config.seed, config.shuffle,
        )  # fmt: skip
        self.total_steps = config.max_steps or math.ceil(
            config.num_train_epochs * self.sampler.steps
        )
        optimizer = self._optimizer()
        self.scheduler = build_scheduler(optimizer, config, self.total_steps)
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.wrapped, self.optimizer = accelerator.prepare(self.forward, optimizer)
        self.controller = KLController(policy.kl_coef, policy.kl_target, policy.kl_horizon)
        self.lengths = PromptLengths(model, processor, policy)
        self.prompts_seen = self.prompts_overlong = 0
        self.position = Position()
        # What checkpoints (labs.train.state) keep of any run.
        self.running = torch.zeros((), device=self.device)
        self.best_weights = None
        self.last_checkpoint: Path | None = None
        self.extra_state = (self._give, self._take)

    def _optimizer(self) -> torch.optim.AdamW:
        config = self.config
        groups = parameter_groups(self.model, self.names, config)
        if self.forward.value_head is not None:
            groups.append({
                "params": list(self.forward.value_head.parameters()), "part": "value_head",
                "names": ["weight", "bias"], "weight_decay": 0.0,
                "lr": self.policy.value_learning_rate or config.learning_rate,
            })  # fmt: skip
        return torch.optim.AdamW(
            groups, lr=config.learning_rate, betas=(config.adam_beta1, config.adam_beta2),
            eps=config.adam_epsilon, fused=True,
        )  # fmt: skip

    def _give(self) -> dict:
        head = self.forward.value_head
        return {
            "kl_coef": self.controller.coef, "rewards": self.reward.skips.state_dict(),
            "prompts": [self.prompts_seen, self.prompts_overlong],
            "value_head": head.state_dict() if head is not None else {},
        }  # fmt: skip

    def _take(self, saved: dict) -> None:
        self.controller.coef = saved["kl_coef"]
        self.reward.skips.load_state_dict(saved["rewards"])
        self.prompts_seen, self.prompts_overlong = saved["prompts"]
        if self.forward.value_head is not None:
            self.forward.value_head.load_state_dict(saved["value_head"])

    # one step

    def step(self, prompts: Sequence[Prompt]) -> tuple[dict, list[dict]]:
        """One step on these prompts: (log entry, sampled answers for the diary)."""
        started = time.perf_counter()
        prompts = self._fitting(prompts)
        rollout = self._rollout(prompts)
        sampled = time.perf_counter()
        completions = [
            Completion(text, int(tokens), bool(done))
            for text, tokens, done in zip(
                rollout.texts, rollout.mask.sum(1), rollout.finished, strict=True
            )
        ]
        asked = [p for p in prompts for _ in range(self.policy.num_generations)]
        scored = score(self.reward, asked, completions, self.policy)
        scored_at = time.perf_counter()
        experience, kept = self._experience(prompts, rollout, scored)
        sums, updates, stopped, norm = self._update(experience)
        ended = time.perf_counter()
        entry = self._entry(asked, completions, scored, experience, kept, sums)
        entry |= {
            "updates": updates, "stopped_early": int(stopped), "grad_norm": norm,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "seconds_rollout": sampled - started, "seconds_score": scored_at - sampled,
            "seconds_update": ended - scored_at,
            "completions_per_second": len(completions) * self.ranks / (ended - started),
            "tokens_per_second": float(rollout.mask.sum()) * self.ranks / (ended - started),
        }  # fmt: skip
        samples = [
            {
                "prompt": p.text, "said": c.text, "answer": p.answer, "task": p.task,
                "reward": scored.values[i], "image": p.images[0] if p.images else None,
            }
            for i, (p, c) in enumerate(zip(asked, completions, strict=True))
            if i % self.policy.num_generations == 0
        ]  # fmt: skip
        self.scheduler.step()
        return entry, samples[:4]

    def _fitting(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        fits = [p for p in prompts if self.lengths.fits(p)]
        self.prompts_seen += len(prompts)
        self.prompts_overlong += len(prompts) - len(fits)
        many = self.prompts_overlong > 0.01 * self.prompts_seen and self.prompts_seen >= 100
        if many or not fits:
            raise InputError(
                f"{self.prompts_overlong} of {self.prompts_seen} prompts are longer than the "
                f"{self.lengths.limit} tokens that fit (the last one seen: {prompts[-1].id}).",
                "Raise policy.max_prompt_length, shorten max_new_tokens, or mend the prompts.",
            )
        return fits

    def _rollout(self, prompts: Sequence[Prompt]):
        policy = self.policy
        # A seed of its own for every step and rank: a resumed run samples what it would have.
        seed = (self.config.seed * 1_000_003 + self.position.step) * 64 + (
            self.accelerator.process_index
        )
        return sample_completions(
            self.model,
            self.processor,
            [p.messages for p in prompts],
            [p.images for p in prompts],
            num_generations=policy.num_generations,
            max_new_tokens=policy.max_new_tokens,
            temperature=policy.temperature,
            top_p=policy.top_p,
            seed=seed,
        )

    @torch.no_grad()
    def _experience(self, prompts, rollout, scored: Scored) -> tuple[Experience, torch.Tensor]:
        """What the update learns from; also the numbers of the completions that are in it."""
        policy = self.policy
        rows = sequences_of(rollout, pad_id(self.processor))
        pictures = self.forward.pictures(self.processor, prompts, rollout)
        kept = self._kept(scored)
        rows, logprobs = rows.select(kept), rollout.logprobs[kept]
        logprobs = logprobs[:, : rows.mask.shape[1]]
        rewards = torch.tensor(
            [scored.shaped[i] for i in kept.tolist()], dtype=torch.float32, device=self.device
        )
        updates = policy.num_epochs * math.ceil(
            len(rows) / min(policy.minibatch_size or len(rows), len(rows))
        )
        old = values = reference = None
        in_reward = self.reference is not None and policy.kl_in == "reward"
        if updates > 1 or policy.algorithm == "ppo" or in_reward:
            old, values = self._pass(rows, pictures)
        if self.reference is not None:
            with self.reference():
                reference, _ = self._pass(rows, pictures)
        targets = make_targets(policy, rewards, rows, old, reference, values, self.controller.coef)
        experience = Experience(rows, pictures, targets, logprobs, old, reference, values)
        return experience, kept

    def _kept(self, scored: Scored) -> torch.Tensor:
        """Numbers of the completions to learn from: a group is kept whole or not at all."""
        size = self.policy.num_generations
        groups = [range(i, i + size) for i in range(0, len(scored.values), size)]
        kept = [g for g in groups if all(scored.values[i] is not None for i in g)]
        if self.policy.algorithm == "ppo":
            kept = [[i] for i, value in enumerate(scored.values) if value is not None]
        elif self.policy.drop_no_signal:
            alive = [g for g in kept if len({scored.shaped[i] for i in g}) > 1]
            kept = alive or kept  # a step needs something; its gradient is then 0
        if not kept:
            raise InputError(
                f"No answer of step {self.position.step + 1} got a reward that can be used.",
                "Look at the reward function: it said None or NaN to every answer.",
            )
        return torch.tensor([i for g in kept for i in g])

    @torch.no_grad()
    def _pass(self, rows, pictures):
        """Log-probabilities and values of all rows under the weights as they stand."""
        size = self.config.per_device_train_batch_size
        logprobs = torch.zeros(rows.mask.shape, device=self.device)
        values = torch.zeros_like(logprobs) if self.forward.value_head is not None else None
        for chosen in micro_batches(rows, torch.arange(len(rows)), size):
            part = rows.select(chosen)
            out = self.wrapped(part, **pictures.of(part, self.forward.packs))
            tokens = part.mask.shape[1]
            logprobs[chosen, :tokens] = out.logprobs.float()
            if values is not None:
                values[chosen, :tokens] = out.values.float()
        return logprobs * rows.mask, values

    def _update(self, experience: Experience) -> tuple[Sums, int, bool, float]:
        policy, sums = self.policy, Sums()
        seed = self.config.seed * 1_000_003 + self.position.step
        updates, stopped, norm = 0, False, torch.zeros(())
        for _, chosen in minibatches(experience, policy, seed):
            approx_kl = self._minibatch(experience, chosen, sums)
            if self.config.max_grad_norm is not None:
                norm = self.accelerator.clip_grad_norm_(self.parameters, self.config.max_grad_norm)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            updates += 1
            if policy.target_kl is not None:
                if self.ranks > 1:
                    approx_kl = self.accelerator.reduce(approx_kl, "mean")
                if float(approx_kl) > policy.target_kl:
                    stopped = True
                    break
        return sums, updates, stopped, float(norm)

    def _minibatch(self, experience: Experience, chosen, sums: Sums) -> torch.Tensor:
        """Gradients of one minibatch; its approximate KL to the policy that sampled."""
        policy = self.policy
        total = share_of(experience, chosen, policy).to(self.device)
        if self.ranks > 1:
            total = self.accelerator.reduce(total, "sum")
        total, approx_kl = float(total), torch.zeros((), device=self.device)
        for part in micro_batches(experience.rows, chosen, self.config.per_device_train_batch_size):
            share = float(share_of(experience, part, policy)) / total
            loss, watch = micro_loss(
                self.wrapped, experience, part, policy, self.controller.coef, self.forward.packs
            )
            if not torch.isfinite(loss):
                raise InputError(
                    f"The loss is {float(loss)} in step {self.position.step + 1}.",
                    "Lower the learning rate, clip harder (max_grad_norm) or whiten the advantages.",
                )
            # DDP averages over ranks; the shares are meant to be added.
            self.accelerator.backward(loss * share * self.ranks)
            sums.add(share, **watch)
            approx_kl += watch["approx_kl"].detach() * share
        return approx_kl

    # the log

    def _entry(self, asked, completions, scored: Scored, experience, kept, sums) -> dict:
        policy, rows, targets = self.policy, experience.rows, experience.targets
        values = [v for v in scored.values if v is not None]
        mean = sum(values) / len(values)
        spread = math.sqrt(sum((v - mean) ** 2 for v in values) / len(values))
        entry: dict = {"reward": mean, "reward_std": spread}
        for name, part in scored.parts.items():
            given = [v for v in part if v is not None]
            if given:
                entry[f"rewards/{name}"] = sum(given) / len(given)
        tasks: dict[str, list[float]] = {}
        for prompt, value in zip(asked, scored.values, strict=True):
            if value is not None and prompt.task:
                tasks.setdefault(prompt.task, []).append(value)
        entry |= {f"task/{name}": sum(v) / len(v) for name, v in sorted(tasks.items())}
        kl = targets.kl
        if kl is None and experience.reference is not None:
            kl = (experience.rollout - experience.reference) * rows.mask
        if kl is not None:
            entry["kl"] = float(masked_mean(kl, rows.mask))
            entry["kl_per_sequence"] = float(kl.sum(1).mean())
            entry["kl_coef"] = self.controller.coef
            self.controller.update(entry["kl_per_sequence"], len(rows) * self.ranks)
        entry |= sums.means()
        if experience.old is not None:
            gap = ((experience.old - experience.rollout) * rows.mask).abs()
            entry["mismatch"] = float(masked_mean(gap, rows.mask))
            entry["mismatch_max"] = float(gap.max())
        if experience.values is not None:
            entry["value_explained_variance"] = float(
                explained_variance(experience.values, targets.returns, rows.mask)
            )
        entry["response_length"] = sum(c.tokens for c in completions) / len(completions)
        entry["finished"] = sum(c.finished for c in completions) / len(completions)
        size = policy.num_generations
        if size > 1:
            groups = [scored.shaped[i : i + size] for i in range(0, len(scored.shaped), size)]
            entry["no_signal"] = sum(len(set(g)) == 1 for g in groups) / len(groups)
        if self.watch:
            entry |= self.watch(asked, completions)
        skipped = dict(self.reward.skips.counts) | {"overlong": self.prompts_overlong}
        entry |= {f"skipped/{reason}": n for reason, n in sorted(skipped.items()) if n}
        return entry

    # the run

    def train(self, resume: str | Path | bool | None = None) -> TrainResult:
        """Run to the end; `resume=True` goes on from the newest checkpoint of the output folder."""
        from labs.train import checkpoint
        from labs.train.policy.diary import Diary

        config, position = self.config, self.position
        if resume:
            if resume is True and not config.output_dir:
                raise InputError("There is no run to resume.", "Give its output_dir.")
            folder = checkpoint.latest(config.output_dir) if resume is True else Path(resume)
            state.load(self, folder)
            position = self.position
        progress = Progress(self.total_steps, config, "answers", position.step, self.main)
        diary = Diary(
            config.output_dir if self.main else None, config.report_to, step=position.step
        )
        try:
            with StopSignal() as signal:
                while position.step < self.total_steps:
                    if position.epoch_step >= self.sampler.steps:
                        position.epoch, position.epoch_step = position.epoch + 1, 0
                    (indices,) = self.sampler.epoch(position.epoch, position.epoch_step)[0]
                    begun = time.perf_counter()
                    entry, samples = self.step([self.train_dataset[i] for i in indices])
                    position.step += 1
                    position.epoch_step += 1
                    self._log(entry, samples, begun, progress, diary)
                    stop = self._agree(signal.set)
                    if stop or (config.save_steps and position.step % config.save_steps == 0):
                        self.save()
                    if stop:
                        raise TrainingInterrupted(position.step, self.last_checkpoint)
        finally:
            progress.close()
            diary.close()
        output = Path(config.output_dir) if config.output_dir else None
        return TrainResult(position.history, position.step, "finished", None, output)

    def _agree(self, stop: bool) -> bool:
        if self.ranks == 1:
            return stop
        return bool(self.accelerator.reduce(torch.tensor(int(stop), device=self.device), "sum"))

    def _log(self, entry: dict, samples: list, begun: float, progress: Progress, diary) -> None:
        position = self.position
        left = (self.total_steps - position.step) * (time.perf_counter() - begun)
        entry = {"step": position.step, "epoch": position.epoch, **entry}
        position.history.append(entry)
        progress.step()
        progress.log(entry | {"seconds_left": left})
        due = position.step % self.policy.sample_steps == 0 or position.step in (
            1,
            self.total_steps,
        )
        diary.log(entry, samples if due else None)
        if self.on_log and self.main:
            self.on_log(entry)

    def save(self) -> Path | None:
        """Write checkpoint-STEP into the output folder; None where the run has none."""
        return state.save(self)

    def finish(self, base_model: str | None = None) -> None:
        """Write the trained model, where the run has an output folder; all ranks wait for it."""
        config = self.config
        if config.output_dir and config.save_final and self.main:
            save_result(self.model, self.processor, config, self.peft_model, self.names, base_model)
        self.accelerator.wait_for_everyone()
