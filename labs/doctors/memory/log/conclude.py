"""From a case to its causes: arithmetic first, then what others said, then the traceback.

Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import dataclasses
import re

from labs.doctors.finding import size
from labs.doctors.memory.log import calls, gpu, host
from labs.doctors.memory.log.case import Case
from labs.doctors.memory.log.context import Growth
from labs.doctors.memory.log.guess import Guess
from labs.doctors.memory.log.messages import OutOfMemory

# Without numbers these rest on the phase alone, and another process or fragmentation fits as well.
NEED_NUMBERS = {"activations", "length_outlier", "model_load", "evaluation", "generation", "rollouts",
                "optimizer_states", "preference_pairs", "inference_engine_share"}  # fmt: skip
SURE = ("certain", "likely")
DECODE = "`--model config.json` decodes the request."  # replaced where the model was given


def conclude(case: Case) -> list[Guess]:
    """Guesses in order; the first is the answer if it is "certain" or "likely"."""
    lines = case.log.lines
    gpu_events = [event for event in case.events if event.sign != "cublas_alloc"]
    sure = list(host.certain(case.signs, case.pasted))
    engine = list(host.engines(case.signs))
    first_gpu = min((event.line.number for event in gpu_events), default=None)
    first_host = min((line.number for guess in sure for line in guess.evidence), default=None)
    found: list[Guess] = []
    if sure and (first_gpu is None or first_host <= first_gpu):
        found += sure
        sure = []
    if case.primary and case.primary.message:
        found += _with_numbers(case, engine)
    elif case.primary:
        found += _without_numbers(case, engine)
    found += sure
    if not case.events and not found:
        found += host.kills(case.signs, case.pasted, lines)
    if not found:
        found += _warned(case)
    if not found:
        found += _no_error(case)
    if not found and case.primary:
        found.append(
            Guess("unknown", "possible", "The line says that memory ran out, and no more.")
        )
    return unique(found)


def _with_numbers(case: Case, engine: list[Guess]) -> list[Guess]:
    m = case.primary.message
    others = [message for message in case.messages if message is not m]
    arithmetic = list(gpu.guesses(m, others, case.steps))
    setup = _setup(case)
    called = calls.engine_process(case.primary.line.shown, case.traceback) or list(
        calls.guesses(m, case.traceback, case.phase, case.steps, setup)
    )
    if _both_options(case):
        fragile = m.unallocated is not None and m.total and m.unallocated > 0.05 * m.total
        arithmetic.insert(0, Guess("allocator_config", "likely" if fragile else "possible", _BOTH,
                                   (case.context.allocator[1],)))  # fmt: skip
    if arithmetic and arithmetic[0].cause == "request_exceeds_gpu" and called:
        return [
            dataclasses.replace(called[0], why=f"{arithmetic[0].why} {called[0].why}"),
            *arithmetic,
        ]
    shared = _same_gpu(case)
    arithmetic += [
        g for g in gpu.from_tables(case.pasted) if all(g.cause != a.cause for a in arithmetic)
    ]
    saving = [_SAVE] if _saving(case) else []
    numbers = m.total is not None and m.allocated is not None
    if not numbers:
        called = _by_calls_alone(called, case)
    sure = [guess for guess in [*shared, *arithmetic] if guess.confidence in SURE]
    unsure = [guess for guess in [*shared, *arithmetic] if guess.confidence not in SURE]
    engine = [guess for guess in engine if not sure]
    if case.growth and not sure:
        sure.append(_growing(case.growth))
    if case.context.just_evaluated(case.primary.line.number):
        called = _after_evaluation(called)
    own = []
    if numbers and gpu.is_full(m):
        why = gpu.capacity(m)
        own = [dataclasses.replace(guess, why=f"{why} {guess.why}") for guess in called]
        doubt = [
            guess.cause
            for guess in unsure
            if guess.cause in ("fragmentation", "other_process", "ranks_share_gpu")
        ] + [guess.cause for guess in called if guess.cause == "inference_engine_share"]
        if not any(guess.confidence in SURE for guess in own):
            own.append(_by_size(m, why, bool(doubt)))
            own.sort(key=lambda guess: guess.confidence not in SURE)
    else:
        own = called
        if not own and m.total and m.allocated is None and m.tried > 0.35 * m.total:
            share = f"{size(m.tried)} of {size(m.total)} in one request ({m.tried / m.total:.0%})."
            own = [_by_size(m, share + " The rest of the sentence is missing.", False)]
    if own and own[0].cause in LARGE_BY_NATURE and own[0].confidence in SURE:
        # Splinters may add up to a large request, but it is the request that is out of the ordinary.
        beside = m.total and m.tried > max(m.unallocated or 0, 0.15 * m.total)
        late = [guess for guess in sure if beside and guess.cause == "fragmentation"]
        sure = [guess for guess in sure if guess not in late]
        unsure = [*map(_weaker, late), *unsure]
    return [*saving, *sure, *engine, *own, *unsure]


# Calls whose single tensor is large whatever state the allocator is in.
LARGE_BY_NATURE = {"evaluation_gather", "logits", "attention_quadratic", "vision_tokens", "checkpoint_save"}  # fmt: skip


def _after_evaluation(called: list[Guess]) -> list[Guess]:
    """A training step that fails right behind an evaluation: the data is not the first suspect."""
    steps = [guess for guess in called if guess.cause in ("length_outlier", "activations")]
    if not steps:
        return called
    why = (
        "The step that failed is the first after an evaluation. What the evaluation left (its "
        "outputs, cached blocks of other sizes) meets the training step there; a longer sample "
        "at just this step is possible, too."
    )
    others = [guess for guess in called if guess not in steps]
    return [*others, Guess("evaluation", "likely", why, first=("empty_cache_between_phases",)),
            *map(_weaker, steps)]  # fmt: skip


def _by_size(m: OutOfMemory, why: str, doubt: bool) -> Guess:
    """A full GPU and no traceback: the share of the request is all there is to go by."""
    if m.tried > 0.35 * m.total:
        return Guess("one_large_tensor", "likely", why)
    more = " Which part of the step it was cannot be told without the traceback or the model: "
    return Guess("capacity", "possible" if doubt else "likely", why + more + DECODE)


def _without_numbers(case: Case, engine: list[Guess]) -> list[Guess]:
    ids = {event.sign for event in case.events}
    called = calls.engine_process(case.primary.line.shown, case.traceback) or list(
        calls.guesses(None, case.traceback, case.phase, case.steps, _setup(case))
    )
    called = _by_calls_alone(called, case)
    found: list[Guess] = list(engine)
    if "fsdp_clone" in ids:
        found.append(_SAVE)
    found += host.outside(case.signs, case.steps)
    if "accelerate_zero" in ids:
        found.append(Guess("smallest_batch", "likely", "Accelerate halved the batch down to nothing and "
                           "each size failed. So weights, optimizer states or a single sample fill the "
                           "GPU, or something that the batch size does not reach (evaluation, an error "
                           "that only reads like memory). The search hides the first error: run once "
                           "with a fixed batch size of 1."))  # fmt: skip
    found += gpu.from_tables(case.pasted)
    if case.growth:
        found.append(_growing(case.growth))
    if "cuda_oom" in ids and not case.messages:
        found += _driver(case)
    if _both_options(case):
        found.append(Guess("allocator_config", "possible", _BOTH, (case.context.allocator[1],)))
    return sorted([*found, *called], key=lambda guess: guess.confidence not in SURE)


_SAVE = Guess(
    "checkpoint_save",
    "certain",
    "FSDP copies each gathered tensor on the GPU while a full state dict is made. The failure is only "
    "a warning: the job goes on, and the checkpoint it writes is incomplete.",
)


def _saving(case: Case) -> bool:
    return any(sign.id == "fsdp_clone" and sign.line == case.primary.line for sign in case.signs)


def _driver(case: Case) -> list[Guess]:
    """`CUDA error: out of memory`: the driver refused, and PyTorch's allocator was not involved."""
    why = (
        "CUDA itself refused, without PyTorch's sentence: no block of PyTorch's cache was asked for. "
        "That happens when a process makes its context or its first tensor on a GPU that is full."
    )
    full = [g for g in case.pasted.gpus if g.used > 0.8 * g.total]
    if full and (case.steps in (None, 0)):
        return [Guess("gpu_already_full", "likely", f"{why} The pasted nvidia-smi shows GPU "
                      f"{full[0].index} with {size(full[0].used)} of {size(full[0].total)} in use.",
                      (full[0].line,))]  # fmt: skip
    start = re.search(
        r"_cuda_init|_lazy_init|set_device|\.cuda\(\)|manual_seed|torch\._C\._cuda_\w+|empty_cache|init_process_group",
        case.traceback.text,
    )
    if start and case.steps in (None, 0):
        return [Guess("gpu_already_full", "likely", f"{why} The call that failed is one of the first "
                      "that any program makes on a GPU.")]  # fmt: skip
    return [Guess("gpu_already_full", "possible", why), Guess("outside_pytorch", "possible", why)]


