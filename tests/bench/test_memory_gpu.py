"""The GPU bench of the OOM doctor, for real on tiny models on the CPU: killed, resumed, fitted, told."""

import ast
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labs.bench import memory_gpu, memory_gpu_measure, memory_gpu_meter
from labs.bench.children import ROOT, BenchError
from labs.bench.memory_gpu_cases import CASES, CONFIGS, TINY, Case, by_information, features
from labs.bench.memory_gpu_fit import Pair, compare, fit, tally, verdicts, weighted_median
from labs.bench.memory_gpu_predict import predict_cases
from labs.bench.memory_gpu_results import Results
from labs.doctors.memory.cuda.allocator import CachingAllocator
from labs.doctors.memory.trace.tracing import trace_here
from labs.errors import InputError

MIB = 2**20
BY_NAME = {case.name: case for case in TINY}


# -- the cases ---------------------------------------------------------------------------------------


def test_there_are_enough_cases_and_both_splits_see_everything_that_matters():
    assert len(CASES) >= 24 and len({case.name for case in CASES}) == len(CASES)
    splits = Counter(case.split for case in CASES)
    assert 0.25 <= splits["calibration"] / len(CASES) <= 0.4
    plans = [(case, case.plan()) for case in CASES]
    for split in splits:
        seen = [plan for case, plan in plans if case.split == split]
        assert {plan.method for plan in seen} >= {"full", "lora", "qlora", "frozen"}
        assert {plan.checkpointing for plan in seen} == {"none", "full"}
        assert {Path(plan.model).name for plan in seen} == {case.model for case in CASES}
    assert len({case.model for case, plan in plans if plan.objective == "dpo"}) >= 2
    assert {plan.attention for _, plan in plans} >= {"sdpa", "eager"}


def test_every_batch_can_be_made():
    from labs.doctors.memory.setup.configs import load_source
    from labs.doctors.memory.setup.inputs import make_family, plan_samples

    sources = {}
    for case in CASES:
        plan = case.plan()
        source = sources.setdefault(case.model, load_source(plan.model, allow_network=False))
        for sample in plan_samples(make_family(source, plan), plan):
            assert sample.least_length <= sample.length, case.name
            assert sample.visual_tokens > 0, case.name


def test_a_cut_off_order_is_useful_and_an_expensive_case_waits():
    ordered = by_information(CASES, lambda case: 10.0)
    assert sorted(map(id, ordered)) == sorted(map(id, CASES))
    eighth = ordered[:8]
    assert {case.split for case in eighth} == {"calibration", "validation"}
    assert len({case.model for case in eighth}) >= 6
    assert len({case.plan().method for case in eighth}) == 4
    # two that tell the same: the cheaper one first
    a, b = (Case(name, CASES[0].model, "validation") for name in "ab")
    assert features(a) == features(b)
    costs = {"a": 9.0, "b": 1.0}
    assert [c.name for c in by_information([a, b], lambda c: costs[c.name])] == ["b", "a"]


def test_an_identity_is_of_the_plan_and_the_configuration_wherever_they_lie(tmp_path):
    case = CASES[0]
    (tmp_path / case.model).mkdir()
    config = tmp_path / case.model / "config.json"
    config.write_bytes((CONFIGS / case.model / "config.json").read_bytes())
    kept = json.loads(json.dumps(case.identity()))
    assert case.is_run(kept) and case.is_run(kept, tmp_path)
    for other in (
        Case(case.name, case.model, case.split, case.changes | {"batch": 7}),
        Case(case.name, case.model, case.split, case.changes, "24"),
    ):
        assert not other.is_run(kept)
    # written before plans had a field: it stood at its default
    del kept["plan"]["vllm_share"], kept["plan"]["batch"]
    assert case.is_run(kept)
    assert not Case(case.name, case.model, case.split, case.changes | {"batch": 2}).is_run(kept)
    config.write_text(config.read_text().replace("4096", "2048"))
    assert not case.is_run(kept, tmp_path)


# -- the folder --------------------------------------------------------------------------------------


