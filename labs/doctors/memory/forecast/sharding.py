"""What one rank holds under DDP, ZeRO and FSDP: arithmetic over the storages of one traced process.

Nothing here was measured on several GPUs, and every prediction that uses it says so.

    ddp     nothing is divided; the reducer keeps a bucket copy of every gradient
            (torch DistributedDataParallel, gradient_as_bucket_view=False, its default)
    zero1   optimizer states, with float32 master weights, over the ranks (DeepSpeed stage_1_and_2.py)
    zero2   gradients too, through a bucket of 5e8 elements (DeepSpeed's default)
    zero3   weights too; gathered a layer at a time, one layer fetched ahead
    fsdp    as zero3, in the dtypes of the plan; the gradients of one layer before they are scattered
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from labs.doctors.memory.forecast.moments import tower_of
from labs.doctors.memory.plan import Plan

BUCKET = 500_000_000  # elements: DeepSpeed's reduce_bucket_size and allgather_bucket_size
NOTE = (
    "sharding is arithmetic over the storages of one traced process: not measured on several GPUs"
)


@dataclasses.dataclass(frozen=True)
class Model:
    """The bytes that sharding divides: all weights, all gradients, the weights of the largest layer."""

    weights: float
    gradients: float
    layer: float


def model_of(moments: Iterable[dict[str, float]], layer: float) -> Model:
    """From the moments of a step: at some moment all weights are there, at some all gradients."""
    moments = list(moments)
    return Model(
        max(parts.get("weights", 0) for parts in moments),
        max(parts.get("gradients", 0) for parts in moments),
        layer,
    )


def largest_layer(events: Iterable) -> int:
    """Bytes of weights in the largest layer, or in the largest module outside of the layers."""
    totals: dict[tuple[str, int | None], int] = {}
    for event in events:
        if event.kind == "alloc" and event.category == "weights":
            place = tower_of(event.module)
            totals[place] = totals.get(place, 0) + event.bytes
    return max(totals.values(), default=0)


def shard(parts: dict[str, float], plan: Plan, model: Model) -> dict[str, float]:
    """What one of `plan.world_size` ranks holds at a moment at which one process would hold `parts`."""
    kind, ranks = plan.sharding, plan.world_size
    if kind == "none" or ranks == 1:
        return dict(parts)
    held = dict(parts)
    width = 2 if plan.weight_dtype == "bfloat16" else 4
    trained = model.gradients / width
    if kind == "ddp":
        held["communication"] = model.gradients
        return held
    if kind.startswith("zero") and width == 2 and held.get("optimizer"):
        # DeepSpeed keeps float32 masters and float32 states whatever the dtype of the weights.
        states = {"adamw": 8, "adafactor": 0, "sgd": 4, "lion": 4}.get(plan.optimizer)
        known = held["optimizer"] if states is None else states * trained
        held["optimizer"] = known + 4 * trained
    held["optimizer"] = held.get("optimizer", 0) / ranks
    bucket = min(BUCKET, trained) * width
    if kind == "zero1":
        held["communication"] = bucket
    if kind in ("zero2", "zero3"):
        held["gradients"] = held.get("gradients", 0) / ranks
        held["communication"] = bucket
    if kind in ("zero3", "fsdp"):
        held["weights"] = held.get("weights", 0) / ranks + min(2 * model.layer, model.weights)
    if kind == "fsdp":
        held["gradients"] = held.get("gradients", 0) / ranks
        held["communication"] = min(model.layer, model.gradients)
    return held
