"""The trace of a plan: against real steps, against arithmetic, and through its child process."""

import json
import tempfile
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from labs.bench.followed import _measure
from labs.bench.memory_cases import CASES, MODELS, make_plan, write_models
from labs.doctors.memory.follow.follower import Follower
from labs.doctors.memory.plan import Plan
from labs.doctors.memory.setup.build import build, with_layers
from labs.doctors.memory.setup.configs import load_config
from labs.doctors.memory.trace import fakes
from labs.doctors.memory.trace.child import Tracer, trace
from labs.doctors.memory.trace.record import Trace
from labs.doctors.memory.trace.tracing import trace_here
from labs.errors import InputError

CONFIGS = Path(__file__).parents[1] / "configs"
T = 187  # divides nothing else


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory() as temporary:
        write_models(Path(temporary))
        yield Path(temporary)


def peak(plan):
    return trace_here(plan).peak_bytes()


@pytest.mark.parametrize("number", [1, 2, 3, 4, 7, 9, 10, 14, 16])
def test_followed_and_predicted_peaks_are_the_profilers(folder, number):
    row = _measure(folder, *CASES[number])
    assert row["followed_error"] < 0.01
    assert row["predicted_error"] < 0.01
    assert row["predicted_against_followed"] < 1e-4, "fake and real steps differ by scalars at most"


