"""The trace itself, in whichever process this runs; `child.py` gives it a process of its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from labs.doctors.memory.follow.follower import Follower
from labs.doctors.memory.plan import Plan
from labs.doctors.memory.setup.build import Built
from labs.doctors.memory.setup.configs import Source, layer_counts, load_source
from labs.doctors.memory.setup.inputs import Batch, Shape, make_batch
from labs.doctors.memory.trace.fakes import as_cuda, fake_tensors
from labs.doctors.memory.trace.record import Event, Trace
from labs.doctors.memory.trace.steps import run_plan

CONTRASTIVE = ("clip", "siglip", "siglip2")
_PEFT = "base_model.model."


def trace_here(plan: Plan, steps: int = 1) -> Trace:
    """Trace `plan` on fake tensors in this process."""
    start = time.monotonic()
    source = load_source(plan.model, plan.trust_remote_code, plan.allow_network)
    notes: list[str] = list(source.notes)
    follower = Follower()
    with ExitStack() as stack:
        stack.enter_context(fake_tensors())
        stack.enter_context(follower)
        if plan.device == "cuda":
            stack.enter_context(as_cuda(follower, plan.uses_autocast))
        make = batch_maker(source, torch.empty, notes)
        session = run_plan(plan, source.config, follower, make, steps)
        return to_trace(follower, session.built, notes, time.monotonic() - start)


def run_here(plan: Plan, follower: Follower, steps: int = 1, seed: int = 0) -> Trace:
    """The same step on real tensors on CPU: what predictions are held against."""
    start = time.monotonic()
    source = load_source(plan.model, plan.trust_remote_code, plan.allow_network)
    torch.manual_seed(seed)
    notes: list[str] = list(source.notes)
    with follower:
        make = batch_maker(source, torch.randn, notes)
        session = run_plan(plan, source.config, follower, make, steps)
        return to_trace(follower, session.built, notes, time.monotonic() - start)


def batch_maker(
    source: Source, floats: Callable[..., Tensor], notes: list[str]
) -> Callable[[Plan], dict[str, Tensor]]:
    """plan -> the inputs of the model, pixels made by `floats(shape, dtype=...)`."""

    def make(plan: Plan) -> dict[str, Tensor]:
        from torch._subclasses.fake_tensor import unset_fake_temporarily

        with unset_fake_temporarily():
            if getattr(source.config, "model_type", "") in CONTRASTIVE:
                batch = _pairs(source.config, plan)
            else:
                batch = make_batch(source, plan)
            values = {
                name: value if isinstance(value, Shape) else value.clone()
                for name, value in batch.inputs.items()
            }
            if batch.real_images is not None:
                # These models look for pictures of zeros: the pixels have to be real.
                shape = values["pixel_values"]
                pixels = torch.ones(shape.shape, dtype=getattr(torch, shape.dtype))
                pixels.view(-1, *shape.shape[2:])[~torch.tensor(batch.real_images)] = 0
                values["pixel_values"] = pixels
        notes.extend(note for note in batch.notes if note not in notes)
        return {
            name: floats(value.shape, dtype=getattr(torch, value.dtype))
            if isinstance(value, Shape)
            else value
            for name, value in values.items()
        }

    return make


def _pairs(config: Any, plan: Plan) -> Batch:
    """One picture and one caption a row: what CLIP and SigLIP train on. Length and size are fixed."""
    text, vision = config.text_config, config.vision_config
    length = min(plan.sequence_length, text.max_position_embeddings)
    ids = torch.full((plan.batch, length), 1)
    ids[:, -1] = text.vocab_size - 1  # the end of the text, where CLIP pools
    side = vision.image_size
    pixels = Shape((plan.batch, vision.num_channels, side, side))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}
    return Batch(inputs, (length,) * plan.batch, (0,) * plan.batch, plan.batch)


def to_trace(follower: Follower, built: Built, notes: list[str], seconds: float) -> Trace:
    """Everything the follower has seen, and what is still there."""
    events = [
        Event(
            e.kind,
            e.bytes,
            e.storage_id,
            e.category,
            e.module.removeprefix(_PEFT),
            e.phase,
            e.op.partition(".")[0],
            e.place,
        )
        for e in follower.events
    ]
    between = ("weights", "optimizer", "buffers", "workspace")
    static = {k: v for k, v in follower.live().items() if k in between and v}
    parameters = {
        "total": sum(_elements(p) for p in built.base.parameters()),
        "trainable": sum(p.numel() for p in built.model.parameters() if p.requires_grad),
    }
    return Trace(events, static, layer_counts(built.config), parameters, notes, seconds)


def _elements(parameter: Any) -> int:
    """Weights in a parameter: two to a byte in NF4."""
    return parameter.numel() * (2 if parameter.dtype == torch.uint8 else 1)
