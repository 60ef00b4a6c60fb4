"""Training on preference pairs: DPO and its family. Chapter 6.

model, processor = load_vlm("tiny-sft")
result = train_preference(model, processor, pairs, held_out, config, PreferenceConfig("dpo"))
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from labs.data.preference import preference_statistics
from labs.errors import InputError
from labs.formats import Preference
from labs.models.lora import lora_layers
from labs.models.parts import part_of
from labs.train.config import TrainConfig
from labs.train.loop import Trainer, TrainResult
from labs.train.methods import apply_method, connect_adalora
from labs.train.preference.collate import PreferenceCollator
from labs.train.preference.config import PreferenceConfig
from labs.train.preference.objective import PreferenceObjective
from labs.train.preference.pairs import PreferencePairs
from labs.train.preference.stored import reference_logprobs
from labs.train.rng import seed_all
from labs.train.stages import finish

# Without an adapter: the tower stays as it is (RLAIF-V and LLaVA-NeXT tune all, at 5e-7).
POLICIES = {"vision_tower": "frozen", "connector": "all", "language_model": "all"}


class PreferenceTrainer(Trainer):
    """The common loop, with the objective's numbers under TRL's names, in validation too."""

    def _entry(self, norm) -> dict:
        names = [f"{name}_loss" for name in self.objective.parts]
        entry = super()._entry(norm)
        return {k.removesuffix("_loss") if k in names else k: v for k, v in entry.items()}

    def evaluate(self) -> float:
        self.objective.eval_parts.clear()
        self.objective.eval_pairs = 0
        return super().evaluate()

    def _log(self, entry: dict, progress, board) -> None:
        if "eval_loss" in entry:
            names = list(self.objective.eval_parts)
            sums = [self.objective.eval_parts[name] for name in names]
            pairs = torch.tensor(float(self.objective.eval_pairs), device=self.device)
            found = torch.stack([*sums, pairs])
            if self.ranks > 1:
                found = self.accelerator.reduce(found, "sum")
            *sums, pairs = found.tolist()
            entry |= {f"eval_{n}": value / pairs for n, value in zip(names, sums, strict=True)}
        super()._log(entry, progress, board)


def train_preference(
    model: torch.nn.Module,
    processor,
    pairs: Sequence[Preference],
    eval_pairs: Sequence[Preference] | None = None,
    config: TrainConfig | None = None,
    preference: PreferenceConfig | None = None,
    *,
    reference_model: torch.nn.Module | None = None,
    reference_processor=None,
    stored: str | Path | None = None,
    eval_stored: str | Path | None = None,
    useless_limit: float = 0.05,
    keep: bool = False,
    base_model: str | None = None,
    resume: bool | str | Path | None = None,
    on_log: Callable[[dict], None] | None = None,
) -> TrainResult:
    """Train `model` in place on pairs; returns the run's history.

    config: the loop's settings; `method` full or any adapter, `trainable` as everywhere (by default
    an adapter alone, or in full training all but the vision tower). preference: the loss and its
    reference. The reference is the model as it is passed in; with `reference: model` it is
    `reference_model`, whose tokenizer `reference_processor` is compared where it is given.

    stored, eval_stored: where `reference: stored` keeps its log-probabilities (a safetensors file
    beside the pairs). They are computed where there is no such file, and refused where they were
    computed of another model, tokenizer, length or list of pairs.
    useless_limit: the share of pairs that may teach nothing (`preference_statistics`: tied or twice
    the same; `PreferencePairs`: equal once cut, no room for an answer, other images); 1 takes all.
    keep: hold encoded pairs in memory, pixels too.

    The history's entries have rewards/chosen, rewards/rejected, rewards/margins,
    rewards/accuracies, logps/chosen, logps/rejected and entropy, and after validation the same with
    eval_ before. Raises InputError for whatever of this does not fit.
    """
    config = (config or TrainConfig()).checked()
    preference = (preference or PreferenceConfig()).checked()
    if not len(pairs):
        raise InputError("There are no preference pairs.", "Check the path and the selection.")
    _check_useless(pairs, useless_limit)
    if reference_processor is not None:
        check_tokenizers(processor, reference_processor)
    if preference.method == "kto" and config.per_device_train_batch_size < 2:
        raise InputError(
            "KTO compares answers of different pairs, and a batch holds one.",
            "Set per_device_train_batch_size to 2 or more.",
        )
    seed_all(config.seed)
    data, held_out = (
        None if some is None else PreferencePairs(
            some, processor, preference.max_length, corrupted=preference.method == "mdpo",
            limit=useless_limit, keep=keep, seed=config.seed,
        )
        for some in (pairs, eval_pairs)
    )  # fmt: skip
    carries = bool(lora_layers(model)) and config.method != "full"
    if carries and preference.needs_reference and preference.reference == "adapter_off":
        raise InputError(
            "The model carries an adapter, which switched off is not the model that was passed in.",
            "Merge it first, or give a second model as the reference.",
        )
    if preference.needs_reference and preference.reference == "stored":
        _store(model, processor, data, stored, config)
        if held_out is not None:
            _store(model, processor, held_out, eval_stored, config)
    if carries:  # go on with the LoRA that it carries
        applied, policies = None, _only_lora(model)
    else:
        applied = apply_method(model, config)
        policies = applied.policies or _present(model)
    peft_model = applied.peft_model if applied else None
    objective = PreferenceObjective(model, preference, reference_model)
    trainer = PreferenceTrainer(
        objective,
        data,
        config,
        PreferenceCollator(processor, mismatched=preference.method == "kto"),
        held_out,
        policies | config.trainable,
        on_log,
    )
    if config.method == "adalora":
        connect_adalora(trainer, peft_model)
    if preference.needs_reference and preference.reference == "adapter_off":
        objective.keep_reference(trainer.names, peft_model)
    result = trainer.train(resume)
    data.check()
    finish(trainer, processor, peft_model, base_model)
    return result


def _check_useless(pairs: Sequence[Preference], limit: float) -> None:
    if limit < 1:
        preference_statistics(pairs).check(limit)


def _store(model, processor, data: PreferencePairs, path, config: TrainConfig) -> None:
    if torch.cuda.is_available():
        model.to("cuda")
    low = config.mixed_precision in ("bf16", "fp16")  # as the training will see the policy
    kind = torch.float16 if config.mixed_precision == "fp16" else torch.bfloat16
    with torch.autocast(model.device.type, kind, enabled=low):
        data.stored = reference_logprobs(
            path, model, processor, data, config.per_device_eval_batch_size
        )


def _only_lora(model) -> dict[str, str]:
    return dict.fromkeys({part_of(n) for n, _ in model.named_parameters()}, "frozen") | {
        "lora": "all"
    }


def _present(model) -> dict[str, str]:
    parts = {part_of(name) for name, _ in model.named_parameters()}
    return {part: policy for part, policy in POLICIES.items() if part in parts}


def check_tokenizers(processor, other) -> None:
    """Raise InputError where two processors do not turn text into the same ids."""
    ours, theirs = (getattr(p, "tokenizer", p).get_vocab() for p in (processor, other))
    if ours != theirs:
        differ = sum(ours.get(word) != number for word, number in theirs.items())
        raise InputError(
            f"The reference has another tokenizer: {differ:,} of its {len(theirs):,} tokens are "
            "other ids, or none, in the policy's.",
            "Take the reference that the policy began as.",
        )