# Parameters as their checkpoints hold them: the sizes the hub shows, in millions.
PUBLISHED = {
    "llava-1.5-7b": 7063,
    "llava-1.6-vicuna-7b": 7063,
    "qwen2-vl-2b": 2209,
    "qwen2.5-vl-3b": 3755,
    "smolvlm-256m": 256,
    "paligemma-3b": 2923,
    "internvl3-1b": 938,
    "qwen2-0.5b": 494,
    "llama-3.2-1b": 1236,
    "clip-vit-l14-336": 428,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_models_have_the_published_number_of_parameters(name):
    config = load_config(str(CONFIGS / name), allow_network=False)
    with fakes.fake_tensors():
        model = build(Plan(name, device="cpu"), config).base
        total = sum(parameter.numel() for parameter in model.parameters())
    assert total / 1e6 == pytest.approx(PUBLISHED[name], abs=1)


@pytest.mark.parametrize("name", [n for n in PUBLISHED if n not in ("qwen2-0.5b",)])
def test_every_family_traces_at_full_width_as_on_a_gpu(name):
    layers = {"language": 1, "vision": 1}
    plan = Plan(str(CONFIGS / name), layers=layers, method="frozen", sequence_length=2048)
    found = trace_here(plan)
    assert found.layers["language"] == 1
    assert 0 < found.parameters["trainable"] <= found.parameters["total"]
    phases = {phase for _, phase in found.marks}
    assert {"load", "forward", "backward", "optimizer_step"} <= phases
    assert found.peak_bytes() > sum(found.static.values()) > 0


def quadratic(plan):
    """Activations and temporaries with at least T x T elements a head, by their operators."""
    follower = Follower()
    from contextlib import ExitStack

    from labs.doctors.memory.setup.configs import load_source
    from labs.doctors.memory.trace.steps import run_plan
    from labs.doctors.memory.trace.tracing import batch_maker

    shapes = []
    new = follower._new_block

    def remember(size, op, shape, dtype):
        shapes.append(shape)
        return new(size, op, shape, dtype)

    follower._new_block = remember
    source = load_source(plan.model)
    with ExitStack() as stack:
        stack.enter_context(fakes.fake_tensors())
        stack.enter_context(follower)
        stack.enter_context(fakes.as_cuda(follower, plan.uses_autocast))
        run_plan(plan, source.config, follower, batch_maker(source, torch.empty, []))
    return [shape for shape in shapes if list(shape[-2:]) == [T, T]]


@pytest.mark.parametrize("model", ["llama", "llava", "qwen2_vl"])
def test_attention_is_quadratic_under_eager_and_not_under_sdpa(folder, model):
    plan = make_plan(folder, model, {"device": "cuda", "sequence_length": T, "padding": False})
    assert quadratic(plan) == []
    assert quadratic(plan.replace(attention="flash_attention_2")) == []
    assert quadratic(plan.replace(checkpointing="full")) == []
    found = quadratic(plan.replace(attention="eager"))
    assert (1, 4, T, T) in found


def test_a_padded_batch_makes_a_quadratic_mask_even_under_sdpa(folder):
    """As on a GPU: flash takes no mask, and the efficient kernel one of [B, 1, T, T]."""
    plan = make_plan(folder, "llama", {"device": "cuda", "sequence_length": T, "batch": 2})
    assert (2, 1, T, T) in quadratic(plan)
    assert quadratic(plan.replace(padding=False)) == []


@pytest.fixture(scope="module")
def usual(folder):
    plan = make_plan(folder, "llama", {"device": "cuda", "batch": 2})
    return plan, trace_here(plan)


def test_weights_gradients_and_state_are_what_arithmetic_says(usual):
    plan, found = usual
    parameters = found.parameters["total"]
    assert found.static["weights"] == 2 * parameters
    assert found.static["optimizer"] == pytest.approx(2 * 2 * parameters, rel=1e-3)
    most = max(found.by_category(i).get("gradients", 0) for i in _ends(found, "backward"))
    assert most == 2 * parameters
    wide = trace_here(plan.replace(precision="bf16_amp")).static
    assert wide["weights"] == 4 * parameters and wide["optimizer"] > 8 * parameters


def _ends(found: Trace, phase: str):
    return [i for i, (e, n) in enumerate(pairwise(found.events))
            if e.phase == phase != n.phase]  # fmt: skip


def test_state_by_optimizer():
    plan = Plan(str(CONFIGS / "qwen2-0.5b"), layers={"language": 1}, sequence_length=64)
    parameters = trace_here(plan).parameters["total"]

    def state(optimizer):
        return trace_here(plan.replace(optimizer=optimizer)).static.get("optimizer", 0) / parameters

    assert state("sgd") == 0
    assert state("adafactor") < 0.1
    assert state("lion") == 4
    embeddings = 151936 * 896 / parameters  # they keep 32 bits
    assert state("adamw_8bit") == pytest.approx(8 * embeddings + 2 * (1 - embeddings), rel=0.05)
    assert state("paged_adamw_8bit") < state("adamw_8bit")


def test_each_remedy_saves_what_it_is_for(usual):
    plan = usual[0].replace(sequence_length=400)
    base = trace_here(plan)

    def most(found, category):
        return max(found.by_category(i).get(category, 0) for i in range(0, len(found.events), 5))

    checkpointed = trace_here(plan.replace(checkpointing="full"))
    assert most(checkpointed, "activations") < 0.5 * most(base, "activations")
    chunked = trace_here(plan.replace(loss="chunked", loss_chunk=64))
    assert most(chunked, "logits") < 0.3 * most(base, "logits")
    offloaded = trace_here(plan.replace(offload="activations"))
    assert most(offloaded, "activations") < 0.5 * most(base, "activations")
    assert offloaded.peak_bytes("host") > 0.8 * most(base, "activations")
    lora = trace_here(plan.replace(method="lora", lora_r=4))
    assert lora.static["optimizer"] < 0.2 * base.static["optimizer"]
    packed = trace_here(plan.replace(method="qlora", lora_r=4))
    assert packed.static["weights"] < lora.static["weights"]
    moved = trace_here(plan.replace(offload="optimizer"))
    assert "optimizer" not in moved.static
    assert moved.peak_bytes("host") >= 4 * 3 * base.parameters["total"]
    fetched = trace_here(plan.replace(offload="params"))
    assert "weights" not in fetched.static


def test_a_model_for_qlora_is_never_whole_in_16_bits(folder):
    """from_pretrained quantises tensor by tensor: loading peaks at one weight above what stays."""
    plan = make_plan(folder, "llava", {"device": "cuda", "method": "qlora", "lora_r": 4})
    found = trace_here(plan)
    line = found.timeline()
    loading = max(size for size, event in zip(line, found.events, strict=True)
                  if event.phase == "load")  # fmt: skip
    whole = trace_here(plan.replace(method="lora")).static["weights"]
    assert found.static["weights"] < loading < 0.8 * whole


def test_frozen_tower_saves_its_activations_and_gradients(folder):
    plan = make_plan(folder, "llava", {"device": "cuda"})
    full, frozen = trace_here(plan), trace_here(plan.replace(method="frozen"))
    assert frozen.parameters["trainable"] < full.parameters["trainable"]
    tower = [e for e in frozen.events if "vision_tower" in e.module and e.category == "gradients"]
    assert tower == []
    saved = [e for e in frozen.events if "vision_tower.encoder" in e.module
             and e.category == "activations"]  # fmt: skip
    assert saved == []


@pytest.mark.parametrize("objective", ["dpo", "grpo", "ppo", "generate", "evaluate", "save"])
def test_objectives_and_the_models_they_bring(folder, objective):
    changes = {"objective": objective, "device": "cuda", "max_new_tokens": 32}
    plan = make_plan(folder, "llava", changes)
    found = trace_here(plan)
    once = 2 * found.parameters["total"]
    copies = {"dpo": 2, "grpo": 2, "ppo": 4}.get(objective, 1)
    assert found.static["weights"] == pytest.approx(copies * once, rel=0.01)
    if objective in ("dpo", "grpo"):
        shared = trace_here(plan.replace(method="lora"))
        assert shared.static["weights"] < 1.6 * once, "adapters off are the reference"
    if objective in ("grpo", "ppo", "generate"):
        cache = max(found.by_category(i).get("kv_cache", 0) for i in range(len(found.events)))
        text = MODELS["llava"]["text_config"]
        width = text["num_key_value_heads"] * text["hidden_size"] // text["num_attention_heads"]
        full = 2 * text["num_hidden_layers"] * width * 2 * (plan.sequence_length - 1)
        assert full <= cache < 2 * full
    if objective == "save":
        assert found.peak_bytes("host") == pytest.approx(once, rel=0.01)


def test_layers_may_be_overridden_in_every_tower():
    for name in PUBLISHED:
        config = load_config(str(CONFIGS / name), allow_network=False)
        before = json.dumps(config.to_dict(), default=str)
        from labs.doctors.memory.setup.configs import layer_counts

        counts = layer_counts(with_layers(config, dict.fromkeys(layer_counts(config), 2)))
        assert set(counts.values()) == {2}
        assert json.dumps(config.to_dict(), default=str) == before, "the original is left alone"


def test_a_child_gives_what_this_process_gives(folder, usual):
    plan, here = usual
    with Tracer() as tracer:
        child = tracer.trace(plan)
        with pytest.raises(InputError, match="no file or folder"):
            tracer.trace(Plan(str(folder / "nothing.json")))
        again = tracer.trace(plan.replace(batch=1))
    assert [(e.kind, e.bytes, e.category) for e in child.events] == [
        (e.kind, e.bytes, e.category) for e in here.events
    ]
    assert again.peak_bytes() < child.peak_bytes()
    assert Trace.from_json(json.loads(json.dumps(child.to_json()))) == child


@pytest.mark.parametrize("broken", [{}, {"schema": "memory-trace/1"}, {"schema": "other"}])
def test_what_is_no_trace_is_said(broken):
    with pytest.raises(InputError, match="no trace"):
        Trace.from_json(broken)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "lorra"}, "method"),
        ({"batch": 0}, "batch"),
        ({"batch": True}, "batch"),
        ({"images": [(336,)]}, "images"),
        ({"layers": {"tower": 2}}, "layers"),
        ({"vllm_share": 1.5}, "vllm_share"),
    ],
)
def test_an_impossible_plan_is_refused_by_its_field(changes, words):
    with pytest.raises(InputError, match=words):
        Plan("x", **changes)


def test_plans_that_fit_no_layer_or_train_nothing_are_refused(folder):
    plan = make_plan(folder, "llama", {"device": "cuda"})
    with pytest.raises(InputError, match="No linear layer"):
        trace_here(plan.replace(method="lora", lora_targets=("q_prjo",)))
    with pytest.raises(InputError, match="Nothing"):
        trace_here(plan.replace(train_language=False, train_connector=False, train_tower=False))
    with pytest.raises(InputError, match="CPU"):
        trace_here(plan.replace(attention="flash_attention_2", device="cpu"))


def test_trace_is_one_call(folder):
    assert trace(make_plan(folder, "llama", {"layers": {"language": 1}})).layers == {"language": 1}