def test_results_of_other_code_or_another_plan_are_done_again(tmp_path):
    results = Results(tmp_path)
    first, second, third = CASES[:3]
    assert results.left("measured", CASES[:3]) == [first, second, third]
    results.write("measured", first, {"outcome": "done"})
    results.write("measured", second, {"outcome": "time limit"})
    assert results.left("measured", CASES[:3]) == [third, second], (
        "what failed is tried again, last"
    )
    file = results.file("measured", first)
    file.write_text(file.read_text().replace(results.digests["measured"], "another"))
    assert results.left("measured", CASES[:3]) == [third, first, second]
    changed = Case(first.name, first.model, first.split, first.changes | {"batch": 3})
    assert results.read("measured", changed) is None
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".json"] == []


@pytest.mark.parametrize("content", ["", "[]", '{"outcome": "done"}', "{", "\xff"])
def test_a_damaged_file_is_named(tmp_path, content):
    results = Results(tmp_path)
    results.file("measured", CASES[0]).write_text(content, encoding="latin-1")
    with pytest.raises(InputError, match=r"llava-lora\.measured\.json is no result of this bench"):
        results.left("measured", CASES)


# -- constants and errors ----------------------------------------------------------------------------


def made(
    name="x", split="calibration", method="lora", allocated=1000, idle=100, outside=500, **more
):
    """A case that takes what is said, predicted as 900 allocated, 50 idle, 480 of context (MiB)."""
    predicted = {
        "allocated": 900 * MIB,
        "reserved": 950 * MIB,
        "context": 480 * MIB,
        "device": 1430 * MIB,
        "low": 1380 * MIB,
        "high": 1500 * MIB,
        "verdict": None,
        "played": None,
        "phases": {"backward": 900 * MIB},
        "parts": {"weights": 8, "buffers": 2, "gradients": 5, "optimizer": 4},
        "parameters": {"total": 10, "trainable": 5},
        "others": {"accelerate": 1600 * MIB, "zero2": 800 * MIB, "zero3": 3200 * MIB},
    } | more.pop("predicted", {})
    measured = {
        "outcome": "done",
        "seconds": 1.0,
        "parameters": {"total": 10, "trainable": 5},
        "parts": {"weights": 10, "buffers": 0, "gradients": 5, "optimizer": 5},
        "memory": {
            "allocated": allocated * MIB,
            "reserved": (allocated + idle) * MIB,
            "outside": outside * MIB,
            "device": (allocated + idle + outside) * MIB,
            "retries": 0,
            "total": 140 * 2**30,
            "phases": {"backward": {"peak": 800 * MIB}, "end": {"peak": 1}},
        },
    }  # fmt: skip
    measured["memory"] |= more.pop("memory", {})
    return Pair(name, split, method, predicted, measured | more)


def test_the_constants_are_those_that_were_planted_and_odd_cases_do_not_bend_them():
    pairs = [made(str(n)) for n in range(5)] + [made("q", method="qlora", allocated=870)]
    pairs.append(made("odd", allocated=1700, idle=900, outside=2000))
    pairs += [made("v", split="validation", allocated=5000, idle=0, outside=1)] * 9
    found = fit(pairs)
    assert found.workspace == {"torch": 100 * MIB, "bitsandbytes": -30 * MIB}
    assert found.fragmentation == 2.0 and found.context == 500 * MIB
    after = found.apply(made())
    assert after == {"allocated": 1000 * MIB, "reserved": 1100 * MIB, "device": 1600 * MIB}


def test_a_run_that_was_confined_or_did_not_end_teaches_nothing():
    odd = {"allocated": 1, "idle": 1, "outside": 1}
    pairs = [
        made("good"),
        made("confined", **odd, memory={"room": 5}),
        made("squeezed", **odd, memory={"retries": 2}),
        made("full", **odd, outcome="out of memory"),
    ]
    assert fit(pairs) == fit(pairs[:1])
    rows = compare(pairs)["cases"]
    assert ["errors" in row for row in rows] == [True, False, False, False]


