"""The batch of a plan goes through the real model classes: they refuse a wrong number of tokens."""

import dataclasses
import types

import pytest
import torch

from labs.doctors.memory.plan import Plan
from labs.doctors.memory.setup.configs import Source
from labs.doctors.memory.setup.inputs import Shape, make_batch
from labs.errors import InputError

KINDS = [
    "llava", "llava_next", "qwen2_vl", "qwen2_5_vl", "smolvlm", "idefics3", "paligemma", "internvl", "llama",
]  # fmt: skip


def plan_with(plan: Plan, **fields):
    """`plan` with fields that later plans have: what make_batch reads by name."""
    return types.SimpleNamespace(**{**dataclasses.asdict(plan), **fields})


def real(inputs: dict) -> dict:
    """The inputs with random pixels, which no picture's padding could be mistaken for."""
    return {
        name: torch.rand(value.shape) + 0.1 if isinstance(value, Shape) else value
        for name, value in inputs.items()
    }


def forward(tiny, kind, plan):
    config, model = tiny(kind)
    batch = make_batch(config, plan)
    inputs = real(batch.inputs)
    if batch.real_images is not None:
        keep = torch.tensor(batch.real_images).view(inputs["pixel_values"].shape[:2])
        inputs["pixel_values"] = inputs["pixel_values"] * keep[..., None, None, None]
    with torch.no_grad():
        return batch, model(**inputs)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_with_different_pictures_in_each_row_goes_through_the_model(tiny, kind):
    pictures = [[(90, 60)], [(30, 110), (64, 64)], []]
    if kind == "llama":
        pictures = [[], [], []]
    plan = plan_with(
        Plan(model=kind),
        samples=[{"length": 500 + i, "images": sizes} for i, sizes in enumerate(pictures)],
    )
    batch, output = forward(tiny, kind, plan)
    assert output.logits.shape[:2] == (3, 502)
    assert torch.isfinite(output.loss)
    assert batch.visual_tokens[2] == 0
    assert (batch.inputs["labels"] != -100).any(1).all()


@pytest.mark.parametrize("kind", ["qwen2_vl", "qwen2_5_vl", "smolvlm", "internvl"])
def test_videos_go_through_the_model(tiny, kind):
    plan = Plan(model=kind, batch=2, sequence_length=900, images=((60, 60),), videos=((90, 60, 5),))
    batch, output = forward(tiny, kind, plan)
    assert output.logits.shape[:2] == (2, 900)
    assert batch.visual_tokens[0] == batch.visual_tokens[1] > 0


def test_a_batch_has_padding_as_real_ones_do_unless_told_otherwise(tiny):
    config, _ = tiny("llava")
    plan = Plan(model="llava", batch=3, sequence_length=64)
    assert make_batch(config, plan).inputs["attention_mask"].sum(1).tolist() == [64, 64, 63]
    flat = make_batch(config, plan_with(plan, padding=False)).inputs
    assert flat["attention_mask"].sum(1).tolist() == [64] * 3
    single = make_batch(config, plan.replace(batch=1)).inputs
    assert single["attention_mask"].all()


def test_pictures_that_do_not_fit_the_sequence_are_refused(tiny):
    config, _ = tiny("llava_next")
    with pytest.raises(InputError, match=r"Sample 1 has 88 visual tokens .* is 64"):
        make_batch(config, Plan(model="x", sequence_length=64, images=((56, 56),)))


def test_settings_of_the_processor_and_of_the_plan_reach_the_tokens(tiny):
    config, _ = tiny("qwen2_vl")
    plan = Plan(model="x", images=((1000, 1000),), sequence_length=2000)
    source = Source("x", config, {"max_pixels": 28 * 28 * 100}, {})
    assert make_batch(source, plan).visual_tokens == (100,)
    fewer = plan_with(plan, processor={"max_pixels": 28 * 28 * 25})
    assert make_batch(source, fewer).visual_tokens == (25,)


def test_assumed_settings_are_said(tiny):
    config, _ = tiny("qwen2_vl")
    assert any(
        "max_pixels = 12845056" in note for note in make_batch(config, Plan(model="x")).notes
    )
