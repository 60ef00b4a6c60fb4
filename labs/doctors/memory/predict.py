"""What a training run will need, before it runs: peaks, breakdown, what fits, what to change.

    from labs.doctors.memory.predict import predict
    from labs.doctors.memory.plan import Plan
from labs.doctors.memory.pool import Pool

    plan = Plan("Qwen/Qwen2-VL-2B-Instruct", method="lora", batch=4, allow_network=True)
    prediction = predict(plan)
    prediction.gpu.bytes, prediction.gpu.high, prediction.breakdown, prediction.fits

One real training step of the model's own classes is traced on fake tensors (`trace.py`) and played
through a model of the CUDA caching allocator (`allocator.py`). First a few layers only, extrapolated
(`extrapolate.py`), which is the headline within seconds; then all layers, for the timeline, the
modules and the fragmentation; then each remedy, from a few layers again.

How sure it is: sizes of tensors are exact. What is not known without a GPU is in `uncertainty`.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from typing import Any

from labs.doctors.memory import cuda_table
from labs.doctors.memory.cards import CARDS, capacity
from labs.doctors.memory.configs import layer_counts, load_source
from labs.doctors.memory.extrapolate import BATCHES, Law, largest, learn
from labs.doctors.memory.inputs import make_family
from labs.doctors.memory.moments import moments_of
from labs.doctors.memory.plan import Plan
from labs.doctors.memory.pool import Pool
from labs.doctors.memory.sharding import NOTE, largest_layer, model_of, shard
from labs.doctors.memory.timeline import Timeline, activations_by_module, make_timeline, play
from labs.doctors.memory.trace import Event, Trace
from labs.errors import InputError

SCHEMA = "oom-predict/1"
GIB = 1 << 30
EXACT = ("weights", "gradients", "optimizer", "buffers", "inputs")
# The band, as shares. They are judgements, not measurements: see `uncertainty`.
EXACT_BAND, KERNEL_BAND, FRAGMENT_BAND = 0.005, 0.05, 0.5
# A Python process with torch and CUDA's libraries loaded, and how far that varies. Not measured here.
# One tensor on a GPU cost a process 723 MiB (discuss.pytorch.org/t/73021): the most for the context.
CONTEXT_MOST = 723 << 20
HOST_BASE, HOST_SPREAD = 3 * GIB, 2 * GIB
SHARD = 5 * 10**9  # Transformers' default file size of a checkpoint, read one after the other


@dataclasses.dataclass(frozen=True)
class Range:
    """A number of bytes, the band that it should lie in, and why the band is that wide."""

    bytes: float
    low: float
    high: float
    reasons: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Fit:
    """One card: bytes that it offers; "yes", "perhaps" (the band holds its size) or "no"; the largest
    batch that fits by the best estimate, None where that was not asked or rows are not alike."""

    card: str
    usable: int
    verdict: str
    largest_batch: int | None = None


@dataclasses.dataclass(frozen=True)
class Tried:
    """A remedy, predicted: the plan's fields that it changes, the GPU's peak then, what it saves."""

    id: str
    title: str
    changes: dict[str, Any]
    gpu: float
    saves: float
    costs: str
    how: dict[str, str]
    fits: bool = False  # on the card that was asked for, or the next smaller one


@dataclasses.dataclass
class Prediction:
    """The answer. All sizes in bytes; `breakdown` is what is alive at the peak, by category, with
    fragmentation and context; `together` are the remedies that must be combined to fit, if any do."""

    plan: Plan
    gpu: Range
    host: Range
    allocated: float
    reserved: float
    breakdown: dict[str, float]
    peak_phase: str
    phases: dict[str, float]
    fits: list[Fit]
    notes: list[str]
    basis: str
    target: Fit
    modules: dict[str, float] = dataclasses.field(default_factory=dict)
    timeline: Timeline | None = None
    remedies: list[Tried] = dataclasses.field(default_factory=list)
    together: Tried | None = None
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        return {"schema": SCHEMA, **dataclasses.asdict(self)}

    def to_json(self, indent: int | None = 2) -> str:
        """JSON that another program may rely on (schema "oom-predict/1"); sizes in bytes."""
        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False, default=str)


def predict(
    plan: Plan,
    remedies: bool = True,
    card: str | int | None = None,
    pool: Pool | None = None,
    headline: Callable[[Prediction], None] | None = None,
    progress: Callable[[str], None] | None = None,
    batches: bool = True,
) -> Prediction:
    """Predict a plan.

    remedies: also try what would save memory, each predicted by itself. card: the GPU that it should
    fit ("24", "23.6 GiB"); None = the next smaller one, as a goal for the remedies. pool: tracers that
    run already, to save their start. headline: called with the prediction from a few layers, before
    the full trace. batches: also find the largest batch for each card.

    Raises InputError for a plan or a model that cannot be.
    """
    from labs.doctors.memory.advise import advise

    if pool is None:
        with Pool() as own:
            return predict(plan, remedies, card, own, headline, progress, batches)
    if card is not None:
        capacity(card)  # said before anything is traced
    start = time.monotonic()
    say = progress or (lambda sentence: None)
    pool.start()  # its imports go on while the configuration is read here
    predictor = Predictor(plan, pool, card)
    say("tracing a few layers")
    first = predictor.shallow()
    first.seconds = time.monotonic() - start
    if headline:
        headline(first)
    say("tracing all layers")
    answer = predictor.full()
    if batches:
        say("finding the largest batch")
        predictor.find_batches(answer)
    if remedies:
        advise(predictor, answer, say)
    answer.seconds = time.monotonic() - start
    return answer


class Predictor:
    """One plan, its model's configuration, and a pool that traces variants of the plan."""

    def __init__(self, plan: Plan, pool: Pool, card: str | int | None = None):
        self.plan, self.pool, self.card = plan, pool, card
        self.source = load_source(plan.model, plan.trust_remote_code, plan.allow_network)
        self.family = make_family(self.source, plan)
        self.layers = layer_counts(self.source.config)
        self.fragments = 0.0  # fragmentation as a share of what is allocated, at the peak
        self.layer = 0.0
        self.law: Law | None = None
        self.events: list[Event] = []  # of the whole step

    # -- traces ------------------------------------------------------------------------------

    def trace(self, plan: Plan) -> Trace:
        # The third micro-batch holds what the second does.
        found = self.pool.trace(plan.replace(grad_accumulation=min(plan.grad_accumulation, 2)))
        self.layer = max(self.layer, largest_layer(found.events))
        return found

    # -- from moments to a prediction ----------------------------------------------------------

    def needs(
        self, law: Law, plan: Plan, batch: int | None = None, share: float | None = None
    ) -> float:
        """Bytes of GPU memory at the peak, with fragmentation (as a share) and context."""
        moments = law.at(batch)
        model = model_of(moments.values(), self.layer)
        peak = max(sum(shard(parts, plan, model).values()) for parts in moments.values())
        return peak * (1 + (self.fragments if share is None else share)) + context_of(plan)

    def needs_of(self, plan: Plan) -> float:
        """`needs` of another plan, from a few layers of it, fragmented as this plan is."""
        if plan == self.plan.replace(expandable_segments=plan.expandable_segments):
            # The same tensors, another allocator.
            return self.needs(self.law, plan, share=play(self.events, plan).share)
        return self.needs(learn(plan, self.trace, self.layers), plan)

    def shallow(self) -> Prediction:
        """The prediction from a few layers, and the share of fragmentation that they show."""
        deepest: list[Trace] = []

        def trace(plan: Plan) -> Trace:
            deepest.append(self.trace(plan))
            return deepest[-1]

        self.law = learn(self.plan, trace, self.layers, many=self.pool.map)
        deepest.sort(key=lambda trace: len(trace.events))
        played = play(deepest[-1].events, self.plan)
        self.fragments = played.share
        counts = ", ".join(f"{n} {part}" for part, n in self.layers.items())
        return self._prediction(
            self.law.at(),
            deepest[-1].notes,
            f"a few of {counts} layers traced, the rest extrapolated",
        )

    def full(self) -> Prediction:
        """The prediction from a trace of all layers, with timeline and modules."""
        found = self.trace(self.plan)
        self.events = found.events
        played = play(found.events, self.plan)
        self.fragments = played.share
        moments = moments_of(found.events)
        answer = self._prediction(
            {key: dict(moment.parts) for key, moment in moments.items()},
            found.notes,
            "all layers traced",
        )
        answer.timeline = make_timeline(found.events, played)
        answer.modules = activations_by_module(found)
        answer.host = host_range(found, answer.breakdown.get("weights", 0))
        return answer

    def _prediction(self, moments: dict, notes: list[str], basis: str) -> Prediction:
        plan = self.plan
        model = model_of(moments.values(), self.layer)
        held = {key: shard(parts, plan, model) for key, parts in moments.items()}
        peak = max(held, key=lambda key: (sum(held[key].values()), key))
        parts = {name: size for name, size in held[peak].items() if size > 0}
        allocated = sum(parts.values())
        breakdown = dict(sorted(parts.items(), key=lambda item: -item[1]))
        breakdown["fragmentation"] = allocated * self.fragments
        breakdown["context"] = context_of(plan)
        phases: dict[str, float] = {}
        for key, now in held.items():
            phases[key[0]] = max(phases.get(key[0], 0), sum(now.values()))
        gpu = gpu_range(breakdown, plan)
        fits = [fit(f"{size} GB", *capacity(size)[1:], gpu) for size in CARDS]
        notes = [*notes, *([NOTE] if plan.sharding != "none" and plan.world_size > 1 else [])]
        return Prediction(
            plan=plan,
            gpu=gpu,
            host=host_range(None, parts.get("weights", 0)),
            allocated=allocated,
            reserved=allocated * (1 + self.fragments),
            breakdown=breakdown,
            peak_phase=peak[0],
            phases=phases,
            fits=fits,
            notes=list(dict.fromkeys(notes)),
            basis=basis,
            target=self._target(gpu, fits),
        )

    def _target(self, gpu: Range, fits: list[Fit]) -> Fit:
        """The card asked for, or the largest one that the plan does not fit as it stands."""
        if self.card is not None:
            return fit(*capacity(self.card), gpu)
        smaller = [one for one in fits if one.usable < gpu.bytes]
        return smaller[-1] if smaller else fits[0]

    def find_batches(self, answer: Prediction) -> None:
        """Put the largest batch of each card into `answer`; rows as long as the plan's longest."""
        plan = self.uniform()
        law = learn(plan, self.trace, self.layers, BATCHES, self.pool.map)
        if law.peak_bytes(BATCHES[0]) == law.peak_bytes(BATCHES[1]):
            return  # saving a checkpoint, for one, does not depend on the batch
        found = {}
        for one in [*answer.fits, answer.target]:
            if one.usable not in found:
                found[one.usable] = largest(
                    lambda b, room=one.usable: self.needs(law, plan, b) <= room
                )
        answer.fits = [dataclasses.replace(f, largest_batch=found[f.usable]) for f in answer.fits]
        answer.target = dataclasses.replace(
            answer.target, largest_batch=found[answer.target.usable]
        )

    def uniform(self) -> Plan:
        """The plan with all rows alike: as long as the longest, with the pictures of the fullest."""
        rows = self.plan.samples
        if not rows:
            return self.plan
        fullest = max(rows, key=lambda row: sum(w * h for w, h in row.get("images", ())))
        return self.plan.replace(
            samples=None,
            sequence_length=max(row["length"] for row in rows),
            images=tuple(tuple(size) for size in fullest.get("images", ())),
            videos=tuple(tuple(size) for size in fullest.get("videos", ())),
        )