def test_errors_before_and_after_beside_others_on_validation_cases_alone():
    pairs = [made("c"), made("v1", "validation"), made("v2", "validation", allocated=1160)]
    result = compare(pairs)
    errors = result["errors"]["validation"]
    before, after = errors["predict, device, before"], errors["predict, device, after"]
    assert before["cases"] == 2 and before["worst"] == pytest.approx(1 - 1430 / 1760)
    assert after["median"] == pytest.approx((0 + 1 - 1600 / 1760) / 2)
    assert errors["zero3"]["worst"] == pytest.approx(1.0)
    assert errors["accelerate, full tuning"] == {"cases": 0, "median": None, "worst": None}
    assert result["met"] == {"median": False, "worst": True}
    assert compare(pairs[:2])["met"] == {"median": True, "worst": True}
    assert compare(pairs[:1])["met"] == {"median": False, "worst": False}, "nothing was validated"
    assert result["cases"][0]["errors"]["phases"] == {"backward": 0.125, "end": None}
    parts = result["cases"][0]["errors"]["parts"]
    assert parts == pytest.approx({"weights": 0.0, "gradients": 0.0, "optimizer": -0.2})


@given(st.lists(st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)), min_size=1, max_size=9))
def test_the_weighted_median_minimises_absolute_errors(points):
    def loss(slope):
        return sum(abs(y - slope * x) for x, y in points)

    best = weighted_median([(y / x, x) for x, y in points])
    assert loss(best) <= min(loss(y / x) for x, y in points) + 1e-9


def test_whether_it_fits_is_told_apart_from_how_much():
    confined = {"predicted": {"verdict": "no", "played": "no"}}
    pairs = [
        made("right", outcome="out of memory", **confined),
        made("wrong", **confined),
        made("beyond", outcome="out of memory"),  # 1.4 GiB were to fit 140: wrong
        made("plain", allocated=50 * 1024),
    ]
    found = verdicts(pairs)
    assert found["tried"] == {"right": 1, "perhaps": 0, "wrong": 2, "which": ["wrong", "beyond"]}
    assert found["played"] == {"right": 1, "perhaps": 0, "wrong": 1, "which": ["wrong"]}
    # 50 GiB were needed where 1.4 were named: right for cards of 80 and more, wrong for smaller ones
    assert found["cards"]["right"] == 2 and found["cards"]["wrong"] == 4
    assert tally([("a", "perhaps", True), ("b", "yes", True), ("c", "no", False)]) == {
        "right": 2,
        "perhaps": 1,
        "wrong": 0,
        "which": [],
    }


class Here:
    """Traces in this process, which has its imports behind it."""

    trace = staticmethod(trace_here)
    map = staticmethod(lambda function, items: [function(item) for item in items])


# -- the real thing ----------------------------------------------------------------------------------