def _same_gpu(case: Case) -> list[Guess]:
    """Different ranks that name the same GPU number and see the same card."""
    by_gpu: dict[int, set[int]] = {}
    for event in case.events:
        if event.message and event.message.gpu is not None and event.line.rank is not None:
            by_gpu.setdefault(event.message.gpu, set()).add(event.line.rank)
    for number, ranks in by_gpu.items():
        m = case.primary.message
        _, foreign, _ = gpu.own_and_foreign(m)
        if len(ranks) >= 2 and foreign and m.total and foreign > 0.2 * m.total:
            names = ", ".join(map(str, sorted(ranks)))
            return [Guess("ranks_share_gpu", "likely", f"Ranks {names} all report GPU {number}, and "
                          f"{size(foreign)} of it belong to other processes.")]  # fmt: skip
    return []


_BOTH = (
    "Both options are set in the environment. Together they make reserved memory grow although what "
    "is allocated does not (pytorch/pytorch issue 123548); either alone is fine."
)


def _both_options(case: Case) -> bool:
    setting = case.context.allocator
    return bool(
        setting
        and "max_split_size_mb" in setting[0]
        and re.search(r"expandable_segments:\s*\[?[Tt]rue", setting[0])
    )


_WARNED = re.compile(r"while\s+trying to allocate (\d+) bytes \(free: (\d+), total: (\d+)\)")