def context_of(plan: Plan) -> float:
    """Bytes of CUDA's own context; none on a CPU."""
    return cuda_table.CONTEXT_BYTES if plan.device == "cuda" else 0


def fit(card: str, usable: int, gpu: Range) -> Fit:
    verdict = "yes" if gpu.high <= usable else "no" if gpu.low > usable else "perhaps"
    return Fit(card, usable, verdict)


def gpu_range(breakdown: dict[str, float], plan: Plan) -> Range:
    """The peak and the band that it should lie in. The shares of the band are judgements."""
    exact = sum(breakdown.get(name, 0) for name in EXACT)
    fragments, context = breakdown.get("fragmentation", 0), breakdown.get("context", 0)
    total = sum(breakdown.values())
    kernels = total - exact - fragments - context
    spread = cuda_table.CONTEXT_SPREAD if context else 0
    below = EXACT_BAND * exact + KERNEL_BAND * kernels + FRAGMENT_BAND * fragments + spread
    # Fragmentation has no upper bound that a model of one step could know: a run goes on for days.
    above = (
        below
        + 0.01 * (total - context)
        + (max(0, CONTEXT_MOST - context - spread) if context else 0)
    )
    reasons = [
        "not calibrated: no prediction has been compared with a GPU yet, so the band is a judgement",
        f"kernels' choice and scratch memory on this GPU and these versions: {KERNEL_BAND:.0%} of "
        f"activations, logits, temporary and workspace",
        f"fragmentation comes from a model of PyTorch's allocator: {FRAGMENT_BAND:.0%} of it, and 1 % of all above",
    ]
    if context:
        reasons.append(
            f"CUDA's context: {context / GIB:.2f} GiB assumed, not measured here; it varies with card, driver "
            f"and loaded kernels, and {CONTEXT_MOST / GIB:.2f} GiB was reported (discuss.pytorch.org/t/73021)"
        )
    if plan.sharding != "none":
        reasons.append(
            "NCCL's buffers are not counted: healthy runs show gaps of up to 3.5 GiB with them"
        )
    return Range(total, total - below, total + above, tuple(reasons))


def host_range(trace: Trace | None, weights: float) -> Range:
    """Host memory of one training process, without data loading workers."""
    held = trace.peak_bytes("host") if trace else 0
    total = HOST_BASE + held + min(weights, SHARD)
    return Range(
        total,
        max(held, total - HOST_SPREAD),
        total + HOST_SPREAD,
        (
            f"a process with torch and CUDA's libraries: about {HOST_BASE / GIB:.0f} GiB, not measured here",
            "one file of the checkpoint while it loads (at most 5 GB)",
            "tensors that the plan keeps on the host, traced"
            if held
            else "the plan keeps no tensors on the host",
            "workers, their prefetched batches and pinned copies come on top",
        ),
    )


def check_fits(prediction: Prediction, strict: bool = False) -> bool:
    """Whether it fits the target: by the best estimate, or with `strict` even at the band's top."""
    if prediction.target is None:
        raise InputError("No card was asked for.", "Give --fits a size in GB.")
    need = prediction.gpu.high if strict else prediction.gpu.bytes
    return need <= prediction.target.usable