QUICK = ("tiny-pali-full", "tiny-too-large")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two tiny cases measured by a bench that is killed after the first and started again."""
    folder = tmp_path_factory.mktemp("memory_gpu")
    command = [sys.executable, "-m", "labs.bench.memory_gpu", "measure", "--tiny"]
    command += ["--folder", str(folder), "--only", ",".join(QUICK)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 60
    while not list(folder.glob("*.measured.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)  # in the middle of the second
    process.wait()
    return folder


def test_killed_in_mid_case_it_goes_on_where_it_was(folder):
    (before,) = folder.glob("*.measured.json")
    kept = before.read_bytes(), before.stat().st_mtime_ns
    results, cases = memory_gpu.open_folder(folder, True)
    cases = memory_gpu.chosen(cases, ",".join(QUICK))
    said = []
    tried = memory_gpu.measure(results, cases, "cpu", progress=said.append)
    assert [case.name for case in tried] == [n for n in QUICK if not before.name.startswith(n)]
    assert (before.read_bytes(), before.stat().st_mtime_ns) == kept, "not done twice"
    assert said[-1].startswith(f"1 of 1: {tried[0].name}: ")
    assert memory_gpu.measure(results, cases, "cpu") == []

    assert predict_cases(results, cases, pool=Here()) == {}
    result = memory_gpu.report(results, cases)
    rows = {row["case"]: row for row in result["cases"]}
    done, full = rows["tiny-pali-full"], rows["tiny-too-large"]
    assert abs(done["errors"]["before"]["allocated"]) < 0.01
    assert max(map(abs, done["errors"]["parts"].values())) < 0.001
    assert full["outcome"] == "out of memory" and "errors" not in full
    assert full["measured"]["allocated"] == pytest.approx(64 * MIB, rel=0.05)
    for kind in ("tried", "played"):
        assert result["verdicts"][kind] == {"right": 1, "perhaps": 0, "wrong": 0, "which": []}
    assert not any("differs" in row for row in rows.values())
    assert result["missing"] == result["failed"] == result["of other code"] == []
    assert len(memory_gpu.tables(result)) == 3
    json.dumps(result)
    measured = results.read("measured", BY_NAME["tiny-pali-full"])
    assert measured["steps"] == 3 and measured["attention"] and measured["loss"] > 0


@pytest.fixture
def workers(tmp_path, monkeypatch):
    """measure(*names, **settings) with children that need no torch; their log; the results."""
    log = tmp_path / "log"
    monkeypatch.setenv("MEMORY_GPU_WORKER_LOG", str(log))
    monkeypatch.setattr(memory_gpu_measure, "CHILD", "tests.bench.memory_gpu_worker")
    results = Results(tmp_path / "results")

    def measure(*names, **settings):
        cases = [Case(name, CASES[0].model, "validation") for name in names]
        tried = memory_gpu.measure(results, cases, **settings)
        return [case.name for case in tried], [results.read("measured", case) for case in cases]

    return measure, log


def test_the_device_is_one_childs_at_a_time_while_the_next_get_ready(workers):
    measure, log = workers
    said, alive = [], []
    before = {child.pid for child in psutil.Process().children()}

    def progress(line):
        said.append(line)
        if line.count(":") == 1:  # a case begins
            alive.append({child.pid for child in psutil.Process().children()} - before)

    names = [f"good-{n}" for n in range(4)]
    tried, found = measure(*names, progress=progress)
    assert tried == names and [result["outcome"] for result in found] == ["done"] * 4
    told = [json.loads(row) for row in log.read_text().splitlines()]
    work = [(what, name) for what, name, _, _ in told if what != "ready"]
    assert work == [(what, name) for name in names for what in ("starts", "ends")]
    pids = {name: pid for _, name, pid, _ in told}
    for number, there in enumerate(alive):
        # the one whose turn it is and those that import; those that have measured are gone
        upcoming = names[number : number + 1 + memory_gpu_measure.AHEAD]
        assert there == {pids[name] for name in upcoming}
    assert len(alive) == 4 and said[-1].startswith("4 of 4: good-3: done, ")


def test_a_case_that_is_too_slow_or_fails_is_written_down_and_the_others_go_on(workers):
    measure, _ = workers
    tried, found = measure("slow-a", "good", "fails", case_seconds=3.0)
    assert tried == ["slow-a", "good", "fails"]
    assert [result["outcome"] for result in found] == ["time limit", "done", "failed"]
    assert "no such kernel" in found[2]["said"] and 2.9 < found[0]["seconds"] < 15
    assert measure("slow-a", "good", "fails", case_seconds=3.0)[0] == ["slow-a", "fails"], "again"


def test_the_clock_of_all_is_kept_and_a_case_cut_off_by_it_is_not_counted(workers):
    measure, _ = workers
    start = time.monotonic()
    tried, found = measure("good", "slow", "good-b", seconds=4.0)
    assert time.monotonic() - start < 15
    assert tried == ["good"] and found[1:] == [None, None]


def test_a_machine_on_which_nothing_works_is_left_early(workers):
    measure, log = workers
    with pytest.raises(BenchError, match="no such kernel"):
        measure(*(f"fails-{n}" for n in range(9)))
    started = [row for row in log.read_text().splitlines() if "starts" in row]
    assert len(started) == 3


def test_nothing_measured_is_an_answer_of_its_own(tmp_path, capsys, monkeypatch):
    assert memory_gpu.main(["report", "--folder", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert f"{len(CASES)} wait, the first: llava-lora (not predicted)" in said
    assert memory_gpu.main(["report", "--only", "lava,emu", "--folder", str(tmp_path)]) == 2
    assert "No case has `emu` in its name." in capsys.readouterr().err
    monkeypatch.setattr(memory_gpu, "has_gpu", lambda: False)
    assert memory_gpu.main(["measure", "--folder", str(tmp_path)]) == 2
    assert "PyTorch sees no GPU here." in capsys.readouterr().err


@pytest.mark.parametrize("model", ["llava", "llava_next", "qwen2_vl", "qwen2_5_vl", "idefics3", "paligemma", "internvl"])  # fmt: skip
@pytest.mark.parametrize("method", ["full", "frozen", "lora"])
def test_the_model_that_runs_is_the_model_that_is_traced(model, method, tiny_models):
    """Built by the bench as a script would, and by the doctor: same weights, dtypes and choices."""
    from labs.bench.memory_gpu_model import build
    from labs.doctors.memory.plan import Plan
    from labs.doctors.memory.setup.build import build as traced
    from labs.doctors.memory.setup.configs import load_config

    plan = Plan(str(tiny_models / model), method=method, device="cpu")
    config = load_config(plan.model, allow_network=False)

    def weights(found):
        return {
            name: (p.shape, p.dtype, p.requires_grad, p.device.type)
            for name, p in found.named_parameters(remove_duplicate=False)
        }

    real = build(plan, config, "cpu")
    assert weights(real) == weights(traced(plan, config).model)
    shared = {name for name, _ in real.named_parameters()}
    assert shared == {name for name, _ in traced(plan, config).model.named_parameters()}, "ties"


@pytest.fixture(scope="module")
def tiny_models(tmp_path_factory):
    from labs.bench.memory_cases import write_models

    folder = tmp_path_factory.mktemp("models")
    write_models(folder)
    return folder


def test_in_four_bits_every_linear_layer_but_the_head_is_packed(tiny_models):
    import bitsandbytes
    from torch import nn

    from labs.bench.memory_gpu_child import held
    from labs.bench.memory_gpu_model import build, count
    from labs.doctors.memory.plan import Plan
    from labs.doctors.memory.setup.build import build as traced
    from labs.doctors.memory.setup.configs import load_config

    plan = Plan(str(tiny_models / "llava"), method="qlora", device="cpu")
    config = load_config(plan.model, allow_network=False)
    real, doctors = build(plan, config, "cpu"), traced(plan, config).model
    plain = [m for n, m in real.named_modules() if type(m) is nn.Linear and "lora_" not in n]
    assert plain == [real.get_output_embeddings()]
    assert sum(isinstance(m, bitsandbytes.nn.Linear4bit) for m in real.modules()) > 20
    assert count(real)["trainable"] == sum(
        p.numel() for p in doctors.parameters() if p.requires_grad
    )
    # NF4 as bitsandbytes packs it is, byte for byte, what the doctor counts
    both = [held([*m.parameters(), *m.buffers()], "cpu") for m in (real, doctors)]
    assert both[0] == both[1]


def test_the_kernels_of_attention_are_counted_and_left_alone():
    import torch
    from torch.nn import functional as F

    from labs.bench.memory_gpu_child import Kernels

    original = F.scaled_dot_product_attention
    x = torch.randn(1, 2, 8, 16)
    with Kernels() as kernels:
        found = F.scaled_dot_product_attention(x, x, x, is_causal=True)
        F.scaled_dot_product_attention(x, x, x, torch.ones(8, 8, requires_grad=True))
        assert kernels.seen == {"flash_attention": 1, "math": 1}
        kernels.stop()
        F.scaled_dot_product_attention(x, x, x)
    assert sum(kernels.seen.values()) == 2 and F.scaled_dot_product_attention is original
    assert torch.equal(found, original(x, x, x, is_causal=True))


def test_others_say_what_their_formulas_say(tiny_models):
    import torch
    from transformers import AutoModel

    from labs.bench.memory_gpu_predict import others
    from labs.doctors.memory.plan import Plan
    from labs.doctors.memory.setup.configs import load_config

    plan = Plan(str(tiny_models / "paligemma"), device="cpu")
    config = load_config(plan.model, allow_network=False)
    model = AutoModel.from_config(config, dtype=torch.float32)
    count = sum(p.numel() for p in model.parameters())  # the head is tied: no weights of its own
    whole = 4 * count + held_buffers(model)
    found = others(config, plan)
    assert found["accelerate"] == 2 * whole  # Adam's states are its largest line in half precision
    assert found["zero2"] == 20 * count
    assert found["zero3"] == 18 * count + 4 * 512 * 128  # the largest layer is the embedding
    assert others(config, plan.replace(precision="fp32"))["accelerate"] == 4 * whole


def held_buffers(model):
    return sum(b.numel() * b.element_size() for b in model.buffers())


def test_what_the_meter_asks_of_torch_cuda_is_there():
    """No GPU runs this: at least every name is one that this PyTorch has."""
    import torch

    tree = ast.parse(Path(memory_gpu_meter.__file__).read_text())
    asked = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Attribute)
        and node.value.attr == "cuda"
    }
    assert {"mem_get_info", "memory_stats", "reset_peak_memory_stats"} <= asked
    assert [name for name in asked if not hasattr(torch.cuda, name)] == []


class Device:
    """Stands in for torch.cuda where there is no GPU: counts with the doctor's model of the allocator."""

    def __init__(self, total, context):
        self.total, self.context, self.fraction = total, context, 1.0
        self.allocator = CachingAllocator()
        self.peaks = {"allocated": 0, "requested": 0, "reserved": 0}

    def malloc(self, size):
        block = self.allocator.malloc(size)
        self.peaks = {n: max(v, getattr(self.allocator, n)) for n, v in self.peaks.items()}
        return block

    def mem_get_info(self):
        return self.total - self.context - self.allocator.reserved, self.total

    def memory_reserved(self):
        return self.allocator.reserved

    def memory_stats(self):
        peaks = {f"{name}_bytes.all.peak": value for name, value in self.peaks.items()}
        now = {"allocated_bytes.all.current": self.allocator.allocated}
        return peaks | now | {"num_alloc_retries": 0}

    def reset_peak_memory_stats(self):
        self.peaks = {name: getattr(self.allocator, name) for name in self.peaks}

    def set_per_process_memory_fraction(self, fraction):
        self.fraction = fraction

    def get_device_name(self):
        return "a card"

    def get_device_capability(self):
        return 9, 0

    def synchronize(self):
        pass


