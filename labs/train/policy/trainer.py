"""Reinforcement learning on answers that the model samples itself: PPO, GRPO, RLOO. Chapter 5.

A step: ask prompts, sample answers, score them, see how likely policy and reference find them, make
advantages, and update on them. Everything the step learned goes into one log entry.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from labs.errors import InputError
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
from labs.train.policy.entry import over_ranks, samples_of, step_entry
from labs.train.policy.experience import make_experience, score_rows
from labs.train.policy.forward import PolicyForward
from labs.train.policy.learn import accumulate, learn
from labs.train.policy.lengths import PromptLengths
from labs.train.policy.prompts import Prompt
from labs.train.policy.recompute import recompute_layers
from labs.train.policy.reference import Reference
from labs.train.policy.rewards import MixedReward
from labs.train.policy.rewards.check import name_of
from labs.train.policy.score import Scored, score
from labs.train.policy.update import Experience, Sums
from labs.train.progress import Progress
from labs.train.rng import seed_all
from labs.train.sampler import StepSampler
from labs.train.save import save_result
from labs.train.setup import build_accelerator
from labs.train.stages import policies_for
from labs.train.state import Position

Watch = Callable[[Sequence[Prompt], Sequence[Completion]], dict[str, float]]


class PolicyTrainer:
    """Trains `model` in place to answer `prompts` (anything with `len` and integer indices) so that
    `reward` is high. Changes `model`: adapters are put in as `config.method` says.

    config: optimiser, method, seed, folder; its `per_device_train_batch_size` is the micro-batch of
    an update, in answers; accumulation, auto_batch, validation and early stopping are not used.
    policy: everything else. watch: more for the diary, from a step's answers.

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
        if config.method == "adalora" or config.unfreeze:
            what = "AdaLoRA" if config.method == "adalora" else "`unfreeze`"
            raise InputError(
                f"{what} changes what trains during the run; a policy run does not go along.",
                "Use lora, or another method whose weights stay the same throughout.",
            )
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
            recompute_layers(model)
        self.accelerator = accelerator = build_accelerator(config)
        self.ranks, self.device = accelerator.num_processes, accelerator.device
        self.main = accelerator.is_main_process
        self.forward = PolicyForward(
            model, policy.temperature, policy.algorithm == "ppo", policy.shared_prefix
        )
        self.forward.to(self.device)
        for judge, _ in self.reward.rewards.values():  # a reward model rates where the policy is
            if isinstance(getattr(judge, "model", None), nn.Module):
                judge.model.to(self.device)
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
        self.position = Position()
        # what checkpoints (labs.train.state) keep of any run
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
            "prompts": [self.lengths.seen, self.lengths.overlong],
            "value_head": head.state_dict() if head is not None else {},
            "policy": asdict(self.policy),
        }  # fmt: skip

    def _take(self, saved: dict) -> None:
        self.policy.check_same(saved["policy"])
        self.controller.coef = saved["kl_coef"]
        self.reward.skips.load_state_dict(saved["rewards"])
        self.lengths.seen, self.lengths.overlong = saved["prompts"]
        if self.forward.value_head is not None:
            self.forward.value_head.load_state_dict(saved["value_head"])

    # one step

    def step(self, prompts: Sequence[Prompt]) -> tuple[dict, list[dict]]:
        """One step on these prompts: (log entry, sampled answers for the diary)."""
        started = time.perf_counter()
        prompts = self.lengths.keep(prompts)
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
        experience, _ = self._experience(prompts, rollout, scored)
        learned = learn(self, experience)
        ended = time.perf_counter()
        entry = learned.sums.means()
        entry |= step_entry(self.policy, asked, completions, scored, experience) | {
            "updates": learned.updates, "stopped_early": int(learned.stopped),
            "grad_norm": learned.norm, "learning_rate": self.optimizer.param_groups[0]["lr"],
            "seconds_rollout": sampled - started, "seconds_score": scored_at - sampled,
            "seconds_update": ended - scored_at,
            "completions_per_second": len(completions) * self.ranks / (ended - started),
            "tokens_per_second": float(rollout.mask.sum()) * self.ranks / (ended - started),
        }  # fmt: skip
        if self.watch:
            entry |= self.watch(asked, completions)
        skipped = dict(self.reward.skips.counts) | {"overlong": self.lengths.overlong}
        entry |= {f"skipped/{reason}": n for reason, n in sorted(skipped.items()) if n}
        answers = len(experience.rows)
        if self.ranks > 1:
            entry, answers = over_ranks(entry, answers)
        if "kl_per_sequence" in entry:
            entry["kl_coef"] = self.controller.coef
            self.controller.update(entry["kl_per_sequence"], answers)
        self.scheduler.step()
        return entry, samples_of(asked, completions, scored, self.policy.num_generations)

    def _rollout(self, prompts: Sequence[Prompt]):
        policy = self.policy
        # A seed of its own for every step and rank: a resumed run samples what it would have.
        seed = (self.config.seed * 1_000_003 + self.position.step) * 64 + self.sampler.rank
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

    # parts of a step, for who looks into one

    def _experience(self, prompts, rollout, scored: Scored) -> tuple[Experience, torch.Tensor]:
        return make_experience(self, prompts, rollout, scored)

    def _pass(self, rows, pictures):
        return score_rows(self, rows, pictures)

    def _minibatch(self, experience: Experience, chosen, sums: Sums) -> torch.Tensor:
        return accumulate(self, experience, chosen, sums)

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
        run = {
            "model": getattr(self.model, "name_or_path", "") or type(self.model).__name__,
            "rewards": {name: weight for name, (_, weight) in self.reward.rewards.items()},
            "policy": asdict(self.policy), "train": asdict(config),
        }  # fmt: skip
        folder = config.output_dir if self.main else None
        diary = Diary(folder, config.report_to, run, position.step)
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
