"""What a training run will need, before it runs: peaks, breakdown, what fits, what to change.

    from labs.doctors.memory.forecast.predict import predict
    from labs.doctors.memory.plan import Plan

    plan = Plan("Qwen/Qwen2-VL-2B-Instruct", method="lora", batch=4, allow_network=True)
    prediction = predict(plan)
    prediction.gpu.bytes, prediction.gpu.high, prediction.breakdown, prediction.fits

One real training step of the model's own classes is traced on fake tensors (`trace/`) and played
through a model of the CUDA caching allocator (`cuda/`). First a few layers only, extrapolated
(`extrapolate.py`), which is the headline within seconds; then all layers, for the timeline, the
modules and the fragmentation; then each remedy, from a few layers again.

How sure it is: sizes of tensors are exact. What is not known without a GPU is in `ranges.py`.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

from labs.doctors.memory.cards import CARDS, capacity
from labs.doctors.memory.forecast.advise import advise
from labs.doctors.memory.forecast.extrapolate import BATCHES, Law, largest, learn
from labs.doctors.memory.forecast.moments import moments_of
from labs.doctors.memory.forecast.prediction import Fit, Prediction, Range
from labs.doctors.memory.forecast.ranges import context_of, fit, gpu_range, host_range
from labs.doctors.memory.forecast.sharding import NOTE, largest_layer, model_of, shard
from labs.doctors.memory.forecast.timeline import (
    activations_by_module,
    make_timeline,
    play,
)
from labs.doctors.memory.plan import Plan
from labs.doctors.memory.setup.configs import layer_counts, load_source
from labs.doctors.memory.setup.inputs import make_family
from labs.doctors.memory.trace.pool import Pool
from labs.doctors.memory.trace.record import Event, Trace
from labs.errors import InputError


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
        # What lies idle between blocks is far from proportional to what is allocated: the holes that
        # one layer leaves, the next one fills. So a few layers' bytes are kept, not their share. On
        # seven plans traced in full, bytes fell short by up to 7 % of the peak and mostly by 2; the
        # share overshot by up to 24 %.
        shallow = deepest[-1].peak_bytes() * play(deepest[-1].events, self.plan).share
        self.fragments = shallow / max(1.0, self.law.peak_bytes())
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


def check_fits(prediction: Prediction, strict: bool = False) -> bool:
    """Whether it fits the target: by the best estimate, or with `strict` even at the band's top."""
    if prediction.target is None:
        raise InputError("No card was asked for.", "Give --fits a size in GB.")
    need = prediction.gpu.high if strict else prediction.gpu.bytes
    return need <= prediction.target.usable