def test_a_meter_tells_phases_the_allocator_and_what_lies_outside_apart(monkeypatch):
    import torch

    device = Device(10_000 * MIB, 400 * MIB)
    monkeypatch.setattr(torch, "cuda", device)
    monkeypatch.setattr(torch, "zeros", lambda *_, device: None)
    with memory_gpu_meter.CudaMeter(3_000 * MIB) as meter:
        assert device.fraction == 0.26, "what a card of 3,000 MiB leaves beside the context"
        weights = device.malloc(100 * MIB)
        meter.mark("load")
        for size in (50, 70, 60):
            passing = device.malloc(size * MIB + 1)
            device.allocator.free(passing)
            meter.mark("forward")
        device.allocator.free(device.malloc(10 * MIB))
        meter.mark("optimizer_step")
        device.context += 80 * MIB  # kernels are loaded when they are first run
        device.allocator.free(weights)
    found = meter.readings()
    rounded = 70 * MIB + 512
    assert found["phases"]["forward"]["peak"] == 100 * MIB + rounded
    assert found["phases"]["optimizer_step"]["peak"] == 110 * MIB, "not what forward held"
    assert found["phases"]["forward"]["after"] == 100 * MIB
    assert found["phases"]["load"] == {"peak": 100 * MIB, "reserved": 100 * MIB, "after": 100 * MIB}
    assert found["allocated"] == 100 * MIB + rounded and found["requested"] == 170 * MIB + 1
    assert found["reserved"] == device.allocator.peak_reserved >= found["allocated"]
    assert (found["outside_at_start"], found["outside"]) == (400 * MIB, 480 * MIB)
    assert found["device"] == found["reserved"] + 480 * MIB
    assert found["room"] == 2_600 * MIB and found["retries"] == 0
