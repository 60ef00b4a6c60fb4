"""What to change, each change predicted: the plan is changed, traced shallow, and extrapolated.

A remedy comes before another if it reaches the goal (the card asked for, or the next smaller one) and
takes less in return; of those that do not reach it, whatever saves more. Where none reaches it alone,
they are put together in that order until they do.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from labs.doctors.memory.forecast.prediction import Prediction, Tried
from labs.doctors.memory.plan import Plan
from labs.doctors.memory.remedies import remedy
from labs.doctors.memory.setup.inputs import Sample, plan_samples
from labs.errors import InputError

if TYPE_CHECKING:
    from labs.doctors.memory.forecast.predict import Predictor

# What a remedy takes in return, from nothing to much; within a rank the larger saving comes first.
FREE, SOME_TIME, MUCH_TIME, OTHER_TRAINING = range(4)
COST = {
    "sdpa": FREE, "flash_attention": FREE, "chunked_loss": FREE, "expandable_segments": FREE,
    "bf16": FREE, "adam8bit": FREE, "precomputed_reference": FREE, "eval_accumulation": FREE,
    "eval_batch": FREE, "zero2": SOME_TIME, "checkpointing": SOME_TIME, "accumulation": SOME_TIME,
    "smaller_batch": SOME_TIME, "paged_adam": SOME_TIME, "zero3": SOME_TIME,
    "fewer_generations": OTHER_TRAINING, "offload_activations": MUCH_TIME,
    "offload_optimizer": MUCH_TIME, "vllm_share": MUCH_TIME, "freeze_tower_no_grad": OTHER_TRAINING,
    "lora": OTHER_TRAINING, "qlora": OTHER_TRAINING, "fewer_visual_tokens": OTHER_TRAINING,
    "shorter_sequence": OTHER_TRAINING,
}  # fmt: skip
WORTH = 0.01  # of the peak: a remedy that saves less is not named
TOGETHER = 4  # how many are put together at most


@dataclasses.dataclass(frozen=True)
class Change:
    """A remedy as fields of the plan."""

    id: str
    fields: dict[str, Any]


def changes(plan: Plan, samples: list[Sample]) -> Iterator[Change]:
    """The remedies that apply to this plan. samples: the rows of its batch."""
    half = max(1, plan.batch // 2)
    if plan.batch > 1 and not plan.samples:
        yield Change(
            "smaller_batch",
            {"batch": half, "grad_accumulation": plan.grad_accumulation * 2},
        )
    if plan.batch > 2 and not plan.samples:
        yield Change(
            "accumulation", {"batch": 1, "grad_accumulation": plan.grad_accumulation * plan.batch}
        )
    if plan.attention == "eager":
        yield Change("sdpa", {"attention": "sdpa"})
    if plan.attention == "sdpa" and plan.precision != "fp32" and plan.device == "cuda":
        yield Change("flash_attention", {"attention": "flash_attention_2"})
    trains = plan.objective in ("sft", "dpo", "ppo", "grpo")
    if trains:
        yield from _of_training(plan)
    if plan.objective == "sft" and plan.loss == "plain":
        yield Change("chunked_loss", {"loss": "chunked"})
    if plan.objective == "dpo" and not plan.precomputed_reference:
        yield Change("precomputed_reference", {"precomputed_reference": True})
    if plan.objective == "grpo" and plan.generations > 2:
        yield Change("fewer_generations", {"generations": plan.generations // 2})
    if plan.rollout == "vllm" and plan.vllm_share > 0.15:
        yield Change("vllm_share", {"vllm_share": plan.vllm_share / 2})
    if plan.objective == "evaluate":
        if plan.eval_accumulation is None and plan.eval_keeps_logits:
            yield Change("eval_accumulation", {"eval_accumulation": 1})
        if plan.eval_batch > 1:
            yield Change("eval_batch", {"eval_batch": max(1, plan.eval_batch // 2)})
    if plan.precision == "fp32":
        yield Change("bf16", {"precision": "bf16"})
    if not plan.samples:
        longest = max(sample.least_length for sample in samples)
        shorter = max(longest, plan.sequence_length * 3 // 4)
        if shorter < plan.sequence_length:
            yield Change("shorter_sequence", {"sequence_length": shorter})
    if not plan.expandable_segments and plan.device == "cuda":
        yield Change("expandable_segments", {"expandable_segments": True})


def _of_training(plan: Plan) -> Iterator[Change]:
    if plan.checkpointing == "none":
        yield Change("checkpointing", {"checkpointing": "full"})
    if plan.method in ("full", "frozen"):
        yield Change("lora", {"method": "lora"})
    if plan.method != "qlora":
        yield Change("qlora", {"method": "qlora"})
    if plan.optimizer == "adamw":
        yield Change("adam8bit", {"optimizer": "adamw_8bit"})
    if plan.optimizer in ("adamw", "adamw_8bit"):
        yield Change("paged_adam", {"optimizer": "paged_adamw_8bit"})
    if plan.train_tower or (plan.train_tower is None and plan.method == "full"):
        yield Change("freeze_tower_no_grad", {"train_tower": False})
    if plan.offload == "none":
        yield Change("offload_optimizer", {"offload": "optimizer"})
        yield Change("offload_activations", {"offload": "activations"})
    if plan.world_size > 1 and plan.sharding in ("none", "ddp", "zero1"):
        yield Change("zero2", {"sharding": "zero2"})
    if plan.world_size > 1 and plan.sharding not in ("zero3", "fsdp"):
        yield Change("zero3", {"sharding": "zero3"})


def fewer_tokens(plan: Plan, samples: list[Sample], measure) -> Change | None:
    """Pictures of half the area, where this family then has fewer tokens; the sequence shrinks as much.

    measure: a plan -> the rows of its batch.
    """
    if plan.samples or not plan.images:
        return None
    smaller = tuple(
        (max(1, int(width / math.sqrt(2))), max(1, int(height / math.sqrt(2))))
        for width, height in plan.images
    )
    before = samples[0].visual_tokens
    after = measure(plan.replace(images=smaller))[0].visual_tokens
    if after >= before:
        return None
    return Change(
        "fewer_visual_tokens",
        {"images": smaller, "sequence_length": plan.sequence_length - (before - after)},
    )


def advise(
    predictor: Predictor, answer: Prediction, progress: Callable[[str], None] = lambda _: None
) -> None:
    """Put the ranked remedies into `answer`, and the ones that must go together where none is enough."""
    plan = predictor.plan
    samples = plan_samples(predictor.family, plan)
    found = list(changes(plan, samples))
    fewer = fewer_tokens(plan, samples, lambda p: plan_samples(predictor.family, p))
    found += [fewer] if fewer else []
    before = answer.gpu.bytes
    progress(f"trying {len(found)} remedies")
    all_tried = predictor.pool.map(lambda change: _try(predictor, answer, change), found)
    tried = [one for one in all_tried if one is not None and one.saves > WORTH * before]
    answer.remedies = sorted(tried, key=_rank)
    if answer.gpu.bytes > answer.target.usable and not any(t.fits for t in tried):
        progress("remedies together")
        answer.together = _together(predictor, answer)


def _rank(tried: Any) -> tuple:
    cost = COST[tried.id]
    return (0, cost, -tried.saves) if tried.fits else (1, -tried.saves, cost)


def _try(predictor: Predictor, answer: Prediction, change: Change) -> Tried | None:
    """The remedy predicted; None where this model or plan cannot have it."""
    plan = predictor.plan
    try:
        changed = plan.replace(**change.fields)
        need = predictor.needs_of(changed)
    except InputError:
        return None  # such as checkpointing in a class that has none
    known = remedy(change.id)
    return Tried(
        change.id,
        known.title,
        change.fields,
        need,
        answer.gpu.bytes - need,
        known.costs,
        known.how,
        fits=need <= answer.target.usable,
    )


def _together(predictor: Predictor, answer: Prediction) -> Tried | None:
    """The cheapest first, one after another, until it fits; None where that is not reached."""
    fields: dict[str, Any] = {}
    names: list[str] = []
    best = None
    order = sorted(answer.remedies, key=lambda t: (COST[t.id], -t.saves))
    for tried in order:
        if set(tried.changes) & set(fields):
            continue
        fields |= tried.changes
        names.append(tried.id)
        if len(names) == 1:
            continue  # alone it was tried already
        best = _try(predictor, answer, Change(tried.id, dict(fields)))
        if best is None:
            fields = {k: v for k, v in fields.items() if k not in tried.changes}
            names.pop()
            continue
        best = dataclasses.replace(best, id=" + ".join(names), title="Together", how={}, costs="")
        if best.fits or len(names) == TOGETHER:
            break
    return best
