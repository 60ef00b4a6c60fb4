"""A few layers and two batches against full traces: held to 0.5 % on three families and more."""

import json

import pytest

from labs.doctors.memory.forecast.extrapolate import BATCHES, grid, interpolate, largest, learn
from labs.doctors.memory.forecast.moments import moments_of, tower_of
from labs.doctors.memory.plan import Plan
from labs.doctors.memory.trace.record import Event
from tests.doctors.predict.conftest import RAW


def deep(folder, kind: str) -> str:
    """A configuration with seven and eight layers: enough for a middle that is not traced."""
    raw = {"model_type": kind, **json.loads(json.dumps(RAW[kind]))}
    parts = [raw[part] for part in ("text_config", "vision_config") if part in raw] or [raw]
    parts[0]["num_hidden_layers"] = 8
    if len(parts) > 1:
        parts[1]["depth" if "depth" in parts[1] else "num_hidden_layers"] = 7
    (folder / "config.json").write_text(json.dumps(raw))
    return str(folder)


CASES = {
    "llava, full": ("llava", {"method": "full", "images": ((28, 28),)}),
    "llava, lora and checkpointing": (
        "llava",
        {"method": "lora", "checkpointing": "full", "images": ((28, 28),)},
    ),
    "qwen2_vl, frozen tower": ("qwen2_vl", {"method": "frozen", "images": ((56, 84),)}),
    "smolvlm, full, eager": ("smolvlm", {"attention": "eager", "images": ((28, 56),)}),
    "language model": ("llama", {"method": "full", "images": ()}),
}


@pytest.mark.parametrize("case", CASES)
def test_few_layers_and_two_batches_tell_all(tmp_path, pool, case):
    kind, fields = CASES[case]
    plan = Plan(deep(tmp_path, kind), batch=5, sequence_length=200, **fields)
    full = pool.trace(plan)
    layers = {"language": 8} if kind == "llama" else {"language": 8, "vision": 7}
    assert {name: full.layers[name] for name in layers} == layers
    law = learn(plan, pool.trace, layers, BATCHES)
    key, parts = law.peak(5)
    assert sum(parts.values()) == pytest.approx(full.peak_bytes(), rel=0.005)
    # Not only the sum: what it is made of, too.
    for name, size in full.by_category().items():
        assert parts.get(name, 0) == pytest.approx(size, rel=0.01, abs=4096), name
    assert key[0] == full.events[full.peak_index()].phase


def event(kind, size, number, module, phase="forward"):
    return Event(kind, size, number, "activations", module, phase, "op")


def test_moments_are_the_ends_of_a_tower():
    events = [event("alloc", 10, 0, "embed")]
    events += [event("alloc", 100, 1 + i, f"lm.layers.{i}.mlp") for i in range(5)]
    events += [event("free", 100, 5 - i, "", "backward") for i in range(5)]
    moments = {key: moment.total for key, moment in moments_of(events).items()}
    assert moments == {
        ("forward", "embed", ""): 10,
        ("forward", "lm.layers", "first"): 110,
        ("forward", "lm.layers", "middle"): 310,
        ("forward", "lm.layers", "-2"): 410,
        ("forward", "lm.layers", "-1"): 510,
    }


def test_a_moment_knows_its_event_and_skips_the_host():
    events = [event("alloc", 10, 0, "a"), event("alloc", 5, 1, "a"), event("alloc", 99, 2, "a")]
    events[2].place = "host"
    (moment,) = moments_of(events).values()
    assert (moment.index, moment.parts) == (1, {"activations": 15})


@pytest.mark.parametrize(
    ("module", "tower"),
    [
        ("model.layers.11.self_attn", ("model.layers", 11)),
        ("model.visual.blocks.3", ("model.visual.blocks", 3)),
        ("transformer.h.0.mlp", ("transformer.h", 0)),
        ("model.norm", ("model.norm", None)),
        ("", ("", None)),
    ],
)
def test_towers_are_known_by_their_numbers(module, tower):
    assert tower_of(module) == tower


def test_interpolation_is_exact_for_what_is_affine():
    def truth(language, vision, batch):
        return (3 + 5 * batch) + (7 + 11 * batch) * language + (13 + 17 * batch) * vision

    points = {point: truth(*point) for point in grid((32, 24), (2, 3))}
    assert len(points) == 6
    assert interpolate(points, (32, 24, 9)) == truth(32, 24, 9)
    shallow = {point: truth(*point) for point in grid((2, 24), (4,))}
    assert len(shallow) == 2  # two layers are traced as they are
    assert interpolate(shallow, (2, 24, 4)) == truth(2, 24, 4)


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 7, 8, 1000])
def test_bisection_finds_the_largest_batch(limit):
    asked = []
    assert largest(lambda batch: asked.append(batch) or batch <= limit) == limit
    assert len(asked) < 25
