"""What `predict` and others say of the cases of `labs bench memory_gpu`, before anything is measured.

Others: `accelerate estimate-memory` (its own functions, on a configuration instead of a hub id) and
DeepSpeed's estimators. They know neither batch, nor adapters, nor activations; that is the point.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from labs.bench.children import Progress
from labs.bench.memory_gpu_cases import CONFIGS, Case
from labs.bench.memory_gpu_results import Results
from labs.bench.record import versions
from labs.doctors.memory.cuda import playback
from labs.doctors.memory.forecast.moments import moments_of
from labs.doctors.memory.forecast.predict import Predictor
from labs.doctors.memory.forecast.ranges import fit
from labs.doctors.memory.plan import Plan
from labs.doctors.memory.trace.pool import Pool
from labs.doctors.memory.trace.record import Trace
from labs.errors import InputError

# How long a case should take on one data-centre GPU, to order the cases by; wrong by a factor of two
# it still serves. Tokens of three steps at a modest rate, and building, adapters and the end.
RATE, FIXED = 1.5e14, 6.0


class Kept(Predictor):
    """A predictor that keeps its last trace: the bench looks at more than a person wants to see."""

    last: Trace

    def trace(self, plan: Plan) -> Trace:
        self.last = super().trace(plan)
        return self.last


def predict_cases(
    results: Results,
    cases: Iterable[Case],
    progress: Progress | None = None,
    pool: Pool | None = None,
) -> dict[str, str]:
    """Predict the cases that have no prediction by the code as it is.

    Returns those that could not be, by name, and why: the others are not held up by them.
    pool: tracers that run already; None = as many as `predict` itself takes.
    """
    say = progress or (lambda _: None)
    left = results.left("predicted", cases)
    if left and pool is None:
        with Pool() as own:
            own.start()
            return predict_cases(results, left, progress, own)
    failed: dict[str, str] = {}
    done = 0

    def one(case: Case) -> None:
        nonlocal done
        try:
            content = predict_case(case, pool, results.models)
        except InputError as error:
            failed[case.name] = str(error)
            said = error.what
        else:
            results.write("predicted", case, content)
            said = f"{content['device'] / 2**30:.2f} GiB in {content['seconds']:.0f} s"
        done += 1
        say(f"predicted {done} of {len(left)}: {case.name}: {said}")

    if left:
        pool.map(one, left)
    return failed


def predict_case(case: Case, pool: Pool, models: Path = CONFIGS) -> dict[str, Any]:
    """The doctor's answer for a case, in bytes, with what a measurement can be held against."""
    plan = case.plan(models)
    predictor = Kept(plan, pool)
    answer = predictor.full()
    events = predictor.events
    moments = moments_of(events).values()
    limited, context = case.limit_bytes, answer.breakdown["context"]
    if plan.device == "cuda":
        played = playback.play(events, expandable=plan.expandable_segments)
        allocated, reserved = played.peak_allocated, played.peak_reserved
    else:
        allocated, reserved = predictor.last.peak_bytes(), None
    if limited is not None:
        room = int(limited - context)
        confined = playback.play(events, room, plan.expandable_segments)
    names = ("weights", "buffers", "gradients", "optimizer", "activations", "logits")
    return {
        "allocated": allocated,
        "requested": predictor.last.peak_bytes(),
        "reserved": reserved,
        "context": context,
        "device": answer.gpu.bytes,
        "low": answer.gpu.low,
        "high": answer.gpu.high,
        "verdict": None if limited is None else fit("", limited, answer.gpu).verdict,
        # the model of the allocator on a card of that size, which gives cached memory back
        "played": None if limited is None else _verdict(confined.failed_at is None),
        "breakdown": answer.breakdown,
        "peak_phase": answer.peak_phase,
        "phases": answer.phases,
        # the most of each there ever was, not what is there at the peak
        "parts": {name: max(m.parts.get(name, 0) for m in moments) for name in names},
        "parameters": predictor.last.parameters,
        "others": others(predictor.source.config, plan),
        "gpu_seconds": gpu_seconds(plan, predictor.last.parameters["total"]),
        "notes": answer.notes,
        "seconds": predictor.last.seconds,
        "versions": versions(),
    }


def _verdict(fits: bool) -> str:
    return "yes" if fits else "no"


def gpu_seconds(plan: Plan, parameters: int) -> float:
    """A guess at what a case takes on a GPU."""
    passes = 8 if plan.checkpointing == "full" else 6  # operations a weight and token
    rows = plan.batch * (2 if plan.objective == "dpo" else 1)
    return FIXED + 3 * passes * parameters * rows * plan.sequence_length / RATE


def others(config: Any, plan: Plan) -> dict[str, int]:
    """Bytes of GPU memory that other estimators name for this model on one GPU without offloading."""
    import torch
    from accelerate import init_empty_weights
    from accelerate.commands.estimate import estimate_training_usage
    from accelerate.utils import calculate_maximum_sizes
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText

    vision = type(config) in AutoModelForImageTextToText._model_mapping
    with init_empty_weights():
        # In float32 and without the head, as accelerate.commands.estimate.create_empty_model.
        bare = AutoModel.from_config(config, dtype=torch.float32)
        whole = (AutoModelForImageTextToText if vision else AutoModelForCausalLM).from_config(
            config
        )
    whole.tie_weights()  # on their way to the meta device ties are lost
    total, _ = calculate_maximum_sizes(bare)
    usage = estimate_training_usage(total, "float32" if plan.precision == "fp32" else "float16")
    # parameters() gives shared ones once; DeepSpeed knows them by address, and on meta all have one
    count = sum(p.numel() for p in whole.parameters())
    largest = max(sum(p.numel() for p in m.parameters(recurse=False)) for m in whole.modules())
    zero2, zero3 = deepspeed_estimators()
    return {
        "accelerate": max(usage.values()),
        "zero2": zero2(count),
        "zero3": zero3(count, largest),
    }


def deepspeed_estimators() -> tuple[Callable[[int], int], Callable[[int, int], int]]:
    """DeepSpeed's estimates of model states on one GPU: its own functions, or their formulas.

    deepspeed/runtime/zero/stage_1_and_2.py and stage3.py, as of 0.19: estimate_zero2_model_states_
    mem_needs and estimate_zero3_model_states_mem_needs with cpu_offload=False.
    """
    try:
        from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
        from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs
    except ImportError:
        return (
            lambda total: 2 * total + 18 * total,
            lambda total, largest: 4 * largest + 18 * total,
        )
    return (
        lambda total: estimate_zero2_model_states_mem_needs(total, 1, 1, False)[1],
        lambda total, largest: estimate_zero3_model_states_mem_needs(total, largest, 1, 1, False)[1],
    )  # fmt: skip