def _warned(case: Case) -> list[Guess]:
    """Only the allocator's warning: it may have been the end, or a retry that went well."""
    lines = [sign.line for sign in case.signs if sign.id == "allocator_warning"]
    if case.events or not lines or case.context.steps_between(lines[-1].number, 1 << 62) >= 3:
        return []
    numbers = _WARNED.search("\n".join(line.text for line in case.log.lines))
    what = ""
    if numbers:
        tried, free, total = map(int, numbers.groups())
        what = f" {size(tried)} were asked for with {size(free)} of {size(total)} free."
    return [Guess("capacity", "possible", "PyTorch's allocator warns that the driver refused." + what +
                  " It then returns its cached blocks and tries again, so this line alone is no "
                  "failure: the error, if there was one, follows it.", (lines[-1],))]  # fmt: skip


def _no_error(case: Case) -> list[Guess]:
    """Nothing ran out, but the log shows why it will."""
    if _both_options(case):
        sure = case.growth is not None
        lines = (case.context.allocator[1], *((case.growth.line,) if sure else ()))
        return [Guess("allocator_config", "certain", _BOTH, lines)] if sure else []
    if case.growth and re.search("alloc|reserv|gpu|cuda|vram|rss|host|cpu", case.growth.name):
        return [_growing(case.growth)]
    triton = [sign for sign in case.signs if sign.id == "triton_shared"]
    if triton:
        return [Guess("kernel_shared_memory", "certain", "This is the small on-chip memory of each "
                      "multiprocessor: the kernel's tile sizes do not suit this GPU. Neither batch "
                      "size nor free memory matters.", (triton[0].line,))]  # fmt: skip
    return []


def _growing(growth: Growth) -> Guess:
    return Guess("memory_grows", "likely", f"`{growth.name}` rises steadily in this log, from "
                 f"{growth.first:g} to {growth.last:g} over {growth.count} readings: something keeps "
                 "what each step makes (a loss with its graph, a list of tensors, cached batches).",
                 (growth.line,))  # fmt: skip


def _weaker(guess: Guess) -> Guess:
    return dataclasses.replace(guess, confidence="possible")


def _by_calls_alone(called: list[Guess], case: Case) -> list[Guess]:
    """Without the GPU's numbers a phase proves little; the making of Adam's states proves itself."""
    made = calls.STATES_MADE.search(case.traceback.text)
    return [
        _weaker(guess)
        if guess.cause in NEED_NUMBERS and not (made and guess.cause == "optimizer_states")
        else guess
        for guess in called
    ]


def _setup(case: Case) -> str:
    """Where a log names its sharding: its first lines, and the frames."""
    return "\n".join(line.text[:300] for line in case.log.regions[0][:3000]) + case.traceback.text


def unique(found: list[Guess]) -> list[Guess]:
    seen: dict[str, Guess] = {}
    for guess in found:
        seen.setdefault(guess.cause, guess)
    return list(seen.values())[:4]
